/* Drafting with V4, whose block reads four streams and whose cache has rings that a rejected guess has
 * written to: the block against formulas in double precision, then answers with and without it; the
 * same answers of V3 and V3.2 in miniature. */
#include "cpu/device_cpu.h"
#include "cpu/features.h"
#include "src/base/util.h"
#include "src/engine/internal.h"
#include "src/format/gguf_write.h"
#include "src/model/kvcache.h"
#include "tests/draft_model.h"
#include "tests/ref_v4.h"

#define N_VOCAB 320
#define N_LAYERS 6
#define TOLERANCE 5e-4 /* F32 against double; the logits' deviation is 3 */

/* ---- the block by itself ---- */

enum { N_TOKENS = 40, BATCH = 7, PAIRS = 5 };

struct bench {
    struct model m;
    struct pool *pool;
    struct device *d;
    struct activations work;
    struct kvcache cache, own;
    float *states, *pairs;
};

static bool bench_open(struct bench *b, const char *path, const char *block, struct error *err)
{
    struct load_options lo = { .mode = LOAD_MMAP, .act_f32 = true, .n_parts = 1 };
    if (!model_open(&b->m, path, NUMERICS_OFFICIAL, err) ||
        (block && !model_add_block(&b->m, block, err)) || !model_load(&b->m, &lo, err) ||
        !pool_open(&b->pool, 2, err))
        return false;
    struct params one = b->m.params;
    one.n_layers = 1;
    one.compress_ratio[0] = 0;
    struct device_cpu_options o = device_needs(&b->m, true, BATCH, N_TOKENS);
    o.pool = b->pool;
    o.isa = cpu_isa();
    return device_cpu_open(&b->d, &o, err) &&
           activations_open(&b->work, b->m.arch, &b->m.params, BATCH, b->d, err) &&
           kvcache_open(&b->cache, b->m.arch, &b->m.params, TYPE_F32, N_TOKENS, b->d, err) &&
           kvcache_open(&b->own, b->m.arch, &one, TYPE_F32, N_TOKENS, b->d, err) &&
           (b->states = b->d->ops->alloc(b->d, N_TOKENS * (size_t)params_state_width(&one) *
                                         sizeof(float), "states", err)) &&
           (b->pairs = b->d->ops->alloc(b->d, BATCH * (size_t)params_pair_width(&one) *
                                        sizeof(float), "pairs", err));
}

static void bench_close(struct bench *b)
{
    if (b->d) {
        b->d->ops->release(b->d, b->states);
        b->d->ops->release(b->d, b->pairs);
        kvcache_close(&b->cache, b->d);
        kvcache_close(&b->own, b->d);
        activations_close(&b->work, b->d);
        b->d->ops->close(b->d);
    }
    pool_close(b->pool);
    model_close(&b->m);
}

/* Streams of all tokens, then logits of all pairs: row i of `found` is of token i + 2. */
static bool bench_run(struct bench *b, const int32_t *tokens, float *found, struct error *err)
{
    int64_t width = params_state_width(&b->m.params), pair = params_pair_width(&b->m.params);
    bool ok = true;
    memset(b->pairs, 255, BATCH * (size_t)pair * sizeof(float)); /* NaN: room and no more */
    for (int at = 0, n; ok && at < N_TOKENS; at += n) {
        n = min_of(BATCH, N_TOKENS - at);
        struct step s = { .tokens = tokens + at, .n_tokens = n, .n_past = at, .cache = &b->cache };
        b->work.states = (struct rows){ b->states + at * width, width, width };
        b->d->ops->begin(b->d, &s);
        ok = b->m.arch->forward(&b->m, b->d, &s, &b->work, err);
        ok = b->d->ops->end(b->d, err) && ok;
    }
    b->work.states = (struct rows){ 0 };
    for (int at = 0, n; ok && at < N_TOKENS - 1; at += n) {
        n = min_of(PAIRS, N_TOKENS - 1 - at);
        struct step s = { .tokens = tokens + at + 1, .n_tokens = n, .n_past = at, .cache = &b->own,
                          .n_logits = n, .logits = found + at * N_VOCAB };
        struct rows states = { b->states + at * width, width, width };
        struct rows pairs = { b->pairs, pair, pair };
        b->d->ops->begin(b->d, &s);
        ok = b->m.arch->draft(&b->m, b->d, &s, states, pairs, &b->work, err);
        ok = b->d->ops->end(b->d, err) && ok;
    }
    return ok;
}

