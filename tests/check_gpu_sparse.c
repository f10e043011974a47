/* Hyper-connections, blocks, the indexer and attention over a window on the GPU's device against the
 * CPU's, step by step over the same timeline: both devices keep caches of their own. */
#include "cpu/device_cpu.h"
#include "tests/gpu_test.h"

#define N_CTX 700
#define MOST 150      /* tokens of a step */
#define HIDDEN 50
#define STREAMS 4
#define WIDE 520      /* widest rows */
#define EXPERTS 8
#define TOP 3
#define EXPERT 64     /* size of an expert, and what it reads */
#define EXPERT_IN 256

static const struct gpu_library *library;
static struct device *devices[2]; /* CPU, GPU */
static struct device *fast;       /* the GPU in its fast profile */
static struct pool *pool;

static bool open_devices(void)
{
    struct error err = { 0 };
    struct device_cpu_options co = {
        .act_f32 = true, .max_tokens = MOST, .max_cols = WIDE, .max_rows = WIDE, .n_ctx = N_CTX,
        .n_heads = 8, .head_width = 512, .index_top_k = 64, .n_routed = EXPERTS, .top_k = TOP,
        .expert_size = EXPERT,
    };
    struct gpu_device_options go = {
        .limits = { .act_f32 = true, .max_tokens = MOST, .max_cols = WIDE, .max_rows = WIDE,
                    .n_ctx = N_CTX, .n_heads = 8, .head_width = 512, .index_top_k = 64,
                    .window = 400, .n_routed = EXPERTS, .top_k = TOP, .expert_size = EXPERT },
        .n_vocab = 8,
    };
    bool ok = pool_open(&pool, 2, &err);
    co.pool = pool;
    ok = ok && device_cpu_open(&devices[0], &co, &err) &&
         library->device_open(&devices[1], &go, &err);
    go.limits.act_f32 = false;
    ok = ok && library->device_open(&fast, &go, &err);
    return CHECK_MSG(ok, "%s", err.text);
}

static void *upload(struct device *d, const void *from, size_t bytes)
{
    struct error err = { 0 };
    void *block = d->ops->alloc(d, bytes, "test", &err);
    CHECK_MSG(block && (!from || d->ops->write(d, block, from, bytes, &err)), "%s", err.text);
    return block;
}

/* The same random rows on both. */
struct twins {
    struct rows of[2];
    float *host;
    int n;
};

static struct twins twins(int64_t width, int n, float range)
{
    struct twins t = { .n = n, .host = malloc((size_t)(width * n) * sizeof(float)) };
    for (int64_t i = 0; i < width * n; i++)
        t.host[i] = check_random_float(-range, range);
    for (int i = 0; i < 2; i++)
        t.of[i] = (struct rows){ upload(devices[i], t.host, (size_t)(width * n) * sizeof(float)),
                                 width, width };
    return t;
}

static void drop(struct twins *t)
{
    for (int i = 0; i < 2; i++)
        devices[i]->ops->release(devices[i], t->of[i].data);
    free(t->host);
}

/* As a weight with `rows` rows. */
static struct weight weight_of(struct rows r, int64_t rows)
{
    return (struct weight){ .data = r.data, .type = TYPE_F32, .cols = r.width, .rows = rows,
                            .n_matrices = 1, .row_bytes = (size_t)r.width * sizeof(float) };
}

static void begin(int n_tokens, int64_t n_past)
{
    static int32_t tokens[MOST];
    for (int i = 0; i < n_tokens; i++)
        tokens[i] = (int32_t)(check_random() % 20);
    for (int i = 0; i < 2; i++)
        devices[i]->ops->begin(devices[i], &(struct step){ .tokens = tokens, .n_tokens = n_tokens,
                                                           .n_past = n_past });
}

/* End the step; the rows agree. */
static void compare(const struct twins *t, const char *what, double tolerance)
{
    struct error err = { 0 };
    size_t n = (size_t)(t->of[0].width * t->n);
    float *both[2];
    for (int i = 0; i < 2; i++) {
        both[i] = malloc(n * sizeof(float));
        CHECK_MSG(devices[i]->ops->end(devices[i], &err) &&
                  devices[i]->ops->read(devices[i], both[i], t->of[i].data, n * sizeof(float), &err),
                  "%s", err.text);
    }
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)both[0][i] - (double)both[1][i]);
        if (!(d <= worst))
            worst = d == d ? d : INFINITY;
    }
    CHECK_MSG(worst <= tolerance, "%s differs by %.3g", what, worst);
    free(both[0]);
    free(both[1]);
}

