/* tandem bench --probe: what this machine can do, for people and for programs. */
#include <math.h>
#include <stdio.h>

#include "cpu/features.h"
#include "src/cli/bench.h"
#include "src/cli/paths.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/engine/card.h"
#include "src/format/quant.h"

/* The instruction sets of the kernel table: the one in use, then the weaker ones. */
struct kernel_set {
    const char *isa;
    const double *dot_gb_s, *tile_gops;
};

static int kernel_sets(const struct machine *m, struct kernel_set sets[1 + MACHINE_SETS])
{
    int n = 0;
    sets[n++] = (struct kernel_set){ m->isa, m->dot_gb_s, m->tile_gops };
    for (int i = 0; i < m->n_sets; i++)
        sets[n++] = (struct kernel_set){ m->sets[i].isa, m->sets[i].dot_gb_s,
                                         m->sets[i].tile_gops };
    return n;
}

/* ---- JSON ---- */

static struct json *kernels_json(const struct machine *m)
{
    struct json *all = js_array();
    struct kernel_set sets[1 + MACHINE_SETS];
    int n = kernel_sets(m, sets);
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        for (int s = 0; s < n && m->dot_gb_s[type] > 0; s++) {
            struct json *j = js_object();
            js_set(j, "type", js_text(str_of(quant_traits((uint32_t)type)->name)));
            js_set(j, "isa", js_text(str_of(sets[s].isa)));
            js_set(j, "gb_s", js_real(sets[s].dot_gb_s[type]));
            js_set(j, "of_stream", js_real(sets[s].dot_gb_s[type] / m->stream_gb_s));
            js_set(j, "tile_gops", js_real(sets[s].tile_gops[type]));
            js_push(all, j);
        }
    }
    return all;
}

static double positive(double x)
{
    return x > 0 ? x : NAN;
}

static bool print_json(const struct machine *m, struct error *err)
{
    struct json *j = js_object(), *curve = js_array(), *gemm = js_array();
    for (int i = 0; i < m->n_points; i++) {
        struct json *point = js_object();
        js_set(point, "threads", js_int(m->curve[i].threads));
        js_set(point, "gb_s", js_real(m->curve[i].gb_s));
        js_push(curve, point);
    }
    for (int i = 0; i < MACHINE_TOKENS; i++) {
        struct json *point = js_object();
        js_set(point, "tokens", js_int((int64_t)1 << i));
        js_set(point, "gops", js_real(m->gemm_gops[i]));
        js_push(gemm, point);
    }
    js_set(j, "cpu", js_text(str_of(m->cpu)));
    js_set(j, "cpu_isa", js_text(str_of(m->isa)));
    js_set(j, "nodes", js_int(m->n_nodes));
    js_set(j, "dram_read_gb_s", js_real(m->dram_gb_s));
    js_set(j, "threads", js_int(m->best_threads));
    js_set(j, "threads_95", js_int(m->enough_threads));
    js_set(j, "reader", js_text(str_of(m->reader)));
    js_set(j, "region_gb", js_real(m->region_gb));
    js_set(j, "last_cache_gb", js_real(m->l3_gb));
    js_set(j, "huge_page_share", js_real(m->huge_share));
    js_set(j, "curve", curve);
    js_set(j, "expert_stream_gb_s", js_real(m->stream_gb_s));
    js_set(j, "expert_stream_large_gb_s", js_real(m->stream_large_gb_s));
    js_set(j, "int8_gops", js_real(m->int8_gops));
    js_set(j, "gemm", gemm);
    js_set(j, "kernels", kernels_json(m));
    js_set(j, "gpu", *m->gpu ? js_text(str_of(m->gpu)) : js_null());
    js_set(j, "vram_gb_s", js_real(positive(m->vram_gb_s)));
    js_set(j, "h2d_gb_s", js_real(positive(m->h2d_gb_s)));
    js_set(j, "d2h_gb_s", js_real(positive(m->d2h_gb_s)));
    js_set(j, "gpu_tops", js_real(positive(m->gpu_tops)));
    js_set(j, "hand_off_us", js_real(positive(m->hand_off_us)));
    return js_print(j, 1, err);
}

/* ---- tables ---- */

static void print_memory(struct buf *out, const struct machine *m)
{
    char region[32], cache[32], share[32] = "unknown";
    if (isfinite(m->huge_share))
        snprintf(share, sizeof share, "%.0f %%", 100 * m->huge_share);
    buf_printf(out, "%s; %s; %d node%s. %s read in turn, %s of it in huge pages; last cache %s.\n\n",
               m->cpu, m->isa, m->n_nodes, m->n_nodes == 1 ? "" : "s",
               human_bytes(1e9 * m->region_gb, region, sizeof region), share,
               human_bytes(1e9 * m->l3_gb, cache, sizeof cache));
    buf_puts(out, "| threads | memory read GB/s |\n|--------:|-----------------:|\n");
    for (int i = 0; i < m->n_points; i++)
        buf_printf(out, "| %7d | %16.1f |\n", m->curve[i].threads, m->curve[i].gb_s);
    buf_printf(out, "\nbest %.1f GB/s with %d thread%s (%s); 95 %% of it with %d\n", m->dram_gb_s,
               m->best_threads, m->best_threads == 1 ? "" : "s", m->reader, m->enough_threads);
    if (m->stream_gb_s > 0)
        buf_printf(out, "in the order of decode: %.1f GB/s (%.0f %%) with experts as small as "
                   "V2-Lite's", m->stream_gb_s, 100 * m->stream_gb_s / m->dram_gb_s);
    if (m->stream_large_gb_s > 0)
        buf_printf(out, ", %.1f GB/s (%.0f %%) as large as V3's", m->stream_large_gb_s,
                   100 * m->stream_large_gb_s / m->dram_gb_s);
    buf_puts(out, "\n");
}

