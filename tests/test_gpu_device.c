/* The GPU's device by itself against the CPU's, on what whole models do not reach: experts in device
 * memory, the head's output in pieces, memory, and a card that fails in the middle of a step. */
#include "cpu/device_cpu.h"
#include "tests/gpu_test.h"

#define HIDDEN 48
#define EXPERT 40
#define N_ROUTED 9
#define TOP_K 3
#define N_VOCAB 50
#define MAX_TOKENS 11

static const struct gpu_library *library;
static struct device *gpu, *cpu;
static struct pool *pool;

static void *random_floats(size_t n, float range)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = check_random_float(-range, range);
    return x;
}

static void *upload(const void *host, size_t bytes)
{
    struct error err = { 0 };
    void *block = gpu->ops->alloc(gpu, bytes, "test", &err);
    CHECK_MSG(block && gpu->ops->write(gpu, block, host, bytes, &err), "%s", err.text);
    return block;
}

static struct weight matrices(int64_t cols, int64_t rows, int64_t n)
{
    size_t row_bytes = (size_t)cols * sizeof(float);
    return (struct weight){ .data = random_floats((size_t)(cols * rows * n), 0.3f),
                            .type = TYPE_F32, .cols = cols, .rows = rows, .n_matrices = n,
                            .row_bytes = row_bytes, .matrix_bytes = row_bytes * (size_t)rows };
}

/* The same weight in device memory. */
static struct weight on_gpu(struct weight w)
{
    w.data = upload(w.data, w.matrix_bytes * (size_t)w.n_matrices);
    return w;
}

static void drop(struct weight host, struct weight device)
{
    free((void *)host.data);
    gpu->ops->release(gpu, (void *)device.data);
}

static bool open_devices(void)
{
    struct error err = { 0 };
    struct device_cpu_options co = {
        .act_f32 = true, .max_tokens = MAX_TOKENS, .max_cols = HIDDEN, .max_rows = N_VOCAB,
        .n_ctx = 64, .n_heads = 1, .head_width = 8, .n_routed = N_ROUTED, .top_k = TOP_K,
        .expert_size = EXPERT,
    };
    struct gpu_device_options go = {
        .limits = { .act_f32 = true, .max_tokens = MAX_TOKENS, .max_cols = HIDDEN,
                    .max_rows = N_VOCAB, .n_ctx = 64, .n_heads = 1, .head_width = 8,
                    .n_routed = N_ROUTED, .top_k = TOP_K, .expert_size = EXPERT },
        .n_vocab = N_VOCAB,
        .logits_bytes = 3 * N_VOCAB * sizeof(float) + 1, /* pieces of three rows */
    };
    bool ok = pool_open(&pool, 1, &err);
    co.pool = pool;
    ok = ok && device_cpu_open(&cpu, &co, &err) && library->device_open(&gpu, &go, &err);
    return CHECK_MSG(ok, "%s", err.text);
}

