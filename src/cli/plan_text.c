/* A plan for people. */
#include <stdio.h>

#include "src/base/util.h"
#include "src/cli/plan.h"
#include "src/cli/term.h"
#include "src/format/quant.h"

#define GIB 1073741824.0
#define SHOWN_BYTES 52429 /* less would be 0.0 MiB */

/* ---- the table ------------------------------------------------------------------------------- */

static struct plan_part *add_part(struct plan_part *parts, int *n, const char *name,
                                  enum home home, double bytes, double reads)
{
    struct plan_part *part = &parts[*n];
    if (bytes <= 0 || *n == MAX_PLAN_PARTS)
        return NULL;
    *part = (struct plan_part){ .home = home, .bytes = bytes, .read_bytes = reads };
    snprintf(part->name, sizeof part->name, "%s", name);
    (*n)++;
    return part;
}

/* What a trunk holds. */
static const char *trunk_name(const struct model *m)
{
    const struct params *p = &m->params;
    return p->n_routed == 0   ? "attention, FFN"
         : p->n_shared > 0    ? "attention, shared experts"
                              : "attention";
}

/* Weights of one home: trunk with what stands at its ends, and routed experts. */
static void add_weights(struct plan_part *parts, int *n, const struct plan *p, enum home home)
{
    const struct placement *q = &p->placement;
    const double *reads[N_PARTS];
    for (int part = 0; part < N_PARTS; part++)
        reads[part] = &p->forecast.reads[part][home];
    double trunk = (double)q->bytes[PART_TRUNK][home], ends = (double)q->bytes[PART_ENDS][home];
    bool only_ends = *reads[PART_TRUNK] < *reads[PART_ENDS] && trunk < ends && q->gpu_layers > 0;
    add_part(parts, n, only_ends ? "embedding" : trunk_name(&p->model), home, trunk + ends,
             *reads[PART_TRUNK] + *reads[PART_ENDS]);
}

int plan_parts(struct plan_part parts[MAX_PLAN_PARTS], const struct plan *p)
{
    static const enum home homes[] = { HOME_GPU, HOME_RAM, HOME_MAPPED };
    const struct placement *q = &p->placement;
    char name[64];
    int n = 0;
    struct plan_part *part;
    for (size_t i = 0; i < ARRAY_LEN(homes); i++)
        add_weights(parts, &n, p, homes[i]);
    snprintf(name, sizeof name, "cache for %lld tokens", (long long)q->n_ctx);
    for (size_t i = 0; i < ARRAY_LEN(homes); i++)
        add_part(parts, &n, name, homes[i], (double)q->bytes[PART_CACHE][homes[i]],
                 p->full.reads[PART_CACHE][homes[i]]);
    add_part(parts, &n, "scratch, graph", HOME_GPU,
             (double)(q->bytes[PART_WORK][HOME_GPU] + q->bytes[PART_DRIVER][HOME_GPU]), -1);
    add_part(parts, &n, "experts on their way", HOME_GPU, (double)q->bytes[PART_STAGING][HOME_GPU],
             -1);
    if (q->expert_slots) {
        double share = (double)q->expert_slots / p->model.params.n_routed;
        snprintf(name, sizeof name, "expert cache %.1f %%", 100 * share);
        part = add_part(parts, &n, name, HOME_GPU, (double)q->bytes[PART_EXPERT_CACHE][HOME_GPU],
                        p->forecast.reads[PART_EXPERT_CACHE][HOME_GPU]);
        if (part)
            snprintf(part->remark, sizeof part->remark, "about %.0f %% of hits",
                     100 * p->forecast.hit_rate);
    }
    for (size_t i = 0; i < ARRAY_LEN(homes); i++)
        add_part(parts, &n, "routed experts", homes[i],
                 (double)q->bytes[PART_ROUTED][homes[i]], p->forecast.reads[PART_ROUTED][homes[i]]);
    for (size_t i = 0; i < ARRAY_LEN(homes); i++)
        add_part(parts, &n, "drafting", homes[i], (double)q->bytes[PART_DRAFT][homes[i]], -1);
    add_part(parts, &n, "scratch", HOME_RAM, (double)q->bytes[PART_WORK][HOME_RAM], -1);
    if (q->vram_used)
        add_part(parts, &n, "left free", HOME_GPU,
                 (double)p->rates.vram_bytes - (double)q->vram_used, -1);
    if (p->rates.ram_bytes != UINT64_MAX)
        add_part(parts, &n, "left free", HOME_RAM,
                 (double)p->rates.ram_bytes - (double)q->ram_used - (double)q->ram_mapped, -1);
    return n;
}

