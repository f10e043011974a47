/* A thread that does one thing at a time beside the others: copying experts while a step runs. */
#ifndef TANDEM_ENGINE_ERRAND_H
#define TANDEM_ENGINE_ERRAND_H

#include "src/base/error.h"

struct errand;

/* The thread may run on every CPU of this process, wherever its creator is pinned. ERR_FIT, ERR_RUN. */
bool errand_open(struct errand **out, struct error *err);
/* Waits for what is being done. Accepts NULL. */
void errand_close(struct errand *e);

/* Start work(ctx) on the thread; the one before must have been awaited. What was written before is seen
 * there, what it writes is seen behind errand_wait. */
void errand_start(struct errand *e, void (*work)(void *ctx), void *ctx);
/* Until it is done; at once when there is nothing. */
void errand_wait(struct errand *e);

#endif
