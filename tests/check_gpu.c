/* The small launchers of the GPU library against plain C: element by element, norms, memory, and what
 * happens when the card fails. */
#include "cpu/kernels.h"
#include "tests/gpu_test.h"

static struct gpu_test t;
static struct kernels ref;

/* One launcher on rows of `width`: `inputs` random inputs, then dst; compared with `wanted`. */
struct shape {
    int64_t width, stride;
    int n_tokens;
};

static const struct shape shapes[] = { { 1, 1, 1 },   { 33, 40, 3 },  { 64, 64, 1 },
                                       { 257, 300, 5 }, { 1000, 1024, 2 } };

enum { ADD, ADD3, ADD_IN_PLACE, COPY, SWIGLU, N_ELEMENTWISE };

static void plain(int op, struct rows *in, struct rows out, int n_tokens)
{
    for (int i = 0; i < n_tokens; i++) {
        int64_t at = i * out.stride, n = out.width;
        float *a = in[0].data + at, *b = in[1].data + at, *c = in[2].data + at, *d = out.data + at;
        if (op == SWIGLU)
            ref.swiglu(a, b, d, n);
        else if (op == COPY)
            memcpy(d, a, (size_t)n * sizeof *d);
        else
            ref.add(a, b, d, n);
        if (op == ADD3)
            ref.add(d, c, d, n);
    }
}

static void launch(int op, struct rows *in, struct rows dst, int n_tokens)
{
    switch (op) {
    case ADD:
    case ADD_IN_PLACE: t.gpu->add(t.s, dst, in[0], in[1], n_tokens); break;
    case ADD3: t.gpu->add3(t.s, dst, in[0], in[1], in[2], n_tokens); break;
    case COPY: t.gpu->copy(t.s, dst, in[0], n_tokens); break;
    default: t.gpu->swiglu(t.s, dst, in[0], in[1], n_tokens);
    }
}

static void test_elementwise(int op, const struct shape *shape)
{
    static const char *const names[] = { "add", "add3", "add in place", "copy", "swiglu" };
    check_case("%s, %d rows of %d", names[op], shape->n_tokens, (int)shape->width);
    struct rows in[3], device[3];
    for (int i = 0; i < 3; i++)
        in[i] = gpu_test_random(shape->width, shape->stride, shape->n_tokens, 8);
    struct rows wanted = gpu_test_random(shape->width, shape->stride, shape->n_tokens, 1);
    struct rows found = gpu_test_random(shape->width, shape->stride, shape->n_tokens, 1);
    plain(op, in, wanted, shape->n_tokens);
    size_t bytes = (size_t)(shape->stride * shape->n_tokens) * sizeof(float);
    for (int o = 0; gpu_test_order(&t, o); o++) {
        for (int i = 0; i < 3; i++)
            device[i] = gpu_test_rows(&t, in[i], shape->n_tokens);
        struct rows dst = op == ADD_IN_PLACE ? device[1] : gpu_test_rows(&t, found, shape->n_tokens);
        launch(op, device, dst, shape->n_tokens);
        gpu_test_read(&t, found.data, dst.data, bytes);
        double d = gpu_test_difference(found, wanted, shape->n_tokens, 16);
        CHECK_MSG(d <= 1e-6, "difference %.3g", d);
        gpu_test_clear(&t);
    }
    for (int i = 0; i < 3; i++)
        free(in[i].data);
    free(wanted.data);
    free(found.data);
}