/* One step of n tokens on both: router, experts, head. */
static void test_step(int n, int n_logits)
{
    check_case("experts and head on the GPU, %d tokens, logits of %d", n, n_logits);
    struct experts e = { .gate = matrices(HIDDEN, EXPERT, N_ROUTED),
                         .up = matrices(HIDDEN, EXPERT, N_ROUTED),
                         .down = matrices(EXPERT, HIDDEN, N_ROUTED),
                         .n_routed = N_ROUTED, .top_k = TOP_K, .expert_size = EXPERT };
    struct experts ge = e;
    ge.gate = on_gpu(e.gate), ge.up = on_gpu(e.up), ge.down = on_gpu(e.down);
    struct weight head = matrices(HIDDEN, N_VOCAB, 1), ghead = on_gpu(head);
    struct router r = { .scoring = ROUTER_SIGMOID, .n_routed = N_ROUTED, .top_k = TOP_K,
                        .n_groups = 1, .n_groups_used = 1, .normalize = true, .scale = 2.5f };
    size_t floats = (size_t)n * HIDDEN;
    struct rows src = { random_floats(floats, 1), HIDDEN, HIDDEN };
    struct rows scores = { random_floats((size_t)n * N_ROUTED, 2), N_ROUTED, N_ROUTED };
    struct rows dst = { calloc(floats, sizeof(float)), HIDDEN, HIDDEN };
    struct rows gsrc = src, gscores = scores, gdst = dst;
    gsrc.data = upload(src.data, floats * sizeof(float));
    gscores.data = upload(scores.data, (size_t)n * N_ROUTED * sizeof(float));
    gdst.data = upload(dst.data, floats * sizeof(float));

    int32_t tokens[MAX_TOKENS] = { 0 }, ids[2][MAX_TOKENS * TOP_K];
    float weights[2][MAX_TOKENS * TOP_K], logits_of[2][MAX_TOKENS * N_VOCAB];
    struct error err = { 0 };
    for (int i = 0; i < 2; i++) {
        struct device *d = i ? gpu : cpu;
        struct step step = { .tokens = tokens, .n_tokens = n, .n_logits = n_logits,
                             .logits = logits_of[i] };
        d->ops->begin(d, &step);
        router_topk(d, &r, i ? gscores : scores);
        experts_begin(d, i ? &ge : &e, i ? gsrc : src);
        experts_end(d, i ? gdst : dst);
        logits(d, i ? &ghead : &head, i ? gdst : dst);
        CHECK_MSG(d->ops->end(d, &err), "%s", err.text);
        CHECK(d->ops->read_choice(d, ids[i], weights[i], &err));
    }
    float *found = malloc(floats * sizeof *found);
    CHECK(gpu->ops->read(gpu, found, gdst.data, floats * sizeof *found, &err));
    for (int i = 0; i < n * TOP_K; i++) {
        CHECK_INT(ids[1][i], ids[0][i]);
        CHECK(fabsf(weights[1][i] - weights[0][i]) <= 1e-6f);
    }
    double worst = 0, worst_logit = 0;
    for (size_t i = 0; i < floats; i++)
        worst = fmax(worst, fabs((double)found[i] - (double)dst.data[i]));
    for (int i = 0; i < n_logits * N_VOCAB; i++)
        worst_logit = fmax(worst_logit, fabs((double)logits_of[1][i] - (double)logits_of[0][i]));
    CHECK_MSG(worst <= 1e-5, "experts differ by %.3g", worst);
    CHECK_MSG(worst_logit <= 1e-4, "logits differ by %.3g", worst_logit);

    free(found);
    free(src.data), free(scores.data), free(dst.data);
    gpu->ops->release(gpu, gsrc.data);
    gpu->ops->release(gpu, gscores.data);
    gpu->ops->release(gpu, gdst.data);
    drop(e.gate, ge.gate), drop(e.up, ge.up), drop(e.down, ge.down), drop(head, ghead);
}

static void test_memory(void)
{
    check_case("device memory begins as zero and keeps what is written");
    struct error err = { 0 };
    unsigned char bytes[1000], back[1000];
    memset(back, 1, sizeof back);
    void *block = gpu->ops->alloc(gpu, sizeof bytes, "test", &err);
    CHECK(block && (uintptr_t)block % 64 == 0);
    CHECK(gpu->ops->read(gpu, back, block, sizeof back, &err));
    for (size_t i = 0; i < sizeof bytes; i++) {
        CHECK_INT(back[i], 0);
        bytes[i] = (unsigned char)(i * 7);
    }
    CHECK(gpu->ops->write(gpu, block, bytes, sizeof bytes, &err));
    CHECK(gpu->ops->read(gpu, back, block, sizeof back, &err));
    CHECK(memcmp(bytes, back, sizeof bytes) == 0);
    gpu->ops->release(gpu, block);
}

/* ---- fewer launches, the same bits ---- */

#define WIDTH 64

/* A device in the fast profile, and a stream that queues every launch as it is asked for. */
struct fused_test {
    struct device *device;
    struct gpu_stream *plain;
    struct rows h, x, y, normed, gate, up, out; /* on the card */
    struct weight norm, w[4];                   /* gate, up, down, and one of another shape */
};

static struct rows rows_on(struct device *d, float range)
{
    struct error err = { 0 };
    float *x = random_floats(2 * WIDTH, range);
    struct rows r = { d->ops->alloc(d, 2 * WIDTH * sizeof *x, "rows", &err), WIDTH, WIDTH };
    CHECK_MSG(r.data && d->ops->write(d, r.data, x, 2 * WIDTH * sizeof *x, &err), "%s", err.text);
    free(x);
    return r;
}

static struct weight bytes_on(struct device *d, int64_t rows)
{
    struct error err = { 0 };
    float *x = random_floats((size_t)(WIDTH * rows), 0.3f);
    struct weight w = { .type = TYPE_Q8_0, .cols = WIDTH, .rows = rows, .n_matrices = 1,
                        .row_bytes = quant_row_bytes(TYPE_Q8_0, WIDTH) };
    w.matrix_bytes = w.row_bytes * (size_t)rows;
    uint8_t *blocks = malloc(w.matrix_bytes);
    quant_traits(TYPE_Q8_0)->quantize(x, blocks, WIDTH * rows, NULL);
    w.data = d->ops->alloc(d, w.matrix_bytes, "weight", &err);
    CHECK_MSG(w.data && d->ops->write(d, (void *)w.data, blocks, w.matrix_bytes, &err), "%s",
              err.text);
    free(x), free(blocks);
    return w;
}

