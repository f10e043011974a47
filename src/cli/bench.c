/* tandem bench: which tests, running them, and the limits of the machine they are held against. */
#include "src/cli/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "cpu/features.h"
#include "src/base/mem.h"
#include "src/base/pages.h"
#include "src/base/pool.h"
#include "src/cli/command.h"
#include "src/cli/heat.h"
#include "src/cli/load.h"
#include "src/cli/paths.h"
#include "src/cli/rates.h"
#include "src/cli/record.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/cli/trace.h"
#include "src/engine/card.h"

#define MAX_ROWS 512
#define WARM_PROMPT 64
#define WARM_STEPS 2
#define SWEEP_STEPS 8          /* spans between depths */
#define SWEEP_DEPTH 4096       /* where nothing else is asked for */
#define SWEEP_GENERATE 16
#define REAL_TOKENS 512        /* read before rows are repeated */

/* ---- running a test ---- */

bool row_repeats(const struct bench *b, int64_t depth)
{
    return b->o->fill == FILL_REPEAT && depth > REAL_TOKENS;
}

/* Ids that no cache of n-grams could guess: a fixed linear congruential sequence. */
static void fill_tokens(int32_t *ids, int64_t n, int64_t n_vocab)
{
    uint64_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((state >> 33) % (uint64_t)n_vocab);
    }
}

/* A running test: what it works with, and how far it is. */
struct run {
    struct bench *b;
    const struct engine *engine;
    struct session *session;
    const int32_t *ids;
    struct progress progress;
    int64_t done, total; /* tokens of all repetitions, the filled context included */
};

static bool on_prefill(void *ctx, int64_t done, int64_t total)
{
    struct run *run = ctx;
    (void)total;
    progress_update(&run->progress, (double)(run->done + done), (double)run->total);
    return !signals_cancelled();
}

/* Bring the cache to `depth` tokens; what an earlier test left of the same ids is used. */
static bool fill_context(struct run *run, int64_t depth, struct error *err)
{
    if (row_repeats(run->b, depth))
        return session_pretend(run->session, run->ids, depth, REAL_TOKENS, on_prefill, run, err);
    if (session_n_past(run->session) >= depth) {
        session_truncate(run->session, depth);
        return true;
    }
    return session_prefill(run->session, run->ids, depth, on_prefill, run, err);
}

static bool run_once(struct run *run, const struct bench_row *r, double *seconds,
                     struct error *err)
{
    /* Generation starts behind one token at least: its logits are what is read first. */
    int64_t before = r->n_generate ? max_of(r->depth, 1) : r->depth;
    if (!fill_context(run, before, err))
        return false;
    double start = now_s();
    bool ok = r->n_generate || session_prefill(run->session, run->ids, before + r->n_prompt,
                                               on_prefill, run, err);
    for (int64_t i = 0; ok && i < r->n_generate; i++) {
        ok = session_decode(run->session, run->ids[before + i], err);
        progress_update(&run->progress, (double)(run->done + i), (double)run->total);
    }
    *seconds = now_s() - start;
    return ok;
}

/* Faults and switches of all threads so far. */
static void read_counters(int64_t *page_faults, int64_t *switches)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    *page_faults = u.ru_minflt + u.ru_majflt;
    *switches = u.ru_nivcsw;
}

/* What the GPU did with routed experts between two reports. */
static void add_experts(struct expert_report *sum, const struct expert_report *from,
                        const struct expert_report *to)
{
    sum->n_slots = to->n_slots;
    sum->n_picks += to->n_picks - from->n_picks;
    sum->n_hits += to->n_hits - from->n_hits;
    sum->n_moves += to->n_moves - from->n_moves;
    sum->moved_bytes += to->moved_bytes - from->moved_bytes;
    sum->n_sent += to->n_sent - from->n_sent;
    sum->sent_bytes += to->sent_bytes - from->sent_bytes;
    sum->n_sent_picks += to->n_sent_picks - from->n_sent_picks;
}

static bool repeat(struct run *run, struct bench_row *r, struct error *err)
{
    struct bench *b = run->b;
    int64_t n = r->n_prompt + r->n_generate, faults[2], switches[2];
    double seconds, joules = energy_read(&b->energy);
    struct expert_report experts[2];
    engine_expert_report(run->engine, &experts[0]);
    read_counters(&faults[0], &switches[0]);
    if (!run_once(run, r, &seconds, err))
        return false;
    read_counters(&faults[1], &switches[1]);
    r->tok_s[r->n++] = (double)n / max_of(seconds, 1e-9);
    r->joules += energy_readable(&b->energy) ? energy_read(&b->energy) - joules : NAN;
    r->gpu_busy += energy_gpu_busy(&b->energy);
    engine_expert_report(run->engine, &experts[1]);
    add_experts(&r->experts, &experts[0], &experts[1]);
    r->page_faults += faults[1] - faults[0];
    r->switches += switches[1] - switches[0];
    run->done += n;
    return true;
}