static void test_rmsnorm(int64_t n, int n_groups, int n_tokens, float range)
{
    check_case("rmsnorm, %d rows of %d x %d, up to %g", n_tokens, n_groups, (int)n, (double)range);
    int64_t width = n * n_groups, stride = width + 3;
    struct rows in = gpu_test_random(width, stride, n_tokens, range);
    struct rows wanted = gpu_test_random(width, stride, n_tokens, 1);
    struct rows found = gpu_test_random(width, stride, n_tokens, 1);
    struct rows weight = gpu_test_random(n, n, 1, 2);
    for (int i = 0; i < n_tokens * n_groups; i++) {
        int64_t at = i / n_groups * stride + i % n_groups * n;
        ref.rmsnorm(in.data + at, weight.data, wanted.data + at, n, 1e-6f);
    }
    for (int o = 0; gpu_test_order(&t, o); o++) {
        for (int in_place = 0; in_place <= 1; in_place++) {
            struct rows src = gpu_test_rows(&t, in, n_tokens);
            struct rows dst = in_place ? src : gpu_test_rows(&t, found, n_tokens);
            struct rows w = gpu_test_rows(&t, weight, 1);
            t.gpu->rmsnorm(t.s, dst, src, w.data, n, n_groups, 1e-6f, n_tokens);
            gpu_test_read(&t, found.data, dst.data, (size_t)(stride * n_tokens) * sizeof(float));
            double d = gpu_test_difference(found, wanted, n_tokens, 2 * sqrt((double)n));
            CHECK_MSG(d <= 1e-6, "difference %.3g", d);
            gpu_test_clear(&t);
        }
    }
    free(in.data);
    free(wanted.data);
    free(found.data);
    free(weight.data);
}

static void test_probe(size_t bytes)
{
    check_case("reading %zu bytes", bytes);
    uint32_t *words = malloc(bytes + 1), wanted = 5, first = 5, found = 0;
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        wanted += words[i] = (uint32_t)check_random();
    for (int o = 0; gpu_test_order(&t, o); o++) {
        int32_t *sum = gpu_test_block(&t, sizeof *sum, &first);
        t.gpu->probe_read(t.s, sum, gpu_test_block(&t, bytes, words), bytes);
        gpu_test_read(&t, &found, sum, sizeof found);
        CHECK_INT(found, wanted);
        gpu_test_clear(&t);
    }
    free(words);
}

/* A sum and the norm of it in one launch: the bits of both by themselves. */
static void test_sum_rmsnorm(int64_t width, int n_tokens, bool three, bool in_place)
{
    check_case("sum_rmsnorm, %d rows of %d, of %d%s", n_tokens, (int)width, three ? 3 : 2,
               in_place ? ", in place" : "");
    int64_t stride = width + 5;
    size_t bytes = (size_t)(stride * n_tokens) * sizeof(float);
    struct rows in[3], weight = gpu_test_random(width, width, 1, 2);
    struct rows wanted[2], found[2];
    for (int i = 0; i < 3; i++)
        in[i] = gpu_test_random(width, stride, n_tokens, 4);
    for (int i = 0; i < 2; i++) {
        wanted[i] = gpu_test_random(width, stride, n_tokens, 1);
        found[i] = gpu_test_random(width, stride, n_tokens, 1);
    }
    for (int o = 0; gpu_test_order(&t, o); o++) {
        struct rows none = { NULL, 0, 0 }, w = gpu_test_rows(&t, weight, 1);
        for (int fused = 0; fused < 2; fused++) {
            struct rows d[3], *to = fused ? found : wanted;
            for (int i = 0; i < 3; i++)
                d[i] = gpu_test_rows(&t, in[i], n_tokens);
            struct rows sum = in_place ? d[0] : gpu_test_rows(&t, to[0], n_tokens);
            struct rows normed = gpu_test_rows(&t, to[1], n_tokens);
            if (fused) {
                t.gpu->sum_rmsnorm(t.s, normed, sum, d[0], d[1], three ? d[2] : none, w.data, 1e-6f,
                                   n_tokens);
            } else {
                t.gpu->add3(t.s, sum, d[0], d[1], three ? d[2] : none, n_tokens);
                t.gpu->rmsnorm(t.s, normed, sum, w.data, width, 1, 1e-6f, n_tokens);
            }
            gpu_test_read(&t, to[0].data, sum.data, bytes);
            gpu_test_read(&t, to[1].data, normed.data, bytes);
        }
        for (int i = 0; i < 2; i++)
            CHECK(gpu_test_difference(found[i], wanted[i], n_tokens, 1) == 0);
        gpu_test_clear(&t);
    }
    for (int i = 0; i < 3; i++)
        free(in[i].data);
    for (int i = 0; i < 2; i++)
        free(wanted[i].data), free(found[i].data);
    free(weight.data);
}

