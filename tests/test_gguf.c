/* The GGUF reader on bytes: one file for each way of being wrong, limits and the value behind them,
 * truncation and bit flips. Files, sets and directories are in test_gguf_files.c. */
#include "tests/gguf_rules.h"

#include <dirent.h>
#include <stdio.h>

#include "src/base/mem.h"

static void test_valid(void)
{
    for (uint32_t version = 2; version <= 3; version++) {
        check_case("valid file, version %u", version);
        valid_file(version);
        accepted(6, 3);
    }
    check_case("valid file: what the getters find");
    valid_file(3);
    struct gguf g;
    struct error err;
    uint8_t *exact;
    if (!CHECK_MSG(open_forged(&g, &exact, &err), "%s", err.text))
        return;
    uint64_t u = 77;
    double d = 0;
    bool b = false;
    struct str s = { 0 };
    CHECK(gguf_get_u64(&g, "tiny.block_count", &u, &err) && u == 2);
    CHECK(gguf_get_f64(&g, "tiny.scale", &d, &err) && d == 1.5);
    CHECK(gguf_get_bool(&g, "tiny.yes", &b, &err) && b);
    CHECK(gguf_get_str(&g, "general.architecture", &s, &err) && str_is(s, "tiny"));
    u = 5;
    CHECK(gguf_get_u64(&g, "tiny.missing", &u, &err) && u == 5);
    const struct gguf_kv *list = gguf_array(&g, "tiny.list", GGUF_KIND_INT, &err);
    CHECK(list && list->count == 3 && gguf_int_at(list, 1) == 2 && gguf_int_at(list, 2) == -1);
    CHECK(!gguf_array(&g, "tiny.missing", GGUF_KIND_INT, &err) && err.code == ERR_NONE);
    const struct tensor *t = gguf_tensor(&g, "b.weight");
    CHECK(t && t->bytes == 72 && t->type == TYPE_Q4_0 && tensor_rows(t) == 4);
    CHECK(t && t->file_offset == g.shards[0].data_start + 96);
    t = gguf_tensor(&g, "scalar");
    CHECK(t && t->bytes == 2 && t->ne[0] == 1 && t->n_dims == 0);
    CHECK_INT(g.data_bytes, 96 + 72 + 2);
    gguf_close(&g);
    gguf_close(&g); /* a closed one may be closed again */
    free(exact);
}

/* ---- typed access, G-25 ---- */

