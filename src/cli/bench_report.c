/* The figures of tandem bench as a table, as rows for programs, and as a card. */
#include <math.h>
#include <stdio.h>

#include "cpu/features.h"
#include "gpu/gpu.h"
#include "src/cli/bench.h"
#include "src/cli/term.h"
#include "src/cli/version.h"

#define LEAST_NAME 14 /* columns */

const char *row_name(const struct bench *b, const struct bench_row *r, char *text, size_t size)
{
    char threads[16] = "", batch[16] = "";
    if (b->named_threads)
        snprintf(threads, sizeof threads, " -t %d", r->threads);
    if (b->named_batch)
        snprintf(batch, sizeof batch, " -b %d", r->batch);
    snprintf(text, size, "%s%s%s", r->test, threads, batch);
    return text;
}

/* ---- rows for programs: csv, json, jsonl ----------------------------------------------------- */

/* One named figure. The names are a contract with scripts: add, never rename. */
struct value {
    const char *name;
    enum { REAL, WHOLE, WORD } kind;
    double real;
    int64_t whole;
    const char *word;
};

#define MAX_VALUES 48
struct values {
    struct value items[MAX_VALUES];
    int n;
    char hash[24], doubt[256];
};

static void put_real(struct values *v, const char *name, double x)
{
    v->items[v->n++] = (struct value){ .name = name, .kind = REAL, .real = x };
}

static void put_whole(struct values *v, const char *name, int64_t x)
{
    v->items[v->n++] = (struct value){ .name = name, .kind = WHOLE, .whole = x };
}

static void put_word(struct values *v, const char *name, const char *x)
{
    v->items[v->n++] = (struct value){ .name = name, .kind = WORD, .word = x };
}

/* Whose energy was counted. */
static const char *energy_of(const struct bench *b)
{
    bool cpu = b->energy.n_zones > 0, gpu = b->energy.gpu.card;
    return cpu && gpu ? "cpu+gpu" : cpu ? "cpu" : gpu ? "gpu" : "";
}

/* Everything but the list tok_s. A real that is NAN is unknown: null, or an empty cell. */
static void collect(const struct bench *b, const struct bench_row *r, struct values *v)
{
    v->n = 0;
    snprintf(v->hash, sizeof v->hash, "%016llx", (unsigned long long)r->logits_hash);
    put_word(v, "test", r->test);
    put_whole(v, "n_prompt", r->n_prompt);
    put_whole(v, "n_gen", r->n_generate);
    put_whole(v, "n_depth", r->depth);
    put_whole(v, "threads", r->threads);
    put_whole(v, "batch", r->batch);
    put_real(v, "tok_s_median", row_median(r));
    put_real(v, "tok_s_mean", row_mean(r));
    put_real(v, "tok_s_sd", row_deviation(r));
    put_real(v, "dram_gb_s", row_gb_s(r));
    put_real(v, "of_limit", row_of_limit(r));
    put_word(v, "limit", r->limit);
    put_real(v, "limit_tok_s", r->limit_tok_s);
    put_word(v, "doubt", row_doubt(b, r, v->doubt, sizeof v->doubt));
    put_real(v, "j_per_token", row_joules_per_token(r));
    put_word(v, "energy_of", energy_of(b));
    put_real(v, "gpu_busy", b->gpu ? r->gpu_busy / r->n : NAN);
    put_real(v, "expert_hit_rate", expert_hit_rate(&r->experts));
    put_whole(v, "expert_copied_bytes", (int64_t)r->experts.moved_bytes);
    put_whole(v, "expert_sent_bytes", (int64_t)r->experts.sent_bytes);
    put_whole(v, "page_faults", r->page_faults);
    put_whole(v, "involuntary_switches", r->switches);
    put_whole(v, "bytes_per_token", (int64_t)(b->cost.routed_bytes + b->cost.other_bytes));
    put_whole(v, "routed_bytes_per_token", (int64_t)b->cost.routed_bytes);
    put_whole(v, "other_bytes_per_token", (int64_t)b->cost.other_bytes);
    put_whole(v, "cache_bytes_per_position", (int64_t)b->cost.cache_bytes);
    put_whole(v, "products_per_token", (int64_t)b->cost.products);
    put_real(v, "dram_read_gb_s", b->machine.dram_gb_s);
    put_real(v, "int8_gops", b->machine.int8_gops);
    put_word(v, "weights_in", b->is_copy ? "memory" : "mapped file");
    put_real(v, "huge_page_share", b->huge_share);
    put_word(v, "depth_filled_by", row_repeats(b, r->depth) ? "repeated rows"
                                   : r->depth               ? "prefill" : "");
    put_word(v, "cpu", b->machine.cpu);
    put_word(v, "cpu_isa", cpu_isa_name(b->isa));
    put_whole(v, "nodes", b->machine.n_nodes);
    put_whole(v, "expert_parts", b->n_parts);
    put_word(v, "model", b->description);
    put_word(v, "commit", version_commit());
    put_word(v, "logits_hash", v->hash);
}

