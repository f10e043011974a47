/* Engine and session: prefix reuse, batches, truncation, limits, failures, and that decoding
 * allocates nothing; mapped and woven weights compute alike. Interruption: test_session_cancel.c. */
#include <math.h>

#include "cpu/device_cpu.h"
#include "cpu/features.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/engine.h"
#include "src/engine/internal.h"
#include "src/model/memory.h"
#include "tests/session_rig.h"

/* ---- prefill, decode, truncate ---- */

static void test_prefix(const char *path)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    check_case("prefill in batches equals decoding: %s", strrchr(path, '/'));
    if (!open_engine(&e, path, true, &err) || !open_session(&s, e, NULL, &err)) {
        engine_close(e);
        return;
    }
    struct steps st = { 0 };
    CHECK(session_prefill(s, text, 50, note_step, &st, &err));
    CHECK_INT(st.n, 4);
    CHECK_INT(st.done[2], 48);
    CHECK_INT(st.done[3], 50);
    check_same(s, e, text, 50);

    check_case("a longer prompt computes only what is new");
    st = (struct steps){ 0 };
    CHECK(session_prefill(s, text, 60, note_step, &st, &err));
    CHECK_INT(st.n, 1);
    check_same(s, e, text, 60);

    check_case("another continuation keeps the common prefix");
    int32_t other[N_CTX];
    memcpy(other, text, sizeof other);
    other[55] = (other[55] + 1) % N_VOCAB;
    st = (struct steps){ 0 };
    CHECK(session_prefill(s, other, 58, note_step, &st, &err));
    CHECK_INT(st.n, 1);
    CHECK_INT(st.done[0], 58);
    check_same(s, e, other, 58);

    check_case("the same or a shorter prompt computes its last token again");
    memset(session_logits(s), 0, N_VOCAB * sizeof(float));
    CHECK(session_prefill(s, other, 58, NULL, NULL, &err));
    check_same(s, e, other, 58);
    CHECK(session_prefill(s, other, 20, NULL, NULL, &err));
    check_same(s, e, other, 20);

    check_case("truncate, then decode");
    session_truncate(s, 30); /* beyond the end: nothing */
    CHECK_INT(session_n_past(s), 20);
    session_truncate(s, 10);
    CHECK_INT(session_n_past(s), 10);
    CHECK(session_decode(s, text[10], &err));
    check_same(s, e, text, 11);
    session_truncate(s, -5);
    CHECK_INT(session_n_past(s), 0);

    check_case("sessions of one engine do not disturb each other");
    struct session *second = NULL;
    if (open_session(&second, e, NULL, &err)) {
        CHECK(session_prefill(s, text, 33, NULL, NULL, &err));
        CHECK(session_prefill(second, other, 60, NULL, NULL, &err));
        CHECK(session_decode(s, text[33], &err));
        check_same(s, e, text, 34);
        check_same(second, e, other, 60);
    }
    session_close(second);
    session_close(s);
    engine_close(e);
}

/* ---- eval ---- */

struct rows_log {
    float rows[N_CTX * N_VOCAB];
    int64_t next;
    int calls, stop_at;
};

static bool take_rows(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct rows_log *log = ctx;
    (void)err;
    CHECK_INT(first, log->next);
    memcpy(log->rows + first * N_VOCAB, rows, (size_t)n_rows * N_VOCAB * sizeof *rows);
    log->next = first + n_rows;
    return ++log->calls != log->stop_at;
}

static void test_eval(void)
{
    static struct rows_log log;
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    check_case("eval hands over every row in order");
    if (!open_engine(&e, latent_path, true, &err) || !open_session(&s, e, NULL, &err)) {
        engine_close(e);
        return;
    }
    CHECK(session_eval(s, text, 40, 7, take_rows, &log, &err));
    CHECK_INT(log.next, 40);
    CHECK_INT(log.calls, 6);
    check_same(s, e, text, 40); /* the last row is also the session's */
    for (int n = 1; n <= 40; n += 13) {
        float wanted[N_VOCAB];
        if (fresh(e, text, n, wanted))
            CHECK(distance(log.rows + (n - 1) * N_VOCAB, wanted) <= TOLERANCE);
    }
    check_case("eval appends, and the sink can stop it");
    log = (struct rows_log){ .next = 40, .stop_at = 2 };
    CHECK(!session_eval(s, text + 40, 30, 0, take_rows, &log, &err));
    CHECK_INT(err.code, ERR_INTERRUPTED);
    CHECK_INT(session_n_past(s), 70);
    check_same(s, e, text, 70);
    session_close(s);
    engine_close(e);
}

