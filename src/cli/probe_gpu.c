/* tandem bench --probe-gpu: the GPU's memory, bus and kernels, for people and for programs. */
#include <math.h>
#include <stdio.h>

#include "src/cli/bench.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/engine/card_bench.h"

/* ---- figures of a row; NAN: it has none ---- */

static double gb_s(const struct card_row *r)
{
    return r->bytes > 0 ? r->bytes / r->us / 1e3 : NAN;
}

static double tflop_s(const struct card_row *r)
{
    return r->ops > 0 ? r->ops / r->us / 1e6 : NAN;
}

static double of_bound(const struct card_row *r)
{
    return r->bound_us > 0 ? r->bound_us / r->us : NAN;
}

/* What stands in its way: the longer of the two times. */
static const char *bound_name(const struct card_bench *b, const struct card_row *r)
{
    if (!(r->bound_us > 0))
        return "";
    return r->bytes / (b->rates.vram_gb_s * 1e3) >= r->ops / (b->rates.tops * 1e6) ? "VRAM" : "GEMM";
}

/* ---- tables ---- */

static void cell(struct buf *out, double x, const char *format, int width)
{
    char text[32] = "-";
    if (isfinite(x))
        snprintf(text, sizeof text, format, x);
    buf_printf(out, " %*s |", width, text);
}

/* The hand-off to the CPU and back, microseconds per layer, in each way. */
#define N_HANDOFFS 4
static const char *const handoffs[N_HANDOFFS] = {
    "hand-off stop, us", "hand-off callback, us", "callback in a graph, us", "hand-off flags, us",
};

static double handoff_of(const struct card_rates *r, int i)
{
    const double us[N_HANDOFFS] = { r->handoff.stop_us, r->handoff.callback_us,
                                    r->handoff.recorded_us, r->handoff.flags_us };
    return us[i];
}

