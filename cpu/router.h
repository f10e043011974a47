/* Choosing experts. Everything in F32, plain C on every processor: all builds pick alike. */
#ifndef TANDEM_CPU_ROUTER_H
#define TANDEM_CPU_ROUTER_H

#include "src/device.h"

#define ROUTER_MAX_GROUPS 1024 /* as many as experts, at most */

/* One token: `scores` [n_routed] raw router output, overwritten. Writes top_k ids, best first, and
 * their weights. Whatever the scores are (NaN too), the ids are below n_routed, and distinct unless
 * they come from the router's table, in which only `token` decides.
 *
 *   p = softmax(scores), sigmoid(scores) or sqrt(softplus(scores))
 *   c = p + bias                   steers the choice only
 *   groups of n_routed / n_groups: those with the best maximum (or sum of the two largest c) stay,
 *                                  the others get c = -inf
 *   picks = top_k largest c, weights = their p, normalised and scaled as the router says
 *
 * Source: DeepSeek-V2 technical report, section 2.2 (maximum of a group); DeepSeek-V3, section
 * 2.1.2 (bias, two largest). */
void router_choose(const struct router *r, float *scores, int32_t token, int32_t *ids,
                   float *weights);

#endif
