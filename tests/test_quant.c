/* Block types: decoders against reference values and published hashes, small floats, encoders. */
#include "tests/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/util.h"
#include "src/format/gguf.h"
#include "src/format/quant_blocks.h"
#include "tests/sha256.h"

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static void test_sha256(void)
{
    char hex[65];
    check_case("SHA-256 of the standard's examples");
    sha256_hex("abc", 3, hex);
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_hex("", 0, hex);
    CHECK_STR(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    const char *two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    sha256_hex(two, strlen(two), hex);
    CHECK_STR(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void test_tables(void)
{
    static const struct {
        const char *name, *hash;
        const void *table;
        size_t bytes;
    } tables[] = {
        { "iq2xxs", "05826b5d3e472a3a78f196be62ac78acf81df0f909626e12ab9fa2a5d490dd54",
          quant_grid_iq2xxs, sizeof quant_grid_iq2xxs },
        { "iq2xs", "06e47aaca60b4dc1d9b5a3f34540437058a6b142b4d7a59d5ded769b4d1bf1de",
          quant_grid_iq2xs, sizeof quant_grid_iq2xs },
        { "iq2s", "e1aa1473412b0552c2174c30ef22ab4073f6a181b85a17056e8249bd2932fd88",
          quant_grid_iq2s, sizeof quant_grid_iq2s },
        { "iq1", "07540ffc1aeaf6ad4d97e96b0fcc765aae39671d4ae4a27bbd0e796fde167c6a",
          quant_grid_iq1, sizeof quant_grid_iq1 },
        { "iq3xxs", "46e35f5a997efdee6c99ce57854c8a0d4f0ff8ca57e5e8a60c0793ea580acf5d",
          quant_grid_iq3xxs, sizeof quant_grid_iq3xxs },
        { "iq3s", "bd1af4945a1717c65610b0284e4628b9a1ba3b306fae3a06f6e5f597356e349f",
          quant_grid_iq3s, sizeof quant_grid_iq3s },
        { "signs", "a76742a603f8beca5212ecce0f1f02f11a4887fd2f7c8b15aca0ea3eb3380c31",
          quant_sign_bytes, sizeof quant_sign_bytes },
    };
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        check_case("codebook %s", tables[i].name);
        char hex[65];
        sha256_hex(tables[i].table, tables[i].bytes, hex);
        CHECK_STR(hex, tables[i].hash);
    }
}

static void test_traits(void)
{
    check_case("traits: names, ids and sizes agree");
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        const struct quant_traits *t = quant_traits((uint32_t)type);
        CHECK(t != NULL);
        if (!t->block_elements)
            continue;
        CHECK_INT(quant_type_by_name(t->name), type);
        CHECK(t->block_bytes > 0 && quant_traits(t->act)->block_elements > 0);
        CHECK_INT(quant_row_bytes((enum tensor_type)type, 256 * 7),
                  256 * 7 / t->block_elements * t->block_bytes);
        bool integer = (type >= TYPE_I8 && type <= TYPE_I64) || type == TYPE_F64;
        CHECK_MSG((t->dequantize != NULL) == !integer, "%s", t->name);
    }
    CHECK_INT(quant_type_by_name("q4_k"), TYPE_Q4_K);
    CHECK_INT(quant_type_by_name("Q4_2"), -1);
    CHECK_INT(quant_type_by_name("Q4_2 (removed from the format)"), -1);
    CHECK_INT(quant_type_by_name(""), -1);
    CHECK(!quant_traits(43)->name && !quant_traits(UINT32_MAX)->name);
    CHECK(quant_traits(144)->name && !quant_traits(144)->block_elements);

    check_case("traits: structs have the size of their blocks");
#define SAME(type, block) CHECK_INT(sizeof(struct block), quant_traits(type)->block_bytes)
    SAME(TYPE_Q4_0, block_q4_0);
    SAME(TYPE_Q4_1, block_q4_1);
    SAME(TYPE_Q5_0, block_q5_0);
    SAME(TYPE_Q5_1, block_q5_1);
    SAME(TYPE_Q8_0, block_q8_0);
    SAME(TYPE_Q8_1, block_q8_1);
    SAME(TYPE_Q2_K, block_q2_k);
    SAME(TYPE_Q3_K, block_q3_k);
    SAME(TYPE_Q4_K, block_q4_k);
    SAME(TYPE_Q5_K, block_q5_k);
    SAME(TYPE_Q6_K, block_q6_k);
    SAME(TYPE_Q8_K, block_q8_k);
    SAME(TYPE_IQ2_XXS, block_iq2_xxs);
    SAME(TYPE_IQ2_XS, block_iq2_xs);
    SAME(TYPE_IQ2_S, block_iq2_s);
    SAME(TYPE_IQ3_XXS, block_iq3_xxs);
    SAME(TYPE_IQ3_S, block_iq3_s);
    SAME(TYPE_IQ1_S, block_iq1_s);
    SAME(TYPE_IQ1_M, block_iq1_m);
    SAME(TYPE_IQ4_NL, block_iq4_nl);
    SAME(TYPE_IQ4_XS, block_iq4_xs);
    SAME(TYPE_TQ1_0, block_tq1_0);
    SAME(TYPE_TQ2_0, block_tq2_0);
    SAME(TYPE_MXFP4, block_mxfp4);
    SAME(TYPE_NVFP4, block_nvfp4);
    SAME(TYPE_Q1_0, block_q1_0);
    SAME(TYPE_Q2_0, block_q2_0);
}

/* ---- golden blocks: byte k is 151k + 43, scales 2^-6, minima 2^-7 ---- */

static const struct golden {
    enum tensor_type type;
    const char *hash;
    int d_at, min_at; /* -1: none, or special */
} golden[] = {
    { TYPE_Q4_0, "99502bdc89393cb1", 0, -1 },    { TYPE_Q4_1, "be01db4bd9621d6e", 0, 2 },
    { TYPE_Q5_0, "e34ea4319f73b8f0", 0, -1 },    { TYPE_Q5_1, "bfb82146cbbea0a4", 0, 2 },
    { TYPE_Q8_0, "c939d206d6c3cffa", 0, -1 },    { TYPE_Q2_K, "f09470cb9ffc8350", 80, 82 },
    { TYPE_Q3_K, "66a78367779e3439", 108, -1 },  { TYPE_Q4_K, "f36fb40194051305", 0, 2 },
    { TYPE_Q5_K, "122de60613057c6c", 0, 2 },     { TYPE_Q6_K, "6858c9846529614d", 208, -1 },
    { TYPE_Q8_K, "5c8f87c57ccc5a3a", -1, -1 },   { TYPE_IQ2_XXS, "051299e9f606ad00", 0, -1 },
    { TYPE_IQ2_XS, "98f85a50f57edd43", 0, -1 },  { TYPE_IQ2_S, "7f502b4647e1f904", 0, -1 },
    { TYPE_IQ3_XXS, "bc348c928f8bb2f4", 0, -1 }, { TYPE_IQ3_S, "87ee32e4e713ddd8", 0, -1 },
    { TYPE_IQ1_S, "7333baadb2f21628", 0, -1 },   { TYPE_IQ1_M, "a084e57e27bccac1", -1, -1 },
    { TYPE_IQ4_NL, "8e8f5fa3ffaf2308", 0, -1 },  { TYPE_IQ4_XS, "2db8572cbb8a66b2", 0, -1 },
    { TYPE_TQ1_0, "9ba6ce885abc61e8", 52, -1 },  { TYPE_TQ2_0, "c941a47359e8fdfc", 64, -1 },
    { TYPE_MXFP4, "8d7453e98735e63f", -1, -1 },  { TYPE_NVFP4, "ed1e75cbde1c2644", -1, -1 },
    { TYPE_Q1_0, "ffc4f8a75c32761c", 0, -1 },    { TYPE_Q2_0, "0bfd15f0c7cdb3be", 0, -1 },
};

static void golden_block(const struct golden *c, uint8_t *block, int bytes)
{
    const uint16_t d = 0x2400, min = 0x2000;
    for (int k = 0; k < bytes; k++)
        block[k] = (uint8_t)(151 * k + 43);
    if (c->d_at >= 0)
        block_put_u16(block + c->d_at, d);
    if (c->min_at >= 0)
        block_put_u16(block + c->min_at, min);
    if (c->type == TYPE_Q8_K)
        block_put_u32(block, bits_of(0x1p-6f));
    if (c->type == TYPE_MXFP4)
        block[0] = 122;
    if (c->type == TYPE_NVFP4)
        memcpy(block, "\x38\x40\x31\x03", 4);
    for (int i = 0; c->type == TYPE_IQ1_M && i < 4; i++)
        block[49 + 2 * i] = (uint8_t)((block[49 + 2 * i] & 15) | (d >> 4 * i & 15) << 4);
}

static void test_golden(void)
{
    for (size_t i = 0; i < ARRAY_LEN(golden); i++) {
        const struct quant_traits *t = quant_traits(golden[i].type);
        check_case("golden block %s", t->name);
        uint8_t block[300];
        float out[256];
        golden_block(&golden[i], block, t->block_bytes);
        t->dequantize(block, out, t->block_elements);
        for (int k = 0; k < t->block_elements; k++)
            out[k] += 0.0f; /* -0 becomes 0 */
        char hex[65];
        sha256_hex(out, (size_t)t->block_elements * sizeof *out, hex);
        hex[16] = 0;
        CHECK_STR(hex, golden[i].hash);
    }
}

/* ---- blocks of the reference program ---- */

static void compare_blocks(const struct quant_traits *t, const void *first, size_t n_blocks,
                           const float *wanted)
{
    const char *blocks = first;
    float out[256];
    for (size_t b = 0; b < n_blocks; b++) {
        t->dequantize(blocks + b * (size_t)t->block_bytes, out, t->block_elements);
        for (int k = 0; k < t->block_elements; k++) {
            float want = wanted[b * (size_t)t->block_elements + (size_t)k];
            if (!CHECK_MSG(bits_of(out[k]) == bits_of(want), "block %zu element %d: %a, wanted %a",
                           b, k, (double)out[k], (double)want))
                return;
        }
    }
}

static void test_fixtures(void)
{
    static const char *const names[] = {
        "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
        "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL",
        "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        check_case("reference blocks %s", names[i]);
        if (!check_fixtures()) {
            check_skip("no fixtures");
            continue;
        }
        const struct quant_traits *t = quant_traits((uint32_t)quant_type_by_name(names[i]));
        char path[64];
        size_t n_bytes = 0, n_floats = 0;
        snprintf(path, sizeof path, "quants/%s.blocks.bin", names[i]);
        char *blocks = check_read_file(check_fixture(path), &n_bytes);
        snprintf(path, sizeof path, "quants/%s.f32.bin", names[i]);
        char *floats = check_read_file(check_fixture(path), &n_floats);
        size_t n_blocks = n_bytes / (size_t)t->block_bytes;
        if (CHECK(blocks && floats && n_blocks > 0) &&
            CHECK_MSG(n_floats == n_blocks * (size_t)t->block_elements * 4, "sizes"))
            compare_blocks(t, blocks, n_blocks, (const float *)floats);
        free(blocks);
        free(floats);
    }
}

/* The same on a small selection that every clone has. */
static void test_vectors(void)
{
    struct gguf g;
    struct error err = { 0 };
    check_case("tests/vectors/quants.gguf opens");
    if (!CHECK_MSG(gguf_open(&g, "tests/vectors/quants.gguf", &err), "%s", err.text))
        return;
    CHECK_INT(g.n_tensors, 50);
    for (uint64_t i = 0; i < g.n_tensors; i++) {
        const struct tensor *blocks = &g.tensors[i];
        const struct quant_traits *t = quant_traits(blocks->type);
        char name[64];
        snprintf(name, sizeof name, "%s.blocks", t->name);
        if (strcmp(blocks->name, name) != 0)
            continue; /* values */
        check_case("vectors %s", t->name);
        snprintf(name, sizeof name, "%s.values", t->name);
        const struct tensor *values = gguf_tensor(&g, name);
        if (CHECK(values && values->type == TYPE_F32 && values->ne[0] == blocks->ne[0]))
            compare_blocks(t, blocks->data, blocks->ne[0] / (uint64_t)t->block_elements,
                           values->data);
    }
    gguf_close(&g);
}

/* ---- small floats ---- */

static void test_f16(void)
{
    check_case("f16: all 65536 values round trip");
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h);
        bool nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff);
        uint16_t back = f32_to_f16(f);
        if (nan)
            CHECK_MSG(isnan(f) && (back & 0x7c00) == 0x7c00 && (back & 0x3ff), "NaN %04x", h);
        else
            CHECK_MSG(back == h, "%04x became %04x", h, back);
    }
    check_case("f16: values by definition");
    for (uint32_t h = 0; h < 0x7c00; h++) {
        int exponent = (int)(h >> 10), mantissa = (int)(h & 0x3ff);
        double want = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        CHECK((double)f16_to_f32((uint16_t)h) == want);
        CHECK((double)f16_to_f32((uint16_t)(h | 0x8000)) == -want);
    }
    CHECK(isinf(f16_to_f32(0x7c00)));

    check_case("f16: rounds to nearest, ties to even, at every gap");
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double a = (double)f16_to_f32((uint16_t)h), b = (double)f16_to_f32((uint16_t)(h + 1));
        float middle = (float)((a + b) / 2);
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        CHECK_MSG(f32_to_f16(middle) == even, "tie above %04x", h);
        CHECK_INT(f32_to_f16(nextafterf(middle, 0.0f)), h);
        CHECK_INT(f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        CHECK_INT(f32_to_f16(-middle), even | 0x8000);
    }
    CHECK_INT(f32_to_f16(65519.996f), 0x7bff);
    CHECK_INT(f32_to_f16(65520.0f), 0x7c00);
    CHECK_INT(f32_to_f16(1e-9f), 0);
    CHECK_INT(f32_to_f16(-0.0f), 0x8000);
}