static void print_kernels(struct buf *out, const struct machine *m)
{
    struct kernel_set sets[1 + MACHINE_SETS];
    int n = kernel_sets(m, sets);
    buf_puts(out, "\nKernels: GB/s of weights with one token, % of the order of decode, GOPS with "
                  "256 tokens per expert\n\n| weights ");
    for (int s = 0; s < n; s++)
        buf_printf(out, "| %6s GB/s |    %% |   GOPS ", sets[s].isa);
    buf_puts(out, "|\n|---------");
    for (int s = 0; s < n; s++)
        buf_puts(out, "|------------:|-----:|-------:");
    buf_puts(out, "|\n");
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        if (!(m->dot_gb_s[type] > 0))
            continue;
        buf_printf(out, "| %-7s ", quant_traits((uint32_t)type)->name);
        for (int s = 0; s < n; s++)
            buf_printf(out, "| %11.1f | %4.0f | %6.0f ", sets[s].dot_gb_s[type],
                       100 * sets[s].dot_gb_s[type] / m->stream_gb_s, sets[s].tile_gops[type]);
        buf_puts(out, "|\n");
    }
}

static void print_arithmetic(struct buf *out, const struct machine *m)
{
    buf_printf(out, "\nint8 arithmetic in registers: %.0f GOPS\n", m->int8_gops);
    if (!(m->gemm_gops[0] > 0))
        return;
    buf_puts(out, "\n| tokens per expert, Q4_K |");
    for (int i = 0; i < MACHINE_TOKENS; i++)
        buf_printf(out, " %5d |", 1 << i);
    buf_puts(out, "\n|-------------------------|");
    for (int i = 0; i < MACHINE_TOKENS; i++)
        buf_puts(out, "------:|");
    buf_puts(out, "\n| GOPS                    |");
    for (int i = 0; i < MACHINE_TOKENS; i++)
        buf_printf(out, " %5.0f |", m->gemm_gops[i]);
    buf_puts(out, "\n");
}

static void print_card(struct buf *out, const struct machine *m)
{
    if (!*m->gpu)
        return;
    buf_printf(out, "\n%s: memory read %.0f GB/s; to it %.1f, from it %.1f GB/s (pinned); products of "
               "a prompt %.1f Top/s\n", m->gpu, m->vram_gb_s, m->h2d_gb_s, m->d2h_gb_s, m->gpu_tops);
    if (m->hand_off_us > 0)
        buf_printf(out, "hand-off to the CPU and back: %.1f µs\n", m->hand_off_us);
}

static bool print_tables(const struct machine *m, struct error *err)
{
    struct buf out = { 0 };
    print_memory(&out, m);
    if (m->dot_gb_s[TYPE_Q4_K] > 0)
        print_kernels(&out, m);
    if (m->int8_gops > 0)
        print_arithmetic(&out, m);
    print_card(&out, m);
    bool ok = buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

/* ---- the command ---- */

static void on_probe(void *ctx, double done)
{
    progress_update(ctx, 100 * done, 100);
}

/* A card that cannot be used is a note. */
static bool add_card(struct machine *m, const struct options *o, struct error *err)
{
    struct gpu_info card;
    struct error why = { 0 };
    if (o->gpu == GPU_NEVER || !card_code_installed() ||
        machine_add_card(m, &card, NULL, (int)o->gpu_index, signals_cancel_flag(), &why))
        return true;
    if (why.code == ERR_INTERRUPTED) {
        *err = why;
        return false;
    }
    note("%s", why.text);
    return true;
}

/* Figures of the whole machine are kept for plan and for bench --limits kept; a file that cannot be written is only a note. */
static void keep(const struct machine *measured)
{
    char path[PATH_SIZE];
    struct machine m = *measured, before;
    struct error why = { 0 };
    if (!path_machine(path, sizeof path))
        return;
    if (machine_load(&before, path, &why)) { /* what only a bench of a model can know */
        m.idle_w = before.idle_w;
        m.busy_w = before.busy_w;
        m.busy_gpu_w = before.busy_gpu_w;
    }
    error_clear(&why);
    if (!machine_save(&m, path, &why))
        note("the figures are not kept: %s", why.text);
}

bool bench_probe(const struct options *o, struct error *err)
{
    struct machine m;
    struct progress progress;
    struct machine_options mo = {
        .detail = MACHINE_FULL, .isa = o->isa, .isa_given = o->isa_given,
        .n_threads = o->thread_list.n ? (int)o->thread_list.items[0] : 0,
        .cancel = signals_cancel_flag(), .progress = on_probe, .progress_ctx = &progress,
    };
    if (o->format == TABLE_CSV)
        return fail(err, ERR_USAGE, "--probe has no csv form: md, json or jsonl");
    progress_begin(&progress, "measuring", "%");
    bool ok = machine_probe(&m, &mo, err) && add_card(&m, o, err);
    progress_end(&progress);
    if (ok && !o->isa_given && !o->thread_list.n)
        keep(&m);
    if (!ok && !(m.dram_gb_s > 0))
        return false;
    /* Also what was measured before Ctrl-C. */
    struct error late = { 0 };
    bool json = o->format == TABLE_JSON || o->format == TABLE_JSONL;
    bool printed = (json ? print_json : print_tables)(&m, ok ? err : &late);
    return ok && printed;
}