/* ---- hyper-connections ---- */

static void test_hyper(int n, bool ends)
{
    check_case("streams mixed%s, %d tokens", ends ? " at the end" : " and joined", n);
    int64_t n_mix = ends ? STREAMS : STREAMS * (2 + STREAMS);
    struct twins hidden = twins(STREAMS * HIDDEN, n, 3), mix = twins(n_mix, n, 200);
    struct twins scale = twins(ends ? 1 : 3, 1, 1), base = twins(n_mix, 1, 1);
    struct twins dst = twins(HIDDEN, n, 1), out = twins(HIDDEN, n, 1);
    begin(n, 0);
    for (int i = 0; i < 2; i++) {
        struct hyper h = { .n_streams = STREAMS, .n_passes = 20, .eps = 1e-6f, .rms_eps = 1e-6f,
                           .scale = weight_of(scale.of[i], 1), .base = weight_of(base.of[i], 1) };
        hyper_mix(devices[i], dst.of[i], mix.of[i], hidden.of[i], &h);
        if (!ends)
            hyper_join(devices[i], hidden.of[i], mix.of[i], out.of[i]);
    }
    compare(&dst, "mix", 1e-4);
    compare(&hidden, "join", 1e-4);
    drop(&hidden), drop(&mix), drop(&scale), drop(&base), drop(&dst), drop(&out);
}

/* ---- a layer's attention over a timeline ---- */

struct layer_shape {
    int n_heads, dim, window, ratio, top_k; /* top_k 0: no indexer */
    int index_heads, index_dim, n_rot;
    enum tensor_type type;
    double tolerance;
};

/* One layer's cache. */
static struct kvcache new_cache(struct device *d, const struct layer_shape *s)
{
    struct kvcache c = { .type = s->type, .n_layers = 1, .n_ctx = N_CTX };
    size_t element = s->type == TYPE_F32 ? 4 : 2, width = s->top_k ? 2 : 1;
    c.sparse = calloc(1, sizeof *c.sparse);
    c.sparse[0].n_window = s->window + 3;
    c.sparse[0].window = upload(d, NULL, (size_t)(c.sparse[0].n_window * s->dim) * element);
    if (!s->ratio)
        return c;
    size_t n_blocks = (size_t)(N_CTX / s->ratio);
    c.sparse[0].n_state = 2 * s->ratio + 3;
    c.sparse[0].blocks = upload(d, NULL, n_blocks * (size_t)s->dim * element);
    c.sparse[0].state = upload(d, NULL, (size_t)c.sparse[0].n_state * 2 * width * (size_t)s->dim * 4);
    c.sparse[0].index = upload(d, NULL, n_blocks * (size_t)s->index_dim * (element == 4 ? 4 : 1));
    c.sparse[0].index_scale = element == 4 ? NULL : upload(d, NULL, n_blocks * sizeof(float));
    c.sparse[0].index_state =
        upload(d, NULL, (size_t)c.sparse[0].n_state * 4 * (size_t)s->index_dim * 4);
    return c;
}

static void drop_cache(struct device *d, struct kvcache *c)
{
    d->ops->release(d, c->sparse[0].window);
    d->ops->release(d, c->sparse[0].blocks);
    d->ops->release(d, c->sparse[0].state);
    d->ops->release(d, c->sparse[0].index);
    d->ops->release(d, c->sparse[0].index_scale);
    d->ops->release(d, c->sparse[0].index_state);
    free(c->sparse);
}

struct layer_weights {
    struct twins sinks, ape, norm, index_ape, index_norm;
};

