/* Caches in files: what comes back computes the same bits, on every architecture and on the GPU;
 * branches share their beginning; rings and states come back where they can. What happens to
 * damaged files: test_prefix_damage.c. */
#include <sys/stat.h>

#include "src/base/util.h"
#include "src/engine/internal.h"
#include "src/model/kvcache.h"
#include "src/text/tokenizer.h"
#include "tests/fixture_model.h"
#include "tests/gpu_test.h"
#include "tests/prefix_rig.h"

/* ---- the same bits ---- */

static void check_model(const char *path, const int32_t *tokens, bool act_f32, enum gpu_use gpu,
                        enum draft_use draft)
{
    unlink(store);
    struct engine *e = engine_of(path, act_f32, gpu);
    struct session *a = session_of(e, N_CTX, draft), *b = session_of(e, N_CTX - 7, draft);
    struct prefix_file *f = a ? file_of(a) : NULL;
    if (a && b && f && go_on(a, tokens, 40, N_SAVED) && save(f, a)) {
        prefix_file_close(f);
        f = file_of(b);
        CHECK_INT(restored(f, b, tokens, N_ALL), N_SAVED);
        check_alike(a, b, tokens, N_ALL, engine_model(e)->params.n_vocab);
        if (draft != DRAFT_OFF) {
            struct draft_report x, y;
            session_draft_report(a, &x);
            session_draft_report(b, &y);
            CHECK(y.n_guesses > 0);
        }
        CHECK(!prefix_file_damaged(f));
    }
    prefix_file_close(f);
    session_close(b);
    session_close(a);
    engine_close(e);
}

/* Not every architecture does. */
static bool runs_on_gpu(const char *path)
{
    struct engine *e = NULL;
    struct error err = { 0 };
    struct engine_options o = { .n_threads = 1, .gpu = GPU_MUST };
    bool ok = engine_open(&e, path, &o, &err);
    engine_close(e);
    return ok || !strstr(err.text, "runs on the CPU only");
}

static void test_fixtures(void)
{
    static int32_t tokens[N_CTX];
    bool emulated = gpu_test_find(), is_long = getenv("TANDEM_TEST_LONG") != NULL;
    if (!check_fixtures()) {
        check_case("fixture models");
        check_skip("no fixtures: set TANDEM_FIXTURES");
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(fixture_models); i++) {
        struct fixture x;
        char path[160];
        check_case("%s: fixture", fixture_models[i]);
        if (!fixture_of_model(&x, fixture_models[i], path))
            continue;
        for (int t = 0; t < N_CTX; t++)
            tokens[t] = x.tokens[t % x.n_tokens];
        for (int f32 = 0; f32 < 2; f32++) {
            check_case("%s: restored as it was, %s", fixture_models[i], f32 ? "F32" : "F16");
            check_model(check_fixture(path), tokens, f32, GPU_NEVER, DRAFT_OFF);
        }
        bool chosen = emulated && (is_long || i % 3 == 1);
        if (chosen && runs_on_gpu(check_fixture(path))) { /* in short runs GQA, V2-Lite and V3 */
            check_case("%s: restored as it was on the GPU", fixture_models[i]);
            check_model(check_fixture(path), tokens, false, GPU_MUST, DRAFT_OFF);
        }
        fixture_free(&x);
    }
}

static void test_draft(void)
{
    check_case("the demo model: restored with what it drafts from");
    check_model("models/demo.gguf", text, false, GPU_NEVER, DRAFT_TWO);
}

/* How many of the guesses behind position `at` differ, drafting sessions one and two? */
static void test_draft_goes_on(void)
{
    check_case("guesses go on as if the session had never been away");
    unlink(store);
    struct engine *e = engine_of("models/demo.gguf", false, GPU_NEVER);
    struct session *a = session_of(e, 256, DRAFT_ONE), *b = session_of(e, 256, DRAFT_ONE);
    struct prefix_file *f = a ? file_of(a) : NULL;
    struct error err = { 0 };
    if (a && b && f && go_on(a, text, 40, 40) && save(f, a)) {
        CHECK_INT(restored(f, b, text, 60), 40);
        CHECK(session_prefill(a, text, 60, NULL, NULL, &err));
        CHECK(session_prefill(b, text, 60, NULL, NULL, &err));
        for (int i = 0; i < 20; i++) {
            int32_t next = (int32_t)best(session_logits(a), engine_model(e)->params.n_vocab);
            CHECK(session_decode(a, next, &err) && session_decode(b, next, &err));
        }
        struct draft_report x, y;
        session_draft_report(a, &x);
        session_draft_report(b, &y);
        CHECK(x.n_accepted > 0);
        CHECK_INT(y.n_accepted, x.n_accepted);
        CHECK_INT(y.n_guesses, x.n_guesses);
    }
    prefix_file_close(f);
    session_close(b);
    session_close(a);
    engine_close(e);
}

