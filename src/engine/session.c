/* One timeline: tokens, their cache, and the logits behind the last of them. */
#include <assert.h>
#include <inttypes.h>
#include <math.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/draft.h"
#include "src/engine/internal.h"
#include "src/model/checkpoint.h"
#include "src/model/kvcache.h"

struct session {
    struct engine *engine;
    struct workspace *workspace;
    struct kvcache cache;
    struct checkpoints points; /* where the cache can go back to */
    int64_t n_ctx, n_past;
    int64_t n_cached; /* positions that the cache holds: n_past, less only after a change of device */
    int32_t *tokens;  /* [n_ctx] */
    float *logits;    /* [n_vocab], and as much again for each guess when drafting */
    int row;          /* which of them is of the last token */
    struct draft draft;
    /* Computed behind the token of row 0, not part of the timeline before they are chosen: guesses
     * row .. n_guesses - 1 are still open; n_guesses 0: none are. */
    int32_t guesses[DRAFT_MOST];
    int n_guesses;
    int n_batch;
    enum mla_form mla_form;
    const atomic_int *cancel;
    struct session_times times;
};

/* Hand on an error that was caught to see what it is. */
static bool fail_again(struct error *err, const struct error *why)
{
    if (err && err->code == ERR_NONE)
        *err = *why;
    return false;
}

/* ---- open and close ---- */

/* A workspace and an empty cache on the engine's device. */
static bool join_device(struct session *s, struct error *err)
{
    struct engine *e = s->engine;
    struct kvcache cache;
    struct checkpoints points;
    struct workspace *w = workspace_join(e, s->n_ctx, err);
    if (!w)
        return false;
    if (w->pair)
        hybrid_pair_expect_cache(w->pair, e->wishes.cache_type, s->n_ctx);
    if (!kvcache_open(&cache, e->model.arch, &e->model.params, e->wishes.cache_type, s->n_ctx,
                      w->device, err)) {
        workspace_leave(e, w);
        return false;
    }
    if (!checkpoints_open(&points, e->model.arch, &cache, err)) {
        kvcache_close(&cache, w->device);
        workspace_leave(e, w);
        return false;
    }
    s->workspace = w;
    s->cache = cache;
    s->points = points;
    s->n_cached = 0;
    return true;
}

static void leave_device(struct session *s)
{
    if (!s->workspace)
        return;
    checkpoints_close(&s->points);
    kvcache_close(&s->cache, s->workspace->device);
    workspace_leave(s->engine, s->workspace);
    s->workspace = NULL;
}

static bool try_open(struct session **out, struct engine *e, const struct session_options *o,
                     struct error *err)
{
    int64_t n_ctx = 0;
    if (!engine_place_session(e, o->n_ctx, &n_ctx, err))
        return false;
    struct session *s = mem_alloc(1, sizeof *s, "session", err);
    if (!s)
        return false;
    s->engine = e;
    s->n_ctx = n_ctx;
    s->n_batch = (int)min_of((int64_t)e->n_batch, n_ctx);
    s->mla_form = o->mla_form;
    s->cancel = o->cancel;
    s->tokens = mem_alloc((size_t)n_ctx, sizeof *s->tokens, "tokens", err);
    if (!s->tokens || !join_device(s, err) ||
        !draft_open(&s->draft, o, e, s->workspace, n_ctx, s->n_batch, err) ||
        !(s->logits = mem_alloc((size_t)e->model.params.n_vocab * (s->draft.use ? 1 + DRAFT_MOST : 1),
                                sizeof *s->logits, "logits", err))) {
        session_close(s);
        return false;
    }
    memset(s->tokens, 0, (size_t)n_ctx * sizeof *s->tokens); /* take its pages, see engine.h */
    *out = s;
    return true;
}

bool session_open(struct session **out, struct engine *e, const struct session_options *o,
                  struct error *err)
{
    struct error why = { 0 };
    *out = NULL;
    if (try_open(out, e, o, &why))
        return true;
    /* The first session of all: then the GPU cannot serve this model. */
    bool unfit = why.code == ERR_DEVICE || (why.code == ERR_FIT && !e->last);
    if (unfit && engine_leave_gpu(e, &why))
        return try_open(out, e, o, err);
    if (unfit && e->hybrid)
        return fail(err, why.code, "%s; a shorter context (-c) needs less, -ngl 0 runs on the CPU",
                    why.text);
    return fail_again(err, &why);
}

