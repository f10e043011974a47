/* What one call of tokenizer_encode carries along: the list it fills, scratch for merging, and a
 * small memory of pieces already encoded. Nothing of it outlives the call, so threads share
 * nothing. */
#ifndef TANDEM_TEXT_ENCODE_H
#define TANDEM_TEXT_ENCODE_H

#include "src/text/merge.h"
#include "src/text/tokenizer.h"

/* A piece seen before: its bytes in the text, its ids in the output. */
struct encoded_piece {
    struct str piece;
    size_t first_id;
    uint32_t n_ids;
    uint32_t epoch; /* valid while equal to the encoder's: the text it points into still exists */
};

struct encoder {
    struct tokens *out;
    struct merger merger;
    struct encoded_piece *seen; /* direct-mapped by hash, mask + 1 entries; NULL for short texts */
    size_t mask;
    uint64_t seed;
    uint32_t epoch; /* starts at 1 */
};

/* Scratch for a text of `bytes` bytes; encoder_release in any case. */
bool encoder_init(struct encoder *e, struct tokens *out, size_t bytes, struct error *err);
void encoder_release(struct encoder *e);

/* The text of the pieces is about to go away. */
void encoder_forget(struct encoder *e);

/* If `piece` was encoded before, append the same ids and return true (*ok false: no memory). Else
 * *entry is where to remember it, or NULL. */
bool encoder_recall(struct encoder *e, struct str piece, struct encoded_piece **entry, bool *ok,
                    struct error *err);

#endif
