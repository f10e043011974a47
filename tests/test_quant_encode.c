/* Encoders of block types: their error on the data of published gates, blocks of strange values,
 * exact representations, and the blocks that activations become. */
#include "tests/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/util.h"
#include "src/format/quant_blocks.h"

/* The data of the published gates: sums of twelve uniform numbers, then column importances. */
#define GATE_ROWS 256
#define GATE_COLS 2048

static double uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static float gate_x[GATE_ROWS * GATE_COLS], gate_v[GATE_COLS];

static void make_gate_data(void)
{
    uint64_t state = 42;
    for (size_t i = 0; i < ARRAY_LEN(gate_x); i++) {
        double sum = 0;
        for (int k = 0; k < 12; k++)
            sum += uniform(&state);
        gate_x[i] = (float)(0.02 * (sum - 6));
    }
    for (size_t i = 0; i < GATE_COLS; i++) {
        double u = uniform(&state);
        gate_v[i] = (float)(0.25 + 4 * u * u * u * u);
    }
}

/* Relative error of `rows` rows, encoded and judged with or without importance. */
static double gate_error(const struct quant_traits *t, int rows, const float *importance)
{
    static uint8_t row[GATE_COLS * 4];
    static float y[GATE_COLS];
    double wrong = 0, all = 0;
    for (int r = 0; r < rows; r++) {
        const float *x = gate_x + r * GATE_COLS;
        t->quantize(x, row, GATE_COLS, importance);
        t->dequantize(row, y, GATE_COLS);
        for (int i = 0; i < GATE_COLS; i++) {
            double w = importance ? (double)importance[i] : 1, d = (double)y[i] - (double)x[i];
            wrong += w * d * d;
            all += w * (double)x[i] * (double)x[i];
        }
    }
    return sqrt(wrong / all);
}

static void test_gates(void)
{
    static const struct {
        enum tensor_type type;
        double plain, weighted; /* 0: not a use of this type */
    } gates[] = {
        { TYPE_Q4_0, 0.0846, 0.0766 },   { TYPE_Q4_1, 0.0774, 0.0638 },
        { TYPE_Q5_0, 0.0420, 0.0379 },   { TYPE_Q5_1, 0.0374, 0.0309 },
        { TYPE_Q8_0, 0.00526, 0 },       { TYPE_Q2_K, 0.2930, 0.2367 },
        { TYPE_Q3_K, 0.1492, 0.1334 },   { TYPE_Q4_K, 0.0705, 0.0648 },
        { TYPE_Q5_K, 0.0357, 0.0329 },   { TYPE_Q6_K, 0.0175, 0.0161 },
        { TYPE_IQ4_NL, 0.0754, 0.0703 }, { TYPE_IQ4_XS, 0.0760, 0.0711 },
        { TYPE_MXFP4, 0.1132, 0 },       { TYPE_NVFP4, 0.1033, 0 },
        { TYPE_IQ3_S, 0.1642, 0.1191 },  { TYPE_IQ3_XXS, 0.2116, 0.1536 },
        { TYPE_IQ2_S, 0.2607, 0.2242 },  { TYPE_IQ2_XS, 0, 0.2600 },
        { TYPE_IQ2_XXS, 0, 0.2981 },     { TYPE_IQ1_M, 0.5808, 0.3904 },
        { TYPE_IQ1_S, 0, 0.4396 },
    };
    make_gate_data();
    for (size_t i = 0; i < ARRAY_LEN(gates); i++) {
        const struct quant_traits *t = quant_traits(gates[i].type);
        check_case("encoding error of %s", t->name);
        const bool slow = gates[i].type != TYPE_Q2_K && t->block_bytes * 2 < t->block_elements;
        const int rows = slow && gates[i].type != TYPE_Q3_K ? 32 : GATE_ROWS;
        double e = gate_error(t, rows, NULL);
        CHECK_MSG(gates[i].plain == 0 || e <= 1.01 * gates[i].plain, "%.5f, wanted %.5f", e,
                  gates[i].plain);
        if (gates[i].weighted > 0) {
            e = gate_error(t, rows, gate_v);
            CHECK_MSG(e <= 1.01 * gates[i].weighted, "with importance %.5f, wanted %.5f", e,
                      gates[i].weighted);
        }
    }
}

