/* Every row of the kernel table against plain C.
 *
 * The mask of instruction sets is lowered to nothing and raised one set at a time; whenever the
 * pointer of a row changes, the new version is tested. So a new kernel is tested by being in the
 * table. Operands end at a page that may not be touched and start behind bytes that must not
 * change, at odd addresses as the sizes fall.
 *
 * --bench [word] prints rates instead, of types whose name contains word (kernels_bench.h). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/features.h"
#include "cpu/kernels.h"
#include "src/base/util.h"
#include "src/format/quant.h"
#include "tests/check.h"

/* ---- Guarded memory ---- */

#define CANARY 64

struct guarded {
    uint8_t *map, *data; /* data .. data + size ends at the forbidden page */
    size_t map_size, size;
};

static struct guarded guarded(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct guarded g = { .size = size, .map_size = align_up(size + CANARY, page) + page };
    g.map = mmap(NULL, g.map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.map == MAP_FAILED || mprotect(g.map + g.map_size - page, page, PROT_NONE) != 0) {
        perror("guarded memory");
        exit(2);
    }
    g.data = g.map + g.map_size - page - size;
    memset(g.data - CANARY, 0xa5, CANARY);
    return g;
}

/* Give the memory back; bytes before the data must be as they were. */
static void release(struct guarded g)
{
    bool intact = true;
    for (int i = 1; i <= CANARY; i++)
        intact &= g.data[-i] == 0xa5;
    CHECK_MSG(intact, "bytes before a buffer were overwritten");
    munmap(g.map, g.map_size);
}

/* ---- Operands ---- */

enum pattern { RANDOM, ZEROS, ONES, EXTREMES, SPIKE, N_PATTERNS };
static const char *const pattern_name[] = { "random", "zeros", "ones", "extremes", "spike" };

static float random_normal(void)
{
    float s = 0;
    for (int i = 0; i < 6; i++)
        s += check_random_float(-1, 1);
    return s;
}

static void fill_floats(float *x, int64_t n, enum pattern pattern)
{
    for (int64_t i = 0; i < n; i++) {
        switch (pattern) {
        case ZEROS:
            x[i] = 0;
            break;
        case ONES:
            x[i] = 1;
            break;
        case EXTREMES: /* both signs of one magnitude: every quant is -127 or 127 */
            x[i] = check_random() & 1 ? 3.5f : -3.5f;
            break;
        case SPIKE:
            x[i] = i % 37 == 5 ? -90.0f : 0.01f * random_normal();
            break;
        default:
            x[i] = random_normal();
        }
    }
}

/* Where the floating-point fields of a block lie; the rest may hold any bits. */
static const struct scale_fields {
    enum tensor_type type;
    int f16_at[2]; /* -1: none */
} scale_fields[] = {
    { TYPE_Q4_0, { 0, -1 } },    { TYPE_Q4_1, { 0, 2 } },     { TYPE_Q5_0, { 0, -1 } },
    { TYPE_Q5_1, { 0, 2 } },     { TYPE_Q8_0, { 0, -1 } },    { TYPE_IQ4_NL, { 0, -1 } },
    { TYPE_Q2_K, { 80, 82 } },   { TYPE_Q3_K, { 108, -1 } },  { TYPE_Q4_K, { 0, 2 } },
    { TYPE_Q5_K, { 0, 2 } },     { TYPE_Q6_K, { 208, -1 } },  { TYPE_IQ4_XS, { 0, -1 } },
    { TYPE_IQ3_S, { 0, -1 } },   { TYPE_IQ3_XXS, { 0, -1 } }, { TYPE_IQ2_XXS, { 0, -1 } },
    { TYPE_IQ2_XS, { 0, -1 } },  { TYPE_IQ2_S, { 0, -1 } },   { TYPE_IQ1_S, { 0, -1 } },
    { TYPE_TQ1_0, { 52, -1 } },  { TYPE_TQ2_0, { 64, -1 } },  { TYPE_Q1_0, { 0, -1 } },
    { TYPE_Q2_0, { 0, -1 } },    { TYPE_IQ1_M, { -1, -1 } },  { TYPE_MXFP4, { -1, -1 } },
    { TYPE_NVFP4, { -1, -1 } },
};