static void test_block(const char *options)
{
    static struct ref_v4 ref;
    static float found[N_TOKENS][N_VOCAB];
    struct bench b = { 0 };
    struct error err = { 0 };
    int32_t tokens[N_TOKENS];
    char path[256];
    check_case("%s: the block's logits against double precision", options);
    tiny_path(path, "draft_v4");
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (i * 37 + i * i % 11) % N_VOCAB;
    if (tiny_write(path, options) &&
        CHECK_MSG(bench_open(&b, path, NULL, &err) && bench_run(&b, tokens, found[0], &err), "%s",
                  err.text) &&
        CHECK(b.m.params.n_mtp == 1) && CHECK(ref_open(&ref.r, path, false))) {
        double worst = 0, unlike = 0, logits[N_VOCAB], main_logits[N_VOCAB];
        for (int t = 0; t + 1 < N_TOKENS; t++) {
            ref_v4_token(&ref, tokens[t], main_logits);
            ref_v4_draft(&ref, tokens[t + 1], logits);
            for (int i = 0; i < N_VOCAB; i++) {
                double d = fabs(logits[i] - (double)found[t][i]);
                if (!(d <= worst))
                    worst = d;
                unlike = fmax(unlike, fabs(logits[i] - main_logits[i]));
            }
        }
        CHECK_MSG(worst <= TOLERANCE, "largest difference %.3g, allowed %.3g", worst, TOLERANCE);
        CHECK(unlike > 1); /* the reference does not agree with anything */
        ref_v4_close(&ref);
        memset(&ref, 0, sizeof ref);
    }
    bench_close(&b);
    unlink(path);
}

/* ---- a block in a file of its own ---- */

/* "blk.6.x" and the like as such a file calls it; false: it is not in there. */
static bool name_alone(char *out, size_t size, const char *name, bool published)
{
    static const char block[] = "blk.6.";
    static const struct { const char *within, *alone, *published; } others[] = {
        { "nextn.hc_head_fn.weight", "output_hc_fn.weight", "mtp.0.hc_head_fn.weight" },
        { "nextn.hc_head_base.weight", "output_hc_base.weight", "mtp.0.hc_head_base.weight" },
        { "nextn.hc_head_scale.weight", "output_hc_scale.weight", "mtp.0.hc_head_scale.weight" },
    };
    bool end = strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output.weight") == 0 ||
               strcmp(name, "output_norm.weight") == 0;
    snprintf(out, size, "%s", name);
    if (strncmp(name, block, sizeof block - 1))
        return end;
    const char *rest = name + sizeof block - 1;
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (strcmp(rest, others[i].within) == 0) {
            snprintf(out, size, "%s", published ? others[i].published : others[i].alone);
            return true;
        }
    if (published)
        snprintf(out, size, "mtp.0.%s", strncmp(rest, "nextn.", 6) ? rest : rest + 6);
    return true;
}

/* What a converter makes of the block in `whole`. `arch`: what it says to be. */
static bool write_block(const char *path, const char *whole, bool published, const char *arch,
                        struct error *err)
{
    struct gguf g = { 0 };
    struct gguf_writer w = { 0 };
    char name[80];
    bool ok = gguf_open(&g, whole, err) && gguf_writer_copy_all_kv(&w, &g, err) &&
              gguf_writer_add_str(&w, "general.architecture", arch, err);
    for (uint64_t i = 0; ok && i < g.n_tensors; i++)
        if (name_alone(name, sizeof name, g.tensors[i].name, published))
            ok = gguf_writer_add_tensor(&w, name, g.tensors[i].type, (int)g.tensors[i].n_dims,
                                        g.tensors[i].ne, err);
    ok = ok && gguf_writer_begin(&w, path, err);
    for (uint64_t i = 0; ok && i < g.n_tensors; i++)
        if (name_alone(name, sizeof name, g.tensors[i].name, published))
            ok = gguf_writer_data(&w, g.tensors[i].data, (size_t)g.tensors[i].bytes, err);
    ok = ok && gguf_writer_finish(&w, err);
    gguf_writer_release(&w);
    gguf_close(&g);
    return CHECK_MSG(ok, "%s", err->text);
}