static void test_exchange(void)
{
    check_case("a cache of the CPU goes on on the GPU, and back");
    if (!gpu_test_find())
        return;
    struct error err = { 0 };
    unlink(store);
    struct engine *cpu = engine_of(tiny, true, GPU_NEVER), *gpu = engine_of(tiny, true, GPU_MUST);
    struct session *a = session_of(cpu, N_CTX, DRAFT_OFF), *b = session_of(gpu, N_CTX, DRAFT_OFF);
    for (int way = 0; a && b && way < 2; way++) {
        struct session *from = way ? b : a, *to = way ? a : b;
        session_truncate(a, 0);
        session_truncate(b, 0);
        unlink(store);
        struct prefix_file *f = file_of(from);
        if (f && go_on(from, text, 40, N_SAVED) && save(f, from)) {
            prefix_file_close(f);
            f = file_of(to);
            CHECK_INT(restored(f, to, text, N_ALL), N_SAVED);
            CHECK(session_decode(to, text[N_SAVED], &err) &&
                  session_decode(from, text[N_SAVED], &err));
            double d = largest_difference(session_logits(a), session_logits(b), N_VOCAB);
            CHECK_MSG(d < 1e-3, "logits differ by %g", d);
        }
        prefix_file_close(f);
    }
    session_close(b);
    session_close(a);
    engine_close(gpu);
    engine_close(cpu);
}

/* ---- the tree ---- */

static void test_branches(struct engine *e)
{
    struct session *s = session_of(e, N_CTX, DRAFT_OFF), *t = session_of(e, N_CTX, DRAFT_OFF);
    int32_t other[N_CTX], third[N_CTX];
    unlink(store);
    memcpy(other, text, sizeof other);
    for (int i = 30; i < N_CTX; i++)
        other[i] = (other[i] + 1) % N_VOCAB;
    memcpy(third, other, sizeof third);
    for (int i = 35; i < N_CTX; i++)
        third[i] = (third[i] + 1) % N_VOCAB;
    struct prefix_file *f = s ? file_of(s) : NULL;
    if (!s || !t || !f) {
        prefix_file_close(f);
        session_close(s);
        session_close(t);
        return;
    }
    check_case("only what is new is appended, and nothing twice");
    CHECK(go_on(s, text, 40, 40) && save(f, s));
    uint64_t first = file_size();
    CHECK_INT(first, prefix_file_bytes(f));
    uint64_t row = (first - HEAD - SEGMENT - 4) / 40;
    CHECK(save(f, s));
    CHECK_INT(file_size(), first);
    session_truncate(s, 20);
    CHECK(save(f, s)); /* its beginning is there */
    CHECK_INT(file_size(), first);
    CHECK(go_on(s, text, 45, 45) && save(f, s));
    CHECK_INT(file_size(), first + SEGMENT + 4 + 5 * row);

    check_case("branches share their beginning");
    uint64_t before = file_size();
    CHECK(go_on(s, other, 50, 50));
    CHECK(session_prefill(s, other, 50, NULL, NULL, NULL) && save(f, s));
    CHECK_INT(file_size(), before + SEGMENT + 4 + 20 * row);
    CHECK(session_prefill(s, third, 40, NULL, NULL, NULL) && save(f, s));
    CHECK_INT(file_size(), before + 2 * (SEGMENT + 4) + 25 * row);
    prefix_file_close(f);

    check_case("each of them comes back");
    f = file_of(t);
    CHECK_INT(restored(f, t, text, 60), 45);
    CHECK_INT(restored(f, t, other, 60), 20); /* the rest was there */
    CHECK_INT(session_n_past(t), 50);
    CHECK_INT(restored(f, t, third, 60), 5);
    CHECK_INT(session_n_past(t), 40);
    session_truncate(s, 40);
    check_alike(s, t, third, 44, N_VOCAB);
    CHECK_INT(restored(f, t, text, 33), 3);
    CHECK_INT(session_n_past(t), 33);
    CHECK_INT(restored(f, t, text, 33), 0);
    CHECK_INT(restored(f, t, text, 10), 0); /* what the session holds is longer */
    CHECK_INT(session_n_past(t), 33);
    CHECK(session_prefill(s, text, 33, NULL, NULL, NULL));
    CHECK(go_on(s, text, 0, 40) && go_on(t, text, 0, 40)); /* computed in other batches */
    CHECK(largest_difference(session_logits(s), session_logits(t), N_VOCAB) < 1e-3);

    check_case("a file beyond its limit begins anew with what is now");
    struct error err = { 0 };
    CHECK(go_on(t, text, 60, 60) && prefix_file_save(f, t, file_size() + 1, &err));
    uint64_t anew = HEAD + 3 * (SEGMENT + 4) + 60 * row; /* its three segments */
    CHECK_INT(file_size(), anew);
    CHECK_INT(restored(f, s, other, 60), 0);
    session_truncate(s, 0);
    CHECK_INT(restored(f, s, other, 60), 30);

    check_case("a second program reads what is complete and writes nothing");
    struct prefix_file *second = file_of(s);
    CHECK_INT(restored(second, s, text, 60), 30);
    CHECK(go_on(s, text, 70, 70) && save(second, s));
    CHECK_INT(file_size(), anew);
    prefix_file_close(second);

    check_case("the file is private");
    struct stat st;
    CHECK(stat(store, &st) == 0 && (st.st_mode & 0777) == 0600);
    prefix_file_close(f);
    session_close(s);
    session_close(t);
}