static void forge_scalar(uint32_t type, uint64_t bits)
{
    static const int width[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    forge_header(&f, 3, 0, 1);
    forge_key(&f, "k", type);
    forge_number(&f, width[type], bits);
}

static void test_getters(void)
{
    static const struct {
        uint32_t type;
        uint64_t bits, u;
        bool fits;
    } ints[] = {
        { GGUF_U8, 255, 255, true },         { GGUF_I8, 0x7f, 127, true },
        { GGUF_I8, 0xff, 0, false },         { GGUF_U16, 65535, 65535, true },
        { GGUF_I16, 0x8000, 0, false },      { GGUF_U32, UINT32_MAX, UINT32_MAX, true },
        { GGUF_I32, 0x80000000u, 0, false }, { GGUF_I32, 5, 5, true },
        { GGUF_U64, UINT64_MAX, UINT64_MAX, true }, { GGUF_I64, INT64_MAX, INT64_MAX, true },
        { GGUF_I64, UINT64_MAX, 0, false },  { GGUF_F32, 0x3f800000, 0, false },
        { GGUF_F64, 0, 0, false },           { GGUF_BOOL, 1, 0, false },
    };
    for (size_t i = 0; i < ARRAY_LEN(ints); i++) {
        check_case("integer getter: %s %llx", gguf_type_name((enum gguf_type)ints[i].type),
                   (unsigned long long)ints[i].bits);
        forge_scalar(ints[i].type, ints[i].bits);
        struct gguf g;
        struct error err;
        uint8_t *exact;
        uint64_t u = 42;
        if (CHECK_MSG(open_forged(&g, &exact, &err), "%s", err.text)) {
            CHECK_INT(gguf_get_u64(&g, "k", &u, &err), ints[i].fits);
            CHECK_INT(u, ints[i].fits ? ints[i].u : 42);
            CHECK_INT(err.code, ints[i].fits ? ERR_NONE : ERR_FILE);
            gguf_close(&g);
        }
        free(exact);
    }

    check_case("a getter of another kind names both types");
    valid_file(3);
    struct gguf g;
    struct error err;
    uint8_t *exact;
    if (!CHECK_MSG(open_forged(&g, &exact, &err), "%s", err.text))
        return;
    uint64_t u;
    double d;
    bool b;
    struct str s;
    struct {
        bool ok;
        const char *found, *wanted;
        struct error err;
    } tries[7] = { { .found = "string", .wanted = "integer" }, { .found = "u32", .wanted = "f32" },
                   { .found = "f64", .wanted = "bool" },
                   { .found = "bool", .wanted = "string" },
                   { .found = "u32", .wanted = "array" },
                   { .found = "array of i16", .wanted = "array of string" },
                   { .found = "array of string", .wanted = "array of integers" } };
    tries[0].ok = gguf_get_u64(&g, "general.architecture", &u, &tries[0].err);
    tries[1].ok = gguf_get_f64(&g, "tiny.block_count", &d, &tries[1].err);
    tries[2].ok = gguf_get_bool(&g, "tiny.scale", &b, &tries[2].err);
    tries[3].ok = gguf_get_str(&g, "tiny.yes", &s, &tries[3].err);
    tries[4].ok = gguf_array(&g, "tiny.block_count", GGUF_KIND_INT, &tries[4].err);
    tries[5].ok = gguf_array(&g, "tiny.list", GGUF_KIND_STRING, &tries[5].err);
    tries[6].ok = gguf_array(&g, "tiny.words", GGUF_KIND_INT, &tries[6].err);
    for (size_t i = 0; i < ARRAY_LEN(tries); i++) {
        CHECK(!tries[i].ok);
        CHECK_INT(tries[i].err.code, ERR_FILE);
        CHECK_MSG(strstr(tries[i].err.text, tries[i].found) &&
                      strstr(tries[i].err.text, tries[i].wanted),
                  "%s", tries[i].err.text);
    }
    gguf_close(&g);
    free(exact);
}

/* ---- one file per rule ---- */

static void test_header_rules(void)
{
    check_case("G-04 no magic");
    valid_file(3);
    f.bytes[0] = 'X';
    refused("G-04", "GGUF");
    check_case("G-20 versions");
    static const uint32_t versions[] = { 0, 4, 0x7fffffff, 0xffffffff };
    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        valid_file(versions[i]);
        refused("G-20", "version");
    }
    valid_file(1);
    refused("G-20", "too old");
    valid_file(0x03000000);
    refused("G-20", "big-endian");
    valid_file(0x02000000);
    refused("G-20", "big-endian");

    check_case("G-20 counts beyond the bytes");
    static const uint64_t counts[] = { 1000, 65536, 65537, 131072, 131073, 1u << 31, UINT32_MAX,
                                       INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX };
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        valid_file(3);
        forge_set(&f, 8, 8, counts[i]);
        refused("G-20", "tensors");
        valid_file(3);
        forge_set(&f, 16, 8, counts[i]);
        refused("G-20", "metadata entries");
    }
}

static void one_key(const char *key, size_t len, uint64_t claimed)
{
    forge_header(&f, 3, 0, 1);
    forge_u64(&f, claimed);
    forge_bytes(&f, key, len);
    forge_u32(&f, GGUF_U8);
    forge_bytes(&f, "\1", 1);
}

