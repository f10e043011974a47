/* tandem bench: how fast a model is here, and how near that comes to what memory allows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cpu/features.h"
#include "src/base/mem.h"
#include "src/cli/command.h"
#include "src/cli/json.h"
#include "src/cli/load.h"
#include "src/cli/paths.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/cli/version.h"
#include "src/engine/machine.h"

#define MAX_REPETITIONS 1000

/* One row of the table: read n_prompt tokens, or generate n_generate, behind `depth` others. */
struct test {
    int64_t n_prompt, n_generate, depth;
    char name[48];
    double tok_s[MAX_REPETITIONS];
    int n;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const struct test *t)
{
    double sorted[MAX_REPETITIONS];
    memcpy(sorted, t->tok_s, (size_t)t->n * sizeof *sorted);
    qsort(sorted, (size_t)t->n, sizeof *sorted, by_value);
    return t->n % 2 ? sorted[t->n / 2] : (sorted[t->n / 2 - 1] + sorted[t->n / 2]) / 2;
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

static bool run_once(struct session *s, const struct test *t, const int32_t *ids, double *seconds,
                     struct error *err)
{
    /* Generation starts behind one token at least: its logits are what is read first. */
    int64_t before = t->n_generate ? max_of(t->depth, 1) : t->depth;
    session_truncate(s, 0);
    if (before && !session_prefill(s, ids, before, NULL, NULL, err))
        return false;
    double start = now_s();
    bool ok = t->n_generate || session_prefill(s, ids, before + t->n_prompt, NULL, NULL, err);
    for (int64_t i = 0; ok && i < t->n_generate; i++)
        ok = session_decode(s, ids[before + i], err);
    *seconds = now_s() - start;
    return ok;
}

static bool run_test(struct loaded *m, const struct options *o, struct test *t, const int32_t *ids,
                     struct error *err)
{
    struct test warm = *t;
    double seconds;
    struct progress progress;
    int64_t n = t->n_prompt + t->n_generate;
    warm.n_prompt = min_of(t->n_prompt, 64);
    warm.n_generate = min_of(t->n_generate, 2);
    progress_begin(&progress, t->name, "runs");
    bool ok = run_once(m->session, &warm, ids, &seconds, err);
    for (int64_t r = 0; ok && r < o->repetitions; r++) {
        ok = run_once(m->session, t, ids, &seconds, err);
        t->tok_s[t->n++] = (double)n / max_of(seconds, 1e-9);
        progress_update(&progress, (double)r + 1, (double)o->repetitions);
    }
    progress_end(&progress);
    return ok;
}

/* ---- output ---------------------------------------------------------------------------------- */

struct context {
    const struct options *o;
    struct loaded m;
    struct machine probe;
    struct json *json; /* array, or NULL */
    struct buf out;
};

/* FNV-1a over the last logits: two builds that compute alike print alike. */
static uint64_t logits_hash(const struct loaded *m)
{
    const unsigned char *bytes = (const unsigned char *)session_logits(m->session);
    size_t n = (size_t)m->model->params.n_vocab * sizeof(float);
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

static bool report(struct context *c, const struct test *t, struct error *err)
{
    double rate = median(t), low = t->tok_s[0], high = t->tok_s[0];
    double gb_s = t->n_generate ? rate * (double)c->m.model->bytes_per_token / 1e9 : NAN;
    double of_limit = c->probe.dram_gb_s > 0 ? gb_s / c->probe.dram_gb_s : NAN;
    char hash[24], gb_text[16] = "-", limit_text[16] = "-";
    for (int i = 1; i < t->n; i++) {
        low = min_of(low, t->tok_s[i]);
        high = max_of(high, t->tok_s[i]);
    }
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)logits_hash(&c->m));
    if (c->json) {
        struct json *j = js_object(), *list = js_array();
        for (int i = 0; i < t->n; i++)
            js_push(list, js_real(t->tok_s[i]));
        js_set(j, "test", js_text(str_of(t->name)));
        js_set(j, "n_prompt", js_int(t->n_prompt));
        js_set(j, "n_gen", js_int(t->n_generate));
        js_set(j, "n_depth", js_int(t->depth));
        js_set(j, "tok_s", list);
        js_set(j, "tok_s_median", js_real(rate));
        js_set(j, "dram_gb_s", js_real(gb_s));
        js_set(j, "of_limit", js_real(of_limit));
        js_set(j, "dram_read_gb_s", js_real(c->probe.dram_gb_s));
        js_set(j, "bytes_per_token", js_int((int64_t)c->m.model->bytes_per_token));
        js_set(j, "threads", js_int(engine_threads(c->m.engine)));
        js_set(j, "cpu_isa", js_text(str_of(cpu_isa_name(engine_isa(c->m.engine)))));
        js_set(j, "model", js_text(str_of(c->m.description)));
        js_set(j, "commit", js_text(str_of(version_commit())));
        js_set(j, "logits_hash", js_text(str_of(hash)));
        js_push(c->json, j);
        return true;
    }
    if (isfinite(gb_s))
        snprintf(gb_text, sizeof gb_text, "%.1f", gb_s);
    if (isfinite(of_limit))
        snprintf(limit_text, sizeof limit_text, "%.0f %%", 100 * of_limit);
    buf_clear(&c->out);
    buf_printf(&c->out, "| %-16s | %10.2f | %9.2f … %-9.2f | %9s | %8s |\n", t->name, rate, low,
               high, gb_text, limit_text);
    return buf_ok(&c->out, err) && out_write(c->out.data, c->out.len, err);
}