static bool print_table(const struct card_bench *b, struct error *err)
{
    struct buf out = { 0 };
    const struct card_rates *r = &b->rates;
    buf_printf(&out, "%s, compute capability %d.%d, %d multiprocessors, %.1f of %.1f GiB free\n",
               b->info.name, b->info.major, b->info.minor, b->info.n_sms,
               (double)b->info.free_bytes / 1073741824, (double)b->info.total_bytes / 1073741824);
    if (b->info.emulated)
        buf_puts(&out, "EMULATED: sizes are tiny, and no figure below means anything\n");
    buf_printf(&out, "\n| rate                     |         |\n|--------------------------|--------:|\n"
               "| memory read, GB/s        | %7.4g |\n| to the card, pinned      | %7.4g |\n"
               "| from the card, pinned    | %7.4g |\n| to the card, pageable    | %7.4g |\n"
               "| from the card, pageable  | %7.4g |\n| F16 GEMM, TFLOP/s        | %7.4g |\n"
               "| one more launch, us      | %7.4g |\n| launch and wait, us      | %7.4g |\n",
               r->vram_gb_s, r->h2d_gb_s, r->d2h_gb_s, r->h2d_pageable_gb_s, r->d2h_pageable_gb_s,
               r->tops, b->launch_us, b->round_trip_us);
    for (int i = 0; i < N_HANDOFFS; i++)
        if (handoff_of(r, i) > 0)
            buf_printf(&out, "| %-24s | %7.4g |\n", handoffs[i], handoff_of(r, i));
        else
            buf_printf(&out, "| %-24s |    none |\n", handoffs[i]);
    buf_printf(&out, "\n| %-18s | %-30s |       us |   GB/s | TFLOP/s |   of bound |\n"
               "|--------------------|--------------------------------|---------:|-------:|--------:"
               "|-----------:|\n", "kernel", "shape");
    for (int i = 0; i < b->n_rows; i++) {
        const struct card_row *row = &b->rows[i];
        char share[24] = "-";
        if (isfinite(of_bound(row)))
            snprintf(share, sizeof share, "%.0f %% %s", 100 * of_bound(row), bound_name(b, row));
        buf_printf(&out, "| %-18s | %-30s |", row->kernel, row->shape);
        cell(&out, row->us, "%.1f", 8);
        cell(&out, gb_s(row), "%.4g", 6);
        cell(&out, tflop_s(row), "%.3g", 7);
        buf_printf(&out, " %10s |\n", share);
    }
    bool ok = buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

/* ---- csv: the rates are rows too, so that a report can be made without anything else ---- */

static void csv_number(struct buf *out, double x)
{
    if (isfinite(x))
        buf_printf(out, "%.6g", x);
    buf_puts(out, ",");
}

static void csv_rate(struct buf *out, const char *name, double us, double gb_s, double tflop_s)
{
    buf_printf(out, "\"%s\",,", name);
    csv_number(out, us);
    csv_number(out, gb_s);
    csv_number(out, tflop_s);
    buf_puts(out, ",\n");
}

static bool print_csv(const struct card_bench *b, struct error *err)
{
    struct buf out = { 0 };
    const struct card_rates *r = &b->rates;
    buf_puts(&out, "kernel,shape,us,gb_s,tflop_s,of_bound,bound\n");
    csv_rate(&out, "memory read", NAN, r->vram_gb_s, NAN);
    csv_rate(&out, "to the card pinned", NAN, r->h2d_gb_s, NAN);
    csv_rate(&out, "from the card pinned", NAN, r->d2h_gb_s, NAN);
    csv_rate(&out, "to the card pageable", NAN, r->h2d_pageable_gb_s, NAN);
    csv_rate(&out, "from the card pageable", NAN, r->d2h_pageable_gb_s, NAN);
    csv_rate(&out, "F16 GEMM", NAN, NAN, r->tops);
    csv_rate(&out, "one more launch", b->launch_us, NAN, NAN);
    csv_rate(&out, "launch and wait", b->round_trip_us, NAN, NAN);
    for (int i = 0; i < N_HANDOFFS; i++)
        csv_rate(&out, handoffs[i], handoff_of(r, i) > 0 ? handoff_of(r, i) : NAN, NAN, NAN);
    for (int i = 0; i < b->n_rows; i++) {
        const struct card_row *row = &b->rows[i];
        buf_printf(&out, "\"%s\",\"%s\",", row->kernel, row->shape);
        csv_number(&out, row->us);
        csv_number(&out, gb_s(row));
        csv_number(&out, tflop_s(row));
        csv_number(&out, of_bound(row));
        buf_printf(&out, "%s\n", bound_name(b, row));
    }
    bool ok = buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

/* ---- JSON ---- */

static struct json *number(double x)
{
    return isfinite(x) ? js_real(x) : js_null();
}

static struct json *row_json(const struct card_bench *b, const struct card_row *r)
{
    struct json *j = js_object();
    js_set(j, "kernel", js_text(str_of(r->kernel)));
    js_set(j, "shape", js_text(str_of(r->shape)));
    js_set(j, "us", number(r->us));
    js_set(j, "gb_s", number(gb_s(r)));
    js_set(j, "tflop_s", number(tflop_s(r)));
    js_set(j, "of_bound", number(of_bound(r)));
    js_set(j, "bound", js_text(str_of(bound_name(b, r))));
    return j;
}

static struct json *handoff_json(const struct card_rates *r, int i)
{
    struct json *j = js_object();
    js_set(j, "way", js_text(str_of(handoffs[i])));
    js_set(j, "us", handoff_of(r, i) > 0 ? number(handoff_of(r, i)) : js_null());
    return j;
}

static bool print_json(const struct card_bench *b, struct error *err)
{
    const struct card_rates *r = &b->rates;
    struct json *j = js_object(), *kernels = js_array(), *ways = js_array();
    js_set(j, "gpu", js_text(str_of(b->info.name)));
    js_set(j, "emulated", js_bool(b->info.emulated));
    js_set(j, "total_bytes", js_int((int64_t)b->info.total_bytes));
    js_set(j, "free_bytes", js_int((int64_t)b->info.free_bytes));
    js_set(j, "vram_gb_s", number(r->vram_gb_s));
    js_set(j, "h2d_gb_s", number(r->h2d_gb_s));
    js_set(j, "d2h_gb_s", number(r->d2h_gb_s));
    js_set(j, "h2d_pageable_gb_s", number(r->h2d_pageable_gb_s));
    js_set(j, "d2h_pageable_gb_s", number(r->d2h_pageable_gb_s));
    js_set(j, "gemm_tflop_s", number(r->tops));
    js_set(j, "launch_us", number(b->launch_us));
    js_set(j, "round_trip_us", number(b->round_trip_us));
    for (int i = 0; i < N_HANDOFFS; i++)
        js_push(ways, handoff_json(r, i));
    js_set(j, "handoff", ways);
    for (int i = 0; i < b->n_rows; i++)
        js_push(kernels, row_json(b, &b->rows[i]));
    js_set(j, "kernels", kernels);
    return js_print(j, 1, err);
}

/* ---- the command ---- */

static void on_progress(void *ctx, double done)
{
    progress_update(ctx, 100 * min_of(done, 1.0), 100);
}

bool bench_probe_gpu(const struct options *o, struct error *err)
{
    struct card_bench b;
    struct progress progress;
    bool json = o->format == TABLE_JSON || o->format == TABLE_JSONL;
    if (json && !js_available(err))
        return false;
    progress_begin(&progress, "measuring the GPU", "%");
    bool ok = card_bench_run(&b, (int)o->gpu_index, signals_cancel_flag(), on_progress, &progress,
                             err);
    progress_end(&progress);
    if (!ok && b.n_rows == 0)
        return false;
    /* Also what was measured before a failure. */
    struct error late = { 0 };
    bool printed = (json                      ? print_json
                    : o->format == TABLE_CSV ? print_csv
                                             : print_table)(&b, ok ? err : &late);
    return ok && printed;
}