static void test_metadata_rules(void)
{
    char *key = malloc(65537);
    memset(key, 'k', 65537);
    check_case("G-21 keys of 1 and 65535 bytes");
    one_key(key, 1, 1);
    accepted(1, 0);
    one_key(key, 65535, 65535);
    accepted(1, 0);
    check_case("G-21 key length 0, 65536, all ones, control bytes");
    forge_header(&f, 3, 0, 1);
    forge_u64(&f, 0);
    forge_fill(&f, 32, 0);
    refused("G-21", "0 bytes");
    one_key(key, 65536, 65536);
    refused("G-21", "65536 bytes");
    one_key(key, 5, UINT64_MAX);
    refused("G-21", "18446744073709551615");
    one_key("a\0b", 3, 3);
    refused("G-21", "0x00");
    one_key("a\x1b[", 3, 3);
    refused("G-21", "0x1b");
    one_key("a\x7f" "b", 3, 3);
    refused("G-21", "0x7f");
    one_key("a\x1f" "b", 3, 3);
    refused("G-21", "0x1f");
    one_key("a\xc3\xa9", 3, 3);
    refused("G-21", "0xc3");
    free(key);

    check_case("G-21 a key twice");
    forge_header(&f, 3, 0, 3);
    for (int i = 0; i < 3; i++) {
        forge_key(&f, i == 1 ? "other" : "same.key", GGUF_U8);
        forge_bytes(&f, "\1", 1);
    }
    refused("G-21", "same.key occurs twice");

    check_case("G-22 string lengths");
    static const uint64_t lengths[] = { (16u << 20) + 1, 1u << 31, UINT32_MAX, INT64_MAX,
                                        UINT64_MAX };
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        forge_header(&f, 3, 0, 1);
        forge_key(&f, "k", GGUF_STRING);
        forge_u64(&f, lengths[i]);
        forge_fill(&f, 16, 'x');
        refused("G-22", "string");
    }
    forge_header(&f, 3, 0, 1);
    forge_key(&f, "k", GGUF_STRING);
    forge_u64(&f, 17);
    forge_fill(&f, 16, 'x');
    refused("G-11", "17 bytes wanted, 16 left");
    for (size_t extra = 0; extra < 2; extra++) {
        forge_header(&f, 3, 0, 1);
        forge_key(&f, "k", GGUF_STRING);
        forge_u64(&f, (16u << 20) + extra);
        forge_fill(&f, (16u << 20) + extra, 'x');
        if (extra)
            refused("G-22", "16777217 bytes");
        else
            accepted(1, 0);
    }

    check_case("G-23 value types and bools");
    static const uint32_t types[] = { 13, 14, 255, 1u << 31, UINT32_MAX };
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        forge_header(&f, 3, 0, 1);
        forge_key(&f, "k", types[i]);
        forge_fill(&f, 16, 0);
        refused("G-23", "value type");
    }
    for (int v = 2; v < 256; v += 11) {
        forge_scalar(GGUF_BOOL, (uint64_t)v);
        refused("G-23", "bool");
    }
}

static void test_array_rules(void)
{
    check_case("G-24 arrays of every type, empty and of two");
    static const size_t width[] = { 1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8 };
    for (uint32_t elem = 0; elem < N_GGUF_TYPES; elem++) {
        if (elem == GGUF_ARRAY)
            continue;
        one_array(elem, 0, 0);
        accepted(1, 0);
        one_array(elem, 2, 2 * width[elem]);
        accepted(1, 0);
        one_array(elem, 2, 2 * width[elem] - 1);
        refused("G-24", "2 array elements, but only");
    }
    check_case("G-24 counts beyond the bytes");
    static const uint64_t counts[] = { 9, 1u << 26, (1u << 26) + 1, 1u << 31, UINT32_MAX,
                                       1ull << 61, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX };
    for (uint32_t elem = 0; elem < N_GGUF_TYPES; elem++)
        for (size_t i = 0; elem != GGUF_ARRAY && i < ARRAY_LEN(counts); i++) {
            one_array(elem, counts[i], 8);
            refused("G-24", "elements");
        }
    check_case("G-24 nested arrays, unknown element types");
    one_array(GGUF_ARRAY, 1, 32);
    refused("G-24", "array of arrays");
    one_array(13, 1, 32);
    refused("G-24", "element type 13");
    one_array(UINT32_MAX, 1, 32);
    refused("G-24", "element type");
    check_case("G-22, G-23 inside arrays");
    one_array(GGUF_BOOL, 8, 8);
    f.bytes[f.n - 3] = 2;
    refused("G-23", "bool");
    one_array(GGUF_STRING, 2, 0);
    forge_text(&f, "abc");
    forge_u64(&f, 1);
    refused("G-11", "string");
    one_array(GGUF_STRING, 1, 0);
    forge_u64(&f, UINT64_MAX);
    refused("G-22", "string");
}

