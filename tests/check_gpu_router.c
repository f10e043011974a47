/* Rotation, the cache and the router of the GPU library against plain C. */
#include "cpu/kernels.h"
#include "cpu/router.h"
#include "tests/gpu_test.h"

static struct gpu_test t;
static struct kernels ref;

static void *step_at(int64_t n_past, int n_tokens)
{
    struct gpu_step step = { .n_past = n_past, .n_tokens = n_tokens };
    return gpu_test_block(&t, sizeof step, &step);
}

/* ---- rotation ---- */

static void rotate(float *v, double angle, float magnitude, int64_t first, int64_t second)
{
    double c = cos(angle) * magnitude, s = sin(angle) * magnitude, a = v[first], b = v[second];
    v[first] = (float)(a * c - b * s);
    v[second] = (float)(a * s + b * c);
}

static void test_rope(enum rope_pairing pairing, int n_pairs, int n_heads, int64_t head_stride,
                      int64_t offset, int n_tokens, int64_t n_past)
{
    check_case("rope, %s, %d heads, %d pairs at %d, %d tokens behind %lld",
               pairing == ROPE_NEOX ? "halves" : "neighbours", n_heads, n_pairs, (int)offset,
               n_tokens, (long long)n_past);
    double frequency[64];
    const float magnitude = 1.25f;
    for (int i = 0; i < n_pairs; i++)
        frequency[i] = pow(10000, -(double)i / n_pairs);
    int64_t width = n_heads * head_stride, stride = width + 5;
    struct rows found = gpu_test_random(width, stride, n_tokens, 2);
    struct rows wanted = { malloc((size_t)(stride * n_tokens) * sizeof(float)), width, stride };
    float *start = malloc((size_t)(stride * n_tokens) * sizeof(float));
    memcpy(start, found.data, (size_t)(stride * n_tokens) * sizeof(float));
    memcpy(wanted.data, start, (size_t)(stride * n_tokens) * sizeof(float));
    for (int i = 0; i < n_tokens * n_heads * n_pairs; i++) {
        int token = i / (n_heads * n_pairs), head = i / n_pairs % n_heads, pair = i % n_pairs;
        bool halves = pairing == ROPE_NEOX;
        rotate(wanted.data + token * stride + head * head_stride + offset,
               (double)(n_past + token) * frequency[pair], magnitude, halves ? pair : 2 * pair,
               halves ? pair + n_pairs : 2 * pair + 1);
    }
    for (int o = 0; gpu_test_order(&t, o); o++) {
        size_t bytes = (size_t)(n_tokens * n_pairs) * sizeof(float);
        struct rows x = gpu_test_rows(&t, (struct rows){ start, width, stride }, n_tokens);
        double *f = gpu_test_block(&t, sizeof frequency, frequency);
        float *cosine = gpu_test_block(&t, bytes, NULL), *sine = gpu_test_block(&t, bytes, NULL);
        t.gpu->rope_angles(t.s, cosine, sine, f, n_pairs, magnitude, step_at(n_past, n_tokens),
                           n_tokens);
        t.gpu->rope(t.s, x, cosine, sine, n_pairs, pairing, n_heads, head_stride, offset, n_tokens);
        gpu_test_read(&t, found.data, x.data, (size_t)(stride * n_tokens) * sizeof(float));
        double d = gpu_test_difference(found, wanted, n_tokens, 4);
        CHECK_MSG(d <= 1e-6, "difference %.3g", d);
        gpu_test_clear(&t);
    }
    free(found.data);
    free(wanted.data);
    free(start);
}

/* ---- the cache ---- */

static void test_cache(enum tensor_type type, int64_t width, int64_t n_past, int n_tokens)
{
    check_case("cache, %s, %d x %d behind %d", type == TYPE_F16 ? "F16" : "F32", n_tokens,
               (int)width, (int)n_past);
    struct rows src = gpu_test_random(width, width + 3, n_tokens, 70);
    size_t element = type == TYPE_F16 ? 2 : 4, row = (size_t)width * element;
    size_t bytes = row * (size_t)(n_past + n_tokens + 2);
    unsigned char *wanted = malloc(bytes), *found = malloc(bytes);
    memset(wanted, 0x5a, bytes);
    for (int i = 0; i < n_tokens; i++) {
        unsigned char *to = wanted + row * (size_t)(n_past + i);
        if (type == TYPE_F16)
            ref.to_f16(src.data + i * src.stride, (uint16_t *)to, width);
        else
            memcpy(to, src.data + i * src.stride, row);
    }
    for (int o = 0; gpu_test_order(&t, o); o++) {
        memset(found, 0x5a, bytes);
        void *cache = gpu_test_block(&t, bytes, found);
        t.gpu->cache_store(t.s, cache, type, gpu_test_rows(&t, src, n_tokens),
                           step_at(n_past, n_tokens), n_tokens);
        gpu_test_read(&t, found, cache, bytes);
        CHECK_MSG(memcmp(found, wanted, bytes) == 0, "another cache");
        gpu_test_clear(&t);
    }
    free(src.data);
    free(wanted);
    free(found);
}

/* ---- the router ---- */

enum { TIES = 1, NANS = 2, BIAS = 4 };

static struct rows router_scores(int n_routed, int n_tokens, int what)
{
    struct rows scores = gpu_test_random(n_routed, n_routed + 2, n_tokens, 3);
    for (int64_t i = 0; i < scores.stride * n_tokens; i++) {
        if (i % scores.stride < n_routed && what & TIES)
            scores.data[i] = roundf(scores.data[i]);
        if (i % scores.stride < n_routed && what & NANS && check_random() % 5 == 0)
            scores.data[i] = NAN;
    }
    return scores;
}

