/* The CPU device's router and experts against the obvious computation in double precision. */
#include "cpu/router.h"
#include "tests/device_rig.h"

static void test_router_rules(void)
{
    int32_t ids[4];
    float w[4];

    check_case("router: ties favour the lower id, best first");
    struct router r = { .scoring = ROUTER_SOFTMAX, .n_routed = 6, .top_k = 3, .scale = 1 };
    router_choose(&r, (float[]){ 1, 2, 2, 0, 2, 1 }, 0, ids, w);
    CHECK(ids[0] == 1 && ids[1] == 2 && ids[2] == 4);
    router_choose(&r, (float[]){ 0, 0, 0, 0, 0, 0 }, 0, ids, w);
    CHECK(ids[0] == 0 && ids[1] == 1 && ids[2] == 2);
    CHECK(fabsf(w[0] - 1.0f / 6) < 1e-6f); /* no renormalisation unless asked */

    check_case("router: the bias steers the choice, not the weight");
    float bias[8] = { 0, 0, 0, 10, 0, 0, 0, 0 };
    r = (struct router){ .scoring = ROUTER_SIGMOID, .n_routed = 8, .top_k = 2, .scale = 2.5f,
                         .normalize = true, .normalize_floor = 6.1035e-5f };
    r.bias = (struct weight){ .data = bias, .type = TYPE_F32, .cols = 8, .rows = 1 };
    router_choose(&r, (float[]){ 1, 3, 0, -3, 0, 0, 0, 0 }, 0, ids, w);
    CHECK(ids[0] == 3 && ids[1] == 1);
    double p3 = 1 / (1 + exp(3)), p1 = 1 / (1 + exp(-3));
    CHECK(fabs(w[0] - 2.5 * p3 / (p3 + p1)) < 1e-6 && fabs(w[1] - 2.5 * p1 / (p3 + p1)) < 1e-6);

    check_case("router: the floor of the sum");
    r.bias.data = NULL;
    router_choose(&r, (float[]){ -20, -21, -30, -30, -30, -30, -30, -30 }, 0, ids, w);
    CHECK(fabs(w[0] - 2.5 / (1 + exp(20)) / 6.1035e-5) < 1e-9);
    r.normalize_floor = 0;
    router_choose(&r, (float[]){ -20, -21, -30, -30, -30, -30, -30, -30 }, 0, ids, w);
    CHECK(fabs(w[0] + w[1] - 2.5) < 1e-5);

    check_case("router: groups by their maximum or their two largest");
    r = (struct router){ .scoring = ROUTER_SIGMOID, .n_routed = 8, .top_k = 2, .scale = 1,
                         .n_groups = 2, .n_groups_used = 1, .group_score = GROUP_MAX };
    float lone[8] = { 3, -5, -5, -5, 2, 2, 2, 2 };
    float scores[8];
    memcpy(scores, lone, sizeof lone);
    router_choose(&r, scores, 0, ids, w);
    CHECK(ids[0] == 0 && ids[1] == 1);
    r.group_score = GROUP_TOP2_SUM;
    memcpy(scores, lone, sizeof lone);
    router_choose(&r, scores, 0, ids, w);
    CHECK(ids[0] == 4 && ids[1] == 5);

    check_case("router: masked experts lose even to negative ones");
    for (int i = 0; i < 8; i++)
        bias[i] = i < 4 ? -2 : -3;
    r.bias.data = bias;
    memcpy(scores, lone, sizeof lone);
    router_choose(&r, scores, 0, ids, w);
    CHECK(ids[0] == 0 && ids[1] == 1);

    check_case("router: as many groups as experts");
    struct router wide = { .scoring = ROUTER_SIGMOID, .n_routed = ROUTER_MAX_GROUPS, .top_k = 4,
                           .scale = 1, .n_groups = ROUTER_MAX_GROUPS, .n_groups_used = 4,
                           .group_score = GROUP_TOP2_SUM };
    float many[ROUTER_MAX_GROUPS] = { [7] = 1, [900] = 3, [901] = 2, [1023] = 4 };
    router_choose(&wide, many, 0, ids, w);
    CHECK(ids[0] == 1023 && ids[1] == 900 && ids[2] == 901 && ids[3] == 7);

    check_case("router: no scores lead out of range");
    float bad[] = { NAN, INFINITY, -INFINITY, 1 };
    for (int round = 0; round < 500; round++) {
        r.top_k = 4;
        r.n_groups = 1 << check_random() % 3;
        r.n_groups_used = max_of(r.n_groups / 2, 1);
        r.scoring = check_random() % 2 ? ROUTER_SIGMOID : ROUTER_SOFTMAX;
        for (int i = 0; i < 8; i++)
            scores[i] = bad[check_random() % 4];
        router_choose(&r, scores, 0, ids, w);
        for (int a = 0; a < 4; a++) {
            CHECK(ids[a] >= 0 && ids[a] < 8);
            for (int b = 0; b < a; b++)
                CHECK(ids[a] != ids[b]);
        }
    }
}

