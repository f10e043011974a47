/* Where the time of a forward pass goes, by one look at the clock after each block: 5 looks a layer,
 * each some 25 ns. On a GPU operations are queued, so that the time of a block is not known there:
 * nearly everything is then PHASE_REST, the wait at the end of a step. */
#ifndef TANDEM_MODEL_PHASES_H
#define TANDEM_MODEL_PHASES_H

#include "src/base/util.h"

enum phase {
    PHASE_ATTENTION, /* with its norm and projections */
    PHASE_DENSE,     /* FFN of layers without experts */
    PHASE_SHARED,    /* router and shared experts */
    PHASE_ROUTED,    /* routed experts */
    PHASE_HEAD,      /* last norm, output matrix */
    PHASE_REST,      /* beginning and end of a step, checks; with a GPU the wait for it */
    N_PHASES
};

struct phase_clock {
    double seconds[N_PHASES];
    double last_s;
};

static inline void phase_start(struct phase_clock *c)
{
    c->last_s = now_s();
}

/* What was done since the last call belongs to this phase. c may be NULL. */
static inline void phase_done(struct phase_clock *c, enum phase phase)
{
    if (!c)
        return;
    double now = now_s();
    c->seconds[phase] += now - c->last_s;
    c->last_s = now;
}

#endif
