/* Guessing the next tokens but one with a model's block for multi-token prediction (src/arch/mtp.c).
 *
 * The block reads pairs: what position i has left (in V3 its state behind the final norm, in V4 its
 * streams behind the last layer), and token i + 1. States
 * come with every step of the main model and are kept until their pair is complete; the cache of the
 * block holds one row per pair, from pair `base` on. Further guesses read pairs of a guessed token and
 * the block's own output; their rows are overwritten when the main model has spoken.
 *
 * Where states were overwritten before their pairs were read (the session did not draft for a while),
 * or a timeline was cut behind a state that is gone, the cache starts anew at the oldest state that
 * is there: positions are relative to the block, so a later start is a shorter context, which costs
 * guesses and can never change what a session returns. */
#ifndef TANDEM_ENGINE_DRAFT_H
#define TANDEM_ENGINE_DRAFT_H

#include "src/engine/break_even.h"
#include "src/engine/internal.h"

struct draft {
    enum draft_use use;       /* DRAFT_OFF: everything else is empty */
    const struct model *model;
    struct device *device;    /* borrowed from the session's workspace, and: */
    struct hybrid_pair *pair; /* NULL: without a GPU */
    struct activations *work; /* likewise */
    struct kvcache cache;     /* one layer */
    struct rows states;       /* [n_batch + 1, state width] */
    struct rows pairs;        /* [n_batch, pair width] */
    struct rows fresh;        /* [DRAFT_FRESH, state width]: where a device that records finds one place
                               * for the states of all steps of decode; data NULL: it does not, and
                               * no record has a part in where they go */
    float *kept;              /* host [KEPT, state width] on their way */
    float *logits;            /* [n_vocab] */
    draft_chooser *choose;    /* the caller's; NULL: the highest logit */
    void *choose_ctx;
    int n_batch;
    int64_t first, n_states;  /* states holds those of positions first .. first + n_states - 1 */
    int64_t base, n_pairs;    /* the cache holds pairs base .. n_pairs - 1 */
    size_t bytes;             /* of all this but the cache */
    struct break_even even;
    bool pays;                /* of DRAFT_AUTO: by what was known last */
    int64_t n_off;            /* times that it did no longer */
    int64_t guesses[DRAFT_MOST], accepted[DRAFT_MOST], n_steps[DRAFT_MOST + 1];
};

#define DRAFT_FRESH (1 + DRAFT_MOST)

/* Bytes that drafting takes beside a session, its weights left out. */
uint64_t draft_bytes(const struct model *m, enum tensor_type cache_type, int64_t n_ctx, int n_batch);

/* Zeroed is closed. DRAFT_AUTO opens nothing where it cannot be; a number fails: ERR_USAGE where the
 * model has no such block or the GPU does not hold it (placement_wishes.draft), ERR_FIT. */
bool draft_open(struct draft *d, const struct session_options *o, struct engine *e,
                struct workspace *w, int64_t n_ctx, int n_batch, struct error *err);
void draft_close(struct draft *d);
/* The session has moved to another device, the old one is still open: begin anew there, or where that
 * cannot be, draft no more. What was counted stays. */
void draft_follow(struct draft *d, struct engine *e, struct workspace *w, int64_t n_ctx);

/* Where the states of a step of n tokens at n_past shall go, and that they are there: called behind
 * the step, before another one. */
struct rows draft_room(struct draft *d, int64_t n_past, int n);
void draft_took(struct draft *d, int n);
/* Do recorded steps of n tokens leave them at the same place every time? So they do where nobody drafts. */
bool draft_repeats(const struct draft *d, int n);
/* Only positions below n_past remain. */
void draft_truncate(struct draft *d, int64_t n_past);

/* Read all pairs up to number n_pairs - 1 into the cache; tokens [n_pairs + 1] are the timeline. */
bool draft_read(struct draft *d, const int32_t *tokens, int64_t n_pairs, const atomic_int *cancel,
                struct error *err);
/* Before a guess: read what has come together while the session did not draft, all but the last pair;
 * the time is entered as such. */
bool draft_catch_up(struct draft *d, const int32_t *tokens, int64_t n_pairs,
                    const atomic_int *cancel, struct error *err);
/* Read all pairs, then guess what follows the last token: guesses [*n], of which *n are left, maybe none,
 * where the caller would append no more. Only where draft_length says so. */
bool draft_guess(struct draft *d, const int32_t *tokens, int64_t n_pairs, int32_t *guesses, int *n,
                 const atomic_int *cancel, struct error *err);

/* What a timeline of n positions has here, as parts of a cache: rows of pairs, then, when it is there,
 * the state of the last position, which waits for its pair. At most DRAFT_PARTS; none when the first
 * pairs are missing. */
#define DRAFT_PARTS (CACHE_MAX_PARTS + 1)
int draft_parts(const struct draft *d, int64_t n, struct cache_part *parts);
/* Such a timeline was put there, or will be: its pairs, or none of them, and its state. */
void draft_adopt(struct draft *d, int64_t n, bool pairs, bool state);

/* Are the pairs of a prompt worth reading now? No while drafting does not pay: what is read later is
 * what is still there. */
bool draft_reads(const struct draft *d);
/* How many guesses the next step shall carry, for a token at n_past, with room for that many. */
int draft_length(const struct draft *d, int64_t n_past, int64_t room);
/* A step with so many guesses was made; then, what became of them (break_even.h). */
void draft_note_step(struct draft *d, int n_guesses, double seconds);
/* The block has worked for nothing: there was nothing to guess. */
void draft_note_idle(struct draft *d, double seconds);
void draft_note_judged(struct draft *d, int right, bool wrong);
void draft_note(const struct draft *d, struct draft_report *r);

#endif