static float random_scale(enum pattern pattern)
{
    if (pattern == ZEROS)
        return 0;
    if (pattern == EXTREMES)
        return check_random() & 1 ? 65504.0f : -65504.0f; /* the largest f16 */
    return check_random_float(-0.1f, 0.1f);
}

static void put_f16(uint8_t *p, float x)
{
    uint16_t h = f32_to_f16(x);
    memcpy(p, &h, sizeof h);
}

static void fill_weights(enum tensor_type type, uint8_t *row, int64_t n, enum pattern pattern)
{
    const struct quant_traits *traits = quant_traits(type);
    size_t bytes = quant_row_bytes(type, n);
    if (traits->block_elements == 1) {
        for (int64_t i = 0; i < n; i++) {
            float x;
            fill_floats(&x, 1, pattern);
            uint16_t h = type == TYPE_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
            memcpy(row + i * traits->block_bytes, type == TYPE_F32 ? (void *)&x : (void *)&h,
                   (size_t)traits->block_bytes);
        }
        return;
    }
    bool all_ones = pattern == ONES || pattern == EXTREMES;
    for (size_t i = 0; i < bytes; i++)
        row[i] = pattern == ZEROS ? 0 : all_ones ? 0xff : (uint8_t)(check_random() >> 24);
    for (uint8_t *b = row; b < row + bytes; b += traits->block_bytes) {
        for (size_t i = 0; i < ARRAY_LEN(scale_fields); i++) {
            for (int f = 0; scale_fields[i].type == type && f < 2; f++)
                if (scale_fields[i].f16_at[f] >= 0)
                    put_f16(b + scale_fields[i].f16_at[f], random_scale(pattern));
        }
        if (type == TYPE_MXFP4)
            b[0] = pattern == EXTREMES ? 180 : (uint8_t)(120 + b[0] % 8);
        if (type == TYPE_NVFP4)
            for (int i = 0; i < 4; i++)
                b[i] &= 0x7b;
        if (type == TYPE_IQ1_M) { /* top nibbles of four words: 0x2fff or so, below one */
            b[49] &= pattern == ZEROS ? 0 : 0xff;
            b[55] = (uint8_t)((b[55] & 0x0f) | (pattern == EXTREMES ? 0x70 : 0x20));
            b[53] &= 0xbf;
        }
    }
}

/* ---- Dot products ---- */

static size_t sizes_for(int block, int64_t sizes[24])
{
    static const int64_t of_one[] = { 0,  1,  2,  3,  7,  8,  9,  15,  16,  17,  31, 33,
                                      47, 63, 64, 65, 96, 97, 127, 128, 129, 200, 511, 1024 };
    static const int64_t blocks[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 21 };
    size_t count = block == 1 ? ARRAY_LEN(of_one) : ARRAY_LEN(blocks);
    for (size_t i = 0; i < count; i++)
        sizes[i] = block == 1 ? of_one[i] : blocks[i] * block;
    return count;
}

/* What the encoded operands mean, and the scale against which an error counts. */
static double exact_dot(enum tensor_type type, int64_t n, const uint8_t *row, const uint8_t *act,
                        double *sum_abs)
{
    const struct quant_traits *w = quant_traits(type), *a = quant_traits(w->act);
    float *wf = malloc((size_t)(n + 1) * sizeof *wf), *af = malloc((size_t)(n + 1) * sizeof *af);
    w->dequantize(row, wf, n);
    a->dequantize(act, af, n);
    double sum = 0;
    *sum_abs = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)wf[i] * af[i];
        *sum_abs += fabs((double)wf[i] * af[i]);
    }
    free(wf);
    free(af);
    return sum;
}

