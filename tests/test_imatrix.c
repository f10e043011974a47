/* Damaged importance matrices of both formats, in every test run: the fuzz target on thousands of
 * files that are nearly right. It aborts on a finding. */
#include <stdio.h>

#include "tests/check.h"
#include "tests/fuzz_imatrix.c"
#include "tests/gguf_forge.h"

#define COLS 32
#define EXPERTS 3

static const char *const names[] = { "blk.0.attn_q.weight", "blk.0.ffn_gate_exps.weight" };

static void add_floats(struct forge *f, size_t n, float base)
{
    for (size_t i = 0; i < n; i++) {
        float v = base + (float)(i % 7);
        forge_bytes(f, &v, sizeof v);
    }
}

static size_t matrices(int i)
{
    return i ? EXPERTS : 1;
}

static void forge_old(struct forge *f)
{
    f->n = 0;
    f->n_fields = 0;
    forge_u32(f, 2);
    for (int i = 0; i < 2; i++) {
        forge_u32(f, (uint32_t)strlen(names[i]));
        forge_bytes(f, names[i], strlen(names[i]));
        forge_u32(f, 4);
        forge_u32(f, (uint32_t)(COLS * matrices(i)));
        add_floats(f, COLS * matrices(i), 1);
    }
    forge_u32(f, 9);
    forge_u32(f, 4);
    forge_bytes(f, "text", 4);
}

static void forge_new(struct forge *f)
{
    uint64_t at = 0;
    forge_header(f, 3, 4, 2);
    forge_key(f, "general.type", 8);
    forge_text(f, "imatrix");
    forge_key(f, "imatrix.chunk_count", 4);
    forge_u32(f, 9);
    for (int i = 0; i < 2; i++) {
        char name[80];
        uint64_t sums[2] = { COLS, matrices(i) }, counts[2] = { 1, matrices(i) };
        snprintf(name, sizeof name, "%s.in_sum2", names[i]);
        forge_tensor(f, name, 2, sums, 0, at);
        at += 4 * COLS * matrices(i);
        snprintf(name, sizeof name, "%s.counts", names[i]);
        forge_tensor(f, name, 2, counts, 0, at);
        at += 32;
    }
    forge_pad(f, 32);
    for (int i = 0; i < 2; i++) {
        add_floats(f, COLS * matrices(i), 1);
        add_floats(f, matrices(i), (float)!i); /* the first expert saw nothing */
        forge_pad(f, 32);
    }
}

/* Change a few bytes, a field, or the length. */
static size_t damage(const struct forge *f, uint8_t *bytes)
{
    static const uint64_t extremes[] = { 0, 1, 0x7f, 0xff, 1u << 28, INT32_MAX, UINT32_MAX,
                                         UINT64_MAX, 1ull << 62 };
    size_t size = f->n;
    memcpy(bytes, f->bytes, f->n);
    for (uint64_t edits = 1 + check_random() % 3; edits > 0; edits--) {
        uint64_t how = check_random() % 4;
        if (how == 0) {
            bytes[check_random() % f->n] = (uint8_t)check_random();
        } else if (how == 1) {
            bytes[check_random() % f->n] ^= (uint8_t)(1 << check_random() % 8);
        } else if (how == 2) {
            int field = (int)(check_random() % (uint64_t)f->n_fields);
            uint64_t v = extremes[check_random() % (sizeof extremes / sizeof *extremes)];
            memcpy(bytes + f->fields[field].at, &v, (size_t)f->fields[field].width);
        } else {
            size = check_random() % (f->n + 1);
        }
    }
    return size;
}

static void test_damaged(const struct forge *f, const char *what)
{
    struct imatrix m;
    struct error err = { 0 };
    uint8_t *bytes = malloc(f->n);
    check_case("%s: whole", what);
    CHECK_MSG(imatrix_open_memory(&m, f->bytes, f->n, &err), "%s", err.text);
    CHECK_INT(m.n_entries, 2);
    CHECK_INT(m.n_chunks, 9);
    imatrix_close(&m);
    CHECK_INT(LLVMFuzzerTestOneInput(f->bytes, f->n), 0);
    check_case("%s: damaged", what);
    for (int i = 0; i < 100000; i++)
        CHECK(LLVMFuzzerTestOneInput(bytes, damage(f, bytes)) == 0);
    check_case("%s: cut off anywhere", what);
    for (size_t size = 0; size < f->n; size++)
        CHECK(LLVMFuzzerTestOneInput(f->bytes, size) == 0);
    free(bytes);
}

/* Sums that are finite, and means that are not. */
static void test_overflow(struct forge *f)
{
    struct imatrix m;
    struct error err = { 0 };
    float tiny = 1e-38f;
    forge_new(f);
    memcpy(f->bytes + f->n - 32 + 4, &tiny, sizeof tiny); /* the count of the second expert */
    check_case("a mean beyond all measure");
    CHECK(!imatrix_open_memory(&m, f->bytes, f->n, &err));
    CHECK_INT(err.code, ERR_FILE);
    CHECK_MSG(strstr(err.text, "mean"), "%s", err.text);
    imatrix_close(&m);
}

int main(void)
{
    struct forge f = { 0 };
    forge_old(&f);
    test_damaged(&f, "older format");
    forge_new(&f);
    test_damaged(&f, "GGUF");
    test_overflow(&f);
    forge_free(&f);
    return check_finish();
}