void session_close(struct session *s)
{
    if (!s)
        return;
    if (s->n_past > 0 && s->engine->hybrid)
        hybrid_tell_memory(s->engine->hybrid);
    draft_close(&s->draft);
    leave_device(s);
    mem_free(s->tokens);
    mem_free(s->logits);
    mem_free(s);
}

int64_t session_n_ctx(const struct session *s)
{
    return s->n_ctx;
}

int64_t session_n_past(const struct session *s)
{
    return s->n_past;
}

const int32_t *session_tokens(const struct session *s)
{
    return s->tokens;
}

float *session_logits(struct session *s)
{
    return s->logits + (size_t)s->row * (size_t)s->engine->model.params.n_vocab;
}

const struct engine *session_engine(const struct session *s)
{
    return s->engine;
}

/* No more of them will be taken; wrong: because something else was chosen. */
static void drop_guesses(struct session *s, bool wrong)
{
    if (s->n_guesses == 0)
        return;
    draft_note_judged(&s->draft, s->row, wrong);
    draft_truncate(&s->draft, s->n_past);
    s->n_guesses = 0;
}

/* The cache has seen n_seen positions: keep n of them, or as many as its kind allows. What is missing
 * then is computed again by the next step (catch_up). */
static void rewind_cache(struct session *s, int64_t n_seen, int64_t n)
{
    const struct model *m = &s->engine->model;
    s->n_cached = checkpoints_rewind(&s->points, m->arch, &m->params, &s->cache,
                                     s->workspace->device, n_seen, n);
}

void session_truncate(struct session *s, int64_t n)
{
    drop_guesses(s, false);
    s->n_past = max_of((int64_t)0, min_of(n, s->n_past));
    rewind_cache(s, s->n_cached, min_of(s->n_cached, s->n_past));
    draft_truncate(&s->draft, s->n_past);
}

void session_draft_report(const struct session *s, struct draft_report *r)
{
    draft_note(&s->draft, r);
    for (int i = 0; s->n_guesses > 0 && i < s->row; i++) { /* of the step that is still open */
        r->accepted[i]++;
        r->n_accepted++;
    }
}

/* Of the block that drafts, what is read where it is mapped. */
static uint64_t block_bytes(const struct session *s)
{
    const struct engine *e = s->engine;
    return !s->draft.use ? 0
         : e->hybrid     ? e->placement.bytes[PART_DRAFT][HOME_MAPPED]
                         : e->model.mtp_bytes;
}

void session_memory(const struct session *s, struct memory_report *r)
{
    const struct model *m = &s->engine->model;
    const struct hybrid *h = s->engine->hybrid;
    *r = (struct memory_report){
        .gpu_bytes = h ? hybrid_weight_bytes(h) : 0,
        .expert_bytes = h ? hybrid_expert_bytes(h) : 0,
        .mapped_bytes = (m->copy ? 0 : m->weight_bytes) + block_bytes(s),
        .copied_bytes = m->copy_bytes + m->arena.total_bytes,
        .cache_bytes = s->cache.bytes + s->draft.cache.bytes,
        .work_bytes = s->workspace->bytes + session_list_bytes(m, s->n_ctx) + s->draft.bytes,
    };
}

const struct session_times *session_times(const struct session *s)
{
    return &s->times;
}

/* ---- one step ---- */

static bool is_cancelled(const struct session *s, struct error *err)
{
    if (!s->cancel || !atomic_load_explicit(s->cancel, memory_order_relaxed))
        return false;
    fail(err, ERR_INTERRUPTED, "interrupted");
    return true;
}

static bool check_finite(const float *rows, int n_rows, int64_t n_vocab, int64_t first,
                         struct error *err)
{
    for (int r = 0; r < n_rows; r++) {
        const float *row = rows + (size_t)r * (size_t)n_vocab;
        float sum = 0; /* x - x is 0 for finite x and NaN else */
        for (int64_t i = 0; i < n_vocab; i++)
            sum += row[i] - row[i];
        if (!(sum == 0))
            return fail(err, ERR_CHECK, "logits of position %" PRId64 " are not finite: the model "
                        "file is damaged, or its numbers exceed this computation", first + r);
    }
    return true;
}

