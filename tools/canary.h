/* A canary: what a model answers to a few tokens, kept in its own file, so that a damaged or
 * wrongly computed model can be told by itself ("is it my file?").
 *
 *     tandem.canary.tokens      i32 [8]      the model reads these, one after the other
 *     tandem.canary.top_ids     i32 [8 * 8]  the likeliest tokens behind each, best first; -1: room
 *                                            was left, nothing was computed
 *     tandem.canary.top_logits  f32 [8 * 8]  and their logits
 *
 * Computed with F32 activations, the profile that every other path is held to, and with
 * instructions that nearly every machine has: the same bits for any number of threads, and mostly
 * on other machines too. What else may differ (plain C, another mathematical library) is far
 * below CANARY_TOLERANCE.
 *
 * Weights are read from the mapped file when a layer wants them and let go of behind it: a layer
 * at a time is in memory, so the size of the model does not matter. */
#ifndef TANDEM_TOOLS_CANARY_H
#define TANDEM_TOOLS_CANARY_H

#include <stdatomic.h>

#include "src/format/gguf_write.h"

#define CANARY_POSITIONS 8
#define CANARY_TOP 8

/* Of the largest logit of a position, at least of 1. Plain C and vectors differ by 3e-6 after 27
 * layers of 2048; many layers more add up to less than 1e-4. Damage that matters is above 1e-2. */
#define CANARY_TOLERANCE 1e-3

struct canary {
    int32_t tokens[CANARY_POSITIONS];
    int32_t ids[CANARY_POSITIONS * CANARY_TOP];
    float logits[CANARY_POSITIONS * CANARY_TOP];
};

/* Can this program compute one for the file, or for a model of this architecture? False with the
 * reason in *err. */
struct arch;
bool canary_possible(const char *path, int64_t *n_vocab, struct error *err);
bool canary_runs(const struct arch *arch, int64_t n_vocab, struct error *err);

/* Leave room for one in a file to be written. */
bool canary_reserve(struct gguf_writer *w, int64_t n_vocab, struct error *err);
/* Without one: also without that of the file it is made from. */
void canary_remove(struct gguf_writer *w);
/* Compute it from the files of a writer that holds all tensors, and put it into its room. */
bool canary_fill(struct gguf_writer *w, int n_threads, const atomic_int *cancel, struct error *err);

/* The canary of an open file; *found is false when there is none. ERR_FILE when it makes no
 * sense. */
bool canary_read(const struct gguf *g, struct canary *c, bool *found, struct error *err);

/* Compute it again and compare. *worst: the largest difference, in units of the largest logit of
 * its position. ERR_CHECK naming position and token when that is above CANARY_TOLERANCE. */
bool canary_check(const char *path, const struct canary *c, int n_threads, const atomic_int *cancel,
                  double *worst, struct error *err);

#endif