/* ---- failures: only the emulation has them on demand ---- */

static void test_failures(void)
{
    void (*fail_alloc)(int64_t), (*fail_launch)(int64_t), (*lose)(bool);
    uint64_t (*bytes)(void);
    gpu_test_hook("cuda_host_fail_alloc", &fail_alloc);
    gpu_test_hook("cuda_host_fail_launch", &fail_launch);
    gpu_test_hook("cuda_host_lose", &lose);
    gpu_test_hook("cuda_host_bytes", &bytes);
    struct error err = { 0 };
    struct gpu_limits limits = { .act_f32 = true };
    struct gpu_stream *s = NULL;

    check_case("allocation fails: an error, and the next one works");
    fail_alloc(0);
    CHECK(!t.gpu->alloc(t.s, 100, "a cache", &err));
    CHECK_INT(err.code, ERR_FIT);
    CHECK_STR(err.text, "GPU: a cache: 100 bytes: out of memory");
    gpu_test_block(&t, 100, NULL);
    gpu_test_clear(&t);

    check_case("a stream without memory: nothing is left");
    uint64_t before = bytes();
    error_clear(&err);
    fail_alloc(0);
    CHECK(!t.library->stream_open(&s, 0, &limits, &err) && !s);
    CHECK_INT(err.code, ERR_FIT);
    CHECK_INT(bytes(), before);

    check_case("a launch fails: the latch names it and stays");
    error_clear(&err);
    CHECK(t.library->stream_open(&s, 0, &limits, &err));
    float *block = t.gpu->alloc(s, 64, "rows", &err);
    struct rows rows = { block, 16, 16 };
    fail_launch(1);
    t.gpu->add(s, rows, rows, rows, 1);
    t.gpu->swiglu(s, rows, rows, rows, 1);
    t.gpu->copy(s, rows, rows, 1);
    for (int i = 0; i < 2; i++) {
        error_clear(&err);
        CHECK(!t.gpu->finish(s, &err));
        CHECK_INT(err.code, ERR_DEVICE);
        CHECK_STR(err.text, "GPU: swiglu_rows: unspecified launch failure");
    }
    lose(false);
    t.gpu->release(s, block);
    t.library->stream_close(s);

    check_case("the card is lost: reported at the next wait");
    CHECK(t.library->stream_open(&s, 0, &limits, &err));
    lose(true);
    t.gpu->write(s, block, &rows, sizeof rows);
    error_clear(&err);
    CHECK(!t.gpu->finish(s, &err));
    CHECK_STR(err.text, "GPU: copy to the GPU: an illegal memory access was encountered");
    t.library->stream_close(s);
    lose(false);
    CHECK_INT(bytes(), before);
}

int main(void)
{
    struct gpu_limits limits = { 0 };
    if (!gpu_test_open(&t, &limits))
        return check_finish();
    kernels_use_ref(&ref);
    for (int op = 0; op < N_ELEMENTWISE; op++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            test_elementwise(op, &shapes[i]);
    test_rmsnorm(1, 1, 1, 1);
    test_rmsnorm(64, 1, 3, 4);
    test_rmsnorm(48, 5, 2, 1);
    test_rmsnorm(1000, 1, 2, 1e-5f);
    test_rmsnorm(777, 2, 2, 1e4f);
    test_probe(0);
    test_probe(16);
    test_probe(100 * 1024 + 48);
    test_sum_rmsnorm(77, 3, true, false);
    test_sum_rmsnorm(256, 2, false, true);
    if (t.emulated)
        test_failures();
    gpu_test_close(&t);
    return check_finish();
}