/* Some fine-tunes add a bias to the logits; the seam has no operation for it. */
static void add_output_bias(const struct model *m, float *rows, int n_rows)
{
    const float *bias = m->output_bias.data;
    int64_t n_vocab = m->params.n_vocab;
    for (int r = 0; bias && r < n_rows; r++) {
        for (int64_t i = 0; i < n_vocab; i++)
            rows[(size_t)r * (size_t)n_vocab + (size_t)i] += bias[i];
    }
}

/* If the device would like to: go through forward once more, so that later steps like this one can do
 * without. */
static void record_step(struct session *s, const struct step *step)
{
    const struct model *m = &s->engine->model;
    struct device *d = s->workspace->device;
    struct error why = { 0 };
    if (!d->ops->record || !d->ops->record(d))
        return;
    bool ok = m->arch->forward(m, d, step, &s->workspace->work, NULL);
    if (!d->ops->recorded(d, ok, &why))
        log_detail("steps are queued one by one: %s", why.text);
}

/* Compute n tokens (at most n_batch) behind those in the cache, with the logits of the last n_rows of
 * them. On failure the cache holds what it did before, or less where it cannot go back. */
static bool compute(struct session *s, const int32_t *tokens, int n, float *rows, int n_rows,
                    struct error *err)
{
    const struct model *m = &s->engine->model;
    struct device *d = s->workspace->device;
    struct step step = {
        .tokens = tokens, .n_tokens = n, .n_past = s->n_cached,
        .n_logits = n_rows, .logits = rows,
        .cache = &s->cache, .mla_form = s->mla_form, .cancel = s->cancel,
    };

    struct activations *work = &s->workspace->work;
    bool decodes = n_rows == n && n <= 1 + DRAFT_MOST;
    work->states = draft_room(&s->draft, s->n_cached, n);
    work->clock = decodes ? &s->times.decode : &s->times.prefill;
    step.repeats = draft_repeats(&s->draft, n);
    phase_start(work->clock);
    d->ops->begin(d, &step);
    bool ok = (d->ops->replay && d->ops->replay(d)) || m->arch->forward(m, d, &step, work, err);
    ok = d->ops->end(d, err) && ok;
    phase_done(work->clock, PHASE_REST);
    work->clock = NULL;
    s->times.n_steps += decodes;
    s->times.n_read += decodes ? 0 : n;
    /* forward may have queued everything before somebody asked to stop */
    ok = engine_check_files(s->engine, err) && ok && !is_cancelled(s, err);
    if (ok) {
        add_output_bias(m, rows, n_rows);
        ok = check_finite(rows, n_rows, m->params.n_vocab, s->n_cached + n - n_rows, err);
    }
    if (!ok) {
        rewind_cache(s, s->n_cached + n, s->n_cached);
        return false;
    }
    record_step(s, &step);
    s->n_cached += n;
    draft_took(&s->draft, n);
    if (n >= CHECKPOINT_TOKENS)
        checkpoints_take(&s->points, &s->cache, d, s->n_cached);
    return true;
}

/* After another session of this engine, or this one, has lost the GPU: a place on the CPU. Should
 * that fail, the session stays as it is and the next call tries again. */
static bool follow_engine(struct session *s, struct error *err)
{
    int64_t n_ctx;
    if (!s->workspace->pair || s->engine->hybrid)
        return true;
    struct session before = *s;
    if (!engine_place_session(s->engine, s->n_ctx, &n_ctx, err) || !join_device(s, err))
        return false;
    draft_follow(&s->draft, s->engine, s->workspace, s->n_ctx);
    leave_device(&before);
    return true;
}

/* Compute what the timeline holds and the cache does not, then n tokens behind it. */
static bool catch_up(struct session *s, const int32_t *tokens, int n, float *rows, int n_rows,
                     struct error *err)
{
    if (!follow_engine(s, err))
        return false;
    while (s->n_cached < s->n_past) {
        int batch = (int)min_of((int64_t)s->n_batch, s->n_past - s->n_cached);
        if (is_cancelled(s, err) || !compute(s, s->tokens + s->n_cached, batch, NULL, 0, err))
            return false;
    }
    return compute(s, tokens, n, rows, n_rows, err);
}

/* Append n tokens (at most n_batch), with the logits of the last n_rows of them. On failure the
 * timeline is as before. */