static void with_alignment(uint32_t type, uint64_t value)
{
    forge_header(&f, 3, 1, 1);
    forge_key(&f, "general.alignment", type);
    forge_number(&f, type == GGUF_U64 ? 8 : 4, value);
    forge_tensor(&f, "t", 1, shape_a, TYPE_F32, 0);
    size_t a = value >= 8 && value <= 65536 && !(value & (value - 1)) ? (size_t)value : 32;
    forge_pad(&f, a);
    forge_fill(&f, 32, 1);
}

static void test_alignment(void)
{
    check_case("G-26 alignments");
    for (uint64_t a = 8; a <= 65536; a *= 2) {
        with_alignment(GGUF_U32, a);
        accepted(1, 1);
    }
    static const uint64_t wrong[] = { 0, 1, 2, 3, 4, 7, 9, 24, 33, 65535, 65537, 131072, 1u << 31,
                                      UINT32_MAX };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        with_alignment(GGUF_U32, wrong[i]);
        refused("G-26", "power of two");
    }
    with_alignment(GGUF_U64, 32);
    refused("G-26", "u64");
    with_alignment(GGUF_F32, 32);
    refused("G-26", "f32");
}

/* ---- everything at once ---- */

static void test_truncation(void)
{
    check_case("truncated at every byte");
    valid_file(3);
    size_t whole = f.n;
    for (size_t n = 0; n < whole; n++) {
        f.n = n;
        struct gguf g;
        struct error err;
        uint8_t *exact;
        bool ok = open_forged(&g, &exact, &err);
        CHECK_MSG(!ok, "accepted %zu of %zu bytes", n, whole);
        CHECK_MSG(n < 24 || strstr(err.text, "incomplete download?"), "%zu: %s", n, err.text);
        if (ok)
            gguf_close(&g);
        free(exact);
    }
    f.n = whole;
    accepted(6, 3);
}