/* A step of n tokens: blocks, choice, attention. */
static void run_step(const struct layer_shape *s, const struct layer_weights *w, struct kvcache *caches,
                     const struct rope *turn, int n, int64_t n_past)
{
    int64_t width = s->dim * (s->top_k ? 2 : 1);
    struct twins q = twins(s->n_heads * s->dim, n, 1), row = twins(s->dim, n, 1);
    struct twins values = twins(width, n, 1), scores = twins(width, n, 2);
    struct twins index_values = twins(2 * s->index_dim, n, 1);
    struct twins index_scores = twins(2 * s->index_dim, n, 2);
    struct twins index_q = twins(s->index_heads * s->index_dim, n, 1);
    struct twins index_w = twins(s->index_heads, n, 1);
    begin(n, n_past);
    for (int i = 0; i < 2; i++) {
        struct compressor k = { .ratio = s->ratio, .dim = s->dim, .overlaps = s->top_k > 0,
                                .ape = weight_of(w->ape.of[i], s->ratio),
                                .norm = weight_of(w->norm.of[i], 1), .rope = turn, .rms_eps = 1e-6f };
        struct compressor ik = { .ratio = s->ratio, .dim = s->index_dim, .overlaps = true,
                                 .of_index = true, .ape = weight_of(w->index_ape.of[i], s->ratio),
                                 .norm = weight_of(w->index_norm.of[i], 1), .rope = turn,
                                 .rms_eps = 1e-6f };
        struct indexer x = { .n_heads = s->index_heads, .dim = s->index_dim, .top_k = s->top_k,
                             .ratio = s->ratio };
        struct window_attention a = { .n_heads = s->n_heads, .head_dim = s->dim,
                                      .window = s->window, .ratio = s->ratio,
                                      .selected = s->top_k > 0, .scale = 0.4f,
                                      .sinks = weight_of(w->sinks.of[i], 1) };
        if (s->ratio)
            compress(devices[i], &caches[i], 0, values.of[i], scores.of[i], &k);
        if (s->top_k) {
            compress(devices[i], &caches[i], 0, index_values.of[i], index_scores.of[i], &ik);
            indexer_topk(devices[i], index_q.of[i], index_w.of[i], &caches[i], 0, &x);
        }
        attention_window(devices[i], q.of[i], q.of[i], row.of[i], &caches[i], 0, &a);
    }
    char what[64];
    snprintf(what, sizeof what, "attention of %d tokens behind %d", n, (int)n_past);
    compare(&q, what, s->tolerance);
    drop(&q), drop(&row), drop(&values), drop(&scores);
    drop(&index_values), drop(&index_scores), drop(&index_q), drop(&index_w);
}

/* Devices know a rotation by its address: `turn` is this shape's own. */
static void test_layer(const struct layer_shape *s, const int *steps, struct rope *turn)
{
    struct kvcache caches[2];
    int64_t n_past = 0, width = s->dim * (s->top_k ? 2 : 1), ratio = s->ratio ? s->ratio : 1;
    check_case("window %d, blocks of %d, %d selected, %d heads of %d, %s", s->window, s->ratio,
               s->top_k, s->n_heads, s->dim, s->type == TYPE_F32 ? "F32" : "F16");
    *turn = (struct rope){ .pairing = ROPE_NORM, .n_rot = s->n_rot, .magnitude = 1 };
    for (int i = 0; i < s->n_rot / 2; i++)
        turn->frequency[i] = pow(1000, -2.0 * i / s->n_rot);
    struct layer_weights w = {
        twins(s->n_heads, 1, 2), twins(width, (int)ratio, 1), twins(s->dim, 1, 1),
        twins(2 * s->index_dim, (int)ratio, 1), twins(s->index_dim, 1, 1),
    };
    for (int i = 0; i < 2; i++)
        caches[i] = new_cache(devices[i], s);
    for (int i = 0; steps[i]; i++) {
        if (steps[i] < 0) { /* take back; the rings are three rows longer than needed */
            n_past += steps[i];
            continue;
        }
        run_step(s, &w, caches, turn, steps[i], n_past);
        n_past += steps[i];
    }
    for (int i = 0; i < 2; i++)
        drop_cache(devices[i], &caches[i]);
    drop(&w.sinks), drop(&w.ape), drop(&w.norm), drop(&w.index_ape), drop(&w.index_norm);
}

static void test_layers(void)
{
    static const int short_steps[] = { 1, 2, 3, 9, 1, 1, -2, 1, 1, 1, 20, 40, -3, 5, 1, 0 };
    static const int long_steps[] = { 120, 7, 1, 1, 150, -3, 2, 8, 140, 1, 0 };
    static const struct layer_shape rows[] = {
        { 5, 40, 10, 0, 0, 3, 24, 12, TYPE_F32, 1e-5 },
        { 5, 40, 10, 4, 6, 3, 24, 12, TYPE_F32, 1e-5 },
        { 8, 33, 1, 4, 64, 1, 32, 16, TYPE_F16, 2e-3 }, /* all selected */
        { 2, 512, 17, 4, 64, 3, 64, 64, TYPE_F32, 1e-5 },
        { 3, 64, 30, 128, 0, 2, 16, 8, TYPE_F32, 1e-5 },
        { 3, 64, 400, 128, 0, 2, 16, 8, TYPE_F16, 2e-3 }, /* rows in splits */
    };
    static struct rope turns[sizeof rows / sizeof rows[0]];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        test_layer(&rows[i], rows[i].ratio == 128 ? long_steps : short_steps, &turns[i]);
}