static bool run_step(struct session *s, const int32_t *tokens, int n, float *rows, int n_rows,
                     struct error *err)
{
    struct error why = { 0 };
    if (!catch_up(s, tokens, n, rows, n_rows, &why)) {
        if (why.code != ERR_DEVICE || !engine_leave_gpu(s->engine, &why))
            return fail_again(err, &why);
        if (!catch_up(s, tokens, n, rows, n_rows, err))
            return false;
    }
    memmove(s->tokens + s->n_past, tokens, (size_t)n * sizeof *tokens);
    s->n_past += n;
    s->row = 0;
    return true;
}

static bool check_tokens(const struct session *s, const int32_t *tokens, int64_t n,
                         struct error *err)
{
    int64_t n_vocab = s->engine->model.params.n_vocab;
    for (int64_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= n_vocab)
            return fail(err, ERR_USAGE, "token %d at position %" PRId64 ": the vocabulary has %"
                        PRId64, tokens[i], i, n_vocab);
    }
    return true;
}

/* ---- prefill, decode, eval ---- */

/* Pairs of what is there already. A device that fails here fails again in the next step, which goes on
 * on another one. */
static bool read_ahead(struct session *s, struct error *err)
{
    struct error why = { 0 };
    return !s->draft.use || !draft_reads(&s->draft) ||
           draft_read(&s->draft, s->tokens, s->n_past - 1, s->cancel, &why) ||
           why.code == ERR_DEVICE || fail_again(err, &why);
}

bool session_prefill(struct session *s, const int32_t *tokens, int64_t n,
                     prefill_progress *progress, void *ctx, struct error *err)
{
    if (n < 1 || n > s->n_ctx)
        return fail(err, ERR_USAGE, "%" PRId64 " tokens for a context of %" PRId64, n, s->n_ctx);
    if (!check_tokens(s, tokens, n, err))
        return false;
    int64_t kept = 0;
    while (kept < s->n_past && kept < n - 1 && s->tokens[kept] == tokens[kept])
        kept++;
    session_truncate(s, kept);
    while (s->n_past < n) {
        int batch = (int)min_of((int64_t)s->n_batch, n - s->n_past);
        bool last = s->n_past + batch == n;
        if (is_cancelled(s, err) ||
            !run_step(s, tokens + s->n_past, batch, last ? s->logits : NULL, last, err) ||
            !read_ahead(s, err))
            return false;
        if (progress && !progress(ctx, s->n_past, n) && s->n_past < n)
            return fail(err, ERR_INTERRUPTED, "interrupted");
    }
    return true;
}

bool session_pretend(struct session *s, const int32_t *tokens, int64_t n, int64_t n_real,
                     prefill_progress *progress, void *ctx, struct error *err)
{
    drop_guesses(s, false);
    n_real = min_of(n, n_real);
    bool there = s->n_past >= n_real && s->n_cached >= n_real &&
                 memcmp(s->tokens, tokens, (size_t)n_real * sizeof *tokens) == 0;
    if (n < 1 || n > s->n_ctx)
        return fail(err, ERR_USAGE, "%" PRId64 " tokens for a context of %" PRId64, n, s->n_ctx);
    if (!check_tokens(s, tokens, n, err) ||
        (!there && !session_prefill(s, tokens, n_real, progress, ctx, err)) ||
        !kvcache_repeat(&s->cache, s->workspace->device, n_real, n, err))
        return false;
    memcpy(s->tokens, tokens, (size_t)n * sizeof *tokens);
    s->n_past = s->n_cached = n;
    return true;
}

static bool decode_plain(struct session *s, int32_t token, struct error *err)
{
    double start = now_s();
    if (!run_step(s, &token, 1, s->logits, 1, err))
        return false;
    draft_note_step(&s->draft, 0, now_s() - start);
    return true;
}

/* Append a token with n guesses of its successors behind it, all in one step. */
static bool decode_with_guesses(struct session *s, int32_t token, int n, struct error *err)
{
    struct draft *d = &s->draft;
    struct error why = { 0 };
    int32_t tokens[1 + DRAFT_MOST] = { token };
    s->tokens[s->n_past] = token;
    double begin = now_s();
    bool ok = draft_catch_up(d, s->tokens, s->n_past, s->cancel, &why);
    double start = now_s();
    ok = ok && draft_guess(d, s->tokens, s->n_past, &tokens[1], &n, s->cancel, &why);
    s->times.draft_s += now_s() - begin;
    if (ok && n == 0)
        draft_note_idle(d, now_s() - start);
    if (why.code == ERR_DEVICE || (ok && n == 0)) /* an error that the step will meet too, and deal with */
        return decode_plain(s, token, err);
    if (!ok)
        fail_again(err, &why);
    if (!ok || !run_step(s, tokens, 1 + n, s->logits, 1 + n, err)) {
        draft_truncate(d, s->n_past);
        return false;
    }
    s->n_past -= n;
    rewind_cache(s, s->n_cached, s->n_cached - n); /* which forgets nothing yet */
    assert(s->n_cached == s->n_past);
    memcpy(s->guesses, &tokens[1], (size_t)n * sizeof *tokens);
    s->n_guesses = n;
    draft_note_step(d, n, now_s() - start);
    return true;
}

