/* Guessing the next token but one with a model's block for multi-token prediction (src/arch/mtp.c).
 *
 * The block reads pairs: what position i has left (in V3 its state behind the final norm, in V4 its
 * streams behind the last layer), and token i + 1. States
 * come with every step of the main model and are kept until their pair is complete; the cache of the
 * block holds one row per pair. When states were overwritten before their pairs were read, or a
 * timeline was cut behind a state that is gone, rows of the cache are left as they are: that costs
 * guesses, and can never change what a session returns.
 *
 * Whether to guess is decided by time. Each step with a guess gains or loses against the plain steps
 * that it stands for; the sum is the balance, and guessing pauses while the balance is below minus
 * LOSS of all time spent, and one step. So a model that never gains loses that much and no more. */
#ifndef TANDEM_ENGINE_DRAFT_H
#define TANDEM_ENGINE_DRAFT_H

#include "src/engine/internal.h"

struct draft {
    enum draft_use use;       /* DRAFT_OFF: everything else is empty */
    const struct model *model;
    struct device *device;    /* borrowed from the session's workspace */
    struct activations *work; /* likewise */
    struct kvcache cache;     /* one layer */
    struct rows states;       /* [n_batch + 1, state width] */
    struct rows pairs;        /* [n_batch, pair width] */
    float *logits;            /* [n_vocab] */
    int n_batch;
    int64_t first, n_states;  /* states holds those of positions first .. first + n_states - 1 */
    int64_t n_pairs;          /* in the cache */
    size_t bytes;             /* of all this but the cache */
    /* measured */
    int64_t n_guesses, n_accepted, n_plain;
    double plain_s, guess_s, balance_s, total_s, step_s;
};

/* Bytes that drafting takes beside a session, its weights left out. */
uint64_t draft_bytes(const struct engine *e, int64_t n_ctx, int n_batch);

/* Zeroed is closed. DRAFT_AUTO opens nothing where it cannot be; DRAFT_ALWAYS fails: ERR_USAGE where
 * the model has no such block or computes on a GPU, ERR_FIT. */
bool draft_open(struct draft *d, enum draft_use use, struct engine *e, struct workspace *w,
                int64_t n_ctx, int n_batch, struct error *err);
void draft_close(struct draft *d);

/* Where the states of a step of n tokens at n_past shall go, and that they are there. */
struct rows draft_room(struct draft *d, int64_t n_past, int n);
void draft_took(struct draft *d, int n);
/* Only positions below n_past remain. */
void draft_truncate(struct draft *d, int64_t n_past);

/* Read all pairs up to number n_pairs - 1 into the cache; tokens [n_pairs + 1] are the timeline.
 * guess: what follows the last token, or NULL. */
bool draft_read(struct draft *d, const int32_t *tokens, int64_t n_pairs, int32_t *guess,
                const atomic_int *cancel, struct error *err);

/* What a timeline of n positions has here, as parts of a cache: rows of pairs, then, when it is there,
 * the state of the last position, which waits for its pair. At most DRAFT_PARTS. */
#define DRAFT_PARTS (CACHE_MAX_PARTS + 1)
int draft_parts(const struct draft *d, int64_t n, struct cache_part *parts);
/* Such a timeline will be put there: pairs, and a state. What does not come costs guesses. */
void draft_adopt(struct draft *d, int64_t n, bool state);

/* Shall the next step carry a guess? */
bool draft_pays(const struct draft *d);
void draft_note_plain(struct draft *d, double seconds);
void draft_note_guess(struct draft *d, double seconds); /* the step with a guess */
void draft_note_judged(struct draft *d, bool accepted); /* and what became of it */

#endif
