/* The parts of a cache: that they are all of it, and that copies to the host and back by ranges of
 * positions, taken in any pieces, lose nothing. */
#include "src/arch/registry.h"
#include "src/base/util.h"
#include "src/model/kvcache.h"
#include "tests/check.h"

#include <stdlib.h>

/* A device that is nothing but memory. */
static void *memory_alloc(struct device *d, size_t bytes, const char *what, struct error *err)
{
    (void)d, (void)what, (void)err;
    return calloc(1, bytes ? bytes : 1);
}

static void memory_release(struct device *d, void *block)
{
    (void)d;
    free(block);
}

static bool memory_write(struct device *d, void *dst, const void *src, size_t bytes,
                         struct error *err)
{
    (void)d, (void)err;
    memcpy(dst, src, bytes);
    return true;
}

static bool memory_read(struct device *d, void *dst, const void *src, size_t bytes,
                        struct error *err)
{
    return memory_write(d, dst, src, bytes, err);
}

static const struct device_ops memory_ops = {
    .alloc = memory_alloc, .release = memory_release, .write = memory_write, .read = memory_read,
};
static struct device memory = { &memory_ops };

/* ---- ranges ---- */

static void check_added(const struct cache_part *part, int64_t from, int64_t to, int64_t first,
                        int64_t n)
{
    struct cache_range r = cache_part_added(part, from, to);
    CHECK_INT(r.n, n);
    if (n > 0)
        CHECK_INT(r.first, first);
}

static void test_ranges(void)
{
    check_case("rows of one position, with and without a lag");
    struct cache_part rows = { .kind = CACHE_ROWS, .row_bytes = 4, .n_rows = 100, .span = 1 };
    check_added(&rows, 0, 0, 0, 0);
    check_added(&rows, 0, 7, 0, 7);
    check_added(&rows, 7, 100, 7, 93);
    rows.lag = 1;
    check_added(&rows, 0, 1, 0, 0);
    check_added(&rows, 0, 7, 0, 6);
    check_added(&rows, 7, 8, 6, 1);

    check_case("rows of four positions count when they are complete");
    struct cache_part blocks = { .kind = CACHE_ROWS, .row_bytes = 4, .n_rows = 25, .span = 4 };
    check_added(&blocks, 0, 3, 0, 0);
    check_added(&blocks, 3, 4, 0, 1);
    check_added(&blocks, 4, 23, 1, 4);
    check_added(&blocks, 23, 100, 5, 20);

    check_case("a ring has the latest positions, a state all of itself");
    struct cache_part ring = { .kind = CACHE_RING, .row_bytes = 4, .n_rows = 8, .span = 1 };
    check_added(&ring, 0, 5, 0, 5);
    check_added(&ring, 5, 9, 5, 4);
    check_added(&ring, 0, 50, 42, 8);
    struct cache_part state = { .kind = CACHE_STATE, .row_bytes = 4, .n_rows = 3, .span = 1 };
    check_added(&state, 0, 5, 0, 3);
    check_added(&state, 5, 6, 0, 3);

    check_case("any cut of the positions gives every row once");
    for (int span = 1; span <= 5; span++) {
        for (int lag = 0; lag < 3; lag++) {
            struct cache_part p = { .kind = CACHE_ROWS, .n_rows = 60, .span = span, .lag = lag };
            int64_t next = 0, at = 0;
            while (at < 60) {
                int64_t step = 1 + (int64_t)(check_random() % 9), to = min_of((int64_t)60, at + step);
                struct cache_range r = cache_part_added(&p, at, to);
                CHECK(r.n == 0 || r.first == next);
                next += r.n;
                at = to;
            }
            CHECK_INT(next, (60 - lag) / span);
        }
    }
}

static void test_ring_copies(void)
{
    check_case("a ring read by positions comes back into one of another size");
    enum { SMALL = 8, LARGE = 11, END = 29 };
    int32_t small[SMALL], large[LARGE], rows[SMALL];
    struct error err = { 0 };
    struct cache_part from = { .kind = CACHE_RING, .row_bytes = sizeof *small, .n_rows = SMALL,
                               .span = 1, .data = (char *)small };
    struct cache_part to = from;
    to.n_rows = LARGE;
    to.data = (char *)large;
    for (int i = 0; i < END; i++)
        small[i % SMALL] = i;
    memset(large, 0, sizeof large);
    struct cache_range r = cache_part_added(&from, 0, END);
    CHECK_INT(r.n, SMALL);
    CHECK(cache_part_read(&from, &memory, r.first, r.n, rows, &err));
    for (int i = 0; i < SMALL; i++)
        CHECK_INT(rows[i], END - SMALL + i);
    CHECK(cache_part_write(&to, &memory, r.first, r.n, rows, &err));
    for (int i = END - SMALL; i < END; i++)
        CHECK_INT(large[i % LARGE], i);
}

/* ---- whole caches ---- */

/* Hyper-parameters with every dimension that a cache can ask for. */
static struct params some_params(void)
{
    struct params p = { .n_layers = 5, .n_heads = 4, .n_kv_heads = 2, .head_dim = 24,
                        .value_dim = 16, .kv_lora_rank = 40, .qk_rope_dim = 8, .index_dim = 12,
                        .window = 10 };
    p.compress_ratio[1] = p.compress_ratio[3] = 4;
    p.compress_ratio[2] = 128;
    return p;
}