/* ---- limits ---- */

static void check_usage(bool ok, struct error *err)
{
    CHECK(!ok);
    CHECK_MSG(err->code == ERR_USAGE, "code %d: %s", (int)err->code, err->text);
    *err = (struct error){ 0 };
}

static void test_limits(void)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    int32_t bad[2] = { 5, N_VOCAB };
    check_case("wrong calls are refused and change nothing");
    if (!open_engine(&e, latent_path, false, &err) || !open_session(&s, e, NULL, &err)) {
        engine_close(e);
        return;
    }
    check_usage(session_prefill(s, text, 0, NULL, NULL, &err), &err);
    check_usage(session_prefill(s, text, N_CTX + 1, NULL, NULL, &err), &err);
    check_usage(session_prefill(s, bad, 2, NULL, NULL, &err), &err);
    check_usage(session_decode(s, -1, &err), &err);
    check_usage(session_decode(s, N_VOCAB, &err), &err);
    check_usage(session_eval(s, text, N_CTX + 1, 0, take_rows, NULL, &err), &err);
    check_usage(session_eval(s, text, 8, 17, take_rows, NULL, &err), &err);
    CHECK_INT(session_n_past(s), 0);

    check_case("a full context");
    CHECK(session_prefill(s, text, N_CTX, NULL, NULL, &err));
    check_usage(session_decode(s, 1, &err), &err);
    CHECK_INT(session_n_past(s), N_CTX);

    check_case("a context beyond all bounds");
    struct session *large = NULL;
    struct session_options o = { .n_ctx = ((int64_t)1 << 24) + 1 };
    struct memory_report r;
    check_usage(session_open(&large, e, &o, &err), &err);

    check_case("the default context is the trained one, up to 32768");
    err = (struct error){ 0 };
    o.n_ctx = 0;
    if (CHECK_MSG(session_open(&large, e, &o, &err), "%s", err.text)) {
        CHECK_INT(session_n_ctx(large), 4096);
        session_memory(large, &r);
        CHECK_INT(r.cache_bytes, 3ull * 80 * 2 * 4096);
        CHECK(r.work_bytes > 0);
        CHECK_INT(r.mapped_bytes, engine_model(e)->weight_bytes);
    }
    session_close(large);
    session_close(s);
    engine_close(e);

    check_case("wrong options");
    struct engine_options eo = { .n_batch = -1 };
    check_usage(engine_open(&e, latent_path, &eo, &err), &err);
    eo = (struct engine_options){ .n_batch = 5000 };
    check_usage(engine_open(&e, latent_path, &eo, &err), &err);
    eo = (struct engine_options){ 0 };
    CHECK(!engine_open(&e, "no/such/file.gguf", &eo, &err));
    CHECK_INT(err.code, ERR_FILE);
    CHECK(e == NULL);
}

/* 60 layers x 128 floats x 2^24 positions are half a terabyte. */
static void test_pretend(void)
{
    struct engine *e;
    struct session *s;
    struct error err = { 0 };
    float wanted[N_VOCAB];
    if (!open_engine(&e, latent_path, true, &err))
        return;
    if (open_session(&s, e, NULL, &err)) {
        check_case("a context that was read in part");
        CHECK_MSG(session_pretend(s, text, 80, 8, NULL, NULL, &err), "%s", err.text);
        CHECK_INT(session_n_past(s), 80);
        CHECK(!memcmp(session_tokens(s), text, 80 * sizeof *text));
        CHECK_MSG(session_decode(s, text[80], &err), "%s", err.text);
        memcpy(wanted, session_logits(s), sizeof wanted);
        CHECK_MSG(session_pretend(s, text, 80, 8, NULL, NULL, &err), "%s", err.text);
        CHECK_MSG(session_decode(s, text[80], &err), "%s", err.text);
        CHECK(!memcmp(wanted, session_logits(s), sizeof wanted)); /* the same every time */

        check_case("what was read is real");
        session_truncate(s, 8);
        CHECK_MSG(session_decode(s, text[8], &err), "%s", err.text);
        check_same(s, e, text, 9);
        CHECK_MSG(session_pretend(s, text, 5, 8, NULL, NULL, &err), "%s", err.text);
        CHECK_MSG(session_decode(s, text[5], &err), "%s", err.text);
        check_same(s, e, text, 6);
        check_usage(session_pretend(s, text, N_CTX + 1, 8, NULL, NULL, &err), &err);
        check_usage(session_pretend(s, text, 0, 8, NULL, NULL, &err), &err);
    }
    session_close(s);
    engine_close(e);
}

