#include "tools/canary.h"

#include <math.h>
#include <string.h>

#include "src/engine/engine.h"
#include "src/engine/observe.h"
#include "src/model/arch.h"

#define KEY_TOKENS "tandem.canary.tokens"
#define KEY_IDS "tandem.canary.top_ids"
#define KEY_LOGITS "tandem.canary.top_logits"
#define N_TOP (CANARY_POSITIONS * CANARY_TOP)

/* ---- running the model ---- */

/* Who hears the logits. */
struct listener {
    const struct canary *kept; /* to be compared with; NULL: make one */
    struct canary *made;
    int64_t n_vocab;
    double worst;
};

/* Spread over the vocabulary (Knuth's multiplicative hashing). */
static void choose_tokens(int64_t n_vocab, int32_t tokens[CANARY_POSITIONS])
{
    for (uint64_t i = 0; i < CANARY_POSITIONS; i++)
        tokens[i] = (int32_t)((i + 1) * 2654435761u % (uint64_t)n_vocab);
}

/* The weights of the layers behind us are not needed again. */
static void let_go(void *ctx)
{
    struct engine *const *e = ctx;
    gguf_forget(&engine_model(*e)->gguf);
}

static bool check_tokens(const struct canary *c, int64_t n_vocab, struct error *err)
{
    for (int i = 0; i < CANARY_POSITIONS; i++)
        if (c->tokens[i] < 0 || c->tokens[i] >= n_vocab)
            return fail(err, ERR_FILE, KEY_TOKENS ": token %d of a vocabulary of %lld",
                        c->tokens[i], (long long)n_vocab);
    for (int i = 0; i < N_TOP; i++)
        if (c->ids[i] < 0 || c->ids[i] >= n_vocab)
            return fail(err, ERR_FILE, KEY_IDS ": token %d of a vocabulary of %lld", c->ids[i],
                        (long long)n_vocab);
    return true;
}

/* The logits of all positions to the sink. */
static bool run(struct listener *l, logits_sink *sink, const char *path, bool unfinished,
                int n_threads, const atomic_int *cancel, struct error *err)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct observer observer = { .pause = let_go, .ctx = &e };
    struct placement_wishes wishes = placement_wishes_default();
    wishes.force = true; /* each weight is read once: from the disk will do */
    struct engine_options o = {
        .n_threads = n_threads, .isa = engine_common_isa(), .isa_given = true, .act_f32 = true,
        .n_batch = CANARY_POSITIONS, .load = LOAD_MMAP, .lazy = true, .unfinished = unfinished,
        .n_ctx = CANARY_POSITIONS, .observer = &observer, .wishes = &wishes,
    };
    struct session_options so = { .n_ctx = CANARY_POSITIONS, .cancel = cancel };
    bool ok = engine_open(&e, path, &o, err) && session_open(&s, e, &so, err);
    if (ok) {
        l->n_vocab = engine_model(e)->params.n_vocab;
        if (l->made)
            choose_tokens(l->n_vocab, l->made->tokens);
        const struct canary *c = l->kept ? l->kept : l->made;
        ok = (!l->kept || check_tokens(c, l->n_vocab, err)) &&
             session_eval(s, c->tokens, CANARY_POSITIONS, CANARY_POSITIONS, sink, l, err);
    }
    session_close(s);
    engine_close(e);
    return ok;
}

bool canary_possible(const char *path, int64_t *n_vocab, struct error *err)
{
    struct model m;
    if (!model_open(&m, path, (enum numerics)0, err))
        return false;
    *n_vocab = m.params.n_vocab;
    bool ok = canary_runs(m.arch, *n_vocab, err);
    model_close(&m);
    return ok;
}

bool canary_runs(const struct arch *arch, int64_t n_vocab, struct error *err)
{
    if (!arch->forward)
        return fail(err, ERR_FILE, "this version cannot run %s yet", arch->name);
    return n_vocab >= CANARY_TOP ||
           fail(err, ERR_FILE, "a vocabulary of %lld tokens", (long long)n_vocab);
}

/* ---- writing ---- */

bool canary_reserve(struct gguf_writer *w, int64_t n_vocab, struct error *err)
{
    struct canary c;
    choose_tokens(n_vocab, c.tokens);
    memset(c.ids, 0xff, sizeof c.ids);
    memset(c.logits, 0, sizeof c.logits);
    bool ok = gguf_writer_add_array(w, KEY_TOKENS, GGUF_I32, c.tokens, CANARY_POSITIONS, err) &&
              gguf_writer_add_array(w, KEY_IDS, GGUF_I32, c.ids, N_TOP, err) &&
              gguf_writer_add_array(w, KEY_LOGITS, GGUF_F32, c.logits, N_TOP, err);
    gguf_writer_later(w, KEY_IDS);
    gguf_writer_later(w, KEY_LOGITS);
    return ok;
}

