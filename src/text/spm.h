/* SPM, the byte-pair flavour of SentencePiece: no regular expressions, merges found by asking
 * whether two neighbours together are a token, best score first. Characters without a token fall
 * back to the tokens of their bytes. */
#ifndef TANDEM_TEXT_SPM_H
#define TANDEM_TEXT_SPM_H

#include "src/text/encode.h"
#include "src/text/vocab.h"

struct spm {
    struct arena arena;
    uint32_t *ranks; /* [n_tokens] 0 is the best score; equal scores share a rank */
    /* No token has a space behind another character, as in all known files: then nothing merges
     * across the start of a word, and words can be encoded one by one. */
    bool words_apart;
};

/* Read tokenizer.ggml.scores. spm_release accepts a half-built or zeroed struct. */
bool spm_load(struct spm *s, const struct vocab *v, const struct gguf *g, struct error *err);
void spm_release(struct spm *s);

/* Append the ids of `text`, which holds no special token; `add_space` puts a space in front. */
bool spm_encode(const struct spm *s, const struct vocab *v, struct str text, bool add_space,
                struct encoder *e, struct error *err);

#endif