static struct json *row_json(const struct bench *b, const struct bench_row *r)
{
    struct values v;
    struct json *j = js_object(), *list = js_array();
    collect(b, r, &v);
    for (int i = 0; i < v.n; i++) {
        const struct value *x = &v.items[i];
        js_set(j, x->name, x->kind == REAL    ? js_real(x->real)
                           : x->kind == WHOLE ? js_int(x->whole)
                                              : js_text(str_of(x->word)));
    }
    for (int i = 0; i < r->n; i++)
        js_push(list, js_real(r->tok_s[i]));
    js_set(j, "tok_s", list);
    return j;
}

/* A cell; texts with a comma or a quote are quoted. */
static void csv_text(struct buf *out, const char *text)
{
    if (!strpbrk(text, ",\"\n")) {
        buf_puts(out, text);
        return;
    }
    buf_puts(out, "\"");
    for (const char *p = text; *p; p++)
        buf_printf(out, *p == '"' ? "\"\"" : "%c", *p);
    buf_puts(out, "\"");
}

static void csv_row(struct buf *out, const struct bench *b, const struct bench_row *r)
{
    struct values v;
    collect(b, r, &v);
    for (int i = 0; i < v.n; i++) {
        const struct value *x = &v.items[i];
        if (x->kind == WORD)
            csv_text(out, x->word);
        else if (x->kind == WHOLE)
            buf_printf(out, "%lld", (long long)x->whole);
        else if (isfinite(x->real))
            buf_printf(out, "%.6g", x->real);
        buf_puts(out, ",");
    }
    for (int i = 0; i < r->n; i++)
        buf_printf(out, "%s%.6g", i ? ";" : "", r->tok_s[i]);
    buf_puts(out, "\n");
}

static void csv_head(struct buf *out, const struct bench *b)
{
    static double none[1] = { 0 };
    struct bench_row r = { .limit = "", .tok_s = none, .n = 1 };
    struct values v;
    collect(b, &r, &v);
    for (int i = 0; i < v.n; i++)
        buf_printf(out, "%s,", v.items[i].name);
    buf_puts(out, "tok_s\n");
}

/* ---- the table ------------------------------------------------------------------------------- */

/* "182.4 ± 1.1", the median and the standard deviation: one decimal, two below 10, none from 1000
 * on. One run has no deviation. */
static void rate_text(const struct bench_row *r, char *text, size_t size)
{
    double median = row_median(r), larger = max_of(median, row_deviation(r));
    int decimals = larger < 10 ? 2 : larger < 1000 ? 1 : 0;
    if (r->n > 1)
        snprintf(text, size, "%.*f ± %.*f", decimals, median, decimals, row_deviation(r));
    else
        snprintf(text, size, "%.*f", decimals, median);
}

static const char *cell(double x, const char *format, char *text, size_t size)
{
    if (!isfinite(x))
        return "-";
    snprintf(text, size, format, x);
    return text;
}

static int name_width(const struct bench *b)
{
    return max_of(b->name_width, LEAST_NAME);
}

static void md_head(struct buf *out, const struct bench *b)
{
    buf_printf(out, "| %-*s | tok/s        | of limit | CPU GB/s | GPU busy | J/token |\n|",
               name_width(b), "test");
    for (int i = 0; i < name_width(b) + 2; i++)
        buf_puts(out, "-");
    buf_puts(out, "|-------------:|---------:|---------:|---------:|--------:|\n");
}

