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

int main(void)
{
    struct error err = { 0 };
    if (!gpu_test_find())
        return check_finish();
    check_case("GPU library: %s", getenv("TANDEM_GPU"));
    library = gpu_load(&err);
    if (!CHECK_MSG(library, "%s", err.text) || !open_devices())
        return check_finish();
    test_memory();
    test_step(1, 1);
    test_step(4, 2);
    test_step(MAX_TOKENS, MAX_TOKENS);
    test_loss();
    gpu->ops->close(gpu);
    cpu->ops->close(cpu);
    pool_close(pool);
    return check_finish();
}