/* A short run to warm up, then the repetitions. What was measured before Ctrl-C stays in the row. */
static bool run_row(struct run *run, struct bench_row *r, int64_t repetitions, struct error *err)
{
    struct bench_row warm = *r;
    int64_t before = max_of(r->depth, r->n_generate ? 1 : 0);
    double seconds;
    char name[64];
    warm.n_prompt = min_of(r->n_prompt, WARM_PROMPT);
    warm.n_generate = min_of(r->n_generate, WARM_STEPS);
    run->done = 0;
    run->total = before + (r->n_prompt + r->n_generate) * repetitions;
    progress_begin(&run->progress, row_name(run->b, r, name, sizeof name), "tok");
    bool ok = run_once(run, &warm, &seconds, err);
    run->done = before;
    for (int64_t i = 0; ok && i < repetitions; i++) {
        ok = fill_context(run, before, err) && repeat(run, r, err);
        if (ok)
            r->logits_hash = logits_hash(session_logits(run->session),
                                         run->b->model->params.n_vocab);
    }
    progress_end(&run->progress);
    return ok;
}

/* ---- which tests ---- */

static void add_row(struct bench *b, int64_t n_prompt, int64_t n_generate, int64_t depth,
                    int threads, int batch)
{
    if (b->max_rows == MAX_ROWS || n_prompt + n_generate == 0)
        return;
    struct bench_row *r = &b->rows[b->max_rows++];
    char name[64], behind[24] = "";
    *r = (struct bench_row){ .n_prompt = n_prompt, .n_generate = n_generate, .depth = depth,
                             .threads = threads, .batch = batch };
    if (depth)
        snprintf(behind, sizeof behind, " @ %lld", (long long)depth);
    snprintf(r->test, sizeof r->test, "%s%lld%s", n_prompt ? "pp" : "tg",
             (long long)(n_prompt + n_generate), behind);
    row_name(b, r, name, sizeof name);
    b->name_width = max_of(b->name_width, (int)strlen(name));
}

/* What was asked for, or the one default. */
static struct size_list list_or(const struct size_list *list, int64_t fallback)
{
    return list->n ? *list : (struct size_list){ { fallback }, 1 };
}

/* By depth, at each all prompts, then all generations. */
static void add_table(struct bench *b, const struct options *o, int threads, int batch)
{
    struct size_list prompts = list_or(&o->n_prompt, 512), depths = list_or(&o->depth, 0);
    struct size_list generations = list_or(&o->n_generate, 128);
    for (int d = 0; d < depths.n; d++) {
        for (int i = 0; i < prompts.n; i++)
            add_row(b, prompts.items[i], 0, depths.items[d], threads, batch);
        for (int i = 0; i < generations.n; i++)
            add_row(b, 0, generations.items[i], depths.items[d], threads, batch);
    }
}

/* Generation at equal distances, and reading from each to the next, which fills the context. */
static void add_sweep(struct bench *b, const struct options *o, int threads, int batch)
{
    int64_t depth = 0, trained = b->model->params.context_length;
    for (int i = 0; i < o->depth.n; i++)
        depth = max_of(depth, o->depth.items[i]);
    if (depth == 0)
        depth = min_of(trained, (int64_t)SWEEP_DEPTH);
    int64_t span = max_of(depth / SWEEP_STEPS, 1);
    int64_t n_generate = o->n_generate.n ? o->n_generate.items[0] : SWEEP_GENERATE;
    for (int64_t at = 0; at <= depth; at += span) {
        add_row(b, 0, n_generate, at, threads, batch);
        if (at + span <= depth)
            add_row(b, span, 0, at, threads, batch);
    }
}

/* What the tests need, or the larger context that -c asks for. */
static int64_t context_needed(const struct bench *b)
{
    int64_t n = 1, asked = b->o->ctx_size;
    if (asked != UNSET)
        n = asked ? asked : b->model->params.context_length;
    for (int i = 0; i < b->max_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        n = max_of(n, max_of(r->depth, 1) + r->n_prompt + r->n_generate);
    }
    return n;
}

/* ---- the command ---- */

static void on_probe(void *ctx, double done)
{
    progress_update(ctx, 100 * done, 100);
}

static bool measure_limits(struct bench *b, int threads, struct error *err)
{
    char path[PATH_SIZE];
    bool kept = b->o->limits == LIMITS_KEPT;
    if (kept && path_machine(path, sizeof path))
        return machine_get(&b->machine, path, threads, b->isa, signals_cancel_flag(), err);
    struct progress progress;
    struct machine_options mo = { .detail = kept ? MACHINE_QUICK : MACHINE_LIMITS,
                                  .isa = b->isa, .isa_given = true, .n_threads = threads,
                                  .cancel = signals_cancel_flag(), .progress = on_probe,
                                  .progress_ctx = &progress };
    progress_begin(&progress, "measuring the machine", "%");
    bool ok = machine_probe(&b->machine, &mo, err);
    progress_end(&progress);
    return ok;
}