/* One row and n_tokens activations: right within the tolerance, each token as if it were alone. */
static void check_dot(const struct kernels *new, const struct kernels *old, enum tensor_type type,
                      int64_t n, int n_tokens, enum pattern weights, enum pattern acts)
{
    const struct quant_traits *traits = quant_traits(type);
    size_t act_bytes = quant_row_bytes(traits->act, n), stride = act_bytes + 3;
    struct guarded row = guarded(quant_row_bytes(type, n));
    struct guarded act = guarded((size_t)n_tokens * stride - 3);
    struct guarded out = guarded((size_t)n_tokens * sizeof(float));
    float *x = malloc((size_t)(n + 1) * sizeof *x), *found = (float *)(void *)out.data;

    fill_weights(type, row.data, n, weights);
    for (int t = 0; t < n_tokens; t++) {
        fill_floats(x, n, acts);
        old->quantize[traits->act](x, act.data + (size_t)t * stride, n);
    }
    new->dot[type](n, row.data, act.data, stride, n_tokens, found);
    for (int t = 0; t < n_tokens; t++) {
        const uint8_t *a = act.data + (size_t)t * stride;
        double sum_abs, wanted = exact_dot(type, n, row.data, a, &sum_abs);
        CHECK_MSG(fabs(found[t] - wanted) <= 1e-5 * sum_abs || (isinf(found[t]) && sum_abs > 1e38),
                  "n %lld, token %d of %d, weights %s, activations %s: found %.9g, wanted %.9g, "
                  "sum of magnitudes %.3g",
                  (long long)n, t, n_tokens, pattern_name[weights], pattern_name[acts], found[t],
                  wanted, sum_abs);
        float alone;
        new->dot[type](n, row.data, a, stride, 1, &alone);
        CHECK_MSG(memcmp(&alone, &found[t], sizeof alone) == 0,
                  "n %lld, token %d of %d is %.9g, alone it is %.9g", (long long)n, t, n_tokens,
                  found[t], alone);
    }
    free(x);
    release(row);
    release(act);
    release(out);
}

static void check_dots(const struct kernels *new, const struct kernels *old, enum tensor_type type)
{
    int64_t sizes[24];
    size_t n_sizes = sizes_for(quant_traits(type)->block_elements, sizes);
    for (size_t i = 0; i < n_sizes; i++) {
        check_dot(new, old, type, sizes[i], 1, RANDOM, RANDOM);
        check_dot(new, old, type, sizes[i], 3, RANDOM, SPIKE);
    }
    int64_t n = sizes[7];
    for (int n_tokens = 1; n_tokens <= 17; n_tokens++)
        check_dot(new, old, type, n, n_tokens, RANDOM, RANDOM);
    for (int w = 0; w < N_PATTERNS - 1; w++)
        for (int a = 0; a < N_PATTERNS; a++)
            check_dot(new, old, type, n, 2, (enum pattern)w, (enum pattern)a);
}

/* Quantized types add in the same order on every vector ISA, so these agree to the last bit. */
static void check_same_dots(const struct kernels *new, const struct kernels *before,
                            enum tensor_type type)
{
    const struct quant_traits *traits = quant_traits(type);
    int64_t n = 11 * (int64_t)traits->block_elements;
    uint8_t *row = malloc(quant_row_bytes(type, n)), *act = malloc(quant_row_bytes(traits->act, n));
    float *x = malloc((size_t)n * sizeof *x);
    for (int w = 0; w < N_PATTERNS - 1; w++) {
        fill_weights(type, row, n, (enum pattern)w);
        fill_floats(x, n, RANDOM);
        before->quantize[traits->act](x, act, n);
        float a, b;
        before->dot[type](n, row, act, 0, 1, &a);
        new->dot[type](n, row, act, 0, 1, &b);
        CHECK_MSG(memcmp(&a, &b, sizeof a) == 0, "weights %s: %.9g, the weaker set gave %.9g",
                  pattern_name[w], b, a);
    }
    free(row);
    free(act);
    free(x);
}

/* ---- Many rows, one token: the bits of the dot products ---- */

static void check_matvec(const struct kernels *k, enum tensor_type type, int64_t n, int n_rows,
                         enum pattern weights)
{
    enum tensor_type act_type = quant_traits(type)->act;
    size_t row_stride = quant_row_bytes(type, n) + 5;
    struct guarded rows = guarded((size_t)n_rows * row_stride - 5);
    struct guarded act = guarded(quant_row_bytes(act_type, n));
    struct guarded out = guarded((size_t)n_rows * sizeof(float));
    float *x = malloc((size_t)(n + 1) * sizeof *x), *found = (float *)(void *)out.data;
    for (int r = 0; r < n_rows; r++)
        fill_weights(type, rows.data + (size_t)r * row_stride, n, weights);
    fill_floats(x, n, weights == EXTREMES ? EXTREMES : RANDOM);
    k->quantize[act_type](x, act.data, n);
    k->matvec[type](n, rows.data, row_stride, n_rows, act.data, found);
    for (int r = 0; r < n_rows; r++) {
        float wanted;
        k->dot[type](n, rows.data + (size_t)r * row_stride, act.data, 0, 1, &wanted);
        CHECK_MSG(memcmp(&found[r], &wanted, sizeof wanted) == 0,
                  "n %lld, row %d of %d, %s: %.9g, dot gives %.9g", (long long)n, r, n_rows,
                  pattern_name[weights], found[r], wanted);
    }
    free(x);
    release(rows);
    release(act);
    release(out);
}