static void test_flips(void)
{
    check_case("every single bit flipped");
    valid_file(3);
    size_t table_end = f.n - 194;
    int n_accepted = 0, n_refused = 0;
    for (size_t bit = 0; bit < 8 * table_end; bit++) {
        f.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (survive())
            n_accepted++;
        else
            n_refused++;
        f.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CHECK_MSG(n_accepted > 100 && n_refused > 1000, "%d accepted, %d refused", n_accepted,
              n_refused);
}

static const uint64_t hostile[] = { 0, 1, 0x7fffffff, 0x80000000u, UINT32_MAX, 1ull << 32,
                                    1ull << 40, INT64_MAX, (uint64_t)INT64_MAX + 1,
                                    UINT64_MAX - 31, UINT64_MAX };

static void test_hostile_numbers(void)
{
    check_case("hostile numbers at every byte");
    double start = check_cpu_s(), before = resident_mb();
    valid_file(3);
    size_t table_end = f.n - 194;
    for (size_t at = 4; at < table_end; at++)
        for (size_t v = 0; v < ARRAY_LEN(hostile); v++) {
            uint8_t saved[8];
            memcpy(saved, f.bytes + at, 8);
            forge_set(&f, at, 8, hostile[v]);
            survive();
            memcpy(f.bytes + at, saved, 8);
        }
    check_case("hostile numbers in pairs of fields");
    for (int a = 0; a < f.n_fields; a++)
        for (int b = a + 1; b < f.n_fields; b++)
            for (int k = 0; k < 6; k++) { /* random pairs of values: all would be 60000 files */
                uint64_t x = hostile[check_random() % ARRAY_LEN(hostile)];
                uint64_t y = hostile[check_random() % ARRAY_LEN(hostile)];
                valid_file(3);
                forge_set(&f, f.fields[a].at, f.fields[a].width, x);
                forge_set(&f, f.fields[b].at, f.fields[b].width, y);
                survive();
            }
    double seconds = check_cpu_s() - start, grown = resident_mb() - before;
    CHECK_MSG(seconds < 60, "%.1f s", seconds);
#ifndef __SANITIZE_ADDRESS__ /* which keeps freed memory on purpose */
    CHECK_MSG(grown < 64, "%.0f MB more than before", grown);
#else
    (void)grown;
#endif
}

/* Bytes that were checked may change afterwards, when another program writes to the file. */
static void test_overwritten(void)
{
    check_case("bytes overwritten after opening are safe to read");
    for (int round = 0; round < 300; round++) {
        struct gguf g;
        struct error err;
        uint8_t *exact;
        valid_file(3);
        if (CHECK_MSG(open_forged(&g, &exact, &err), "%s", err.text)) {
            for (size_t i = 0; i < f.n; i++)
                if (round == 0 || check_random() % 8 == 0)
                    exact[i] = round < 2 ? 0xff : (uint8_t)check_random();
            uint64_t found;
            gguf_walk(&g, &found);
            const struct gguf_kv *words = &g.kv[3];
            struct gguf_cursor c = gguf_strings(words);
            uint64_t bytes = 0;
            for (struct str s; gguf_next_string(&c, &s);)
                bytes += 8 + s.len;
            CHECK_MSG(bytes <= words->bytes, "%llu bytes of strings in %llu",
                      (unsigned long long)bytes, (unsigned long long)words->bytes);
            gguf_close(&g);
        }
        free(exact);
    }
}

static void test_no_memory(void)
{
    check_case("every failed allocation is reported");
    valid_file(3);
    bool ok = false;
    for (uint64_t n = 0; n < 50 && !ok; n++) {
        struct gguf g;
        struct error err;
        uint8_t *exact;
        mem_fail_after(n);
        ok = open_forged(&g, &exact, &err);
        mem_fail_never();
        CHECK(ok || err.code == ERR_FIT);
        gguf_close(&g);
        free(exact);
    }
    CHECK(ok);
}

/* ---- files of others ---- */

static void test_tiny(void)
{
    check_case("every value type, as another program writes it");
    struct gguf g;
    struct error err = { 0 };
    if (!CHECK_MSG(gguf_open(&g, "tests/vectors/tiny.gguf", &err), "%s", err.text))
        return;
    static const struct {
        const char *key;
        enum gguf_type type;
        int64_t value;
    } ints[] = {
        { "tiny.u8", GGUF_U8, 200 },          { "tiny.i8", GGUF_I8, -100 },
        { "tiny.u16", GGUF_U16, 60000 },      { "tiny.i16", GGUF_I16, -30000 },
        { "tiny.u32", GGUF_U32, 4000000000 }, { "tiny.i32", GGUF_I32, -2000000000 },
        { "tiny.i64", GGUF_I64, -(1ll << 62) }, { "tiny.u64", GGUF_U64, INT64_MAX }, /* saturates */
        { "tiny.bool", GGUF_BOOL, 1 },
    };
    for (size_t i = 0; i < ARRAY_LEN(ints); i++) {
        const struct gguf_kv *kv = gguf_find(&g, ints[i].key);
        CHECK_MSG(kv && kv->type == ints[i].type, "%s", ints[i].key);
        CHECK_INT(kv ? gguf_int_at(kv, 0) : 0, ints[i].value);
    }
    uint64_t u = 0;
    double d32 = 0, d64 = 0;
    struct str s = { 0 };
    CHECK(gguf_get_u64(&g, "tiny.u64", &u, &err) && u == (1ull << 63) + 1);
    CHECK(gguf_get_f64(&g, "tiny.f32", &d32, &err) && d32 == (double)0.1f);
    CHECK(gguf_get_f64(&g, "tiny.f64", &d64, &err) && d64 == 0.1);
    CHECK(gguf_get_str(&g, "tiny.string", &s, &err) && str_is(s, "Gr\u00fc\u00dfe"));
    const struct gguf_kv *kv = gguf_array(&g, "tiny.ints", GGUF_KIND_INT, &err);
    CHECK(kv && kv->count == 3 && gguf_int_at(kv, 1) == -2);
    kv = gguf_array(&g, "tiny.floats", GGUF_KIND_FLOAT, &err);
    CHECK(kv && kv->count == 2 && gguf_float_at(kv, 1) == -1.5);
    kv = gguf_array(&g, "tiny.bools", GGUF_KIND_BOOL, &err);
    CHECK(kv && kv->count == 2 && gguf_int_at(kv, 0) == 1 && gguf_int_at(kv, 1) == 0);
    const struct tensor *t = gguf_tensor(&g, "matrix");
    CHECK(t && t->type == TYPE_F32 && t->ne[0] == 4 && t->ne[1] == 3 && t->bytes == 48);
    for (int i = 0; t && i < 12; i++) {
        float f32;
        memcpy(&f32, (const char *)t->data + 4 * i, 4);
        CHECK(f32 == (float)i);
    }
    CHECK(gguf_tensor(&g, "half")->type == TYPE_F16 && gguf_tensor(&g, "half")->n_dims == 3);
    CHECK(gguf_tensor(&g, "ids")->type == TYPE_I32);
    gguf_close(&g);
}

static void open_every_model_of(const char *folder)
{
    DIR *dir = opendir(check_fixture(folder));
    for (struct dirent *e; dir && (e = readdir(dir));) {
        size_t len = strlen(e->d_name);
        if (len < 5 || strcmp(e->d_name + len - 5, ".gguf"))
            continue;
        char relative[400];
        snprintf(relative, sizeof relative, "%s/%s", folder, e->d_name);
        check_case("opens %s", relative);
        struct gguf g;
        struct error err = { 0 };
        if (!CHECK_MSG(gguf_open(&g, check_fixture(relative), &err), "%s", err.text))
            continue;
        uint64_t found, total = 0;
        gguf_walk(&g, &found);
        CHECK_INT(found, g.n_kv + g.n_tensors);
        for (uint64_t i = 0; i < g.n_tensors; i++) {
            const struct tensor *t = &g.tensors[i];
            CHECK_INT(t->bytes, tensor_rows(t) * quant_row_bytes(t->type, (int64_t)t->ne[0]));
            total += t->bytes;
        }
        CHECK_INT(total, g.data_bytes);
        CHECK(!gguf_find(&g, "no.such.key") && !gguf_tensor(&g, "no.such.tensor"));
        gguf_close(&g);
    }
    if (dir)
        closedir(dir);
}
int main(void)
{
    test_valid();
    test_getters();
    test_header_rules();
    test_metadata_rules();
    test_array_rules();
    test_alignment();
    test_hostile_numbers();
    test_truncation();
    test_flips();
    test_overwritten();
    test_no_memory();
    forge_free(&f);
    test_tiny();
    if (check_fixtures()) {
        open_every_model_of("models");
        open_every_model_of("quants/models");
        open_every_model_of("tokenizer");
    } else {
        check_case("opens the fixture models");
        check_skip("no fixtures");
    }
    return check_finish();
}
