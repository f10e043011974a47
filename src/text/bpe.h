/* Byte-level BPE: a pre-tokenizer cuts the text, each piece is merged by the ranks of the file. */
#ifndef TANDEM_TEXT_BPE_H
#define TANDEM_TEXT_BPE_H

#include "src/text/encode.h"
#include "src/text/presplit.h"
#include "src/text/vocab.h"

struct bpe {
    struct presplit *presplit;
    struct pair_map merges;  /* (left id, right id) -> (merged id, rank) */
    struct arena arena;
    bool whole_pieces_first; /* a piece that is a token is not merged: llama-bpe */
};

/* Read tokenizer.ggml.merges and open the pre-tokenizer `pre` (a name of presplit_name).
 * bpe_release accepts a half-built or zeroed struct. */
bool bpe_load(struct bpe *b, const struct vocab *v, const char *pre, const struct gguf *g,
              struct error *err);
void bpe_release(struct bpe *b);

/* Append the ids of `text`, which holds no special token. Malformed UTF-8 becomes U+FFFD. */
bool bpe_encode(const struct bpe *b, const struct vocab *v, struct str text, struct encoder *e,
                struct error *err);

#endif