static void check_matvecs(const struct kernels *k, enum tensor_type type)
{
    int block = quant_traits(type)->block_elements;
    for (int blocks = 0; blocks <= 9; blocks++)
        check_matvec(k, type, blocks * (int64_t)block, 3 + blocks, RANDOM);
    check_matvec(k, type, 2 * (int64_t)block, 130, RANDOM);
    check_matvec(k, type, 67 * (int64_t)block, 65, RANDOM); /* more than is laid out at a time */
    for (int weights = 0; weights < N_PATTERNS - 1; weights++)
        check_matvec(k, type, 5 * (int64_t)block, 2, (enum pattern)weights);
}

/* ---- Tiles: the bits of the dot products ---- */

static void check_tile(const struct kernels *k, gemm_fn *gemm, enum tensor_type type, int64_t n,
                       int n_rows, int n_tokens, enum pattern weights)
{
    enum tensor_type act_type = quant_traits(type)->act;
    size_t row_stride = quant_row_bytes(type, n) + 5, act_stride = quant_row_bytes(act_type, n) + 3;
    size_t out_stride = (size_t)n_rows + 2;
    struct guarded rows = guarded((size_t)n_rows * row_stride - 5);
    struct guarded act = guarded((size_t)n_tokens * act_stride - 3);
    struct guarded out = guarded(((size_t)n_tokens * out_stride - 2) * sizeof(float));
    float *x = malloc((size_t)(n + 1) * sizeof *x), *found = (float *)(void *)out.data;

    for (int r = 0; r < n_rows; r++)
        fill_weights(type, rows.data + (size_t)r * row_stride, n, weights);
    for (int t = 0; t < n_tokens; t++) {
        fill_floats(x, n, t % 5 == 4 ? EXTREMES : RANDOM);
        k->quantize[act_type](x, act.data + (size_t)t * act_stride, n);
    }
    for (size_t i = 0; i < out.size / sizeof *found; i++)
        found[i] = 12345;
    gemm(n, rows.data, row_stride, n_rows, act.data, act_stride, n_tokens, found, out_stride);
    for (int t = 0; t < n_tokens; t++) {
        const float *line = found + (size_t)t * out_stride;
        for (int r = 0; r < n_rows; r++) {
            float wanted;
            k->dot[type](n, rows.data + (size_t)r * row_stride,
                         act.data + (size_t)t * act_stride, 0, 1, &wanted);
            CHECK_MSG(memcmp(&line[r], &wanted, sizeof wanted) == 0,
                      "n %lld, row %d of %d, token %d of %d, %s: %.9g, dot gives %.9g",
                      (long long)n, r, n_rows, t, n_tokens, pattern_name[weights], line[r], wanted);
        }
        for (int r = n_rows; t < n_tokens - 1 && r < n_rows + 2; r++)
            CHECK_MSG(line[r] == 12345, "token %d: column %d behind the tile was written", t, r);
    }
    free(x);
    release(rows);
    release(act);
    release(out);
}

static void check_tiles(const struct kernels *k, gemm_fn *gemm, enum tensor_type type)
{
    static const int sizes[][3] = { /* blocks, rows, tokens */
                                    { 0, 3, 2 },  { 1, 1, 1 },   { 2, 16, 8 },  { 3, 17, 5 },
                                    { 5, 15, 9 }, { 8, 33, 4 },  { 9, 64, 3 },  { 13, 5, 17 },
                                    { 4, 65, 7 }, { 1, 20, 131 }, { 11, 2, 12 }, { 6, 100, 2 } };
    int block = quant_traits(type)->block_elements;
    if (block == 1) /* whole vectors and a rest */
        block = 37;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        check_tile(k, gemm, type, (int64_t)sizes[i][0] * block, sizes[i][1], sizes[i][2], RANDOM);
    for (int weights = 0; weights < N_PATTERNS - 1; weights++)
        check_tile(k, gemm, type, 5 * (int64_t)block, 18, 6, (enum pattern)weights);
}

