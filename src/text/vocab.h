/* The vocabulary of a model file: what each token id stands for, and back.
 *
 * Every token is kept as the bytes it stands for in a text. Byte-level BPE files spell those bytes
 * in an alphabet of 256 printable characters (space is U+0120, newline U+010A); that spelling is
 * undone while loading and appears nowhere else in the program. SPM files spell space as U+2581,
 * which stays: SPM encodes text in that spelling.
 *
 * Two groups of tokens are found by text in different ways. Plain tokens (type normal) are what
 * merging produces: vocab_find. Special tokens (control, user-defined, unknown) are cut out of a
 * text before anything else happens: vocab_special_at. The groups never mix, so that no text can
 * merge into a control token.
 *
 * Checked while loading (rule G-45): counts agree, types are 1..6, ids lie inside the vocabulary,
 * byte tokens are spelled <0xHH>, no token is longer than VOCAB_TOKEN_BYTES. Read-only afterwards. */
#ifndef TANDEM_TEXT_VOCAB_H
#define TANDEM_TEXT_VOCAB_H

#include "src/base/arena.h"
#include "src/text/maps.h"
#include "src/text/tokenizer.h"

#define VOCAB_TOKENS (1 << 20)        /* most tokens a file may have */
#define VOCAB_TOKEN_BYTES 65536       /* longest token */
#define VOCAB_SPECIAL_BYTES 256       /* longest special token: bounds the work per byte of text */
#define VOCAB_SPECIAL_NODES (1 << 20) /* bytes of all special tokens, shared prefixes once */

#define SPM_SPACE "\xE2\x96\x81" /* U+2581, how SPM spells a space */

enum vocab_kind { VOCAB_BPE, VOCAB_SPM };

struct vocab_token {
    struct str text;  /* what encoding compares: the bytes, in SPM with spaces spelled U+2581 */
    struct str bytes; /* what it stands for in an answer; both live in the arena or in the file */
    uint8_t type;     /* enum token_type */
    bool is_plain;    /* reached by merging */
    bool is_end;      /* ends a generation */
};

/* The ids that metadata names; -1 where there is none. */
struct vocab_ids {
    int32_t bos, eos, eot, eom, unknown, separator, padding;
};

struct vocab {
    struct arena arena;
    enum vocab_kind kind;
    struct vocab_token *tokens;
    int32_t n_tokens;
    struct vocab_ids ids;
    int32_t byte_ids[256]; /* the token of one byte alone; -1: none */

    int32_t *slots; /* plain tokens by text, open addressing; -1 is empty */
    size_t mask;
    uint64_t seed;
    size_t longest_plain;

    struct pair_map special; /* trie: (node, byte) -> (node, token id or PAIR_NONE) */
    uint32_t n_nodes;
    bool may_start[2][256]; /* [control too][byte]: some special token begins so */
};

/* Load from metadata; `kind` is what tokenizer.ggml.model said. vocab_release accepts a half-built
 * or zeroed struct. Borrows g's mapping. */
bool vocab_load(struct vocab *v, enum vocab_kind kind, const struct gguf *g, struct error *err);
void vocab_release(struct vocab *v);

/* The plain token with exactly this text; -1: none. */
int32_t vocab_find(const struct vocab *v, struct str text);

/* The longest special token that `text` starts with; -1: none. `control` says whether control and
 * unknown tokens count, or user-defined ones only. */
int32_t vocab_special_at(const struct vocab *v, struct str text, bool control);

/* Undo the byte alphabet: `spelled` to at most spelled.len bytes at `out`. Characters outside of
 * the alphabet are copied as they are and make *pure false. Returns the length. */
size_t byte_alphabet_decode(struct str spelled, char *out, bool *pure);
/* Spell bytes with it: at most 2 * bytes.len at `out`. Returns the length. */
size_t byte_alphabet_encode(struct str bytes, char *out);

#endif
