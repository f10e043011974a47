/* What the tests of the GPU library share: opening it, a stream per numeric profile, orders of the
 * emulated threads, and rows that travel there and back.
 *
 * The library is $TANDEM_GPU (make test-gpu sets the real one), else the emulation beside the tests.
 * Every check runs in three orders of threads on the emulation, once on a card. */
#ifndef TANDEM_TESTS_GPU_TEST_H
#define TANDEM_TESTS_GPU_TEST_H

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/gpu_load.h"
#include "tests/check.h"

struct gpu_test {
    const struct gpu_library *library;
    const struct gpu_launchers *gpu;
    bool emulated;
    struct gpu_stream *s; /* the profile in use: gpu_test_profile */
    struct gpu_stream *profiles[2]; /* [act_f32] */
    void **blocks; /* device memory of the case */
    int n_blocks;
    void (*order)(uint64_t);
};

/* A function of the emulation, NULL on a card: gpu_test_hook(&t, "cuda_host_order", &t.order). */
static inline void gpu_test_hook(const char *name, void *pointer)
{
    void *library = dlopen(getenv("TANDEM_GPU"), RTLD_NOW | RTLD_NOLOAD);
    *(void **)pointer = library ? dlsym(library, name) : NULL;
    if (library)
        dlclose(library);
}

/* Where the library is expected; false after a skip: the tests were built without a C++ compiler. */
static inline bool gpu_test_find(void)
{
    char path[512];
    const char *folder = getenv("B");
    if (getenv("TANDEM_GPU")) /* a wish: what is missing is a failure */
        return true;
    snprintf(path, sizeof path, "%s/tests/tandem-gpu-emulated.so", folder ? folder : "build");
    if (access(path, F_OK) != 0) {
        check_case("GPU library");
        check_skip("%s was not built: there was no C++ compiler", path);
        return false;
    }
    setenv("TANDEM_GPU", path, 1);
    return true;
}

/* The library, which stays the tests' own. NULL: the program ends (after a skip or a failure). */
static inline const struct gpu_library *gpu_test_load(void)
{
    struct error err = { 0 };
    if (!gpu_test_find())
        return NULL;
    check_case("GPU library: %s", getenv("TANDEM_GPU"));
    const struct gpu_library *library = gpu_load(&err);
    CHECK_MSG(library, "%s", err.text);
    return library;
}

/* The library and its first card with a stream for each profile. False: the program ends (after a
 * skip or a failure). */
static inline bool gpu_test_open(struct gpu_test *t, const struct gpu_limits *limits)
{
    struct error err = { 0 };
    memset(t, 0, sizeof *t);
    if (!(t->library = gpu_test_load()))
        return false;
    bool ok = t->library->count(&err) > 0;
    for (int act_f32 = 0; ok && act_f32 <= 1; act_f32++) {
        struct gpu_limits l = *limits;
        l.act_f32 = act_f32;
        ok = t->library->stream_open(&t->profiles[act_f32], 0, &l, &err);
    }
    if (!CHECK_MSG(ok, "%s", err.text))
        return false;
    t->gpu = &t->library->launch;
    t->s = t->profiles[1];
    gpu_test_hook("cuda_host_order", &t->order);
    t->emulated = t->order;
    return true;
}

static inline void gpu_test_profile(struct gpu_test *t, bool act_f32)
{
    t->s = t->profiles[act_f32];
}

/* for (int o = 0; gpu_test_order(&t, o); o++) ...: once for each order of threads. */
static inline bool gpu_test_order(struct gpu_test *t, int o)
{
    if (!t->order)
        return o == 0;
    if (o < 3)
        t->order(o < 2 ? (uint64_t)o : check_random() | 2);
    return o < 3;
}

/* Device memory until gpu_test_clear; with `from`, filled from there. */
static inline void *gpu_test_block(struct gpu_test *t, size_t bytes, const void *from)
{
    struct error err = { 0 };
    void *block = t->gpu->alloc(t->s, bytes, "test", &err);
    CHECK_MSG(block, "%s", err.text);
    t->blocks = realloc(t->blocks, (size_t)(t->n_blocks + 1) * sizeof *t->blocks);
    t->blocks[t->n_blocks++] = block;
    if (from) {
        t->gpu->write(t->s, block, from, bytes);
        t->gpu->finish(t->s, NULL);
    }
    return block;
}

/* Host rows on the device, with the same stride. */
static inline struct rows gpu_test_rows(struct gpu_test *t, struct rows host, int n_tokens)
{
    size_t bytes = (size_t)(host.stride * n_tokens) * sizeof(float);
    return (struct rows){ gpu_test_block(t, bytes, host.data), host.width, host.stride };
}

/* Everything queued, then bytes from the device. */
static inline void gpu_test_read(struct gpu_test *t, void *to, const void *from, size_t bytes)
{
    struct error err = { 0 };
    t->gpu->read(t->s, to, from, bytes);
    CHECK_MSG(t->gpu->finish(t->s, &err), "%s", err.text);
}

static inline void gpu_test_clear(struct gpu_test *t)
{
    for (int i = 0; i < t->n_blocks; i++)
        t->gpu->release(t->s, t->blocks[i]);
    t->n_blocks = 0;
}

static inline void gpu_test_close(struct gpu_test *t)
{
    gpu_test_clear(t);
    free(t->blocks);
    for (int i = 0; i < 2 && t->library; i++)
        t->library->stream_close(t->profiles[i]);
}

/* malloc'ed random numbers; the width columns of n rows, the rest of the stride is `pad`. */
static inline struct rows gpu_test_random(int64_t width, int64_t stride, int n, float range)
{
    struct rows r = { malloc((size_t)(stride * n) * sizeof(float) + 1), width, stride };
    for (int64_t i = 0; i < stride * n; i++)
        r.data[i] = i % stride < width ? check_random_float(-range, range) : 1e30f;
    return r;
}

/* Largest |found - wanted| over rows, relative to `scale`; the columns behind width must be as they
 * were (1e30). NaN counts as infinite. */
static inline double gpu_test_difference(struct rows found, struct rows wanted, int n_tokens,
                                         double scale)
{
    double worst = 0;
    for (int64_t i = 0; i < found.stride * n_tokens; i++) {
        bool inside = i % found.stride < found.width;
        double d = fabs((double)found.data[i] - (double)(inside ? wanted.data[i] : 1e30f)) / scale;
        if (!(d <= worst))
            worst = d == d ? d : INFINITY;
    }
    return worst;
}

#endif
