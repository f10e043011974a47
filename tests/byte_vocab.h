/* A byte-level BPE vocabulary without merges, for tests of what is built on a tokenizer: token b is
 * byte b, special tokens follow with ids from 256 on. So ids can be read off a text.
 *
 *     struct byte_vocab v;
 *     vf_start(&v.file);
 *     vf_byte_tokens(&v.file, "deepseek-v3", specials, types, n);
 *     ... more entries ...
 *     bool ok = byte_vocab_open(&v, &err);
 *     byte_vocab_close(&v);          in any case
 */
#ifndef TANDEM_TESTS_BYTE_VOCAB_H
#define TANDEM_TESTS_BYTE_VOCAB_H

#include "src/text/tokenizer.h"
#include "tests/vocab_file.h"

#define N_BYTE_TOKENS 256

struct byte_vocab {
    struct vocab_file file;
    struct gguf g;
    struct tokenizer *t;
};

/* Bytes that are no visible Latin-1 character are spelled as U+0100, U+0101, ... `types` (enum
 * token_type) are of the specials. */
static inline void vf_byte_tokens(struct vocab_file *f, const char *pre,
                                  const char *const *specials, const int32_t *types, size_t n)
{
    vf_str(f, "tokenizer.ggml.model", "gpt2");
    vf_str(f, "tokenizer.ggml.pre", pre);
    vf_array(f, "tokenizer.ggml.tokens", GGUF_STRING, N_BYTE_TOKENS + n);
    uint32_t next = 256;
    for (uint32_t b = 0; b < N_BYTE_TOKENS; b++) {
        bool visible = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        uint32_t c = visible ? b : next++;
        char utf8[2] = { (char)c };
        if (c >= 128) {
            utf8[0] = (char)(0xc0 | c >> 6);
            utf8[1] = (char)(0x80 | (c & 63));
        }
        vf_text(f, (struct str){ utf8, c < 128 ? 1 : 2 });
    }
    for (size_t i = 0; i < n; i++)
        vf_text(f, str_of(specials[i]));
    vf_array(f, "tokenizer.ggml.token_type", GGUF_I32, N_BYTE_TOKENS + n);
    for (size_t i = 0; i < N_BYTE_TOKENS + n; i++)
        vf_n32(f, i < N_BYTE_TOKENS ? TOKEN_NORMAL : (uint32_t)types[i - N_BYTE_TOKENS]);
    vf_array(f, "tokenizer.ggml.merges", GGUF_STRING, 0);
}

static inline bool byte_vocab_open(struct byte_vocab *v, struct error *err)
{
    v->g = (struct gguf){ 0 };
    v->t = NULL;
    return gguf_open_memory(&v->g, v->file.bytes, vf_finish(&v->file), err) &&
           tokenizer_open(&v->t, &v->g, err) && v->t;
}

static inline void byte_vocab_close(struct byte_vocab *v)
{
    tokenizer_close(v->t);
    gguf_close(&v->g);
    vf_release(&v->file);
}

/* A build without PCRE2 opens BPE vocabularies but cannot encode with them. */
static inline bool can_encode(const struct tokenizer *t)
{
    struct tokens ids = { 0 };
    bool ok = t && tokenizer_encode(t, str_of("a"), false, &ids, NULL);
    tokens_release(&ids);
    return ok;
}

#endif