/* ---- rings and states ---- */

#define RING 10

static const struct arch *plain;
static struct arch windowed;

static int windowed_parts(const struct params *p, enum tensor_type type, int64_t n_ctx, int layer,
                          struct cache_part *parts)
{
    size_t row = (size_t)params_dim(p, DIM_KV_A) * (type == TYPE_F32 ? 4 : 2);
    parts[0] = (struct cache_part){ .name = "latent", .layer = layer, .row_bytes = row,
                                    .n_rows = n_ctx, .span = 1 };
    parts[1] = (struct cache_part){ .name = "window", .layer = layer, .kind = CACHE_RING,
                                    .row_bytes = 8, .n_rows = RING, .span = 1 };
    parts[2] = (struct cache_part){ .name = "blocks", .layer = layer, .row_bytes = 8,
                                    .n_rows = (n_ctx + 3) / 4, .span = 4 };
    parts[3] = (struct cache_part){ .name = "sum", .layer = layer, .kind = CACHE_STATE,
                                    .row_bytes = 16, .n_rows = 2, .span = 1 };
    return 4;
}

/* It can go back nowhere but to the start. */
static int64_t windowed_rewind(const struct params *p, struct kvcache *c, int64_t n_past, int64_t n)
{
    (void)p, (void)c;
    return n == n_past ? n : 0;
}

/* What the parts would hold at n positions of a timeline: numbers that tell where they come from. */
static void pretend(struct session *s, int64_t n, int64_t timeline)
{
    struct session_cache c;
    struct error err = { 0 };
    if (!CHECK(session_cache_settle(s, &c, &err)))
        return;
    for (int layer = 0; layer < c.cache->n_layers; layer++) {
        for (int64_t p = 0; p < n; p++) {
            int64_t value = p + 1000 * timeline;
            cache_part_write(kvcache_part(c.cache, layer, "window"), c.device, p, 1, &value, &err);
            if (p % 4 == 3)
                cache_part_write(kvcache_part(c.cache, layer, "blocks"), c.device, p / 4, 1, &value,
                                 &err);
        }
        int64_t state[4] = { n, timeline, layer, 7 };
        cache_part_write(kvcache_part(c.cache, layer, "sum"), c.device, 0, 2, state, &err);
    }
}

/* Do the window and the state of n positions stand there, the last `own` of the timeline? */
static void check_pretended(struct session *s, int64_t n, int64_t timeline, int64_t shared)
{
    struct session_cache c;
    struct error err = { 0 };
    if (!CHECK(session_cache_settle(s, &c, &err)))
        return;
    for (int layer = 0; layer < c.cache->n_layers; layer++) {
        int64_t rows[RING], state[4], block;
        int64_t first = max_of((int64_t)0, n - RING);
        cache_part_read(kvcache_part(c.cache, layer, "window"), c.device, first, n - first, rows,
                        &err);
        for (int64_t p = first; p < n; p++)
            CHECK_INT(rows[p - first], p + 1000 * timeline);
        cache_part_read(kvcache_part(c.cache, layer, "sum"), c.device, 0, 2, state, &err);
        CHECK_INT(state[0], n);
        CHECK_INT(state[1], timeline);
        CHECK_INT(state[2], layer);
        for (int64_t b = 0; b < n / 4; b++) {
            cache_part_read(kvcache_part(c.cache, layer, "blocks"), c.device, b, 1, &block, &err);
            CHECK_INT(block, 4 * b + 3 + 1000 * (4 * b + 3 < shared ? 1 : timeline));
        }
    }
}