/* The card's rates, before a model takes its memory. None that can be used: no figures, no failure. */
static bool measure_card(struct machine *m, const struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    struct gpu_info info;
    struct error why = { 0 };
    bool kept = o->limits == LIMITS_KEPT && path_machine(path, sizeof path);
    if (o->gpu == GPU_NEVER || !card_code_installed())
        return true;
    if (kept && !machine_load(m, path, &why))
        *m = (struct machine){ 0 };
    error_clear(&why);
    if (!machine_add_card(m, &info, NULL, (int)o->gpu_index, signals_cancel_flag(), &why) &&
        why.code == ERR_INTERRUPTED) {
        *err = why;
        return false;
    }
    return true;
}

/* Of the card that the engine uses. */
static bool copy_card(struct bench *b, const struct machine *card)
{
    struct machine *m = &b->machine;
    if (b->gpu && strcmp(card->gpu, b->gpu->name) == 0) {
        memcpy(m->gpu, card->gpu, sizeof m->gpu);
        m->vram_gb_s = card->vram_gb_s;
        m->gpu_tops = card->gpu_tops;
        m->h2d_gb_s = card->h2d_gb_s;
        m->d2h_gb_s = card->d2h_gb_s;
        m->hand_off_us = card->hand_off_us;
    }
    return true;
}

static void watch_card(struct bench *b, const struct gpu_info *gpu)
{
    b->gpu = gpu;
    if (gpu)
        energy_add_gpu(&b->energy, getenv("TANDEM_NVML"), gpu->pci);
}

/* A row above its limit, of weights that no cache holds: other programs held the probe up, it tries
 * again. The larger figures count. */
static bool doubt_limits(struct bench *b, struct bench_row *r, struct error *err)
{
    bool cached = (double)b->model->weight_bytes < 1e9 * b->machine.l3_gb;
    struct machine before = b->machine;
    if (!(row_of_limit(r) > 1) || cached || b->gpu || b->o->limits == LIMITS_KEPT || b->n_doubts >= 3)
        return true;
    b->n_doubts++;
    if (!measure_limits(b, before.n_threads, err))
        return false;
    b->machine.dram_gb_s = max_of(b->machine.dram_gb_s, before.dram_gb_s);
    b->machine.int8_gops = max_of(b->machine.int8_gops, before.int8_gops);
    for (int i = 0; i <= b->n_rows; i++)
        row_limit(b, &b->rows[i]);
    return true;
}

/* Where the weights lie and what pages they got. */
static void inspect_memory(struct bench *b)
{
    const struct model *m = b->model;
    struct pages pages;
    b->is_copy = m->copy != NULL;
    b->n_parts = max_of(m->n_parts, 1);
    const void *at = m->copy ? m->copy : m->n_tensors ? m->tensors[0].tensor->data : NULL;
    b->huge_share = pages_of(at, m->copy ? m->copy_bytes : 1, &pages)
                        ? (double)pages.huge_bytes / (double)pages.resident_bytes
                        : NAN;
}

/* All rows with these threads and this batch size. */
static bool run_setting(struct bench *b, struct loaded *m, const int32_t *ids, int64_t n_ctx,
                        int64_t repetitions, int threads, int batch, struct error *err)
{
    struct session_options so = { .n_ctx = n_ctx, .cancel = signals_cancel_flag() };
    struct run run = { .b = b, .engine = m->engine, .ids = ids };
    if (!engine_retune(m->engine, threads, batch, err) ||
        !session_open(&run.session, m->engine, &so, err))
        return false;
    bool ok = true;
    for (; ok && b->n_rows < b->max_rows; b->n_rows++) {
        struct bench_row *r = &b->rows[b->n_rows];
        if (r->threads != threads || r->batch != batch)
            break;
        ok = run_row(&run, r, repetitions, err);
        if (!ok && r->n == 0)
            break;
        row_limit(b, r);
        ok = ok && doubt_limits(b, r, err);
        ok = report_row(b, r, err) && ok;
        record_line("%s: %.1f tok/s, threads %d, batch %d, context %lld", r->test, row_median(r),
                    threads, batch, (long long)n_ctx);
    }
    session_close(run.session);
    return ok;
}