/* Blocks that break careless encoders: the result is finite and not absurd. */
static void test_strange_blocks(void)
{
    enum { N = 512 };
    static float x[N], y[N], importance[N];
    static uint8_t blocks[N * 4];
    static const char *const kinds[] = { "zeros", "ones", "minus ones", "tiny", "subnormal",
                                         "one outlier", "alternating", "large", "no importance" };
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        const struct quant_traits *t = quant_traits((uint32_t)type);
        if (!t->quantize)
            continue;
        check_case("strange blocks: %s", t->name);
        for (size_t kind = 0; kind < ARRAY_LEN(kinds); kind++) {
            for (int i = 0; i < N; i++) {
                const float values[] = { 0, 1, -1, 1e-30f, 1e-42f, i == 77 ? -3.0f : 1e-3f,
                                         i % 2 ? -0.5f : 0.5f, i % 3 ? 1000.0f : -900.0f,
                                         (float)(i % 16) - 8 };
                x[i] = values[kind];
                importance[i] = kind == 8 && i < 288 ? 0 : 1.0f + (float)(i % 5);
            }
            for (int weighted = 0; weighted < 2; weighted++) {
                double largest = 0, worst = 0;
                t->quantize(x, blocks, N, weighted ? importance : NULL);
                t->dequantize(blocks, y, N);
                CHECK_INT(quant_bad_block((enum tensor_type)type, blocks, N), -1);
                for (int i = 0; i < N; i++) {
                    double magnitude = fabs((double)x[i]), error = fabs((double)x[i] - (double)y[i]);
                    if (magnitude > largest)
                        largest = magnitude;
                    if (!(error <= worst)) /* NaN counts as worst */
                        worst = error;
                }
                /* tiny values may become zero; three types cannot store every sign, and of two
                 * bits nobody expects much */
                bool coarse = t->block_bytes * 4 < t->block_elements || type == TYPE_IQ2_XXS ||
                              type == TYPE_IQ2_XS || type == TYPE_IQ3_XXS;
                double share = coarse ? 2 : largest > 1e-6 ? 0.55 : 1;
                if (kind == 1 || kind == 2) /* equal values */
                    share = type == TYPE_IQ2_S || coarse ? 0.2 : 0.07;
                CHECK_MSG(worst <= share * largest, "%s: error %g of %g", kinds[kind], worst,
                          largest);
                if (kind == 0)
                    CHECK(worst == 0);
            }
        }
    }
}

/* Values that a type can store exactly come back exactly. */
static void test_exact(void)
{
    static const struct {
        enum tensor_type type;
        int low, high; /* multiples of the scale */
    } types[] = {
        { TYPE_Q1_0, -1, 1 },  { TYPE_Q2_0, -1, 2 },  { TYPE_TQ1_0, -1, 1 }, { TYPE_TQ2_0, -1, 1 },
        { TYPE_Q4_0, -8, 7 },  { TYPE_Q5_0, -16, 15 }, { TYPE_Q3_K, -4, 3 }, { TYPE_Q6_K, -32, 31 },
        { TYPE_Q4_1, 0, 15 },  { TYPE_Q5_1, 0, 31 },  { TYPE_F16, -9, 9 },   { TYPE_BF16, -9, 9 },
        { TYPE_Q8_0, -127, 127 }, { TYPE_F32, -1, 1 },
    };
    for (size_t k = 0; k < ARRAY_LEN(types); k++) {
        const struct quant_traits *t = quant_traits(types[k].type);
        check_case("exact values survive: %s", t->name);
        for (int round = 0; round < 20; round++) {
            float x[256], y[256];
            uint8_t blocks[1024];
            int range = types[k].high - types[k].low + 1;
            for (int i = 0; i < 256; i++) {
                int v = types[k].low + (int)(check_random() % (unsigned)range);
                if (types[k].type == TYPE_Q1_0 && v == 0)
                    v = 1;
                if (i % 16 == 3)
                    v = types[k].low; /* each run meets both ends */
                if (i % 16 == 5)
                    v = types[k].high;
                x[i] = (float)v * 0.25f;
            }
            t->quantize(x, blocks, 256, NULL);
            t->dequantize(blocks, y, 256);
            for (int i = 0; i < 256; i++)
                if (!CHECK_MSG(fabsf(x[i] - y[i]) <= 2e-3f * fabsf(x[i]), "%g became %g",
                               (double)x[i], (double)y[i]))
                    break;
        }
    }
}

