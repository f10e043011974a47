/* The table of tensors in a GGUF file: names, shapes, types, places, and sizes that only a file of that
 * size may have. */
#include "tests/gguf_rules.h"

#include <stdio.h>

#include "src/base/mem.h"

/* ---- the tensor table ---- */

static void one_tensor(const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                       uint64_t offset, size_t data)
{
    forge_header(&f, 3, 1, 0);
    forge_tensor(&f, name, n_dims, ne, type, offset);
    forge_pad(&f, 32);
    forge_fill(&f, data, 1);
}

static void test_names(void)
{
    char name[80];
    memset(name, 'n', sizeof name);
    check_case("G-30 names of 1, 64, 65 bytes; empty; control bytes; twice");
    name[64] = 0;
    one_tensor("n", 1, shape_a, TYPE_F32, 0, 32);
    accepted(0, 1);
    one_tensor(name, 1, shape_a, TYPE_F32, 0, 32);
    accepted(0, 1);
    name[64] = 'n';
    name[65] = 0;
    one_tensor(name, 1, shape_a, TYPE_F32, 0, 32);
    refused("G-30", "65 bytes");
    one_tensor("", 1, shape_a, TYPE_F32, 0, 32);
    refused("G-30", "0 bytes");
    one_tensor("a\nb", 1, shape_a, TYPE_F32, 0, 32);
    refused("G-30", "0x0a");
    one_tensor("a\x1f", 1, shape_a, TYPE_F32, 0, 32);
    refused("G-30", "0x1f");
    one_tensor("a\x7f", 1, shape_a, TYPE_F32, 0, 32);
    refused("G-30", "0x7f");
    one_tensor("caf\xc3\xa9 x", 1, shape_a, TYPE_F32, 0, 32); /* odd, but no harm */
    accepted(0, 1);
    one_tensor("abc", 1, shape_a, TYPE_F32, 0, 32);
    f.bytes[24 + 8 + 1] = 0;
    refused("G-30", "0x00");
    forge_header(&f, 3, 2, 0);
    forge_tensor(&f, "twin", 1, shape_a, TYPE_F32, 0);
    forge_tensor(&f, "twin", 1, shape_a, TYPE_F32, 32);
    forge_pad(&f, 32);
    forge_fill(&f, 64, 1);
    refused("G-30", "twin occurs twice");
}

static void test_shapes(void)
{
    check_case("G-31 dimensions");
    static const uint64_t ones[6] = { 1, 1, 1, 1, 1, 1 };
    for (uint32_t n = 0; n <= 4; n++) {
        one_tensor("t", n, ones, TYPE_F32, 0, 4);
        accepted(0, 1);
    }
    one_tensor("t", 5, ones, TYPE_F32, 0, 64);
    refused("G-31", "5 dimensions");
    one_tensor("t", 1, ones, TYPE_F32, 0, 64);
    forge_set(&f, 24 + 9, 4, UINT32_MAX);
    refused("G-31", "dimensions");

    check_case("G-31 sizes of one dimension and of all");
    static const struct {
        uint64_t ne[4];
        const char *rule; /* G-34: the shape is allowed, the bytes are not there */
    } shapes[] = {
        { { 0, 1, 1, 1 }, "G-31" },
        { { 1, 0, 1, 1 }, "G-31" },
        { { 1, 1, 1, 0 }, "G-31" },
        { { 1ull << 40, 1, 1, 1 }, "G-34" },
        { { (1ull << 40) + 1, 1, 1, 1 }, "G-31" },
        { { 1, 1, 1, UINT64_MAX }, "G-31" },
        { { 1ull << 40, 64, 1, 1 }, "G-34" },
        { { 1ull << 40, 65, 1, 1 }, "G-31" },
        { { 1ull << 32, 1ull << 32, 1, 1 }, "G-31" },
        { { 1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16 }, "G-31" },
        { { INT64_MAX, 2, 1, 1 }, "G-31" },
        { { 2, INT64_MAX, 1, 1 }, "G-31" },
        { { 3, 0x5555555555555556u, 1, 1 }, "G-31" },
        { { (uint64_t)INT64_MAX + 1, 2, 1, 1 }, "G-31" },
    };
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        one_tensor("t", 4, shapes[i].ne, TYPE_F32, 0, 64);
        refused(shapes[i].rule, "t");
    }
}

static void test_types(void)
{
    static const uint64_t row[4] = { 256, 1, 1, 1 }, half[4] = { 128, 1, 1, 1 };
    check_case("G-32 every type id up to 500");
    for (uint32_t type = 0; type < 500; type++) {
        const struct quant_traits *t = quant_traits(type);
        one_tensor("t", 1, row, type, 0, 2048);
        if (t->block_elements)
            accepted(0, 1);
        else
            refused("G-32", t->name ? t->name : "unknown");
    }
    one_tensor("t", 1, row, UINT32_MAX, 0, 2048);
    refused("G-32", "4294967295");
    check_case("G-32 names of foreign types");
    one_tensor("t", 1, row, 144, 0, 2048);
    refused("G-32", "IQ4_KS from ik_llama.cpp: not supported");
    one_tensor("t", 1, row, 4, 0, 2048);
    refused("G-32", "Q4_2 (removed");
    one_tensor("t", 1, row, 210, 0, 2048);
    refused("G-32", "row-interleaved");

    check_case("G-33 rows of half a block");
    for (uint32_t type = 0; type < N_TENSOR_TYPES; type++) {
        const struct quant_traits *t = quant_traits(type);
        if (t->block_elements <= 1)
            continue;
        uint64_t ne[4] = { (uint64_t)t->block_elements + 1, 1, 1, 1 };
        one_tensor("t", 1, ne, type, 0, 2048);
        refused("G-33", t->name);
    }
    one_tensor("t", 1, half, TYPE_Q4_K, 0, 2048);
    refused("G-33", "multiple of 256");
}