/* Scores that are equal: the earlier rows win, on both. What is not a number loses. */
static void test_ties(void)
{
    check_case("among equal scores the earlier rows are selected");
    enum { N = 90, DIM = 32, BEST = 7 };
    struct layer_shape s = { .dim = 32, .window = 1, .ratio = 1, .index_dim = DIM, .type = TYPE_F32 };
    struct twins keys = twins(DIM, N, 1), q = twins(DIM, N, 1), w = twins(1, N, 1);
    struct twins heads = twins(32, N, 1), row = twins(32, N, 1), sinks = twins(1, 1, 1);
    struct kvcache caches[2];
    for (int i = 0; i < DIM * N; i++) /* scores are 0 or 1 */
        keys.host[i] = i % DIM == 0 && check_random() % 3 == 0, q.host[i] = i % DIM == 0;
    for (int i = 0; i < N; i++)
        w.host[i] = 1;
    keys.host[5 * DIM] = NAN;
    for (int i = 0; i < 2; i++) {
        struct error err = { 0 };
        const struct device_ops *ops = devices[i]->ops;
        caches[i] = new_cache(devices[i], &s);
        CHECK(ops->write(devices[i], caches[i].sparse[0].index, keys.host, DIM * N * 4, &err));
        CHECK(ops->write(devices[i], caches[i].sparse[0].blocks, heads.host, 32 * N * 4, &err));
        CHECK(ops->write(devices[i], q.of[i].data, q.host, DIM * N * 4, &err));
        CHECK(ops->write(devices[i], w.of[i].data, w.host, N * 4, &err));
    }
    begin(N, 0);
    for (int i = 0; i < 2; i++) {
        struct indexer x = { .n_heads = 1, .dim = DIM, .top_k = BEST, .ratio = 1 };
        struct window_attention a = { .n_heads = 1, .head_dim = 32, .window = 1, .ratio = 1,
                                      .selected = true, .scale = 1,
                                      .sinks = weight_of(sinks.of[i], 1) };
        indexer_topk(devices[i], q.of[i], w.of[i], &caches[i], 0, &x);
        attention_window(devices[i], heads.of[i], heads.of[i], row.of[i], &caches[i], 0, &a);
    }
    compare(&heads, "what was selected", 1e-5);
    for (int i = 0; i < 2; i++)
        drop_cache(devices[i], &caches[i]);
    drop(&keys), drop(&q), drop(&w), drop(&heads), drop(&row), drop(&sinks);
}