#include "tests/kernels_woven.h"

/* ---- Quantizing and decoding: bit for bit ---- */

/* Largest magnitude 127, so one step is 1: everything else lies half-way between two steps. */
static void fill_ties(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float tie = (float)(check_random() % 126) + 0.5f;
        x[i] = i % 32 == 7 ? -127 : check_random() & 1 ? tie : -tie;
    }
}

/* So small that the inverse of the step overflows, or nearly. */
static void fill_tiny(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = check_random_float(-2e-38f, 2e-38f);
}

/* Here and there something infinite or not a number. */
static void fill_broken(float *x, int64_t n)
{
    fill_floats(x, n, RANDOM);
    for (int64_t i = 3; i < n; i += 290)
        x[i] = i % 4 == 3 ? NAN : INFINITY;
}

static void check_encoded(const struct kernels *new, const struct kernels *ref,
                          enum tensor_type type, struct guarded x, int64_t n, const char *what)
{
    struct guarded found = guarded(quant_row_bytes(type, n));
    struct guarded wanted = guarded(quant_row_bytes(type, n));
    new->quantize[type]((float *)(void *)x.data, found.data, n);
    ref->quantize[type]((float *)(void *)x.data, wanted.data, n);
    size_t at = 0;
    while (at < wanted.size && found.data[at] == wanted.data[at])
        at++;
    CHECK_MSG(at == wanted.size, "n %lld, %s: byte %zu differs", (long long)n, what, at);
    release(found);
    release(wanted);
}

static void check_quantize(const struct kernels *new, const struct kernels *ref,
                           enum tensor_type type)
{
    int64_t sizes[24];
    size_t n_sizes = sizes_for(quant_traits(type)->block_elements, sizes);
    for (size_t i = 0; i < n_sizes; i++) {
        int64_t n = sizes[i];
        struct guarded x = guarded((size_t)n * sizeof(float));
        for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
            fill_floats((float *)(void *)x.data, n, (enum pattern)pattern);
            check_encoded(new, ref, type, x, n, pattern_name[pattern]);
        }
        fill_ties((float *)(void *)x.data, n);
        check_encoded(new, ref, type, x, n, "ties");
        fill_tiny((float *)(void *)x.data, n);
        check_encoded(new, ref, type, x, n, "tiny");
        fill_broken((float *)(void *)x.data, n);
        check_encoded(new, ref, type, x, n, "broken");
        release(x);
    }
}

static void check_decode(const struct kernels *new, const struct kernels *ref,
                         enum tensor_type type)
{
    int64_t sizes[24];
    size_t n_sizes = sizes_for(quant_traits(type)->block_elements, sizes);
    for (size_t i = 0; i < n_sizes; i++) {
        int64_t n = sizes[i];
        for (int pattern = 0; pattern < N_PATTERNS - 1; pattern++) {
            struct guarded row = guarded(quant_row_bytes(type, n));
            struct guarded found = guarded((size_t)n * sizeof(float));
            float *wanted = malloc((size_t)(n + 1) * sizeof *wanted);
            fill_weights(type, row.data, n, (enum pattern)pattern);
            for (size_t e = 0; type == TYPE_MXFP4 && e < row.size; e += 17)
                row.data[e] = (uint8_t)(check_random() % 6 - 3); /* subnormal scales, NaN */
            new->decode[type](row.data, (float *)(void *)found.data, n);
            ref->decode[type](row.data, wanted, n);
            for (int64_t j = 0; j < n; j++) {
                float f = ((float *)(void *)found.data)[j];
                CHECK_MSG(memcmp(&f, &wanted[j], sizeof f) == 0 || (isnan(f) && isnan(wanted[j])),
                          "n %lld, %s: element %lld is %.9g, wanted %.9g", (long long)n,
                          pattern_name[pattern], (long long)j, f, wanted[j]);
            }
            free(wanted);
            release(row);
            release(found);
        }
    }
}

#include "tests/check_floats.h"
#include "tests/check_bf16.h"
#include "tests/check_index.h"

/* ---- The ladder ---- */

static const char *const isa_ladder[] = { "ref", "avx2", "avxvnni", "avx512", "amx", "neon" };