static void size_text(char *text, size_t size, double bytes)
{
    if (bytes >= 0.95 * GIB)
        snprintf(text, size, "%.1f GiB", bytes / GIB);
    else
        snprintf(text, size, "%.*f MiB", bytes < 10485760 ? 1 : 0, bytes / 1048576);
}

static void read_text(char *text, size_t size, double bytes)
{
    *text = 0;
    if (bytes >= 0.95e8)
        snprintf(text, size, "%.1f GB", bytes / 1e9);
    else if (bytes > 0)
        snprintf(text, size, "%.1f MB", bytes / 1e6);
}

#define ROOM_FOR_TABLE 60 /* columns */

static void add_table(struct buf *out, const struct plan *p, int columns)
{
    bool narrow = columns > 0 && columns < ROOM_FOR_TABLE;
    struct plan_part parts[MAX_PLAN_PARTS];
    int n = plan_parts(parts, p);
    buf_printf(out, narrow ? "  %s\n    %-5s %9s %s\n" : "  %-26s %-5s %12s   %s\n", "part", "place",
               "size", "read per token");
    for (int i = 0; i < n; i++) {
        char size[32], reads[32];
        if (parts[i].bytes < SHOWN_BYTES)
            continue;
        size_text(size, sizeof size, parts[i].bytes);
        read_text(reads, sizeof reads, parts[i].read_bytes);
        buf_printf(out, narrow ? "  %s\n    %-5s %9s" : "  %-26s %-5s %12s", parts[i].name,
                   home_name(parts[i].home), size);
        if (*reads)
            buf_printf(out, " %10s", reads);
        if (*parts[i].remark)
            buf_printf(out, "   %s", parts[i].remark);
        buf_puts(out, "\n");
    }
}

/* ---- heading and closing --------------------------------------------------------------------- */

static void add_heading(struct buf *out, const struct plan *p)
{
    const struct model *m = &p->model;
    const struct rates *mc = &p->rates;
    char description[160], size[32], ram[32] = "nobody knows how much";
    double bytes = 0;
    for (int i = 0; i < m->gguf.n_shards; i++)
        bytes += (double)m->gguf.shards[i].size;
    model_describe(m, description, sizeof description);
    buf_printf(out, "%s   %s, %d file%s\n", description, human_bytes(bytes, size, sizeof size),
               m->gguf.n_shards, m->gguf.n_shards == 1 ? "" : "s");
    if (mc->ram_bytes != UINT64_MAX)
        size_text(ram, sizeof ram, (double)mc->ram_bytes);
    buf_printf(out, "%s, %d core%s, %s free", mc->cpu, mc->n_cores,
               mc->n_cores == 1 ? "" : "s", ram);
    if (mc->dram_gb_s > 0)
        buf_printf(out, ", %.3g GB/s %s", mc->dram_gb_s,
                   p->o->what_if && strstr(p->o->what_if, "bw=") ? "stated" : "measured");
    if (mc->vram_bytes) {
        char vram[32];
        size_text(vram, sizeof vram, (double)mc->vram_bytes);
        buf_printf(out, " | %s, %s free", mc->gpu, vram);
        if (mc->vram_gb_s > 0)
            buf_printf(out, ", %.4g GB/s", mc->vram_gb_s);
        if (mc->pcie_gb_s > 0)
            buf_printf(out, ", %s %.3g GB/s", *mc->link ? mc->link : "PCIe", mc->pcie_gb_s);
    } else {
        buf_printf(out, " | %s", *mc->no_gpu ? mc->no_gpu : "no GPU");
    }
    buf_puts(out, "\n\n");
}

static void add_speed(struct buf *out, const struct plan *p)
{
    const struct forecast *f = &p->forecast;
    char decode[48], prefill[48], left[80];
    range_text(decode, sizeof decode, &f->decode_tok_s);
    range_text(prefill, sizeof prefill, &f->prefill_tok_s);
    snprintf(left, sizeof left, "decode %9s tok/s   (serial bound %.*f)", decode,
             f->serial_tok_s < 10 ? 1 : 0, f->serial_tok_s);
    buf_printf(out, "\n  %-46s bound by %s%s%s\n", left, f->bound_first,
               f->bound_second ? ", then " : "", f->bound_second ? f->bound_second : "");
    snprintf(left, sizeof left, "prefill %8s tok/s", prefill);
    buf_printf(out, "  %-46s", left);
    if (f->load_s > 0)
        buf_printf(out, " load %.0f - %.0f s from this disk", 0.8 * f->load_s, 1.3 * f->load_s);
    else if (p->full.decode_tok_s.mid < 0.97 * f->decode_tok_s.mid)
        buf_printf(out, " with the context full: %.*f tok/s",
                   p->full.decode_tok_s.mid < 10 ? 1 : 0, p->full.decode_tok_s.mid);
    buf_puts(out, "\n");
    if (f->joules > 0)
        buf_printf(out, "  energy %9.1f J/token, %.0f W while decoding, %.0f W idle\n", f->joules,
                   f->watts, p->rates.idle_w);
    if (!f->measured)
        buf_puts(out, "  some rates are estimates: --explain tells which\n");
}