static void test_places(void)
{
    check_case("G-34 offsets and the end of the file");
    one_tensor("t", 1, shape_a, TYPE_F32, 0, 32);
    accepted(0, 1);
    one_tensor("t", 1, shape_a, TYPE_F32, 0, 31);
    refused("G-34", "ends 1 bytes too early");
    one_tensor("t", 1, shape_a, TYPE_F32, 32, 64);
    accepted(0, 1);
    one_tensor("t", 1, shape_a, TYPE_F32, 32, 32);
    refused("G-34", "ends 32 bytes too early");
    for (uint64_t offset = 1; offset < 32; offset++) {
        one_tensor("t", 1, shape_a, TYPE_F32, offset, 128);
        refused("G-34", "multiple of the alignment");
    }
    static const uint64_t far[] = { 1ull << 31, 1ull << 32, 1ull << 62, 1ull << 63,
                                    UINT64_MAX - 31, UINT64_MAX - 63, UINT64_MAX - 127 };
    for (size_t i = 0; i < ARRAY_LEN(far); i++) {
        one_tensor("t", 1, shape_a, TYPE_F32, far[i], 128);
        refused("G-34", "t");
    }
    static const uint64_t large[4] = { 1ull << 40, 1, 1, 1 };
    one_tensor("t", 1, large, TYPE_F32, UINT64_MAX - (1ull << 41) + 1, 128); /* wraps */
    refused("G-34", "beyond any file");
    check_case("G-35 overlaps");
    for (uint64_t bytes = 32; bytes <= 33; bytes++) { /* by a single byte */
        forge_header(&f, 3, 2, 0);
        forge_tensor(&f, "first", 1, &bytes, TYPE_I8, 0);
        forge_tensor(&f, "second", 1, &bytes, TYPE_I8, 32);
        forge_pad(&f, 32);
        forge_fill(&f, 65, 1);
        if (bytes == 33)
            refused("G-35", "second begins inside first");
        else
            accepted(0, 2);
    }
    for (uint64_t second = 0; second <= 96; second += 32) {
        forge_header(&f, 3, 2, 0);
        forge_tensor(&f, "b", 1, shape_a, TYPE_F32, second); /* 32 bytes */
        forge_tensor(&f, "a", 2, shape_a, TYPE_F32, 0);      /* 96 bytes */
        forge_pad(&f, 32);
        forge_fill(&f, 128, 1);
        if (second < 96)
            refused("G-35", "begins inside");
        else
            accepted(0, 2);
    }
    check_case("gaps and trailing bytes are allowed");
    one_tensor("t", 1, shape_a, TYPE_F32, 64, 5000);
    accepted(0, 1);
    check_case("G-36 one file of a set, given as bytes");
    forge_header(&f, 3, 0, 1);
    forge_key(&f, "split.count", GGUF_U16);
    forge_number(&f, 2, 3);
    struct gguf g;
    struct error err;
    uint8_t *exact;
    CHECK(!open_forged(&g, &exact, &err) && strstr(err.text, "G-36"));
    free(exact);
    for (uint64_t n = 0; n < 2; n++) {
        forge_set(&f, f.n - 2, 2, n);
        accepted(1, 0);
    }
}

/* ---- sizes that only a file of that size may have ---- */

static void many_keys(uint64_t n, bool twice)
{
    forge_header(&f, 3, 0, n);
    char key[64];
    for (uint64_t i = 0; i < n; i++) {
        snprintf(key, sizeof key, "a.rather.long.common.prefix.%05llu",
                 (unsigned long long)(twice && i == n - 1 ? n : n - i));
        forge_key(&f, key, GGUF_U8);
        forge_bytes(&f, "\1", 1);
    }
}

static void many_tensors(uint64_t n, bool twice)
{
    static const uint64_t one[4] = { 1, 1, 1, 1 };
    forge_header(&f, 3, n, 0);
    char name[64];
    for (uint64_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "blk.%06llu.weight",
                 (unsigned long long)(twice && i == n - 1 ? 0 : i));
        forge_tensor(&f, name, 1, one, TYPE_I8, 32 * i);
    }
    forge_pad(&f, 32);
    forge_fill(&f, 32 * n, 0);
}

static void test_sizes(void)
{
    check_case("limits of counts, without quadratic searches");
    double start = check_cpu_s();
    many_keys(65536, false);
    accepted(65536, 0);
    many_keys(65536, true);
    refused("G-21", "prefix.65536 occurs twice");
    many_tensors(131072, false);
    accepted(0, 131072);
    many_tensors(131072, true);
    refused("G-30", "twice");
    many_keys(65537, false);
    refused("G-20", "65537");
    many_tensors(131073, false);
    refused("G-20", "131073");
    double seconds = check_cpu_s() - start;
    CHECK_MSG(seconds < 10, "%.1f s", seconds);

    check_case("limit of array elements");
    one_array(GGUF_U8, (1u << 26) + 1, (1u << 26) + 1);
    refused("G-24", "67108865");
}

int main(void)
{
    test_names();
    test_shapes();
    test_types();
    test_places();
    test_sizes();
    forge_free(&f);
    return check_finish();
}