static void refuse_block(const char *model, const char *block, const char *word)
{
    struct model m = { 0 };
    struct error err = { 0 };
    if (CHECK_MSG(model_open(&m, model, NUMERICS_OFFICIAL, &err), "%s", err.text)) {
        int n_mtp = m.params.n_mtp, n_tensors = m.n_tensors;
        CHECK(!model_add_block(&m, block, &err));
        CHECK_MSG(strstr(err.text, word), "says %s", err.text);
        CHECK(m.params.n_mtp == n_mtp && m.n_tensors == n_tensors);
    }
    model_close(&m);
}

/* The same bits from a model with its block inside, and beside it under either sort of names. */
static void test_alone(void)
{
    static float inside[N_TOKENS][N_VOCAB], found[N_TOKENS][N_VOCAB];
    char whole[256], model[256], block[256], other[256];
    struct error err = { 0 };
    int32_t tokens[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (i * 37 + i * i % 11) % N_VOCAB;
    tiny_path(whole, "draft_v4_whole");
    tiny_path(model, "draft_v4_model");
    tiny_path(block, "draft_v4_block");
    tiny_path(other, "draft_v4_other");
    for (int published = 0; published <= 1; published++) {
        struct bench a = { 0 }, b = { 0 };
        check_case("the block in a file of its own, names of %s", published ? "the checkpoint"
                                                                            : "converters");
        if (!tiny_write(whole, published ? "--like tiny-v4 --generation b-mtp-halves"
                                         : "--like tiny-v4 --generation b-mtp") ||
            !tiny_write(model, "--like tiny-v4") ||
            !write_block(block, whole, published, "deepseek4", &err))
            break;
        if (CHECK_MSG(bench_open(&a, whole, NULL, &err) && bench_run(&a, tokens, inside[0], &err) &&
                      bench_open(&b, model, block, &err) && bench_run(&b, tokens, found[0], &err),
                      "%s", err.text)) {
            CHECK(memcmp(inside, found, sizeof found) == 0);
            CHECK_INT(b.m.mtp_bytes, a.m.mtp_bytes + 64 * sizeof(float)); /* the norm before the head */
        }
        bench_close(&a);
        bench_close(&b);
    }
    check_case("files that are no block of this model");
    refuse_block(whole, block, "has a block");
    refuse_block(model, model, "expected 1 of 7");
    if (write_block(other, whole, false, "deepseek2", &err))
        refuse_block(model, other, "the model's is deepseek4");
    if (tiny_write(other, "--like tiny-v4 --layers 5") &&
        write_block(block, whole, false, "deepseek4", &err))
        refuse_block(other, block, "expected 1 of 6");
    check_case("a block alone is no model");
    struct model m = { 0 };
    CHECK(!model_open(&m, block, NUMERICS_OFFICIAL, &err));
    CHECK_MSG(strstr(err.text, "--draft-model"), "says %s", err.text);
    model_close(&m);
    unlink(whole);
    unlink(model);
    unlink(block);
    unlink(other);
}

/* ---- answers ---- */

enum { N_CTX = 320, MOST = 110 };

static struct engine *engine;

static struct session *open_session(enum draft_use use)
{
    struct error err = { 0 };
    struct session *s = NULL;
    struct session_options o = { .n_ctx = N_CTX, .draft = use };
    CHECK_MSG(session_open(&s, engine, &o, &err), "%s", err.text);
    return s;
}

static int32_t best_of(const float *logits)
{
    int32_t best = 0;
    for (int32_t i = 1; i < N_VOCAB; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* Both sessions go on greedily by n tokens, every seventh something else: how many differ in a bit. */
static int go_on(struct session *plain, struct session *drafting, int n)
{
    struct error err = { 0 };
    int differ = 0;
    for (int i = 0; i < n; i++) {
        const float *logits = session_logits(plain);
        int32_t id = best_of(logits);
        differ += memcmp(logits, session_logits(drafting), N_VOCAB * sizeof *logits) != 0;
        if (i % 7 == 6)
            id = (id + 11) % N_VOCAB;
        if (!CHECK_MSG(session_decode(plain, id, &err) && session_decode(drafting, id, &err), "%s",
                       err.text))
            break;
    }
    return differ;
}

static void prefill(struct session *s, const int32_t *ids, int64_t n)
{
    struct error err = { 0 };
    CHECK_MSG(session_prefill(s, ids, n, NULL, NULL, &err), "%s", err.text);
}

/* Long enough that blocks of 4 and of 128 end behind guesses that were right and that were wrong; then
 * back by less than the rings forgive, by more, and to the beginning. */
static void test_answers(const char *model, enum draft_use use)
{
    struct session *plain = open_session(DRAFT_OFF), *drafting = open_session(use);
    int32_t ids[90];
    for (int i = 0; i < 90; i++)
        ids[i] = (i * 29 + 5) % N_VOCAB;
    for (int i = 0; plain && drafting && i < 3; i++) {
        int64_t n = 90 - 40 * i;
        check_case("%s: answer %d is the same with %d guesses, to the bit", model, i, use);
        prefill(plain, ids, n);
        prefill(drafting, ids, n);
        CHECK_INT(go_on(plain, drafting, MOST), 0);
        static const int back[] = { 1, 3, 6, 7, 8, 60 };
        for (size_t k = 0; k < ARRAY_LEN(back); k++) {
            int64_t to = session_n_past(plain) - back[k];
            session_truncate(plain, to);
            session_truncate(drafting, to);
            CHECK_INT(session_n_past(drafting), to);
            int32_t again = session_tokens(plain)[to - 1];
            session_truncate(plain, to - 1);
            session_truncate(drafting, to - 1);
            CHECK(session_decode(plain, again, NULL) && session_decode(drafting, again, NULL));
            CHECK_INT(go_on(plain, drafting, 9), 0);
        }
        ids[0]++;
    }
    struct draft_report r = { 0 };
    if (drafting)
        session_draft_report(drafting, &r);
    CHECK_MSG(r.n_accepted > 30 && r.n_guesses - r.n_accepted > 30, "%lld of %lld guesses accepted",
              (long long)r.n_accepted, (long long)r.n_guesses);
    session_close(plain);
    session_close(drafting);
}

int main(void)
{
    struct error err = { 0 };
    struct engine_options o = { .n_threads = 2 };
    char path[256];
    test_block("--like tiny-v4 --generation b-mtp");
    test_block("--like tiny-v4 --generation b-mtp-halves");
    test_block("--like tiny-v4 --generation b-mtp-own");
    test_alone();
    tiny_path(path, "draft_v4");
    static const struct {
        const char *name, *options;
        int n_layers;
    } models[] = { { "V4", "--like tiny-v4", N_LAYERS }, { "V3.2", "--arch deepseek32", 3 },
                   { "V3", "--arch deepseek2", 3 } };
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        check_case("%s: a model whose guesses are often right", models[i].name);
        if (draft_model_write(path, models[i].options, models[i].n_layers) &&
            CHECK_MSG(engine_open(&engine, path, &o, &err), "%s", err.text))
            for (enum draft_use use = DRAFT_ONE; use <= DRAFT_MOST; use++)
                test_answers(models[i].name, use);
        engine_close(engine);
        engine = NULL;
        unlink(path);
    }
    return check_finish();
}
