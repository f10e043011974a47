/* What each way of handing experts to the CPU costs on this machine, and which is the best.
 *
 * A step of a few dozen layers that consist of nothing but their hand-off: a token's hidden row and its
 * picks to the CPU, work that is done at once, a row back, and one kernel that depends on it. What a
 * layer of it takes is what a layer of a model loses: some tens of microseconds, times the layers that
 * have experts, in every token. Takes a few milliseconds for each way. */
#ifndef TANDEM_ENGINE_HANDOFF_PROBE_H
#define TANDEM_ENGINE_HANDOFF_PROBE_H

#include "gpu/gpu.h"
#include "src/engine/engine.h"

/* Open a queue of card `index` and measure with rows of `width` floats. A way that does not work here
 * has 0; when none does, or the card fails: false, ERR_DEVICE. */
bool handoff_probe(struct handoff_rates *r, const struct gpu_library *library, int index,
                   int64_t width, struct error *err);

/* The way with the lowest cost, and that cost. */
enum handoff_way handoff_best(const struct handoff_rates *r);
double handoff_us(const struct handoff_rates *r, enum handoff_way way);

/* "by flags", and where it was measured " (per layer: flags 14 µs, callback 38, queued one by one 52,
 * stop 96)". */
void handoff_text(enum handoff_way way, const struct handoff_rates *r, char *text, size_t size);

#endif
