/* What the tests of the CPU device share: the same device with one, two and four threads, material to
 * compute with, and the plain answers to compare with. */
#ifndef TANDEM_TESTS_DEVICE_RIG_H
#define TANDEM_TESTS_DEVICE_RIG_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/device_cpu.h"
#include "cpu/features.h"
#include "src/base/mem.h"
#include "src/base/pool.h"
#include "src/base/util.h"
#include "src/device.h"
#include "src/format/quant.h"
#include "tests/check.h"

#define MAX_TOKENS 160
#define N_CTX 4200

static const int threads[] = { 1, 2, 4 };
#define N_RIGS 3

/* The same device with different numbers of threads. */
static struct pool *pools[N_RIGS];
static struct device *devices[N_RIGS];
static bool act_f32;
static unsigned isa_mask;

static inline struct device_cpu_options options(struct pool *pool, unsigned isa)
{
    return (struct device_cpu_options){
        .pool = pool, .isa = isa, .act_f32 = act_f32, .max_tokens = MAX_TOKENS, .max_cols = 768,
        .max_rows = 1100, .n_ctx = N_CTX, .n_heads = 12, .head_width = 160, .cache_width = 240,
        .n_routed = 24,
        .top_k = 6, .expert_size = 512,
    };
}

static inline void open_rigs(unsigned isa)
{
    isa_mask = isa;
    for (int i = 0; i < N_RIGS; i++) {
        struct error err = { 0 };
        struct device_cpu_options o = options(pools[i], isa);
        if (!CHECK_MSG(device_cpu_open(&devices[i], &o, &err), "%s", err.text))
            exit(check_finish());
    }
}

static inline void close_rigs(void)
{
    for (int i = 0; i < N_RIGS; i++)
        devices[i]->ops->close(devices[i]);
}

/* ---- material ---- */

static inline float *floats(int64_t n, float low, float high)
{
    float *x = malloc((size_t)max_of(n, 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = check_random_float(low, high);
    return x;
}

static inline struct rows rows_of(float *data, int64_t width, int64_t stride)
{
    return (struct rows){ data, width, stride };
}

static inline bool has_encoders(enum tensor_type type)
{
    return type == TYPE_F32 || (quant_traits(type)->quantize &&
                                quant_traits(quant_traits(type)->act)->quantize);
}

/* A random weight, and what it decodes to. matrix_bytes has a gap, as padded files may. */
struct material {
    struct weight w;
    float *values; /* [n_matrices * rows, cols] */
};

static inline struct material material(enum tensor_type type, int64_t cols, int64_t rows, int64_t matrices)
{
    const struct quant_traits *q = quant_traits(type);
    struct material m = { .values = floats(matrices * rows * cols, -1, 1) };
    m.w = (struct weight){ .type = type, .cols = cols, .rows = rows, .n_matrices = matrices,
                           .row_bytes = quant_row_bytes(type, cols), .name = "test" };
    m.w.matrix_bytes = m.w.row_bytes * (size_t)rows + 10;
    uint8_t *bytes = malloc(m.w.matrix_bytes * (size_t)matrices);
    for (int64_t i = 0; i < matrices; i++) {
        for (int64_t r = 0; r < rows; r++) {
            float *x = m.values + (i * rows + r) * cols;
            uint8_t *to = bytes + (size_t)i * m.w.matrix_bytes + (size_t)r * m.w.row_bytes;
            if (type == TYPE_F32)
                memcpy(to, x, m.w.row_bytes);
            else
                q->quantize(x, to, cols, NULL);
            q->dequantize(to, x, cols);
        }
    }
    m.w.data = bytes;
    return m;
}

static inline void discard(struct material *m)
{
    free((void *)m->w.data);
    free(m->values);
}

/* What the device multiplies with: activations after their encoding. */
static inline void round_activations(enum tensor_type weight_type, float *x, int64_t n)
{
    enum tensor_type act = quant_traits(weight_type)->act;
    bool no_dot = weight_type == TYPE_Q8_1 || weight_type == TYPE_Q8_K;
    if (act_f32 || act == TYPE_F32 || no_dot)
        return;
    uint8_t blocks[8192];
    quant_traits(act)->quantize(x, blocks, n, NULL);
    quant_traits(act)->dequantize(blocks, x, n);
}

static inline double dot(const float *a, const float *b, int64_t n, double *magnitude)
{
    double sum = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i] * b[i];
        size += fabs((double)a[i] * b[i]);
    }
    if (magnitude)
        *magnitude = size;
    return sum;
}

static inline void begin(struct device *d, int n_tokens, int64_t n_past)
{
    static int32_t tokens[MAX_TOKENS];
    struct step s = { .tokens = tokens, .n_tokens = n_tokens, .n_past = n_past };
    for (int t = 0; t < n_tokens; t++)
        tokens[t] = t * 7 % 40;
    d->ops->begin(d, &s);
}

static inline void begin_form(struct device *d, int n_tokens, int64_t n_past, enum mla_form form)
{
    struct step s = { .n_tokens = n_tokens, .n_past = n_past, .mla_form = form };
    d->ops->begin(d, &s);
}

/* Results of the rigs, to be compared bit by bit. */
static float *outputs[N_RIGS];

static inline void make_outputs(int64_t n)
{
    for (int i = 0; i < N_RIGS; i++) {
        outputs[i] = malloc((size_t)n * sizeof(float));
        memset(outputs[i], 0xff, (size_t)n * sizeof(float)); /* NaN: what is not written shows */
    }
}

static inline void free_outputs(int64_t n)
{
    for (int i = 0; i < N_RIGS; i++)
        CHECK_MSG(memcmp(outputs[i], outputs[0], (size_t)n * sizeof(float)) == 0,
                  "%d threads give other bits than one", threads[i]);
    for (int i = 0; i < N_RIGS; i++)
        free(outputs[i]);
}

static inline void check_near(const float *found, const double *wanted, int64_t n, double tolerance)
{
    double worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        double off = fabs(found[i] - wanted[i]);
        if (!(off <= worst)) { /* NaN too */
            worst = off;
            at = i;
        }
    }
    CHECK_MSG(worst <= tolerance, "element %lld is %g, wanted %g", (long long)at, found[at],
              wanted[at]);
}

/* Run the tests with plain C and with the kernels of this machine, with rounded and with float
 * activations. The first time is the quick one. */
static inline bool on_all_rigs(void (*test)(bool thorough))
{
    for (int i = 0; i < N_RIGS; i++) {
        if (!pool_open(&pools[i], threads[i], NULL))
            return false;
    }
    unsigned masks[] = { ISA_REF, cpu_isa() };
    for (int i = 0; i < 2; i++) {
        for (int f32 = 0; f32 < 2; f32++) {
            printf("-- %s%s\n", cpu_isa_name(masks[i]), f32 ? ", float activations" : "");
            act_f32 = f32;
            open_rigs(masks[i]);
            test(i > 0);
            close_rigs();
        }
        if (masks[1] == masks[0])
            break;
    }
    for (int i = 0; i < N_RIGS; i++)
        pool_close(pools[i]);
    return true;
}

#endif