/* Ids in range and distinct. */
static bool sound(const int32_t *ids, int top_k, int n_routed)
{
    for (int k = 0; k < top_k; k++) {
        if (ids[k] < 0 || ids[k] >= n_routed)
            return false;
        for (int i = 0; i < k; i++) {
            if (ids[i] == ids[k])
                return false;
        }
    }
    return true;
}

static void compare_choice(const struct router *r, struct rows scores, const int32_t *ids,
                           const float *weights, int n_tokens, int what)
{
    for (int i = 0; i < n_tokens; i++) {
        const int32_t *found = ids + i * r->top_k;
        CHECK_MSG(sound(found, r->top_k, r->n_routed), "token %d: ids out of range or twice", i);
        if (what & NANS)
            continue;
        int32_t wanted[64];
        float weight[64], p[1024];
        memcpy(p, scores.data + i * scores.stride, (size_t)r->n_routed * sizeof(float));
        router_choose(r, p, 0, wanted, weight);
        for (int k = 0; k < r->top_k; k++) {
            if (!CHECK_MSG(found[k] == wanted[k], "token %d pick %d: %d, wanted %d", i, k, found[k],
                           wanted[k]))
                return;
            float w = weights[i * r->top_k + k];
            CHECK_MSG(fabsf(w - weight[k]) <= 2e-6f * r->scale, "weight %g, wanted %g", (double)w,
                      (double)weight[k]);
        }
    }
}

static void test_router(struct router r, int n_tokens, int what)
{
    check_case("router, %s, %d of %d experts, %d of %d groups by %s%s%s%s%s",
               r.scoring == ROUTER_SIGMOID ? "sigmoid" : "softmax", r.top_k, r.n_routed,
               r.n_groups_used, r.n_groups, r.group_score == GROUP_MAX ? "maximum" : "two best",
               r.normalize ? ", normalised" : "", what & BIAS ? ", bias" : "",
               what & TIES ? ", ties" : "", what & NANS ? ", NaN" : "");
    struct rows scores = router_scores(r.n_routed, n_tokens, what);
    struct rows bias = gpu_test_random(r.n_routed, r.n_routed, 1, 0.3f);
    size_t n = (size_t)(n_tokens * r.top_k);
    int32_t *ids = malloc(n * sizeof *ids);
    float *weights = malloc(n * sizeof *weights);
    for (int o = 0; gpu_test_order(&t, o); o++) {
        struct router on_device = r;
        on_device.bias.data = what & BIAS ? gpu_test_rows(&t, bias, 1).data : NULL;
        int32_t *device_ids = gpu_test_block(&t, n * sizeof *ids, NULL);
        float *device_weights = gpu_test_block(&t, n * sizeof *weights, NULL);
        t.gpu->router_topk(t.s, &on_device, gpu_test_rows(&t, scores, n_tokens), NULL, device_ids,
                           device_weights, n_tokens);
        gpu_test_read(&t, ids, device_ids, n * sizeof *ids);
        gpu_test_read(&t, weights, device_weights, n * sizeof *weights);
        r.bias.data = what & BIAS ? bias.data : NULL;
        compare_choice(&r, scores, ids, weights, n_tokens, what);
        gpu_test_clear(&t);
    }
    free(scores.data);
    free(bias.data);
    free(ids);
    free(weights);
}

int main(void)
{
    struct gpu_limits limits = { 0 };
    if (!gpu_test_open(&t, &limits))
        return check_finish();
    kernels_use_ref(&ref);
    test_rope(ROPE_NORM, 4, 1, 8, 0, 1, 0);
    test_rope(ROPE_NORM, 32, 3, 192, 128, 2, 163839);
    test_rope(ROPE_NEOX, 16, 5, 32, 0, 3, 7);
    test_rope(ROPE_NEOX, 3, 2, 16, 10, 1, 1000000);
    test_cache(TYPE_F16, 72, 5, 3);
    test_cache(TYPE_F32, 576, 0, 1);

    struct router v3 = { .scoring = ROUTER_SIGMOID, .n_routed = 256, .top_k = 8, .n_groups = 8,
                         .n_groups_used = 4, .group_score = GROUP_TOP2_SUM, .normalize = true,
                         .scale = 2.5f };
    struct router v2 = { .scoring = ROUTER_SOFTMAX, .n_routed = 160, .top_k = 6, .n_groups = 8,
                         .n_groups_used = 3, .group_score = GROUP_MAX, .scale = 16 };
    struct router small = { .scoring = ROUTER_SOFTMAX, .n_routed = 5, .top_k = 5, .normalize = true,
                            .normalize_floor = 6.1035e-5f, .scale = 1 };
    struct router kimi = { .scoring = ROUTER_SIGMOID, .n_routed = 384, .top_k = 8, .n_groups = 1,
                           .n_groups_used = 1, .normalize = true, .scale = 2.827f };
    struct router tight = { .scoring = ROUTER_SIGMOID, .n_routed = 12, .top_k = 6, .n_groups = 6,
                            .n_groups_used = 2, .group_score = GROUP_TOP2_SUM, .scale = 1 };
    test_router(v3, 4, BIAS);
    test_router(v3, 2, BIAS | TIES);
    test_router(v3, 2, NANS);
    test_router(v2, 3, 0);
    test_router(v2, 2, TIES);
    test_router(small, 3, 0);
    test_router(small, 2, NANS);
    test_router(kimi, 3, BIAS);
    test_router(tight, 3, TIES); /* more picks than the groups hold: masked experts follow */
    gpu_test_close(&t);
    return check_finish();
}