/* Keys in bytes as both store them, and the rows that they lead to. */
static void test_key_bytes(int n, int64_t n_past, int dim, int n_heads)
{
    enum { BEST = 7, MOST_KEYS = 90, WIDTH = 32 };
    check_case("keys of %d in bytes: %d tokens behind %d", dim, n, (int)n_past);
    struct layer_shape s = { .dim = WIDTH, .window = 1, .ratio = 1, .index_dim = dim, .type = TYPE_F32 };
    struct twins keys = twins(dim, n, 3), q = twins(n_heads * dim, n, 1), w = twins(n_heads, n, 1);
    struct twins heads = twins(WIDTH, MOST_KEYS, 1), row = twins(WIDTH, n, 1), sinks = twins(1, 1, 1);
    struct twins out = twins(WIDTH, n, 1);
    struct error err = { 0 };
    int8_t bytes[2][MOST_KEYS * 128];
    float scales[2][MOST_KEYS];
    struct kvcache caches[2];
    for (int i = 0; i < MOST_KEYS * 128; i++)
        bytes[0][i] = bytes[1][i] = (int8_t)((int)(check_random() % 255) - 127); /* earlier keys */
    for (int i = 0; i < MOST_KEYS; i++)
        scales[0][i] = scales[1][i] = i < n_past ? check_random_float(0, 0.02f) : 0;
    for (int i = 0; i < dim; i++)
        keys.host[i] = n > 2 ? 0 : keys.host[i]; /* one key of nothing, one that is no number */
    if (n > 2)
        keys.host[dim + 3] = NAN;
    begin(n, n_past);
    for (int i = 0; i < 2; i++) {
        const struct device_ops *ops = devices[i]->ops;
        size_t n_bytes = (size_t)(MOST_KEYS * dim);
        caches[i] = new_cache(devices[i], &s);
        ops->release(devices[i], caches[i].sparse[0].index);
        caches[i].sparse[0].index = upload(devices[i], bytes[i], n_bytes);
        caches[i].sparse[0].index_scale = upload(devices[i], scales[i], sizeof scales[i]);
        CHECK(ops->write(devices[i], caches[i].sparse[0].blocks, heads.host, WIDTH * MOST_KEYS * 4, &err));
        CHECK(ops->write(devices[i], keys.of[i].data, keys.host, (size_t)(dim * n) * 4, &err));
        struct indexer x = { .n_heads = n_heads, .dim = dim, .top_k = BEST, .ratio = 1 };
        struct window_attention a = { .n_heads = 1, .head_dim = WIDTH, .window = 1, .ratio = 1,
                                      .selected = true, .scale = 1,
                                      .sinks = weight_of(sinks.of[i], 1) };
        cache_index(devices[i], &caches[i], 0, keys.of[i]);
        indexer_topk(devices[i], q.of[i], w.of[i], &caches[i], 0, &x);
        attention_window(devices[i], out.of[i], out.of[i], row.of[i], &caches[i], 0, &a);
    }
    compare(&out, "what was selected", 1e-5);
    for (int i = 0; i < 2; i++) {
        const struct kv_sparse *c = &caches[i].sparse[0];
        CHECK(devices[i]->ops->read(devices[i], bytes[i], c->index, (size_t)(MOST_KEYS * dim), &err));
        CHECK(devices[i]->ops->read(devices[i], scales[i], c->index_scale, sizeof scales[i], &err));
    }
    for (int i = 0; i < MOST_KEYS * dim; i++)
        CHECK_MSG(bytes[0][i] == bytes[1][i], "byte %d of key %d: %d and %d", i % dim, i / dim,
                  bytes[0][i], bytes[1][i]);
    for (int i = 0; i < MOST_KEYS; i++)
        CHECK_MSG(fabsf(scales[0][i] - scales[1][i]) <= 1e-6f * scales[0][i] ||
                  (isnan(scales[0][i]) && isnan(scales[1][i])),
                  "scale of key %d: %g and %g", i, scales[0][i], scales[1][i]);
    CHECK(n <= 2 || (scales[0][n_past] == 0 && isnan(scales[0][n_past + 1])));
    for (int i = 0; i < 2; i++)
        drop_cache(devices[i], &caches[i]);
    drop(&keys), drop(&q), drop(&w), drop(&heads), drop(&row), drop(&sinks), drop(&out);
}

/* ---- the router, limits, norms without a weight ---- */

static void test_router(bool table, int n)
{
    enum { VOCAB = 20 };
    check_case("square root of softplus, %s, %d tokens", table ? "by token" : "by score", n);
    struct twins scores = twins(EXPERTS, n, 30);
    int32_t ids[VOCAB * TOP], found[2][MOST * TOP];
    float weights[2][MOST * TOP];
    for (int i = 0; i < VOCAB * TOP; i++)
        ids[i] = (int32_t)(check_random() % EXPERTS);
    void *tables[2];
    begin(n, 0);
    for (int i = 0; i < 2; i++) {
        struct error err = { 0 };
        tables[i] = upload(devices[i], ids, sizeof ids);
        struct router r = { .scoring = ROUTER_SQRT_SOFTPLUS, .n_routed = EXPERTS, .top_k = TOP,
                            .normalize = true, .normalize_floor = 1e-5f, .scale = 1.5f,
                            .table.data = table ? tables[i] : NULL };
        router_topk(devices[i], &r, scores.of[i]);
        CHECK(devices[i]->ops->read_choice(devices[i], found[i], weights[i], &err));
        CHECK(devices[i]->ops->end(devices[i], &err));
    }
    for (int i = 0; i < n * TOP; i++) {
        CHECK_INT(found[1][i], found[0][i]);
        CHECK(fabsf(weights[1][i] - weights[0][i]) <= 1e-5f);
    }
    for (int i = 0; i < 2; i++)
        devices[i]->ops->release(devices[i], tables[i]);
    drop(&scores);
}