/* A shorter context that would decode faster because its cache leaves VRAM to experts. */
static void add_hint(struct buf *out, const struct plan *p)
{
    struct placement_wishes w = p->wishes;
    struct placement q;
    struct forecast f;
    struct error ignored = { 0 };
    w.n_ctx = p->placement.n_ctx / 4;
    if (p->placement.gpu_layers == 0 || w.n_ctx < 4096 ||
        !placement_make(&q, &p->model, &p->rates, &w, &ignored))
        return;
    forecast_make(&f, &p->model, &q, &p->rates, 0, q.n_batch);
    double gain = f.decode_tok_s.mid / p->forecast.decode_tok_s.mid - 1;
    if (q.fits && gain >= 0.01)
        buf_printf(out, " Smaller cache: -c %lld gives +%.0f %% decode.", (long long)w.n_ctx,
                   100 * gain);
    placement_free(&q);
}

static void add_closing(struct buf *out, const struct plan *p)
{
    if (!p->placement.fits) {
        buf_puts(out, "  does not fit.");
        buf_puts(out, p->n_ways ? " Ways out:\n" : "\n");
        placing_print_ways(out, p->ways, p->n_ways);
        return;
    }
    buf_puts(out, "  fits.");
    add_hint(out, p);
    if (!p->model.arch->forward) {
        buf_printf(out, "   This version cannot run %s yet, it can plan and inspect it.\n",
                   p->model.arch->name);
        return;
    }
    char path[PATH_SIZE];
    buf_printf(out, "   chat with it:  tandem chat %s -c %lld\n",
               shell_word(path, sizeof path, p->path), (long long)p->placement.n_ctx);
}

void plan_text(struct buf *out, const struct plan *p, int columns)
{
    add_heading(out, p);
    add_table(out, p, columns);
    add_speed(out, p);
    add_closing(out, p);
}

void plan_flags(struct buf *out, const struct plan *p)
{
    const struct placement *q = &p->placement;
    buf_printf(out, "-c %lld -b %d -t %d --load %s", (long long)q->n_ctx, q->n_batch,
               p->rates.n_cores, q->copied ? "copy" : "mmap");
    if (!p->rates.vram_bytes)
        return;
    buf_printf(out, " -ngl %d", q->gpu_layers + q->head_on_gpu);
    if (q->cpu_moe < p->model.params.n_layers)
        buf_printf(out, " -ncmoe %d", q->cpu_moe);
    buf_printf(out, " --gpu-experts %d", q->expert_slots);
}

/* ---- --explain ------------------------------------------------------------------------------- */

static const char *role_name(enum role role)
{
    static const char *const names[] = {
        "trunk", "routed experts", "embedding", "output", "draft",
    };
    return names[role];
}