static void test_does_not_fit(void)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    char path[256];
    check_case("a context that does not fit: needs, memory, and the largest that would");
    if (memory_available() > (uint64_t)400 << 30) {
        check_skip("this machine would have the memory");
        return;
    }
    tiny_path(path, "deep");
    if (tiny_write(path, "--arch qwen3 --layers 60") && open_engine(&e, path, true, &err)) {
        struct session_options o = { .n_ctx = (int64_t)1 << 24 };
        CHECK(!session_open(&s, e, &o, &err));
        CHECK_INT(err.code, ERR_FIT);
        const char *at = strstr(err.text, "the largest context that fits is ");
        int64_t largest = at ? strtoll(strrchr(err.text, ' '), NULL, 10) : 0;
        CHECK_MSG(largest > 0 && largest < o.n_ctx, "%s", err.text);
    }
    session_close(s);
    engine_close(e);
    unlink(path);
}

static void test_batch(void)
{
    check_case("tokens per step follow the number of experts, and can be chosen");
    CHECK_INT(engine_wanted_batch(0, 0), 512);
    CHECK_INT(engine_wanted_batch(8, 2), 512);
    CHECK_INT(engine_wanted_batch(64, 6), 1024);  /* V2-Lite */
    CHECK_INT(engine_wanted_batch(160, 6), 2048); /* V2 */
    CHECK_INT(engine_wanted_batch(384, 8), 2048); /* no more, however many */
    struct engine *e = NULL;
    struct error err = { 0 };
    struct engine_options eo = { .n_threads = 1 };
    if (CHECK(engine_open(&e, latent_path, &eo, &err))) {
        const struct params *p = &engine_model(e)->params;
        CHECK_INT(engine_batch(e), engine_wanted_batch(p->n_routed, p->top_k));
    }
    engine_close(e);
    eo.n_batch = 100;
    e = NULL;
    if (CHECK(engine_open(&e, latent_path, &eo, &err)))
        CHECK_INT(engine_batch(e), 100);
    engine_close(e);
}

/* ---- failures below ---- */

static void test_not_finite(void)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    char path[256], command[600];
    check_case("logits that are no numbers are refused, the timeline stays");
    tiny_path(path, "damaged");
    snprintf(command, sizeof command, "cp %s %s", latent_path, path);
    CHECK_INT(system(command), 0);
    struct gguf g;
    if (CHECK(gguf_open(&g, path, &err))) { /* the embedding of token 7 becomes NaN */
        const struct tensor *t = gguf_tensor(&g, "token_embd.weight");
        uint32_t nan_bits = 0x7fc00000, before;
        CHECK(tiny_patch(path, (long)(t->file_offset + 7 * t->ne[0] * 4), &nan_bits, &before, 4));
        gguf_close(&g);
    }
    if (open_engine(&e, path, false, &err) && open_session(&s, e, NULL, &err)) {
        CHECK(session_decode(s, 3, &err));
        CHECK(!session_decode(s, 7, &err));
        CHECK_INT(err.code, ERR_CHECK);
        CHECK_MSG(strstr(err.text, "position 1 are not finite"), "%s", err.text);
        CHECK_INT(session_n_past(s), 1);
        err = (struct error){ 0 };
        CHECK_MSG(session_decode(s, 5, &err), "%s", err.text);
    }
    session_close(s);
    engine_close(e);
    unlink(path);
}

static void test_shrinking(void)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    char path[256], command[600];
    check_case("a file that shrinks under a session: an error, no crash, the timeline stays");
    tiny_path(path, "shrinking");
    snprintf(command, sizeof command, "cp %s %s", latent_path, path);
    CHECK_INT(system(command), 0);
    if (open_engine(&e, path, false, &err) && open_session(&s, e, NULL, &err)) {
        CHECK(session_prefill(s, text, 20, NULL, NULL, &err));
        CHECK_INT(truncate(path, 100000), 0);
        CHECK(!session_decode(s, text[20], &err));
        CHECK_INT(err.code, ERR_RUN);
        CHECK_MSG(strstr(err.text, "model file changed or unreadable at offset"), "%s", err.text);
        CHECK_INT(session_n_past(s), 20);
    }
    session_close(s);
    engine_close(e);
    unlink(path);
}

