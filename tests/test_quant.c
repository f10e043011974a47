/* Block types: decoders against reference values and published hashes, small floats, the scan of
 * what a file holds. Encoders: test_quant_encode.c. */
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
    test_bad_blocks();
    return check_finish();
}