/* Is this token computed already? */
static bool take_guess(struct session *s, int32_t token)
{
    if (s->n_guesses == 0)
        return false;
    if (s->guesses[s->row] != token) {
        drop_guesses(s, true);
        return false;
    }
    s->n_past++;
    s->n_cached++;
    if (++s->row == s->n_guesses)
        drop_guesses(s, false);
    return true;
}

bool session_decode(struct session *s, int32_t token, struct error *err)
{
    if (s->n_past >= s->n_ctx)
        return fail(err, ERR_USAGE, "the context of %" PRId64 " tokens is full", s->n_ctx);
    if (!check_tokens(s, &token, 1, err) || is_cancelled(s, err))
        return false;
    if (take_guess(s, token))
        return true;
    if (!follow_engine(s, err))
        return false;
    int n = draft_length(&s->draft, s->n_past, s->n_ctx - s->n_past - 1);
    return n > 0 ? decode_with_guesses(s, token, n, err) : decode_plain(s, token, err);
}

bool session_eval(struct session *s, const int32_t *tokens, int64_t n, int n_batch,
                  logits_sink *sink, void *ctx, struct error *err)
{
    int64_t n_vocab = s->engine->model.params.n_vocab;
    if (n < 0 || n > s->n_ctx - s->n_past)
        return fail(err, ERR_USAGE, "%" PRId64 " tokens behind %" PRId64 " for a context of %"
                    PRId64, n, s->n_past, s->n_ctx);
    if (n_batch < 0 || n_batch > s->engine->n_batch)
        return fail(err, ERR_USAGE, "batch of %d tokens, expected 1 to %d", n_batch,
                    s->engine->n_batch);
    if (!check_tokens(s, tokens, n, err))
        return false;
    drop_guesses(s, false);
    int most = n_batch && n_batch < s->n_batch ? n_batch : s->n_batch;
    most = (int)min_of((int64_t)most, n);
    float *rows = mem_alloc_aligned((size_t)most, (size_t)n_vocab * sizeof *rows,
                                    "logits of a batch", err);
    bool ok = rows;
    for (int64_t done = 0; ok && done < n;) {
        int batch = (int)min_of((int64_t)most, n - done);
        int64_t first = s->n_past;
        ok = !is_cancelled(s, err) && run_step(s, tokens + done, batch, rows, batch, err);
        if (!ok)
            break;
        memcpy(s->logits, rows + (size_t)(batch - 1) * (size_t)n_vocab,
               (size_t)n_vocab * sizeof *rows);
        if (!sink(ctx, first, batch, rows, err))
            ok = fail(err, ERR_INTERRUPTED, "interrupted");
        done += batch;
    }
    mem_free(rows);
    return ok;
}

/* ---- for files ---- */

bool session_cache_settle(struct session *s, struct session_cache *c, struct error *err)
{
    if (!follow_engine(s, err))
        return false;
    bool whole = s->n_past > 0 && s->n_cached == s->n_past;
    if (whole && s->draft.use && !draft_read(&s->draft, s->tokens, s->n_past - 1, NULL, err))
        return false;
    *c = (struct session_cache){
        .device = s->workspace->device, .cache = &s->cache,
        .draft = s->draft.use ? &s->draft : NULL, .n_cached = s->n_cached,
        .arch = s->engine->model.arch, .params = &s->engine->model.params,
        .any_position = !s->engine->model.arch->cache_rewind,
        .tokens = s->tokens, .n_ctx = s->n_ctx,
    };
    return true;
}

void session_cache_adopt(struct session *s, int64_t n, int64_t newest)
{
    s->cache.newest = newest;
    s->n_past = s->n_cached = n;
}