static bool print_heading(struct context *c, struct error *err)
{
    char bytes[32];
    buf_printf(&c->out, "%s; %d threads, %s; %s read per token; memory reads at %.1f GB/s here; "
               "tandem %s\n\n", c->m.description, engine_threads(c->m.engine),
               cpu_isa_name(engine_isa(c->m.engine)),
               human_bytes((double)c->m.model->bytes_per_token, bytes, sizeof bytes),
               c->probe.dram_gb_s, version_commit());
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (cache > 0 && c->m.model->weight_bytes < (uint64_t)cache)
        buf_puts(&c->out, "The weights fit into this CPU's cache: no measure of a model that does "
                          "not, and more than 100 % is possible.\n\n");
    buf_puts(&c->out,
             "| test             | tok/s      | slowest … fastest     | DRAM GB/s | of limit |\n"
             "|------------------|-----------:|----------------------:|----------:|---------:|\n");
    return buf_ok(&c->out, err) && out_write(c->out.data, c->out.len, err);
}

static bool run_tests(struct context *c, const int32_t *ids, struct error *err)
{
    static struct test t;
    const struct options *o = c->o;
    for (int d = 0; d < o->depth.n; d++) {
        for (int i = 0; i < o->n_prompt.n + o->n_generate.n; i++) {
            bool reading = i < o->n_prompt.n;
            int64_t n = reading ? o->n_prompt.items[i] : o->n_generate.items[i - o->n_prompt.n];
            if (n == 0)
                continue;
            memset(&t, 0, sizeof t);
            t.n_prompt = reading ? n : 0;
            t.n_generate = reading ? 0 : n;
            t.depth = o->depth.items[d];
            char behind[32] = "";
            if (t.depth)
                snprintf(behind, sizeof behind, " @ %lld", (long long)t.depth);
            snprintf(t.name, sizeof t.name, "%s%lld%s", reading ? "pp" : "tg", (long long)n, behind);
            if (!run_test(&c->m, o, &t, ids, err) || !report(c, &t, err))
                return false;
        }
    }
    return true;
}

static int64_t largest(const struct size_list *list)
{
    int64_t n = 0;
    for (int i = 0; i < list->n; i++)
        n = max_of(n, list->items[i]);
    return n;
}

static bool probe_limits(struct context *c, struct error *err)
{
    struct machine_options mo = { .detail = MACHINE_LIMITS, .isa = engine_isa(c->m.engine),
                                  .n_threads = engine_threads(c->m.engine),
                                  .cancel = signals_cancel_flag() };
    return machine_probe(&c->probe, &mo, err);
}

static bool bench_model(struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    struct context c = { .o = o };
    int64_t n = largest(&o->depth) + max_of(largest(&o->n_prompt), largest(&o->n_generate)) + 1;
    int32_t *ids = NULL;
    bool ok = resolve_model(o, false, path, sizeof path, err) &&
              loaded_open(&c.m, o, path, WANT_SESSION, max_of(n, o->ctx_size), err) &&
              probe_limits(&c, err) &&
              (ids = mem_alloc((size_t)n, sizeof *ids, "tokens", err)) != NULL;
    if (ok) {
        fill_tokens(ids, n, c.m.model->params.n_vocab);
        if (o->json)
            c.json = js_array();
        else
            ok = print_heading(&c, err);
    }
    ok = ok && run_tests(&c, ids, err);
    if (ok && c.json)
        ok = js_print(c.json, 1, err);
    else
        js_free(c.json);
    mem_free(ids);
    buf_release(&c.out);
    loaded_close(&c.m);
    return ok;
}

/* ---- --probe --------------------------------------------------------------------------------- */

static bool print_probe(const struct options *o, const struct machine *p, struct error *err)
{
    char size[32];
    struct buf out = { 0 };
    if (o->json) {
        struct json *j = js_object(), *curve = js_array();
        for (int i = 0; i < p->n_points; i++) {
            struct json *point = js_object();
            js_set(point, "threads", js_int(p->curve[i].threads));
            js_set(point, "gb_s", js_real(p->curve[i].gb_s));
            js_push(curve, point);
        }
        js_set(j, "dram_read_gb_s", js_real(p->dram_gb_s));
        js_set(j, "threads", js_int(p->best_threads));
        js_set(j, "threads_95", js_int(p->enough_threads));
        js_set(j, "loop", js_text(str_of(p->reader)));
        js_set(j, "region_bytes", js_real(1e9 * p->region_gb));
        js_set(j, "curve", curve);
        return js_print(j, 1, err);
    }
    buf_puts(&out, "| threads | memory read GB/s |\n|--------:|-----------------:|\n");
    for (int i = 0; i < p->n_points; i++)
        buf_printf(&out, "| %7d | %16.1f |\n", p->curve[i].threads, p->curve[i].gb_s);
    buf_printf(&out, "\nbest %.1f GB/s with %d thread%s (%s over %s); 95 %% of it with %d\n",
               p->dram_gb_s, p->best_threads, p->best_threads == 1 ? "" : "s", p->reader,
               human_bytes(1e9 * p->region_gb, size, sizeof size), p->enough_threads);
    bool ok = buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

bool cmd_bench(struct options *o, struct error *err)
{
    struct machine probe;
    struct machine_options mo = { .detail = MACHINE_FULL, .n_threads = (int)o->threads,
                                  .cancel = signals_cancel_flag() };
    o->json = o->json || o->format == TABLE_JSON;
    if (o->json && !js_available(err))
        return false;
    if (!o->probe)
        return bench_model(o, err);
    return machine_probe(&probe, &mo, err) && print_probe(o, &probe, err);
}