/* Random matrices of Q8_0. */
static struct weight matrices(int64_t cols, int64_t rows)
{
    const struct quant_traits *q8 = quant_traits(TYPE_Q8_0);
    size_t row_bytes = quant_row_bytes(TYPE_Q8_0, cols), n = (size_t)(rows * EXPERTS);
    char *data = malloc(n * row_bytes);
    float row[EXPERT_IN];
    for (size_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < cols; i++)
            row[i] = check_random_float(-0.2f, 0.2f);
        q8->quantize(row, data + r * row_bytes, cols, NULL);
    }
    return (struct weight){ .data = data, .type = TYPE_Q8_0, .cols = cols, .rows = rows,
                            .n_matrices = EXPERTS, .row_bytes = row_bytes,
                            .matrix_bytes = row_bytes * (size_t)rows };
}

/* The same weight in the memory of a device. */
static struct weight on_device(struct device *d, struct weight w)
{
    w.data = upload(d, w.data, w.matrix_bytes * EXPERTS);
    return w;
}

/* gate and up are cut on both sides: half of all values lie beyond the limit. */
static void test_experts(int n, bool in_fast)
{
    check_case("experts with a limit, %d tokens, %s", n, in_fast ? "fast" : "F32");
    struct device *kept = devices[1];
    devices[1] = in_fast ? fast : kept;
    struct twins src = twins(EXPERT_IN, n, 3), dst = twins(EXPERT_IN, n, 1);
    struct twins scores = twins(EXPERTS, n, 3);
    struct weight gate = matrices(EXPERT_IN, EXPERT), up = matrices(EXPERT_IN, EXPERT);
    struct weight down = matrices(EXPERT, EXPERT_IN);
    struct experts e[2];
    begin(n, 0);
    for (int i = 0; i < 2; i++) {
        struct router r = { .scoring = ROUTER_SQRT_SOFTPLUS, .n_routed = EXPERTS, .top_k = TOP,
                            .normalize = true, .scale = 1 };
        e[i] = (struct experts){ .gate = on_device(devices[i], gate), .up = on_device(devices[i], up),
                                 .down = on_device(devices[i], down), .n_routed = EXPERTS,
                                 .top_k = TOP, .expert_size = EXPERT, .limit = 1 };
        router_topk(devices[i], &r, scores.of[i]);
        experts_begin(devices[i], &e[i], src.of[i]);
        experts_end(devices[i], dst.of[i]);
    }
    compare(&dst, "sum of experts", in_fast ? 2e-2 : 1e-4);
    for (int i = 0; i < 2; i++) {
        devices[i]->ops->release(devices[i], (void *)e[i].gate.data);
        devices[i]->ops->release(devices[i], (void *)e[i].up.data);
        devices[i]->ops->release(devices[i], (void *)e[i].down.data);
    }
    free((void *)gate.data), free((void *)up.data), free((void *)down.data);
    drop(&src), drop(&dst), drop(&scores);
    devices[1] = kept;
}

static void test_small(int n)
{
    check_case("limits and norms without a weight, %d tokens", n);
    struct twins x = twins(60, n, 3), y = twins(60, n, 3);
    struct weight plain = { .cols = 20 };
    begin(n, 0);
    for (int i = 0; i < 2; i++) {
        clamp(devices[i], x.of[i], -INFINITY, 1.5f);
        clamp(devices[i], y.of[i], -0.5f, 0.5f);
        rmsnorm(devices[i], y.of[i], y.of[i], &plain, 3, 1e-6f);
    }
    compare(&x, "limit", 0);
    compare(&y, "norm", 1e-6);
    drop(&x), drop(&y);
}

int main(void)
{
    struct error err = { 0 };
    void (*order)(uint64_t) = NULL;
    if (!(library = gpu_test_load()) || !CHECK_MSG(library->count(&err) > 0, "%s", err.text) ||
        !open_devices())
        return check_finish();
    gpu_test_hook("cuda_host_order", &order);
    for (int o = 0; o < (order ? 3 : 1); o++) {
        if (order)
            order(o < 2 ? (uint64_t)o : check_random() | 2);
        for (int n = 1; n <= 9; n += 8) {
            test_hyper(n, false);
            test_hyper(n, true);
            test_router(false, n);
            test_router(true, n);
            test_small(n);
        }
        for (int n = 2; n <= 20; n += 18) {
            test_experts(n, false);
            test_experts(n, true);
        }
        test_layers();
        test_ties();
    test_key_bytes(1, 60, 64, 3);
    test_key_bytes(17, 40, 128, 4);
    test_key_bytes(30, 0, 12, 5);
    }
    for (int i = 0; i < 2; i++)
        devices[i]->ops->close(devices[i]);
    fast->ops->close(fast);
    pool_close(pool);
    return check_finish();
}
