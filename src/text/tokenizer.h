/* Text <-> token ids, from the vocabulary in a model's metadata.
 *
 * Two kinds: byte-level BPE (tokenizer.ggml.model = gpt2) with a named pre-tokenizer, and SPM (=
 * llama). Encoding takes any byte string: malformed UTF-8 becomes U+FFFD in BPE and tokens of the
 * single bytes in SPM, as the reference has it. Decoding is per token to bytes; a character may
 * span tokens, so streams go through utf8_complete below.
 *
 * An open tokenizer is read-only and may be shared by threads; each encode call brings its own
 * scratch. A zeroed struct pointer is never handed out; tokenizer_close(NULL) is fine. Source of
 * the rules: architectures 6.1-6.5 of the project's notes; HF tokenizers and llama.cpp. */
#ifndef TANDEM_TEXT_TOKENIZER_H
#define TANDEM_TEXT_TOKENIZER_H

#include "src/base/error.h"
#include "src/base/util.h"
#include "src/format/gguf.h"

struct tokenizer;

/* Token lists own their ids; zeroed is empty. */
struct tokens {
    int32_t *ids;
    size_t n, capacity;
};
bool tokens_push(struct tokens *t, int32_t id, struct error *err);
bool tokens_append(struct tokens *t, const int32_t *ids, size_t n, struct error *err);
void tokens_clear(struct tokens *t);   /* keeps the memory */
void tokens_release(struct tokens *t); /* back to zeroed */

enum token_type {
    TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE
};

/* Build from metadata. *out is NULL and the call succeeds when the file has no vocabulary
 * (tokenizer.ggml.model missing or "no_vocab"); ERR_FILE when it is damaged or of an unknown kind.
 * Borrows g's mapping until tokenizer_close. */
bool tokenizer_open(struct tokenizer **out, const struct gguf *g, struct error *err);
void tokenizer_close(struct tokenizer *t);

/* Append the ids of `text` to `out`. No BOS or EOS is added here.
 * parse_special: texts of control tokens become their ids; else they are plain text (user-defined
 * tokens are matched either way). ERR_FIT without memory; any bytes are valid input. */
bool tokenizer_encode(const struct tokenizer *t, struct str text, bool parse_special,
                      struct tokens *out, struct error *err);

/* Bytes of one token, as they appear in a text; control tokens give no bytes unless `special`.
 * Borrowed until tokenizer_close. Ids outside the vocabulary give no bytes.
 * SPM: a leading space that encoding added is the caller's to drop (tokenizer_adds_space). */
struct str tokenizer_bytes(const struct tokenizer *t, int32_t id, bool special);

int32_t tokenizer_n_tokens(const struct tokenizer *t);
enum token_type tokenizer_type(const struct tokenizer *t, int32_t id);
/* The special token spelled `text`, else the plain one (SPM: spaces as U+2581); -1: none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *text);
int32_t tokenizer_bos(const struct tokenizer *t);                    /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_add_bos(const struct tokenizer *t);
bool tokenizer_add_eos(const struct tokenizer *t);
bool tokenizer_adds_space(const struct tokenizer *t);
bool tokenizer_is_end(const struct tokenizer *t, int32_t id); /* in the end-of-generation set */
struct str tokenizer_pre(const struct tokenizer *t);          /* "deepseek-v3", "spm", ... */

/* Length of the longest prefix of `s` that ends on a character boundary: what may be shown now.
 * Bytes that can never become valid count as complete, so a stream never stalls. */
size_t utf8_complete(struct str s);

#endif