static bool same_pointer(const struct kernels *a, const struct kernels *b, size_t at)
{
    return memcmp((const char *)a + at, (const char *)b + at, sizeof(void (*)(void))) == 0;
}

/* `before` is the table of the next weaker set, all zero for the first. */
static void check_table(const char *isa, const struct kernels *new, const struct kernels *before,
                        const struct kernels *ref)
{
    bool first = new == ref;
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        const char *name = quant_traits((uint32_t)type)->name;
        if (new->quantize[type] && new->quantize[type] != before->quantize[type]) {
            check_case("%s quantize %s", isa, name);
            check_quantize(new, ref, (enum tensor_type)type);
        }
        if (new->decode[type] && new->decode[type] != before->decode[type]) {
            check_case("%s decode %s", isa, name);
            check_decode(new, ref, (enum tensor_type)type);
        }
        if (new->dot[type] && new->dot[type] != before->dot[type]) {
            check_case("%s dot %s", isa, name);
            check_dots(new, ref, (enum tensor_type)type);
            bool quantized = quant_traits((uint32_t)type)->block_elements > 1;
            if (!first && quantized && before->dot[type] != ref->dot[type])
                check_same_dots(new, before, (enum tensor_type)type);
        }
    }
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        const char *name = quant_traits((uint32_t)type)->name;
        if (new->matvec[type] && new->matvec[type] != before->matvec[type]) {
            check_case("%s matvec %s", isa, name);
            check_matvecs(new, (enum tensor_type)type);
        }
        if (new->gemm[type] && new->gemm[type] != before->gemm[type]) {
            check_case("%s gemm %s", isa, name);
            check_tiles(new, new->gemm[type], (enum tensor_type)type);
        }
        if (new->gemm_wide[type] && new->gemm_wide[type] != before->gemm_wide[type]) {
            check_case("%s gemm_wide %s", isa, name);
            check_tiles(new, new->gemm_wide[type], (enum tensor_type)type);
        }
    }
    if (new->read_words != before->read_words) {
        check_case("%s read_words", isa);
        check_read_words(new);
    }
    if (new->count_int8 != before->count_int8) {
        check_case("%s count_int8", isa);
        check_count_int8(new);
    }
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        bool is_new = new->woven_matvec[type] != before->woven_matvec[type] ||
                      new->woven_gemm[type] != before->woven_gemm[type] ||
                      new->woven_gemm_wide[type] != before->woven_gemm_wide[type];
        if (!new->woven_matvec[type] || !is_new)
            continue;
        check_case("%s woven %s", isa, quant_traits((uint32_t)type)->name);
        CHECK(weave_known((enum tensor_type)type) && new->woven_gemm[type]);
        check_woven(new, (enum tensor_type)type);
    }
    for (size_t i = 0; i < ARRAY_LEN(float_cases); i++) {
        const struct float_case *c = &float_cases[i];
        if (same_pointer(new, before, c->at))
            continue;
        check_case("%s %s", isa, c->name);
        int64_t sizes[24];
        size_t n_sizes = sizes_for(1, sizes);
        for (size_t s = 0; s < n_sizes; s++)
            for (int p = 0; p < N_PATTERNS; p++)
                c->check(new, sizes[s], (enum pattern)p);
    }
    if (new->index_scores != before->index_scores) {
        check_case("%s index_scores", isa);
        check_index(new, ref);
    }
    if (new->bf16_gemm && new->bf16_gemm != before->bf16_gemm)
        check_bf16(isa, new);
}

#include "tests/kernels_bench.h"

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench_all(argc > 2 ? argv[2] : "");
        return 0;
    }
    struct kernels ref, before;
    memset(&before, 0, sizeof before);
    kernels_init(&ref, ISA_REF);
    unsigned mask = 0;
    for (size_t i = 0; i < ARRAY_LEN(isa_ladder); i++) {
        unsigned cap;
        if (!cpu_isa_cap(isa_ladder[i], &cap) || (i > 0 && (cpu_isa() & cap & ~mask) == 0))
            continue;
        mask = cpu_isa() & cap;
        struct kernels new;
        kernels_init(&new, mask);
        check_table(isa_ladder[i], i == 0 ? &ref : &new, &before, &ref);
        before = new;
    }
    return check_finish();
}