void canary_remove(struct gguf_writer *w)
{
    gguf_writer_remove(w, KEY_TOKENS);
    gguf_writer_remove(w, KEY_IDS);
    gguf_writer_remove(w, KEY_LOGITS);
}

/* The likeliest of each row; the lower id of equal ones. */
static bool keep_top(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct listener *l = ctx;
    for (int r = 0; r < n_rows; r++) {
        const float *row = rows + (size_t)r * (size_t)l->n_vocab;
        int32_t *ids = l->made->ids + (first + r) * CANARY_TOP;
        float *logits = l->made->logits + (first + r) * CANARY_TOP;
        int n = 0;
        for (int32_t v = 0; v < l->n_vocab; v++) {
            int at = n;
            if (!isfinite(row[v]))
                return fail(err, ERR_CHECK, "the logits are not finite");
            while (at > 0 && row[v] > logits[at - 1])
                at--;
            if (at == CANARY_TOP)
                continue;
            n = n < CANARY_TOP ? n + 1 : n;
            memmove(ids + at + 1, ids + at, (size_t)(n - 1 - at) * sizeof *ids);
            memmove(logits + at + 1, logits + at, (size_t)(n - 1 - at) * sizeof *logits);
            ids[at] = v;
            logits[at] = row[v];
        }
    }
    return true;
}

bool canary_fill(struct gguf_writer *w, int n_threads, const atomic_int *cancel, struct error *err)
{
    struct canary c;
    struct listener l = { .made = &c };
    return run(&l, keep_top, gguf_writer_path(w, 0), true, n_threads, cancel, err) &&
           gguf_writer_fill(w, KEY_IDS, GGUF_I32, c.ids, N_TOP, err) &&
           gguf_writer_fill(w, KEY_LOGITS, GGUF_F32, c.logits, N_TOP, err);
}

/* ---- checking ---- */

static const struct gguf_kv *numbers(const struct gguf *g, const char *key, enum gguf_kind kind,
                                     uint64_t count, struct error *err)
{
    const struct gguf_kv *kv = gguf_array(g, key, kind, err);
    if (kv && kv->count != count) {
        fail(err, ERR_FILE, "%s: %llu numbers, expected %llu", key, (unsigned long long)kv->count,
             (unsigned long long)count);
        return NULL;
    }
    return kv;
}

bool canary_read(const struct gguf *g, struct canary *c, bool *found, struct error *err)
{
    *found = false;
    if (!gguf_has(g, KEY_TOKENS) || !gguf_has(g, KEY_IDS) || !gguf_has(g, KEY_LOGITS))
        return true;
    const struct gguf_kv *tokens = numbers(g, KEY_TOKENS, GGUF_KIND_INT, CANARY_POSITIONS, err);
    const struct gguf_kv *ids = tokens ? numbers(g, KEY_IDS, GGUF_KIND_INT, N_TOP, err) : NULL;
    const struct gguf_kv *logits = ids ? numbers(g, KEY_LOGITS, GGUF_KIND_FLOAT, N_TOP, err) : NULL;
    if (!logits)
        return false;
    for (uint64_t i = 0; i < CANARY_POSITIONS; i++)
        c->tokens[i] = (int32_t)gguf_int_at(tokens, i);
    for (uint64_t i = 0; i < N_TOP; i++) {
        c->ids[i] = (int32_t)gguf_int_at(ids, i);
        c->logits[i] = (float)gguf_float_at(logits, i);
        if (!isfinite(c->logits[i]))
            return fail(err, ERR_FILE, KEY_LOGITS ": number %llu is not finite",
                        (unsigned long long)i);
    }
    *found = c->ids[0] >= 0;
    return true;
}

static bool compare(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct listener *l = ctx;
    for (int r = 0; r < n_rows; r++) {
        const float *row = rows + (size_t)r * (size_t)l->n_vocab;
        const int32_t *ids = l->kept->ids + (first + r) * CANARY_TOP;
        const float *logits = l->kept->logits + (first + r) * CANARY_TOP;
        double unit = 1;
        for (int i = 0; i < CANARY_TOP; i++)
            unit = fmax(unit, fabs((double)logits[i]));
        for (int i = 0; i < CANARY_TOP; i++) {
            double off = fabs((double)row[ids[i]] - (double)logits[i]) / unit;
            if (!(off <= l->worst)) /* NaN, too */
                l->worst = off;
            if (!(off <= CANARY_TOLERANCE))
                return fail(err, ERR_CHECK, "the canary has changed: behind token %lld the logit "
                            "of %d is %.6g, when the file was written it was %.6g",
                            (long long)(first + r + 1), ids[i], (double)row[ids[i]],
                            (double)logits[i]);
        }
    }
    return true;
}

bool canary_check(const char *path, const struct canary *c, int n_threads, const atomic_int *cancel,
                  double *worst, struct error *err)
{
    struct listener l = { .kept = c };
    bool ok = run(&l, compare, path, false, n_threads, cancel, err);
    *worst = l.worst;
    return ok;
}