static void test_activations(void)
{
    enum { N = 256 };
    float x[N], y[N];
    for (int i = 0; i < N; i++)
        x[i] = check_random_float(-3, 3);

    check_case("Q8_0: half away from zero, d = amax/127");
    struct block_q8_0 b8;
    float steps[32] = { 127, 0.5f, -0.5f, 1.5f, -1.5f, 2.5f, -126.5f };
    quant_traits(TYPE_Q8_0)->quantize(steps, &b8, 32, NULL);
    static const int8_t wanted[7] = { 127, 1, -1, 2, -2, 3, -127 };
    CHECK(block_f16(b8.d) == 1.0f);
    for (int i = 0; i < 7; i++)
        CHECK_INT(b8.qs[i], wanted[i]);

    check_case("Q8_1: s is d times the sum");
    struct block_q8_1 b1;
    quant_traits(TYPE_Q8_1)->quantize(steps, &b1, 32, NULL);
    int sum = 0;
    for (int i = 0; i < 32; i++)
        sum += b1.qs[i];
    CHECK(block_f16(b1.d) == 1.0f && block_f16(b1.s) == (float)sum);

    check_case("Q8_K: largest magnitude becomes -127, sums of 16, zero blocks too");
    struct block_q8_k bk;
    memset(&bk, 0xaa, sizeof bk);
    x[100] = 3.5f;
    quant_traits(TYPE_Q8_K)->quantize(x, &bk, N, NULL);
    CHECK_INT(bk.qs[100], -127);
    for (int run = 0; run < 16; run++) {
        sum = 0;
        for (int i = 0; i < 16; i++)
            sum += bk.qs[16 * run + i];
        CHECK_INT((int16_t)block_u16(bk.bsums + 2 * run), sum);
    }
    quant_traits(TYPE_Q8_K)->dequantize(&bk, y, N);
    for (int i = 0; i < N; i++)
        CHECK(fabsf(x[i] - y[i]) <= 3.5f / 127 * 0.5001f);
    memset(x, 0, sizeof x);
    memset(&bk, 0xaa, sizeof bk);
    quant_traits(TYPE_Q8_K)->quantize(x, &bk, N, NULL);
    for (size_t i = 0; i < sizeof bk; i++)
        CHECK_INT(((uint8_t *)&bk)[i], 0);

    static const enum tensor_type acts[] = { TYPE_Q8_0, TYPE_Q8_1, TYPE_Q8_K };
    static const float poison[] = { NAN, INFINITY, -INFINITY };
    for (size_t a = 0; a < ARRAY_LEN(acts); a++) {
        const struct quant_traits *t = quant_traits(acts[a]);
        check_case("%s: a block with a non-finite value decodes to NaN", t->name);
        for (size_t p = 0; p < ARRAY_LEN(poison); p++) {
            uint8_t block[300];
            for (int i = 0; i < N; i++)
                x[i] = 1;
            x[t->block_elements - 1] = poison[p];
            t->quantize(x, block, t->block_elements, NULL);
            t->dequantize(block, y, t->block_elements);
            CHECK(isnan(y[0]) && isnan(y[t->block_elements - 1]));
            CHECK_INT(quant_bad_block(acts[a], block, t->block_elements), 0);
        }
    }
}

int main(void)
{
    test_gates();
    test_strange_blocks();
    test_exact();
    test_activations();
    return check_finish();
}
