/* What a session really takes is what its placement planned, in every way of loading and with
 * every format of the cache; and what would not fit is refused before loading. */
#include <stdio.h>
#include <unistd.h>

#include "src/engine/engine.h"
#include "tests/check.h"
#include "tests/tiny_model.h"

static void test_real(const char *options, enum load_mode load, bool copied)
{
    char path[256];
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    struct memory_report r;
    check_case("what a session takes is what was planned: %s, mode %d", options, (int)load);
    tiny_path(path, "placed");
    struct engine_options o = { .n_threads = 2, .load = load, .n_ctx = 512 };
    struct session_options so = { .n_ctx = 512 };
    if (tiny_write(path, options) &&
        CHECK_MSG(engine_open(&e, path, &o, &err) && session_open(&s, e, &so, &err), "%s",
                  err.text)) {
        const struct placement *p = engine_placement(e);
        session_memory(s, &r);
        CHECK_INT(p->copied, copied);
        CHECK_INT(engine_model(e)->copy != NULL, copied);
        CHECK_INT(p->bytes[PART_CACHE][HOME_RAM], r.cache_bytes);
        uint64_t taken = r.copied_bytes + r.cache_bytes + r.work_bytes;
        CHECK_MSG((double)p->ram_used > 0.95 * (double)taken - 4e6 &&
                  (double)p->ram_used < 1.05 * (double)taken + 4e6, "planned %llu, taken %llu",
                  (unsigned long long)p->ram_used, (unsigned long long)taken);
        CHECK(r.mapped_bytes == 0 || r.mapped_bytes >= p->ram_mapped);
    }
    session_close(s);
    engine_close(e);

    check_case("refused before loading: %s", options);
    e = NULL;
    error_clear(&err);
    o.max_ram_bytes = 65 << 20;
    o.n_ctx = 1 << 20;
    CHECK(!engine_open(&e, path, &o, &err));
    CHECK_INT(err.code, ERR_FIT);
    unlink(path);
}

static void test_cache_type(void)
{
    char path[256];
    uint64_t bytes[2] = { 0 };
    check_case("the number format of the cache is as wished, and as planned");
    tiny_path(path, "cache");
    bool written = tiny_write(path, "--arch deepseek2");
    for (int f32 = 0; written && f32 < 2; f32++) {
        struct engine *e = NULL;
        struct session *s = NULL;
        struct error err = { 0 };
        struct memory_report r = { 0 };
        struct placement_wishes w = placement_wishes_default();
        w.cache_type = f32 ? TYPE_F32 : TYPE_F16;
        struct engine_options o = { .n_threads = 1, .n_ctx = 256, .wishes = &w };
        struct session_options so = { .n_ctx = 256 };
        if (CHECK_MSG(engine_open(&e, path, &o, &err) && session_open(&s, e, &so, &err), "%s",
                      err.text)) {
            session_memory(s, &r);
            bytes[f32] = r.cache_bytes;
            CHECK_INT(engine_placement(e)->bytes[PART_CACHE][HOME_RAM], r.cache_bytes);
            CHECK(session_decode(s, 1, &err));
        }
        session_close(s);
        engine_close(e);
    }
    CHECK(bytes[0] > 0 && bytes[1] == 2 * bytes[0]);
    unlink(path);
}

int main(void)
{
    test_real("--arch deepseek2", LOAD_MMAP, false);
    test_real("--arch deepseek2 --generation a", LOAD_COPY, true);
    test_real("--arch qwen3", LOAD_AUTO, false); /* small: caches hold it anyway */
    test_real("--arch llama --vocab 300000", LOAD_AUTO, true);
    test_real("--arch deepseek32", LOAD_COPY, true);
    test_cache_type();
    return check_finish();
}