/* Groups and picks by sorting, the way the papers write it. */
static void choose_naive(const struct router *r, const float *score, int32_t *ids, double *w)
{
    double p[64], c[64], sum = 0, group[64];
    for (int i = 0; i < r->n_routed; i++)
        sum += exp(score[i]);
    for (int i = 0; i < r->n_routed; i++) {
        p[i] = r->scoring == ROUTER_SOFTMAX ? exp(score[i]) / sum : 1 / (1 + exp(-score[i]));
        c[i] = p[i] + (r->bias.data ? ((const float *)r->bias.data)[i] : 0);
    }
    int size = r->n_routed / max_of(r->n_groups, 1);
    for (int g = 0; g < r->n_groups; g++) {
        double best = -INFINITY, second = -INFINITY;
        for (int i = g * size; i < (g + 1) * size; i++) {
            second = max_of(second, min_of(best, c[i]));
            best = max_of(best, c[i]);
        }
        group[g] = best + (r->group_score == GROUP_TOP2_SUM ? second : 0);
    }
    for (int g = 0; g < r->n_groups; g++) {
        int better = 0;
        for (int o = 0; o < r->n_groups; o++)
            better += group[o] > group[g];
        for (int i = g * size; better >= r->n_groups_used && i < (g + 1) * size; i++)
            c[i] = -INFINITY;
    }
    sum = 0;
    for (int k = 0; k < r->top_k; k++) {
        int best = 0;
        for (int i = 1; i < r->n_routed; i++)
            best = c[i] > c[best] ? i : best;
        ids[k] = best;
        w[k] = p[best];
        sum += p[best];
        c[best] = -INFINITY;
    }
    for (int k = 0; k < r->top_k; k++)
        w[k] *= r->scale / (r->normalize ? sum : 1);
}

static void test_router(int n_tokens)
{
    check_case("router_topk of %d tokens against sorting", n_tokens);
    float *bias = floats(24, -0.5, 0.5), *scores = floats(n_tokens * 24, -3, 3);
    struct router r = { .scoring = ROUTER_SIGMOID, .n_routed = 24, .top_k = 5, .n_groups = 6,
                        .n_groups_used = 3, .group_score = GROUP_TOP2_SUM, .normalize = true,
                        .scale = 2.5f };
    for (int variant = 0; variant < 3; variant++) {
        r.bias = (struct weight){ .data = variant ? bias : NULL, .type = TYPE_F32, .cols = 24 };
        r.scoring = variant == 2 ? ROUTER_SOFTMAX : ROUTER_SIGMOID;
        r.n_groups = variant == 2 ? 1 : 6;
        for (int i = 0; i < N_RIGS; i++) {
            float *copy = malloc((size_t)n_tokens * 24 * sizeof *copy);
            memcpy(copy, scores, (size_t)n_tokens * 24 * sizeof *copy);
            begin(devices[i], n_tokens, 0);
            router_topk(devices[i], &r, rows_of(copy, 24, 24));
            int32_t ids[MAX_TOKENS * 5], wanted_ids[5];
            float w[MAX_TOKENS * 5];
            double wanted[5];
            CHECK(devices[i]->ops->read_choice(devices[i], ids, w, NULL));
            for (int t = 0; t < n_tokens; t++) {
                choose_naive(&r, scores + t * 24, wanted_ids, wanted);
                CHECK(memcmp(ids + t * 5, wanted_ids, sizeof wanted_ids) == 0);
                check_near(w + t * 5, wanted, 5, 1e-5);
            }
            free(copy);
        }
    }
    free(bias);
    free(scores);
}

struct expert_test {
    struct material gate, up, gate_up, down;
    struct experts e;
    int64_t hidden;
};

static struct expert_test expert_test(enum tensor_type gate_type, enum tensor_type up_type,
                                      enum tensor_type down_type, int64_t hidden, int64_t size,
                                      int n_routed, bool fused)
{
    struct expert_test x = { .hidden = hidden };
    x.down = material(down_type, size, hidden, n_routed);
    x.e = (struct experts){ .down = x.down.w, .n_routed = n_routed, .top_k = 5,
                            .expert_size = size };
    if (fused) {
        x.gate_up = material(gate_type, hidden, 2 * size, n_routed);
        x.e.gate_up = x.gate_up.w;
    } else {
        x.gate = material(gate_type, hidden, size, n_routed);
        x.up = material(up_type, hidden, size, n_routed);
        x.e.gate = x.gate.w;
        x.e.up = x.up.w;
    }
    return x;
}

/* down h for one token and expert, and how large its terms are. */
static void expert_naive(const struct expert_test *x, int id, const float *src, double *out)
{
    int64_t size = x->e.expert_size;
    bool fused = x->e.gate_up.data != NULL;
    float in_gate[1024], in_up[1024], h[1024];
    memcpy(in_gate, src, (size_t)x->hidden * sizeof *src);
    memcpy(in_up, src, (size_t)x->hidden * sizeof *src);
    round_activations(fused ? x->e.gate_up.type : x->e.gate.type, in_gate, x->hidden);
    round_activations(fused ? x->e.gate_up.type : x->e.up.type, in_up, x->hidden);
    for (int64_t i = 0; i < size; i++) {
        const float *g = fused ? x->gate_up.values + (id * 2 * size + i) * x->hidden
                               : x->gate.values + (id * size + i) * x->hidden;
        const float *u = fused ? x->gate_up.values + (id * 2 * size + size + i) * x->hidden
                               : x->up.values + (id * size + i) * x->hidden;
        double z = dot(g, in_gate, x->hidden, NULL);
        h[i] = (float)(z / (1 + exp(-z)) * dot(u, in_up, x->hidden, NULL));
    }
    round_activations(x->e.down.type, h, size);
    for (int64_t r = 0; r < x->hidden; r++)
        out[r] = dot(x->down.values + (id * x->hidden + r) * size, h, size, NULL);
}

