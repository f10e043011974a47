/* Mixture of experts (DeepSeekMoE, Dai et al. 2024; routing of the V2 and V3 reports).
 *
 *     out = sum over chosen e of weight_e * expert_e(x)  +  shared(x)
 * Every expert is a small SwiGLU; the shared ones are stored as one of n_shared times the width, and
 * do not depend on the choice: they run while the chosen experts are computed elsewhere.            */
#include <math.h>

#include "src/arch/blocks.h"
#include "src/base/log.h"

/* Groups of files that do not say: the published settings of V3/R1 and of V2/V2.5. */
static void default_groups(const struct params *p, int64_t *n_groups, int64_t *n_used)
{
    *n_groups = *n_used = 1;
    if (p->numerics == NUMERICS_LLAMACPP)
        return;
    bool sigmoid = p->router.scoring == ROUTER_SIGMOID;
    if (p->n_routed == 256 && p->top_k == 8 && sigmoid)
        *n_groups = 8, *n_used = 4;
    if (p->n_routed == 160 && p->top_k == 6 && !sigmoid)
        *n_groups = 8, *n_used = 3;
}

static bool solve_groups(struct model *m, struct error *err)
{
    struct params *p = &m->params;
    const char *arch = m->arch->name;
    int64_t n = m->keys.n_groups, used = m->keys.n_groups_used;
    if (n < 0 || used < 0)
        default_groups(p, &n, &used);
    if (n > 1 && p->n_routed % n)
        return fail(err, ERR_FILE, "%s.expert_group_count: %lld does not divide %d experts", arch,
                    (long long)n, p->n_routed);
    if (n > 1 && (used < 1 || used > n))
        return fail(err, ERR_FILE, "%s.expert_group_used_count: %lld, expected 1 to %lld", arch,
                    (long long)used, (long long)n);
    if (n <= 1 || used == n) /* no restriction */
        n = used = 1;
    if (n > 1 && p->top_k > p->n_routed / n * used)
        return fail(err, ERR_FILE, "%s.expert_used_count: %d, but %lld groups hold only %lld "
                    "experts", arch, p->top_k, (long long)used,
                    (long long)(p->n_routed / n * used));
    p->router.n_groups = (int)n;
    p->router.n_groups_used = (int)used;
    return true;
}

static bool solve_experts(struct model *m, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    const char *arch = m->arch->name;
    if (k->top_k < 1 || k->top_k > k->n_routed)
        return fail(err, ERR_FILE, "%s.expert_used_count: %lld, expected 1 to %lld", arch,
                    (long long)k->top_k, (long long)min_of(k->n_routed, 64));
    if (k->expert_size < 1)
        return fail(err, ERR_FILE, "%s.expert_feed_forward_length: missing", arch);
    if (k->gating > ROUTER_SIGMOID)
        return fail(err, ERR_FILE, "%s.expert_gating_func: %lld, expected 1 (softmax) or 2 "
                    "(sigmoid)", arch, (long long)k->gating);
    p->n_routed = (int)k->n_routed;
    p->top_k = (int)k->top_k;
    p->n_shared = (int)k->n_shared;
    p->expert_size = k->expert_size;
    return true;
}

bool moe_solve(struct model *m, bool may_group, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    if (k->n_routed == 0) {
        p->n_dense_lead = p->n_layers;
        return true;
    }
    if (!solve_experts(m, err))
        return false;
    bool like_llamacpp = p->numerics == NUMERICS_LLAMACPP;
    p->router = (struct router){
        .scoring = k->gating == ROUTER_SIGMOID ? ROUTER_SIGMOID : ROUTER_SOFTMAX, /* old: none */
        .n_routed = p->n_routed, .top_k = p->top_k,
        .n_groups = 1, .n_groups_used = 1,
        .group_score = like_llamacpp ? GROUP_TOP2_SUM : GROUP_MAX, /* official: see assemble */
        .normalize = k->weights_norm,
        .normalize_floor = like_llamacpp ? 6.103515625e-5f : 0,
        .scale = k->weights_scale == 0 ? 1 : (float)k->weights_scale,
    };
    return !may_group || solve_groups(m, err);
}

bool moe_assemble(struct model *m, int layer, struct error *err)
{
    (void)err;
    const struct params *p = &m->params;
    struct layer *l = &m->layers[layer];
    if (!l->is_moe)
        return true;
    l->route = p->router;
    l->route.bias = l->router_bias;
    if (l->router_bias.data) /* V3 scores a group by its two best experts, V2 by the best */
        l->route.group_score = GROUP_TOP2_SUM;
    l->experts = (struct experts){
        .gate = l->gate_routed, .up = l->up_routed, .gate_up = l->gate_up_routed,
        .down = l->down_routed,
        .n_routed = p->n_routed, .top_k = p->top_k, .expert_size = p->expert_size,
    };
    return true;
}

/* The choice, then routed and shared experts side by side. */
void moe_mix(struct device *d, const struct params *p, const struct layer *l,
             struct activations *a)
{
    matmul(d, a->scores, &l->router, a->normed, NULL);
    router_topk(d, &l->route, a->scores);
    phase_done(a->clock, PHASE_SHARED);
    experts_begin(d, &l->experts, a->normed);
    phase_done(a->clock, PHASE_ROUTED);
    if (p->n_shared > 0) {
        int64_t width = p->n_shared * p->expert_size;
        struct rows gate = columns(a->gate, 0, width), up = columns(a->up, 0, width);
        matmul(d, gate, &l->gate, a->normed, NULL);
        matmul(d, up, &l->up, a->normed, NULL);
        if (l->limit > 0) {
            clamp(d, gate, -INFINITY, l->limit);
            clamp(d, up, -l->limit, l->limit);
        }
        swiglu(d, gate, gate, up);
        matmul(d, a->out, &l->down, gate, NULL);
        phase_done(a->clock, PHASE_SHARED);
    }
    experts_end(d, a->routed);
    phase_done(a->clock, PHASE_ROUTED);
}

void moe_ffn(struct device *d, const struct params *p, const struct layer *l,
             struct activations *a)
{
    moe_mix(d, p, l, a);
    if (p->n_shared > 0)
        add3(d, a->hidden, a->hidden, a->routed, a->out);
    else
        add(d, a->hidden, a->hidden, a->routed);
}