static void test_caches(void)
{
    struct params p = some_params();
    struct error err = { 0 };
    for (int i = 0; arch_at(i); i++) {
        const struct arch *arch = arch_at(i);
        struct kvcache c;
        check_case("%s: the parts are the whole cache, one behind the other", arch->name);
        if (!CHECK(kvcache_open(&c, arch, &p, TYPE_F16, 301, &memory, &err)))
            continue;
        char *at = c.k[0];
        for (int n = 0; n < c.n_parts; n++) {
            const struct cache_part *part = &c.parts[n];
            CHECK(part->data == at);
            CHECK(kvcache_part(&c, part->layer, part->name) == part);
            CHECK(part->span >= 1 && part->n_rows > 0 && part->row_bytes > 0);
            if (part->data == at)
                memset(part->data, n + 1, part->row_bytes * (size_t)part->n_rows);
            at += align_up(part->row_bytes * (size_t)part->n_rows, 64);
        }
        CHECK_INT(at - (char *)c.k[0], c.bytes);
        CHECK_INT(c.bytes, kvcache_bytes(arch, &p, TYPE_F16, 301));
        CHECK(!kvcache_part(&c, 0, "none"));
        kvcache_close(&c, &memory);
    }
}

/* What a token takes in one layer of the released shapes, written down from the formats: a latent and
 * its rotary key in halves, an index key in bytes and its scale; in V4 a row of halves for 4 or 128
 * positions, and for 4 an index key. Beside that, what does not grow. */
static void test_bytes_per_token(void)
{
    enum { N = 128000 };
    struct params p = { .n_layers = 61, .kv_lora_rank = 512, .qk_rope_dim = 64, .index_dim = 128 };
    check_case("V3.2: 1,284 bytes a token and layer, 2,816 in floats");
    CHECK_INT(kvcache_bytes(&arch_deepseek32, &p, TYPE_F16, N), 61ull * N * (2 * 576 + 128 + 4));
    CHECK_INT(kvcache_bytes(&arch_deepseek32, &p, TYPE_F32, N), 61ull * N * 4 * (576 + 128));
    CHECK_INT(kvcache_layer_bytes(&arch_deepseek2, &p, TYPE_F16, N, 0), 1152ull * N);

    check_case("V4: 289 bytes a token where four are one row, 8 where 128 are");
    struct params v4 = { .n_layers = 3, .head_dim = 512, .window = 128, .index_dim = 128 };
    v4.compress_ratio[1] = 4;
    v4.compress_ratio[2] = 128;
    static const uint64_t grows[] = { 0, (1024 + 128 + 4) / 4, 1024 / 128 };
    for (int layer = 0; layer < 3; layer++) {
        const struct arch *arch = &arch_deepseek4;
        uint64_t once = kvcache_layer_bytes(arch, &v4, TYPE_F16, N, layer);
        uint64_t twice = kvcache_layer_bytes(arch, &v4, TYPE_F16, 2 * N, layer);
        CHECK_INT(twice - once, grows[layer] * N);
    }
}

/* Every row of a part differs from all others. */
static void number_rows(const struct cache_part *part)
{
    for (int64_t r = 0; r < part->n_rows; r++)
        for (size_t i = 0; i < part->row_bytes; i++)
            part->data[(size_t)r * part->row_bytes + i] = (char)(r >> (i % 2 ? 8 : 0));
}

static int64_t number_of(const struct cache_part *part, int64_t r)
{
    const unsigned char *row = (const unsigned char *)part->data + (size_t)r * part->row_bytes;
    return row[0] | row[1] << 8;
}

static void test_repeat(void)
{
    enum { N_CTX = 3000, REAL = 300, N = 2900 };
    struct params p = some_params();
    struct error err = { 0 };
    for (int i = 0; arch_at(i); i++) {
        const struct arch *arch = arch_at(i);
        struct kvcache c;
        check_case("%s: rows repeated behind real ones", arch->name);
        if (!CHECK(kvcache_open(&c, arch, &p, TYPE_F16, N_CTX, &memory, &err)))
            continue;
        for (int n = 0; n < c.n_parts; n++)
            number_rows(&c.parts[n]);
        CHECK_MSG(kvcache_repeat(&c, &memory, REAL, N, &err), "%s", err.text);
        for (int n = 0; n < c.n_parts; n++) {
            const struct cache_part *part = &c.parts[n];
            int64_t real = REAL / part->span, end = N / part->span, distinct = 0;
            bool seen[REAL] = { false };
            for (int64_t r = 0; r < part->n_rows; r++) {
                int64_t is = number_of(part, r);
                bool copy = part->kind == CACHE_ROWS && r >= real && r < end;
                CHECK_MSG(copy ? is < real : is == r, "%s: row %d is %d", part->name, (int)r, (int)is);
                distinct += copy && is < real && !seen[is];
                if (copy && is < real)
                    seen[is] = true;
            }
            if (part->kind == CACHE_ROWS && part->span == 1) /* not the same few, in 2600 draws */
                CHECK(distinct > REAL * 9 / 10);
        }
        kvcache_close(&c, &memory);
    }
}

int main(void)
{
    test_ranges();
    test_ring_copies();
    test_caches();
    test_bytes_per_token();
    test_repeat();
    return check_finish();
}
