/* The CPU's part of a step, started and awaited by the GPU's queue.
 *
 * The thread that queues a step does not stop at its layers. It puts two things into the queue for
 * each of them: one starts a piece of work on a thread that computes, one holds the queue back until
 * that is done. Between them the GPU works on what was queued there.
 *
 *     queue    ... copies out | start | shared experts | wait | copies in | next layer
 *     thread                          | work(ctx, 0)   |                          | work(ctx, 1)
 *
 * Two kinds of them, never mixed in a step:
 *   calls   a thread of the driver calls us: to wake the thread, and to sleep until it is done
 *   flags   kernels raise and poll words in memory that both sides see (gpu/handoff.cu); the thread
 *           polls too, nobody sleeps and the driver has no part in it. For steps that were recorded:
 *           how many pieces will come must be known when the step begins
 *
 * The queue is in order, so one piece of work runs at a time, and the counts of what was started and
 * what was done are all that the two sides share. A piece that takes longer than the limit makes the
 * rest of the step run through without any, and handoff_finish fails. A card that brings no next piece
 * while nothing is computed, for as long as its patience lasts (gpu_finish), is given up. */
#ifndef TANDEM_ENGINE_HANDOFF_H
#define TANDEM_ENGINE_HANDOFF_H

#include "gpu/gpu.h"

struct handoff;

/* Compute piece `job` of the step, counted from 0. */
typedef void handoff_work(void *ctx, int job);

/* The thread inherits where its creator may run. ERR_FIT, ERR_RUN. */
bool handoff_open(struct handoff **out, double limit_s, struct error *err);
/* The thread may run where the caller may, from now on. */
void handoff_take_seat(struct handoff *h);
/* The card has failed, and its queues may not have ended: what they call yet does nothing. */
void handoff_abandon(struct handoff *h);
/* Waits for a piece that is still being computed. When the card was given up or abandoned, its queue may call later
 * yet: then what it calls stays in memory, and does nothing. Accepts NULL. */
void handoff_close(struct handoff *h);

/* A step begins. Waits for a piece that an earlier step gave up, up to the limit; false: it runs on,
 * nothing will be computed in this step and handoff_finish fails. */
bool handoff_begin(struct handoff *h, handoff_work *work, void *ctx);
/* Queue the two calls. */
void handoff_queue_start(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s);
void handoff_queue_wait(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s);
/* The step is a recorded one of n_jobs pieces, about to be queued as a whole: with the calls that were
 * queued when it was recorded (flags NULL), or by flags, as step number `epoch` (struct gpu_step). */
void handoff_expect(struct handoff *h, int n_jobs, struct gpu_flags *flags, uint32_t epoch);

/* Wait until no more than one piece is queued and not begun: where a step may be cancelled, only so
 * much is in the queue. */
void handoff_keep_pace(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s);
/* Everything of the step is queued: wait, asleep, until the last piece is done or the queue has ended
 * without it, or the card was given up (the stream reports why). ERR_RUN: a piece took longer than the limit.
 * Afterwards no piece is running, but for that one. */
bool handoff_finish(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s,
                    struct error *err);

/* Has handoff_finish waited for every piece of this step that was queued so far? */
bool handoff_is_settled(const struct handoff *h);

/* Seconds after which a kernel stops polling: later than this side, which can tell why. */
double handoff_poll_s(const struct handoff *h);

#endif