static void test_bf16(void)
{
    check_case("bf16: all values round trip, ties to even, NaN kept");
    for (uint32_t b = 0; b < 65536; b++) {
        float f = bf16_to_f32((uint16_t)b);
        uint16_t back = f32_to_bf16(f);
        if (isnan(f))
            CHECK(isnan(bf16_to_f32(back)));
        else
            CHECK_INT(back, b);
    }
    const uint32_t cases[][2] = { { 0x3f808000, 0x3f80 }, { 0x3f818000, 0x3f82 },
                                  { 0x3f808001, 0x3f81 }, { 0x3f807fff, 0x3f80 },
                                  { 0x7f7fffff, 0x7f80 }, { 0x7f800001, 0x7fc0 } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        float f;
        memcpy(&f, &cases[i][0], sizeof f);
        CHECK_INT(f32_to_bf16(f), cases[i][1]);
    }
}

static void test_fp8(void)
{
    check_case("e4m3 and e8m0 by definition");
    for (int b = 0; b < 127; b++) {
        int exponent = b >> 3, mantissa = b & 7;
        double want = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
        CHECK((double)e4m3_to_f32((uint8_t)b) == want);
        CHECK((double)e4m3_to_f32((uint8_t)(b | 128)) == -want);
    }
    CHECK((double)e4m3_to_f32(0x7e) == 448);
    CHECK(isnan(e4m3_to_f32(0x7f)) && isnan(e4m3_to_f32(0xff)));
    for (int b = 0; b < 255; b++)
        CHECK((double)e8m0_to_f32((uint8_t)b) == ldexp(1, b - 127));
    CHECK(isnan(e8m0_to_f32(255)));

    check_case("block scales of MXFP4 and NVFP4");
    for (int e = 0; e < 255; e++)
        CHECK((double)block_mxfp4_scale((uint8_t)e) == ldexp(1, e - 128));
    CHECK(isnan(block_mxfp4_scale(255)));
    for (int b = 0; b < 127; b++)
        CHECK((double)block_nvfp4_scale((uint8_t)b) == (double)e4m3_to_f32((uint8_t)b) / 2);
    CHECK(block_nvfp4_scale(0x7f) == 0.0f);
}

