/* Routed experts on the CPU: dst[t] = sum of weight * down(silu(gate src[t]) * up src[t]) over the
 * experts picked for token t.
 *
 * Tokens are grouped by expert, so that every expert's weights are read once per call. The sum of a
 * token runs over its experts by ascending id, so its bits do not depend on the other tokens or on
 * the number of threads. */
#ifndef TANDEM_CPU_EXPERTS_H
#define TANDEM_CPU_EXPERTS_H

#include "src/device.h"

struct device_cpu;

/* ids and weights: [n_tokens, e->top_k], ids distinct per token and below e->n_routed; -1: somebody else
 * computes this one. dst must not overlap src. `d` is a device of device_cpu_open with room for these sizes. */
void experts_run(struct device_cpu *d, const struct experts *e, struct rows dst, struct rows src,
                 int n_tokens, const int32_t *ids, const float *weights);

/* What the last experts_run of this device worked on, until the next: pairs (token, slot) by expert,
 * those of expert x at [first[x], first[x + 1]); pair order[i] is of token order[i] / top_k, and the
 * inputs of its down matrix are h + i * expert_size. */
struct experts_last {
    const int32_t *first, *order;
    const float *h;
};
struct experts_last experts_last(const struct device_cpu *d);

#endif