static void test_windowed(void)
{
    struct error err = { 0 };
    struct engine *e = engine_of(tiny, true, GPU_NEVER);
    if (!e)
        return;
    plain = e->model.arch;
    windowed = *plain;
    windowed.cache_parts = windowed_parts;
    windowed.cache_rewind = windowed_rewind;
    e->model.arch = &windowed;
    unlink(store);
    struct session *s = session_of(e, N_CTX, DRAFT_OFF), *t = session_of(e, N_CTX, DRAFT_OFF);
    struct prefix_file *f = s ? file_of(s) : NULL;
    check_case("rings and states come back at the ends of segments, and nowhere else");
    if (s && t && f) {
        int32_t other[N_CTX];
        memcpy(other, text, sizeof other);
        other[30] = (other[30] + 1) % N_VOCAB;
        static const int ends[] = { 7, 12, 33, 37 };
        for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
            CHECK(go_on(s, text, 0, ends[i]));
            pretend(s, ends[i], 1);
            CHECK(save(f, s));
        }
        CHECK(session_prefill(s, other, 40, NULL, NULL, &err));
        pretend(s, 40, 2);
        CHECK(save(f, s));
        prefix_file_close(f);
        f = file_of(t);
        CHECK_INT(restored(f, t, text, 50), 37);
        check_pretended(t, 37, 1, 37);
        CHECK_INT(restored(f, t, other, 50), 40);
        check_pretended(t, 40, 2, 28);
        session_truncate(t, 0);
        CHECK_INT(restored(f, t, text, 36), 33);
        check_pretended(t, 33, 1, 33);
        session_truncate(t, 0);
        CHECK_INT(restored(f, t, text, 32), 12);
        check_pretended(t, 12, 1, 12);
        session_truncate(t, 0);
        CHECK_INT(restored(f, t, text, 6), 0);
        check_case("a position inside a segment is saved once more, with its state");
        uint64_t before = file_size();
        CHECK(session_prefill(t, text, 20, NULL, NULL, &err));
        pretend(t, 20, 1);
        CHECK(save(f, t));
        CHECK(file_size() > before);
        before = file_size();
        CHECK(save(f, t));
        CHECK_INT(file_size(), before);
        session_truncate(t, 0);
        CHECK_INT(restored(f, t, text, 32), 20);
        check_pretended(t, 20, 1, 20);
    }
    prefix_file_close(f);
    session_close(s);
    session_close(t);
    e->model.arch = plain;
    engine_close(e);
}

/* V4 keeps a window, and can step back by a few positions only. */
static void test_replaced_answer(void)
{
    struct fixture x;
    char path[160];
    int32_t tokens[N_CTX], other[N_CTX];
    struct error err = { 0 };
    check_case("deepseek4: an answer that the template leaves out costs itself, not the conversation");
    if (!check_fixtures() || !fixture_of_model(&x, "deepseek4", path))
        return;
    for (int t = 0; t < N_CTX; t++)
        tokens[t] = other[t] = x.tokens[t % x.n_tokens];
    for (int t = 49; t < N_CTX; t++) /* the prompt's last token changes, too */
        other[t] = (other[t] + 1) % (int32_t)x.n_vocab;
    struct engine *e = engine_of(check_fixture(path), true, GPU_NEVER);
    struct session *s = session_of(e, N_CTX, DRAFT_OFF), *t = session_of(e, N_CTX, DRAFT_OFF);
    struct prefix_file *f = NULL;
    unlink(store);
    f = s ? file_of(s) : NULL;
    if (s && t && f) {
        CHECK(session_prefill(s, tokens, 50, NULL, NULL, &err) && save(f, s));
        CHECK(go_on(s, tokens, 0, 80) && save(f, s));
        prefix_file_close(f);
        f = file_of(t);
        CHECK_INT(restored(f, t, other, 70), 49);
        CHECK_INT(session_n_past(t), 49);
        session_truncate(s, 0);
        CHECK(session_prefill(s, other, 70, NULL, NULL, &err));
        CHECK(session_prefill(t, other, 70, NULL, NULL, &err));
        double d = largest_difference(session_logits(s), session_logits(t), x.n_vocab);
        CHECK_MSG(d < x.tolerance, "logits differ by %g", d);
    }
    prefix_file_close(f);
    session_close(s);
    session_close(t);
    engine_close(e);
    fixture_free(&x);
}

int main(void)
{
    if (prefix_rig_open()) {
        struct engine *e = engine_of(tiny, true, GPU_NEVER);
        if (e)
            test_branches(e);
        engine_close(e);
        test_windowed();
        test_replaced_answer();
        test_exchange();
        test_draft();
        test_draft_goes_on();
        test_fixtures();
    }
    prefix_rig_close();
    return check_finish();
}