/* A feed-forward block and what may not be joined, as a device is asked. */
static void ask(struct fused_test *f)
{
    struct device *d = f->device;
    add3(d, f->h, f->h, f->x, f->y);
    rmsnorm(d, f->normed, f->h, &f->norm, 1, 1e-6f);
    matmul(d, f->gate, &f->w[0], f->normed, NULL);
    matmul(d, f->up, &f->w[1], f->normed, NULL);
    swiglu(d, f->gate, f->gate, f->up);
    matmul(d, f->out, &f->w[2], f->gate, NULL);
    add(d, f->h, f->h, f->out);
    d->ops->copy(d, f->y, f->h); /* reads a sum that waits */
    rmsnorm(d, f->normed, f->h, &f->norm, 1, 1e-6f);
    matmul(d, f->x, &f->w[2], f->normed, NULL);
    add(d, f->normed, f->normed, f->x); /* was in bytes: not any more */
    matmul(d, f->up, &f->w[2], f->normed, NULL);
    matmul(d, f->out, &f->w[0], f->normed, NULL); /* products, but not of this SwiGLU */
    swiglu(d, f->x, f->out, f->up);
    rmsnorm(d, f->x, f->x, &f->norm, 1, 1e-6f);
    matmul(d, f->gate, &f->w[3], f->x, NULL); /* shapes differ */
    matmul(d, f->up, &f->w[0], f->x, NULL);
    swiglu(d, f->out, f->gate, f->up);
}

/* The same, launch by launch. */
static void launch(struct fused_test *f, int n)
{
    const struct gpu_launchers *g = &library->launch;
    struct gpu_stream *s = f->plain;
    const float *norm = f->norm.data;
    g->add3(s, f->h, f->h, f->x, f->y, n);
    g->rmsnorm(s, f->normed, f->h, norm, WIDTH, 1, 1e-6f, n);
    g->gemv(s, f->gate, &f->w[0], f->normed, NULL, n);
    g->gemv(s, f->up, &f->w[1], f->normed, NULL, n);
    g->swiglu(s, f->gate, f->gate, f->up, n);
    g->gemv(s, f->out, &f->w[2], f->gate, NULL, n);
    g->add(s, f->h, f->h, f->out, n);
    g->copy(s, f->y, f->h, n);
    g->rmsnorm(s, f->normed, f->h, norm, WIDTH, 1, 1e-6f, n);
    g->gemv(s, f->x, &f->w[2], f->normed, NULL, n);
    g->add(s, f->normed, f->normed, f->x, n);
    g->gemv(s, f->up, &f->w[2], f->normed, NULL, n);
    g->gemv(s, f->out, &f->w[0], f->normed, NULL, n);
    g->swiglu(s, f->x, f->out, f->up, n);
    g->rmsnorm(s, f->x, f->x, norm, WIDTH, 1, 1e-6f, n);
    g->gemv(s, f->gate, &f->w[3], f->x, NULL, n);
    g->gemv(s, f->up, &f->w[0], f->x, NULL, n);
    g->swiglu(s, f->out, f->gate, f->up, n);
    CHECK(g->finish(s, NULL));
}