static void test_experts(struct expert_test x, const char *what, int n_tokens)
{
    check_case("experts %s, %d tokens%s", what, n_tokens, act_f32 ? ", float activations" : "");
    float *src = floats(n_tokens * x.hidden, -1, 1), *scores = floats(n_tokens * 24, -3, 3);
    struct router r = { .scoring = ROUTER_SOFTMAX, .n_routed = x.e.n_routed, .top_k = 5,
                        .scale = 1.5f };
    int32_t ids[MAX_TOKENS * 5];
    float w[MAX_TOKENS * 5];
    struct rows in = rows_of(src, x.hidden, x.hidden);
    for (int t = 0; t < n_tokens; t++)
        scores[t * 24 + 3] += 4; /* a popular expert */
    make_outputs(n_tokens * x.hidden);
    for (int i = 0; i < N_RIGS; i++) {
        float *copy = malloc((size_t)n_tokens * 24 * sizeof *copy);
        memcpy(copy, scores, (size_t)n_tokens * 24 * sizeof *copy);
        begin(devices[i], n_tokens, 0);
        router_topk(devices[i], &r, rows_of(copy, 24, 24));
        devices[i]->ops->read_choice(devices[i], ids, w, NULL);
        experts_begin(devices[i], &x.e, in);
        experts_end(devices[i], rows_of(outputs[i], x.hidden, x.hidden));
        free(copy);
    }
    double *wanted = malloc((size_t)x.hidden * sizeof *wanted);
    double *part = malloc((size_t)x.hidden * sizeof *part);
    float *one = malloc((size_t)x.hidden * sizeof *one);
    for (int t = 0; t < n_tokens; t++) {
        begin(devices[2], 1, 0); /* alone: the same bits */
        router_topk(devices[2], &r, rows_of(scores + t * 24, 24, 24));
        experts_begin(devices[2], &x.e, rows_of(src + t * x.hidden, x.hidden, x.hidden));
        experts_end(devices[2], rows_of(one, x.hidden, x.hidden));
        CHECK_MSG(memcmp(one, outputs[0] + t * x.hidden, (size_t)x.hidden * sizeof *one) == 0,
                  "token %d alone gives other bits", t);
        if (t % (n_tokens > 10 ? 31 : 1))
            continue;
        double largest = 0;
        memset(wanted, 0, (size_t)x.hidden * sizeof *wanted);
        for (int k = 0; k < 5; k++) {
            expert_naive(&x, ids[t * 5 + k], src + t * x.hidden, part);
            for (int64_t i = 0; i < x.hidden; i++) {
                wanted[i] += w[t * 5 + k] * part[i];
                largest = max_of(largest, fabs(wanted[i]));
            }
        }
        /* h is rounded to bytes in fast mode, and a last-place difference may move one step. */
        check_near(outputs[0] + t * x.hidden, wanted, x.hidden, (act_f32 ? 1e-5 : 1e-2) * largest);
    }
    free(part);
    free(one);
    free(wanted);
    free_outputs(n_tokens * x.hidden);
    free(src);
    free(scores);
}

static void free_expert_test(struct expert_test *x)
{
    discard(&x->gate);
    discard(&x->up);
    discard(&x->gate_up);
    discard(&x->down);
}

static void test_mixture(bool thorough)
{
    const int counts[] = { 1, 3, thorough ? 150 : 75 };
    struct expert_test tests[] = {
        expert_test(TYPE_F32, TYPE_F32, TYPE_F32, 96, 72, 24, false),
        expert_test(TYPE_F32, TYPE_F32, TYPE_F32, 100, 33, 7, true),
        expert_test(TYPE_Q4_K, TYPE_Q4_K, TYPE_Q8_0, 256, 96, 24, false),
        expert_test(TYPE_Q4_K, TYPE_Q8_0, TYPE_Q4_K, 256, 256, 9, false),
    };
    static const char *const names[] = { "F32", "F32 fused", "Q4_K, down Q8_0",
                                         "gate Q4_K, up Q8_0" };
    for (int i = 0; i < 4; i++) {
        for (int c = 0; c < 3; c++)
            test_experts(tests[i], names[i], counts[c]);
        free_expert_test(&tests[i]);
    }
}

static void test_all(bool thorough)
{
    test_router_rules();
    test_router(1);
    test_router(MAX_TOKENS);
    test_mixture(thorough);
}

int main(void)
{
    return on_all_rigs(test_all) ? check_finish() : 1;
}