static void md_row(struct buf *out, const struct bench *b, const struct bench_row *r)
{
    char name[64], rate[48], limit[16], gb_s[16], busy[16], joules[16];
    rate_text(r, rate, sizeof rate);
    int sign = strstr(rate, "±") ? 1 : 0; /* two bytes, one column */
    buf_printf(out, "| %-*s | %*s | %8s | %8s | %8s | %7s |\n", name_width(b),
               row_name(b, r, name, sizeof name), 12 + sign, rate,
               cell(100 * row_of_limit(r), "%.0f %%", limit, sizeof limit),
               cell(row_gb_s(r), row_gb_s(r) < 10 ? "%.1f" : "%.0f", gb_s, sizeof gb_s),
               cell(b->gpu ? 100 * r->gpu_busy / r->n : NAN, "%.0f %%", busy, sizeof busy),
               cell(row_joules_per_token(r), "%.1f", joules, sizeof joules));
}

/* One line per test with all that another machine's figures would be held against. */
static void run_line(struct buf *out, const struct bench *b, const struct bench_row *r)
{
    char name[64], share[32], split[48] = "";
    if (b->n_parts > 1)
        snprintf(split, sizeof split, " split over %d nodes", b->n_parts);
    buf_printf(out, "%s: commit %s, %s, %d thread%s, %d node%s, batch %d, weights in %s%s, "
               "%s in huge pages", row_name(b, r, name, sizeof name), version_commit(),
               cpu_isa_name(b->isa), r->threads, r->threads == 1 ? "" : "s", b->machine.n_nodes,
               b->machine.n_nodes == 1 ? "" : "s", r->batch,
               b->is_copy ? "own memory" : "the mapped file", split,
               cell(100 * b->huge_share, "%.0f %%", share, sizeof share));
    if (r->n_generate)
        buf_printf(out, ", BW_d %.1f GB/s, C %.3f GB, G %.3f GB, K %.3f GB, T %.2f ms, serial %.0f %%",
                   b->machine.dram_gb_s, (double)b->cost.routed_bytes / 1e9,
                   (double)b->cost.other_bytes / 1e9,
                   row_cache_bytes(b, r) / 1e9,
                   1e3 / row_median(r), 100 * row_of_limit(r));
    else
        buf_printf(out, ", BW_d %.1f GB/s, int8 %.0f GOPS, %.2f GFLOP per token, T %.2f ms",
                   b->machine.dram_gb_s, b->machine.int8_gops,
                   2e-9 * (double)b->cost.products, 1e3 * (double)r->n_prompt / row_median(r));
    if (r->experts.n_picks)
        buf_printf(out, ", expert hits %.0f %%, %.1f MB copied", 100 * expert_hit_rate(&r->experts),
                   (double)r->experts.moved_bytes / 1e6);
    if (r->experts.n_sent)
        buf_printf(out, ", %.1f MB of experts sent", (double)r->experts.sent_bytes / 1e6);
    buf_printf(out, ", page faults %lld, involuntary switches %lld, logits %016llx\n",
               (long long)r->page_faults, (long long)r->switches,
               (unsigned long long)r->logits_hash);
}

static void md_tail(struct buf *out, const struct bench *b)
{
    char doubt[256];
    bool deep = false, repeats = false;
    buf_puts(out, "\n");
    for (int i = 0; i < b->n_rows; i++) {
        run_line(out, b, &b->rows[i]);
        repeats = repeats || row_repeats(b, b->rows[i].depth);
        deep = deep || (b->rows[i].depth && !row_repeats(b, b->rows[i].depth));
    }
    if (b->energy.n_zones == 0)
        buf_printf(out, "J/token: CPU energy not readable (%s)\n", b->energy.reason);
    if (!b->gpu)
        buf_puts(out, "GPU busy: no GPU in use\n");
    else
        buf_printf(out, "GPU: %s, BW_v %.4g GB/s, GEMM %.4g Top/s, to it %.3g GB/s%s%s\n", b->gpu->name,
                   b->machine.vram_gb_s, b->machine.gpu_tops, b->machine.h2d_gb_s,
                   *b->energy.gpu_reason ? "; energy not readable: " : "", b->energy.gpu_reason);
    if (deep)
        buf_puts(out, "@ depth: filled by a real prefill\n");
    if (repeats)
        buf_puts(out, "@ depth: filled with the cache rows of 512 tokens, repeated in random order: bytes "
                 "and products are those of a real context, its logits and the rows that an indexer "
                 "selects are not\n");
    for (int i = 0; i < b->n_rows; i++)
        if (*row_doubt(b, &b->rows[i], doubt, sizeof doubt))
            buf_printf(out, "warning: %s\n", doubt);
}

/* ---- the card -------------------------------------------------------------------------------- */