/* While generating, by the last row that did; 0: not measured. */
static double decode_watts(const struct bench *b)
{
    for (int i = b->n_rows - 1; i >= 0; i--) {
        const struct bench_row *r = &b->rows[i];
        double seconds = 0;
        for (int k = 0; k < r->n; k++)
            seconds += (double)r->n_generate / r->tok_s[k];
        if (r->n_generate && seconds > 0 && isfinite(r->joules))
            return r->joules / seconds;
    }
    return 0;
}

static bool run_all(struct bench *b, struct loaded *m, int64_t repetitions, struct error *err)
{
    int64_t n_ctx = context_needed(b);
    int32_t *ids = mem_alloc((size_t)n_ctx, sizeof *ids, "tokens", err);
    double *tok_s = mem_alloc((size_t)(b->max_rows * repetitions), sizeof *tok_s, "rates", err);
    bool ok = ids && tok_s;
    if (ok)
        fill_tokens(ids, n_ctx, b->model->params.n_vocab);
    for (int i = 0; ok && i < b->max_rows; i++)
        b->rows[i].tok_s = tok_s + i * repetitions;
    while (ok && b->n_rows < b->max_rows) {
        const struct bench_row *next = &b->rows[b->n_rows];
        ok = run_setting(b, m, ids, n_ctx, repetitions, next->threads, next->batch, err);
    }
    /* Also what was measured before Ctrl-C. */
    struct error late = { 0 };
    if (b->n_rows && !report_tail(b, ok ? err : &late))
        ok = false;
    const struct options *o = b->o;
    ok = ok && (!o->compare || compare_rows(b, o->compare, o->max_loss, err));
    rates_keep_watts(&b->energy, b->gpu != NULL, decode_watts(b));
    mem_free(ids);
    mem_free(tok_s);
    return ok;
}

static void list_rows(struct bench *b, const struct options *o, const struct loaded *m)
{
    struct size_list threads = list_or(&o->thread_list, 0), batches = list_or(&o->batch_list, 0);
    b->named_threads = threads.n > 1;
    b->named_batch = batches.n > 1;
    for (int t = 0; t < threads.n; t++) {
        for (int i = 0; i < batches.n; i++) {
            int n = threads.items[t] ? (int)threads.items[t] : engine_threads(m->engine);
            int batch = batches.items[i] ? (int)batches.items[i] : engine_batch(m->engine);
            (o->sweep ? add_sweep : add_table)(b, o, n, batch);
        }
    }
}

static int most_threads(const struct bench *b)
{
    int n = cpu_usable_cores();
    for (int i = 0; i < b->max_rows; i++)
        n = max_of(n, b->rows[i].threads);
    return n;
}

static bool bench_model(struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    struct loaded m = { 0 };
    struct bench b = { .o = o };
    struct machine card = { 0 };
    o->threads = list_or(&o->thread_list, 0).items[0];
    o->batch = list_or(&o->batch_list, 0).items[0];
    int64_t repetitions = o->repetitions != UNSET ? o->repetitions : o->sweep ? 1 : 3;
    b.rows = mem_alloc(MAX_ROWS, sizeof *b.rows, "tests", err);
    bool ok = b.rows && heat_check(o, err) && resolve_model(o, false, path, sizeof path, err) &&
              measure_card(&card, o, err) && loaded_open(&m, o, path, WANT_ENGINE, 0, err);
    if (ok) {
        b.model = m.model;
        b.isa = engine_isa(m.engine);
        snprintf(b.description, sizeof b.description, "%s", m.description);
        token_cost(m.model, o->act_f32 ? TYPE_F32 : TYPE_F16, &b.cost);
        energy_open(&b.energy, "");
        b.placement = engine_placement(m.engine);
        watch_card(&b, engine_gpu(m.engine));
        handoff_line(m.engine, b.handoff, sizeof b.handoff);
        inspect_memory(&b);
        list_rows(&b, o, &m);
        ok = (b.max_rows < MAX_ROWS ||
              fail(err, ERR_USAGE, "more than %d tests are asked for", MAX_ROWS - 1)) &&
             (b.max_rows || fail(err, ERR_USAGE, "no tests: -p and -n are 0")) &&
             measure_limits(&b, most_threads(&b), err) && copy_card(&b, &card) && report_head(&b, err) &&
             run_all(&b, &m, repetitions, err);
    }
    ok = heat_keep(m.engine, o, ok, err);
    energy_close(&b.energy);
    mem_free(b.rows);
    loaded_close(&m);
    return ok;
}

bool cmd_bench(struct options *o, struct error *err)
{
    if (o->json)
        o->format = TABLE_JSON;
    o->sweep = o->sweep || o->svg;
    bool wants_json = o->format == TABLE_JSON || o->format == TABLE_JSONL || o->compare;
    if (wants_json && !js_available(err))
        return false;
    return o->probe       ? bench_probe(o, err)
           : o->probe_gpu ? bench_probe_gpu(o, err)
                          : bench_model(o, err);
}