static void explain_rates(struct buf *out, const struct plan *p)
{
    const struct rates *mc = &p->rates;
    bool used[N_TENSOR_TYPES] = { 0 };
    for (int i = 0; i < p->model.n_tensors; i++)
        if (p->placement.homes[i] != HOME_NONE && p->model.tensors[i].role != ROLE_EMBED &&
            p->model.tensors[i].role != ROLE_MTP)
            used[p->model.tensors[i].tensor->type] = true;
    buf_printf(out, mc->dram_gb_s > 0 ? "\nRates\n  %-28s %.1f GB/s\n"
                                      : "\nRates\n  %-28s not measured: %.0f GB/s taken\n",
               "memory, plain reading", mc->dram_gb_s > 0 ? mc->dram_gb_s : 30.0);
    for (int t = 0; t < N_TENSOR_TYPES; t++) {
        if (!used[t])
            continue;
        if (mc->dot_gb_s[t] > 0)
            buf_printf(out, "  %-28s %.1f GB/s with one token", quant_traits((uint32_t)t)->name,
                       mc->dot_gb_s[t]);
        else
            buf_printf(out, "  %-28s not measured: 75 %% of plain reading taken",
                       quant_traits((uint32_t)t)->name);
        buf_printf(out, mc->gops[t] > 0 ? ", %.0f Gop/s with many\n" : "\n", mc->gops[t]);
    }
    if (!mc->vram_bytes)
        return;
    const struct {
        const char *name;
        double value, guess;
        const char *unit;
    } rows[] = {
        { "VRAM", mc->vram_gb_s, 600, "GB/s" }, { "PCIe", mc->pcie_gb_s, 12, "GB/s" },
        { "GPU arithmetic", mc->gpu_tops, 60, "Top/s" },
        { "hand-off per mixture layer", mc->handoff_s * 1e6, 30, "µs" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        buf_printf(out, rows[i].value > 0 ? "  %-28s %.1f %s\n"
                                          : "  %-28s not measured: %.0f %s taken\n",
                   rows[i].name, rows[i].value > 0 ? rows[i].value : rows[i].guess, rows[i].unit);
}

static void explain_time(struct buf *out, const struct plan *p)
{
    const struct token_time *t = &p->forecast.token, *full = &p->full.token;
    const struct {
        const char *name;
        double s, s_full;
    } rows[] = {
        { "weights read by the CPU", t->cpu_weights, full->cpu_weights },
        { "weights read by the GPU", t->gpu_weights, full->gpu_weights },
        { "hand-off between the two", t->handoff, full->handoff },
        { "threads starting and meeting", t->steps, full->steps },
        { "attention over the context", t->attention, full->attention },
        { "waiting for the disk", t->disk, full->disk },
        { "one token", t->all, full->all },
    };
    buf_printf(out, "\n%-30s %12s %14s\n", "Time of a token, ms", "context 0", "context full");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].s > 0 || rows[i].s_full > 0)
            buf_printf(out, "  %-28s %12.2f %14.2f\n", rows[i].name, 1e3 * rows[i].s,
                       1e3 * rows[i].s_full);
}

static bool alike(const struct placement_row *a, const struct placement_row *b)
{
    return a->role == b->role && a->home == b->home && a->layout == b->layout &&
           a->n_tensors == b->n_tensors && a->bytes == b->bytes && (a->layer < 0) == (b->layer < 0);
}

/* "3 - 60", or "4 - 42 (20)" where other layers stand between; of the rows like number `first`. */
static void layers_text(char *text, size_t size, const struct placement *q, int first)
{
    const struct placement_row *r = &q->rows[first];
    int last = r->layer, n = 1;
    for (int i = first + 1; i < q->n_rows; i++) {
        if (!alike(r, &q->rows[i]))
            continue;
        last = q->rows[i].layer;
        n++;
    }
    if (r->layer < 0)
        snprintf(text, size, "-");
    else if (n == 1)
        snprintf(text, size, "%d", r->layer);
    else if (last - r->layer + 1 == n)
        snprintf(text, size, "%d - %d", r->layer, last);
    else
        snprintf(text, size, "%d - %d (%d)", r->layer, last, n);
}

static bool told_before(const struct placement *q, int row)
{
    for (int i = 0; i < row; i++)
        if (alike(&q->rows[i], &q->rows[row]))
            return true;
    return false;
}

/* Layers that are placed alike share a line. */
static void explain_layers(struct buf *out, const struct plan *p)
{
    const struct placement *q = &p->placement;
    buf_printf(out, "\n  %-16s %-12s %-5s %-9s %7s %12s %15s\n", "role", "layers", "place",
               "layout", "tensors", "size each", "read per token");
    for (int i = 0; i < q->n_rows; i++) {
        const struct placement_row *r = &q->rows[i];
        char layers[40], size[32], reads[32];
        if (told_before(q, i))
            continue;
        layers_text(layers, sizeof layers, q, i);
        size_text(size, sizeof size, (double)r->bytes);
        read_text(reads, sizeof reads, (double)r->bytes_per_token);
        buf_printf(out, "  %-16s %-12s %-5s %-9s %7d %12s %15s\n", role_name(r->role), layers,
                   home_name(r->home), r->layout == LAYOUT_PLAIN ? "plain" : "repacked",
                   r->n_tensors, size, reads);
    }
}

void plan_explain(struct buf *out, const struct plan *p)
{
    explain_time(out, p);
    explain_rates(out, p);
    explain_layers(out, p);
}