/* ---- memory ---- */

static void test_no_allocation(void)
{
    for (int act_f32 = 0; act_f32 <= 1; act_f32++) {
        struct engine *e = NULL;
        struct session *s = NULL;
        struct error err = { 0 };
        check_case("decode and prefill allocate nothing%s", act_f32 ? ", F32" : "");
        if (open_engine(&e, latent_path, act_f32, &err) && open_session(&s, e, NULL, &err)) {
            uint64_t before = mem_allocations();
            CHECK(session_prefill(s, text, 40, NULL, NULL, &err));
            for (int i = 40; i < 60; i++)
                CHECK(session_decode(s, text[i], &err));
            CHECK_INT(mem_allocations() - before, 0);
        }
        session_close(s);
        engine_close(e);
    }
}

/* Every allocation from opening to the first token fails once. */
static void test_failing_allocations(void)
{
    check_case("failed allocations are reported and leak nothing");
    bool done = false;
    uint64_t n = 0;
    for (; !done && n < 1000; n++) {
        struct engine *e = NULL;
        struct session *s = NULL;
        struct error err = { 0 };
        struct engine_options eo = { .n_threads = 2, .n_batch = 8 };
        struct session_options so = { .n_ctx = 32 };
        mem_fail_after(n);
        done = engine_open(&e, latent_path, &eo, &err) && session_open(&s, e, &so, &err) &&
               session_prefill(s, text, 20, NULL, NULL, &err);
        mem_fail_never();
        if (!done)
            CHECK_MSG(err.code == ERR_FIT, "allocation %llu: code %d, %s", (unsigned long long)n,
                      (int)err.code, err.text);
        session_close(s);
        engine_close(e);
    }
    CHECK(done && n > 8);
}

#define DEMO "models/demo.gguf"
#define DEMO_VOCAB 2048

/* Logits behind every text[i] modulo the demo's vocabulary: a prompt of 40, then one by one. */
static bool demo_logits(enum load_mode load, float *out, int *n_woven)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    struct engine_options eo = { .n_threads = 2, .load = load };
    struct session_options so = { .n_ctx = N_CTX };
    bool ok = CHECK_MSG(engine_open(&e, DEMO, &eo, &err) && session_open(&s, e, &so, &err) &&
                            session_prefill(s, text, 40, NULL, NULL, &err), "%s", err.text);
    for (int i = 40; ok && i < N_CTX; i++, out += DEMO_VOCAB) {
        ok = CHECK_MSG(session_decode(s, text[i], &err), "%s", err.text);
        if (ok)
            memcpy(out, session_logits(s), DEMO_VOCAB * sizeof *out);
    }
    for (int i = 0; ok && i < engine_model(e)->n_tensors; i++)
        *n_woven += engine_model(e)->tensors[i].weight->woven;
    session_close(s);
    engine_close(e);
    return ok;
}

static void test_woven(void)
{
    static float mapped[(N_CTX - 40) * DEMO_VOCAB], copied[(N_CTX - 40) * DEMO_VOCAB];
    bool types[N_TENSOR_TYPES];
    int n_mapped = 0, n_copied = 0;
    check_case("copied weights, woven, give the bits of mapped ones");
    device_cpu_woven(&(struct device_cpu_options){ .isa = cpu_isa() }, types);
    if (!demo_logits(LOAD_MMAP, mapped, &n_mapped) || !demo_logits(LOAD_COPY, copied, &n_copied))
        return;
    CHECK_INT(n_mapped, 0);
    CHECK_INT(n_copied >= 20, types[TYPE_Q8_0] && types[TYPE_Q4_K]);
    CHECK(memcmp(mapped, copied, sizeof mapped) == 0);
}

int main(void)
{
    if (session_rig_open()) {
        test_prefix(latent_path);
        test_prefix(grouped_path);
        test_eval();
        test_limits();
        test_pretend();
        test_does_not_fit();
        test_batch();
        test_not_finite();
        test_shrinking();
        test_no_allocation();
        test_woven();
        test_failing_allocations();
    }
    session_rig_close();
    return check_finish();
}