/* Whatever the bits, a decoder stays inside its tables (run under sanitizers). */
static void test_any_bits(void)
{
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        const struct quant_traits *t = quant_traits((uint32_t)type);
        if (!t->dequantize)
            continue;
        check_case("any bits decode: %s", t->name);
        for (int round = 0; round < 66; round++) {
            uint8_t *block = malloc((size_t)t->block_bytes); /* exact, for the sanitizer */
            float *out = malloc((size_t)t->block_elements * sizeof *out);
            for (int k = 0; k < t->block_bytes; k++)
                block[k] = round == 0 ? 0xff : round == 1 ? 0 : (uint8_t)check_random();
            t->dequantize(block, out, t->block_elements);
            if (round == 1)
                for (int k = 0; k < t->block_elements; k++)
                    CHECK(isfinite(out[k]));
            free(block);
            free(out);
        }
    }
}

/* ---- encoders ---- */

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

/* Every field that must be finite is looked at. */
static void test_bad_blocks(void)
{
    for (size_t i = 0; i < ARRAY_LEN(golden); i++) {
        const struct golden *c = &golden[i];
        const struct quant_traits *t = quant_traits(c->type);
        check_case("content scan: %s", t->name);
        uint8_t blocks[600];
        golden_block(c, blocks, t->block_bytes);
        golden_block(c, blocks + t->block_bytes, t->block_bytes);
        const int64_t n = 2 * t->block_elements;
        CHECK_INT(quant_bad_block(c->type, blocks, n), -1);
        uint8_t *second = blocks + t->block_bytes;
        const int fields[] = { c->d_at, c->min_at };
        for (int f = 0; f < 2; f++) {
            if (fields[f] < 0)
                continue;
            uint16_t good = block_u16(second + fields[f]);
            block_put_u16(second + fields[f], 0xfc00);
            CHECK_INT(quant_bad_block(c->type, blocks, n), 1);
            block_put_u16(second + fields[f], good);
        }
        if (c->type == TYPE_MXFP4 || c->type == TYPE_IQ1_M || c->type == TYPE_Q8_K) {
            memset(second, 0xff, (size_t)t->block_bytes);
            CHECK_INT(quant_bad_block(c->type, blocks, n), 1);
        }
    }
    check_case("content scan: plain floats");
    float f[3] = { 1, 2, INFINITY };
    CHECK_INT(quant_bad_block(TYPE_F32, f, 3), 2);
    CHECK_INT(quant_bad_block(TYPE_F32, f, 2), -1);
    double d[2] = { 1e308, NAN };
    CHECK_INT(quant_bad_block(TYPE_F64, d, 2), 1);
    uint16_t h[3] = { 0x7bff, 0x8000, 0x7e00 }, b[3] = { 0x7f7f, 0xff7f, 0x7f80 };
    CHECK_INT(quant_bad_block(TYPE_F16, h, 3), 2);
    CHECK_INT(quant_bad_block(TYPE_BF16, b, 3), 2);
}

int main(void)
{
    test_sha256();
    test_tables();
    test_traits();
    test_golden();
    test_fixtures();
    test_vectors();
    test_f16();
    test_bf16();
    test_fp8();
    test_any_bits();
    test_gates();
    test_strange_blocks();
    test_exact();
    test_activations();
    test_bad_blocks();
    return check_finish();
}