static void card(struct buf *out, const struct bench *b)
{
    buf_printf(out, "tandem %s · %s\n", version_commit(), b->description);
    buf_printf(out, "%s · %s · memory read %.1f GB/s, int8 %.2f TOPS (measured)\n", b->machine.cpu,
               cpu_isa_name(b->isa), b->machine.dram_gb_s, b->machine.int8_gops / 1000);
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        char name[64], rate[48], text[16];
        rate_text(r, rate, sizeof rate);
        buf_printf(out, "%s: %s tok/s", row_name(b, r, name, sizeof name), rate);
        if (!b->named_threads)
            buf_printf(out, ", %d thread%s", r->threads, r->threads == 1 ? "" : "s");
        if (isfinite(row_of_limit(r)))
            buf_printf(out, ", %.0f %% of the %s's limit", 100 * row_of_limit(r),
                       r->limit);
        if (isfinite(row_joules_per_token(r)))
            buf_printf(out, ", %s J/token", cell(row_joules_per_token(r), "%.1f", text, sizeof text));
        buf_puts(out, "\n");
    }
}

/* ---- the sweep, drawn ------------------------------------------------------------------------ */

#define PLOT_ROWS 11
#define PLOT_POINTS 64

/* Medians over depth, of generating or of reading. */
static struct plot plot_of(const struct bench *b, bool generating, struct plot_point *points)
{
    struct plot p = { .title = generating ? "decode tok/s" : "prefill tok/s",
                      .x_name = "tokens of context", .points = points };
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        bool first_setting = r->threads == b->rows[0].threads && r->batch == b->rows[0].batch;
        if (first_setting && p.n < PLOT_POINTS && (r->n_generate > 0) == generating)
            points[p.n++] = (struct plot_point){ (double)r->depth, row_median(r) };
    }
    return p;
}

static bool draw_sweep(struct buf *out, const struct bench *b, struct error *err)
{
    struct plot_point points[2][PLOT_POINTS];
    struct plot plots[2] = { plot_of(b, true, points[0]), plot_of(b, false, points[1]) };
    for (int i = 0; i < 2 && b->o->format == TABLE_MD; i++) {
        buf_puts(out, "\n");
        plot_text(out, &plots[i], min_of(72, term_columns() - 12), PLOT_ROWS, plot_can_utf8());
    }
    return !b->o->svg || plot_svg(plots, 2, b->o->svg, err);
}

/* ---- in order -------------------------------------------------------------------------------- */

static bool print(struct buf *out, bool ok, struct error *err)
{
    ok = ok && buf_ok(out, err) && (!out->len || out_write(out->data, out->len, err));
    buf_release(out);
    return ok;
}

bool report_head(const struct bench *b, struct error *err)
{
    struct buf out = { 0 };
    char bytes[32];
    human_bytes((double)(b->cost.routed_bytes + b->cost.other_bytes), bytes, sizeof bytes);
    note("%s; %s; %s read per token; this machine reads memory at %.1f GB/s", b->description,
         cpu_isa_name(b->isa), bytes, b->machine.dram_gb_s);
    if (*b->handoff)
        note("hand-off to the CPU: %s", b->handoff);
    if (b->o->format == TABLE_CSV)
        csv_head(&out, b);
    else if (b->o->format == TABLE_MD && !b->o->card)
        md_head(&out, b);
    return print(&out, true, err);
}

bool report_row(const struct bench *b, const struct bench_row *r, struct error *err)
{
    struct buf out = { 0 };
    if (b->o->format == TABLE_JSONL)
        return js_print(row_json(b, r), 0, err);
    if (b->o->format == TABLE_CSV)
        csv_row(&out, b, r);
    else if (b->o->format == TABLE_MD && !b->o->card)
        md_row(&out, b, r);
    return print(&out, true, err);
}

bool report_tail(const struct bench *b, struct error *err)
{
    struct buf out = { 0 };
    bool ok = true;
    if (b->o->format == TABLE_JSON) {
        struct json *all = js_array();
        for (int i = 0; i < b->n_rows; i++)
            js_push(all, row_json(b, &b->rows[i]));
        ok = js_print(all, 1, err);
    } else if (b->o->format == TABLE_MD) {
        (b->o->card ? card : md_tail)(&out, b);
    }
    ok = ok && (!b->o->sweep || draw_sweep(&out, b, err));
    return print(&out, ok, err);
}