static void test_fused(int n)
{
    uint64_t (*launches)(const char *);
    struct error err = { 0 };
    gpu_test_hook("cuda_host_launches", &launches);
    check_case("a device joins launches, %d tokens", n);
    struct fused_test f;
    struct gpu_device_options o = { .limits = { .max_tokens = 2, .max_cols = WIDTH,
                                                .max_rows = WIDTH, .n_ctx = 8, .n_heads = 1,
                                                .head_width = 8 }, .n_vocab = 1 };
    CHECK_MSG(library->device_open(&f.device, &o, &err), "%s", err.text);
    CHECK_MSG(library->stream_open(&f.plain, 0, &o.limits, &err), "%s", err.text);
    struct rows *all[] = { &f.h, &f.x, &f.y, &f.normed, &f.gate, &f.up, &f.out };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        *all[i] = rows_on(f.device, 1);
    for (int i = 0; i < 4; i++)
        f.w[i] = bytes_on(f.device, i < 3 ? WIDTH : WIDTH - 1);
    f.norm = (struct weight){ .data = rows_on(f.device, 2).data, .type = TYPE_F32, .cols = WIDTH,
                              .rows = 1, .n_matrices = 1 };

    static const int looked_at[] = { 0, 1, 2, 3, 6 }; /* h, x, y, normed, out */
    float begin[7][2 * WIDTH], asked[7][2 * WIDTH], launched[7][2 * WIDTH];
    size_t bytes = sizeof begin[0];
    for (int i = 0; i < 7; i++)
        CHECK(f.device->ops->read(f.device, begin[i], all[i]->data, bytes, &err));
    int32_t tokens[2] = { 0 };
    struct step step = { .tokens = tokens, .n_tokens = n };
    uint64_t before = launches ? launches(NULL) : 0, count = 0;
    f.device->ops->begin(f.device, &step);
    ask(&f);
    CHECK_MSG(f.device->ops->end(f.device, &err), "%s", err.text);
    count = launches ? launches(NULL) - before : 0;
    for (int i = 0; i < 7; i++) {
        CHECK(f.device->ops->read(f.device, asked[i], all[i]->data, bytes, &err));
        CHECK(f.device->ops->write(f.device, all[i]->data, begin[i], bytes, &err));
    }
    before = launches ? launches(NULL) : 0;
    launch(&f, n);
    for (int i = 0; i < 7; i++)
        CHECK(f.device->ops->read(f.device, launched[i], all[i]->data, bytes, &err));
    for (size_t i = 0; i < sizeof looked_at / sizeof *looked_at; i++)
        CHECK_MSG(memcmp(asked[looked_at[i]], launched[looked_at[i]], bytes) == 0, "rows %d",
                  looked_at[i]);
    if (launches) { /* 18 and an encoding for each product but the last of two of the same rows */
        CHECK_INT(launches(NULL) - before, 18 + 8);
        CHECK_INT(count, 17);
    }
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        f.device->ops->release(f.device, all[i]->data);
    for (int i = 0; i < 4; i++)
        f.device->ops->release(f.device, (void *)f.w[i].data);
    f.device->ops->release(f.device, (void *)f.norm.data);
    library->stream_close(f.plain);
    f.device->ops->close(f.device);
}

/* Launch n of a step fails, for every n: the step says so, and nothing after it runs. */
static void test_loss(void)
{
    void (*fail_launch)(int64_t), (*lose)(bool);
    uint64_t (*launches)(const char *), (*bytes)(void);
    gpu_test_hook("cuda_host_fail_launch", &fail_launch);
    gpu_test_hook("cuda_host_lose", &lose);
    gpu_test_hook("cuda_host_launches", &launches);
    gpu_test_hook("cuda_host_bytes", &bytes);
    if (!fail_launch) /* a card cannot be made to fail */
        return;
    check_case("any launch of a step fails: the step says so");
    int n = 0;
    for (bool whole = false; !whole && n < 40; n++) {
        struct error err = { 0 };
        struct device *d;
        struct gpu_device_options go = { .limits = { .act_f32 = true, .max_tokens = 1,
                                                     .max_cols = 32, .n_ctx = 8, .head_width = 8 },
                                         .n_vocab = 1 };
        CHECK_MSG(library->device_open(&d, &go, &err), "%s", err.text);
        struct rows x = { d->ops->alloc(d, 32 * sizeof(float), "rows", &err), 32, 32 };
        int32_t token = 0;
        struct step step = { .tokens = &token, .n_tokens = 1 };
        fail_launch(n);
        d->ops->begin(d, &step);
        add(d, x, x, x);
        swiglu(d, x, x, x);
        add3(d, x, x, x, x);
        whole = d->ops->end(d, &err);
        CHECK(whole == (n >= 3));
        CHECK_INT(err.code, whole ? ERR_NONE : ERR_DEVICE);
        d->ops->release(d, x.data);
        d->ops->close(d);
        lose(false);
        fail_launch(-1);
    }
    CHECK_INT(n, 4);
}

static void test_too_many_tokens(void)
{
    struct error err = { 0 };
    struct device *d;
    struct gpu_device_options o = { .limits = { .max_tokens = GPU_MOST_TOKENS + 1, .max_cols = 32,
                                                .n_ctx = 8, .head_width = 8 }, .n_vocab = 1 };
    check_case("steps of more tokens than a grid has rows are refused");
    CHECK(!library->device_open(&d, &o, &err) && !d);
    CHECK_INT(err.code, ERR_FIT);
    CHECK_MSG(strstr(err.text, "65535 at most"), "says %s", err.text);
}

int main(void)
{
    if (!(library = gpu_test_load()) || !open_devices())
        return check_finish();
    test_memory();
    test_too_many_tokens();
    test_step(1, 1);
    test_step(4, 2);
    test_step(MAX_TOKENS, MAX_TOKENS);
    test_fused(1);
    test_fused(2);
    test_loss();
    gpu->ops->close(gpu);
    cpu->ops->close(cpu);
    pool_close(pool);
    return check_finish();
}
