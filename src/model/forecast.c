#include "src/model/forecast.h"

#include <math.h>

#include "src/base/util.h"
#include "src/format/quant.h"

#define GIGA 1e9
#define STEPS_PER_LAYER 20 /* operations of a mixture layer that all threads share */

/* Rates of a machine on which nothing was measured yet, and how they are missed. */
#define GUESS_DRAM_GB_S 30.0
#define GUESS_OF_DRAM 0.75       /* of a block type whose kernels were not timed */
#define GUESS_GOP_PER_CORE 150.0 /* int8 products with many tokens */
#define GUESS_ATTENTION_PER_CORE 30.0         /* products of floats, one token */
#define GUESS_PROMPT_ATTENTION_PER_CORE 140.0 /* and many */
#define GUESS_VRAM_GB_S 600.0
#define GUESS_PCIE_GB_S 12.0
#define GUESS_GPU_TOP_S 60.0
#define GUESS_DISK_GB_S 2.0
#define GUESS_STEP_S 3e-6
/* Of a copy's rate: pages of 4 KiB, where hardware stops reading ahead at each border, and rows that
 * are not woven. Measured: 0.93 (Q8_0), 0.78 (Q4_K_M), 0.59 (IQ4_XS). */
#define MAPPED_SHARE 0.75

/* How well the parts that cannot be measured before loading will do. */
struct temper {
    double cpu;       /* of the measured kernel rates, one token */
    double tiles;     /* the same with many tokens */
    double gpu;       /* of VRAM bandwidth, by our kernels */
    double compute;   /* of the GPU's dense arithmetic */
    double handoff_s; /* where no hand-off was measured */
    double hits;      /* of the published hit rate */
    double guess;     /* of rates that are guesses */
};
static const struct temper low = { 0.84, 0.55, 0.55, 0.35, 90e-6, 0.75, 0.80 };
static const struct temper mid = { 0.92, 0.66, 0.70, 0.50, 30e-6, 1.00, 1.00 };
static const struct temper high = { 1.00, 0.78, 0.80, 0.65, 15e-6, 1.05, 1.20 };

/* ---- rates ---- */

static double known(double rate, double guess, const struct temper *t)
{
    return rate > 0 ? rate : guess * t->guess;
}

static double dram_gb_s(const struct rates *mc, const struct temper *t)
{
    return known(mc->dram_gb_s, GUESS_DRAM_GB_S, t);
}

/* Weights of a type with one token, from huge pages or from the mapping. */
static double stream_gb_s(const struct rates *mc, enum tensor_type type, enum home home,
                          const struct temper *t)
{
    double dram = dram_gb_s(mc, t);
    double rate = known(mc->dot_gb_s[type], dram * GUESS_OF_DRAM, t);
    return min_of(rate * t->cpu, dram) * (home == HOME_MAPPED ? MAPPED_SHARE : 1);
}

/* Arithmetic with many tokens. A type whose tiles were not timed is taken to be as fast as Q4_K's,
 * less where its kernels are slower with one token. */
static double tile_gops(const struct rates *mc, enum tensor_type type, const struct temper *t)
{
    double guess = known(mc->gops[TYPE_Q4_K], GUESS_GOP_PER_CORE * max_of(mc->n_cores, 1), t);
    double slower = mc->dot_gb_s[type] > 0 && mc->dot_gb_s[TYPE_Q4_K] > 0
                  ? min_of(1.0, mc->dot_gb_s[type] / mc->dot_gb_s[TYPE_Q4_K])
                  : 1;
    return known(mc->gops[type], guess * slower, t);
}

double forecast_hit_rate(double share)
{
    static const double at[][2] = {
        { 0, 0 }, { 0.0547, 0.41 }, { 0.109, 0.59 }, { 0.219, 0.74 }, { 0.4375, 0.87 },
        { 0.875, 0.91 }, { 1, 1 },
    };
    size_t i = 1;
    if (share >= 1)
        return 1;
    while (i + 1 < ARRAY_LEN(at) && share > at[i][0])
        i++;
    double along = (share - at[i - 1][0]) / (at[i][0] - at[i - 1][0]);
    double curve = at[i - 1][1] + along * (at[i][1] - at[i - 1][1]);
    return max_of(curve, share);
}

/* ---- one token ---- */

static double hit_rate(const struct model *m, const struct placement *p, const struct temper *t)
{
    if (p->expert_slots == 0)
        return 0;
    double share = (double)p->expert_slots / m->params.n_routed;
    return share >= 1 ? 1 : min_of(0.99, forecast_hit_rate(share) * t->hits);
}

/* Seconds to stream what one tensor gives to one token. */
static double tensor_s(const struct model *m, const struct placement *p, const struct rates *mc,
                       const struct temper *t, int i)
{
    const struct model_tensor *mt = &m->tensors[i];
    enum tensor_type type = mt->spec->is_f32 ? TYPE_F32 : mt->tensor->type;
    double bytes = (double)placement_tensor_reads(m, i);
    if (p->homes[i] == HOME_GPU)
        return bytes / (known(mc->vram_gb_s, GUESS_VRAM_GB_S, t) * t->gpu * GIGA);
    return bytes / (stream_gb_s(mc, type, p->homes[i], t) * GIGA);
}

/* By every token: the block that drafts is not, and is measured instead (src/engine/draft.h). */
static bool is_read(const struct model *m, const struct placement *p, int i)
{
    return p->homes[i] != HOME_NONE && m->tensors[i].role != ROLE_MTP;
}

static void stream_weights(struct token_time *time, const struct model *m,
                           const struct placement *p, const struct rates *mc,
                           const struct temper *t)
{
    double routed_cpu = 0, hits = hit_rate(m, p, t);
    for (int i = 0; i < m->n_tensors; i++) {
        double s = is_read(m, p, i) ? tensor_s(m, p, mc, t, i) : 0;
        if (p->homes[i] == HOME_GPU)
            time->gpu_weights += s;
        else if (m->tensors[i].role == ROLE_ROUTED)
            routed_cpu += s;
        else if (m->tensors[i].role == ROLE_EMBED && m->params.tied_output && p->head_on_gpu)
            time->gpu_weights += (double)m->tensors[i].tensor->bytes /
                                 (known(mc->vram_gb_s, GUESS_VRAM_GB_S, t) * t->gpu * GIGA);
        else
            time->cpu_weights += s;
    }
    /* misses on the CPU, hits beside them on the GPU: the slower of the two counts */
    double hit_bytes = hits * (double)(p->bytes_per_token[PART_ROUTED][HOME_RAM] +
                                       p->bytes_per_token[PART_ROUTED][HOME_MAPPED]);
    double on_gpu = hit_bytes / (known(mc->vram_gb_s, GUESS_VRAM_GB_S, t) * t->gpu * GIGA);
    double on_cpu = routed_cpu * (1 - hits);
    time->cpu_weights += on_cpu;
    time->gpu_weights += max_of(0.0, on_gpu - on_cpu);
}

/* What one query meets in one layer over `depth` cached positions: rows that attention reads, and
 * narrow keys that an indexer reads to choose them. Compression puts 4 or 128 positions into one
 * row beside a window. */
struct attended {
    double rows, keys;
};

static struct attended attended(const struct params *q, int layer, double depth)
{
    struct attended a = { .rows = depth };
    int ratio = q->n_streams ? q->compress_ratio[layer] : 1;
    if (q->n_streams)
        a.rows = min_of(depth, (double)q->window);
    if (ratio == 1 && q->index_top_k) {
        a.keys = depth;
        a.rows = min_of(depth, (double)q->index_top_k);
    } else if (ratio == 4) {
        a.keys = depth / ratio;
        a.rows += min_of(a.keys, (double)q->index_top_k);
    } else if (ratio > 4) {
        a.rows += depth / ratio;
    }
    return a;
}

/* With latents every head reads the latent twice and the rotary part once. */
static double layer_ops(const struct params *q, int layer, double depth)
{
    double width = q->kv_lora_rank ? 2.0 * q->kv_lora_rank + q->qk_rope_dim
                                   : (double)q->head_dim + q->value_dim;
    struct attended a = attended(q, layer, depth);
    return 2 * width * q->n_heads * a.rows + 2.0 * q->index_heads * q->index_dim * a.keys;
}

double forecast_cache_reads(const struct params *q, enum tensor_type type, int first, int n,
                            double depth)
{
    double kv = (double)(params_dim(q, DIM_KV) + params_dim(q, DIM_V)), sum = 0;
    double element = type == TYPE_F32 ? 4 : 2;
    double key = type == TYPE_F32 ? 4.0 * q->index_dim : (double)q->index_dim + sizeof(float);
    double row = element * (q->kv_lora_rank ? (double)params_dim(q, DIM_KV_A)
                            : q->n_streams  ? (double)q->head_dim
                                            : kv);
    for (int i = first; i < first + n; i++) {
        struct attended a = attended(q, i, depth);
        sum += a.rows * row + a.keys * key;
    }
    return sum;
}

/* Bytes of the cache that one token reads there. */
static double cache_reads(const struct model *m, const struct placement *p, enum home home,
                          double depth)
{
    int n_cpu = m->params.n_layers - p->gpu_layers;
    return home == HOME_GPU ? forecast_cache_reads(&m->params, TYPE_F16, n_cpu, p->gpu_layers, depth)
         : home == HOME_RAM ? forecast_cache_reads(&m->params, TYPE_F16, 0, n_cpu, depth)
                            : 0;
}

static double attention_ops(const struct params *q, double depth)
{
    double sum = 0;
    for (int i = 0; i < q->n_layers; i++)
        sum += layer_ops(q, i, depth);
    return sum;
}

static double attention_s(const struct model *m, const struct placement *p,
                          const struct rates *mc, const struct temper *t, int64_t depth)
{
    double ram = cache_reads(m, p, HOME_RAM, (double)depth) / (dram_gb_s(mc, t) * GIGA);
    double vram = cache_reads(m, p, HOME_GPU, (double)depth) /
                  (known(mc->vram_gb_s, GUESS_VRAM_GB_S, t) * t->gpu * GIGA);
    double on_cpu = 1 - (double)p->gpu_layers / m->params.n_layers;
    double ops = attention_ops(&m->params, (double)depth) * on_cpu;
    double rate = known(mc->attention_gops, GUESS_ATTENTION_PER_CORE * max_of(mc->n_cores, 1), t);
    return max_of(ram, ops / (rate * GIGA)) + vram;
}

/* Mixture layers where the trunk and some experts are on different sides. */
static int n_handoffs(const struct model *m, const struct placement *p)
{
    const struct params *q = &m->params;
    int n = 0;
    for (int i = 0; i < q->n_layers; i++)
        n += layer_is_moe(q, i) && i >= q->n_layers - p->gpu_layers && i < p->cpu_moe &&
             p->expert_slots < q->n_routed;
    return n;
}

/* Experts that memory cannot hold come from the disk whenever they are picked. */
static double disk_s(const struct placement *p, const struct rates *mc, const struct temper *t)
{
    double room = p->ram_budget > p->ram_used ? (double)(p->ram_budget - p->ram_used) : 0;
    double mapped = (double)p->ram_mapped, reads = 0;
    if (mapped <= room)
        return 0;
    for (int part = PART_TRUNK; part <= PART_ROUTED; part++)
        reads += (double)p->bytes_per_token[part][HOME_MAPPED];
    return reads * (1 - room / mapped) / (known(mc->disk_gb_s, GUESS_DISK_GB_S, t) * GIGA);
}

static struct token_time token_time(const struct model *m, const struct placement *p,
                                    const struct rates *mc, const struct temper *t,
                                    int64_t depth)
{
    struct token_time time = { 0 };
    stream_weights(&time, m, p, mc, t);
    double handoff = mc->handoff_s > 0 ? mc->handoff_s / t->cpu : t->handoff_s;
    time.handoff = handoff * n_handoffs(m, p);
    time.steps = GUESS_STEP_S / t->guess * STEPS_PER_LAYER *
                 (m->params.n_layers - p->gpu_layers);
    time.attention = attention_s(m, p, mc, t, depth);
    time.disk = disk_s(p, mc, t);
    time.all = time.cpu_weights + time.gpu_weights + time.handoff + time.steps + time.attention +
               time.disk;
    return time;
}

static double serial_s(const struct model *m, const struct placement *p, const struct rates *mc)
{
    double hits = hit_rate(m, p, &mid), cpu = 0, gpu = 0;
    for (int part = PART_TRUNK; part <= PART_ROUTED; part++) {
        double share = part == PART_ROUTED ? 1 - hits : 1;
        cpu += share * (double)(p->bytes_per_token[part][HOME_RAM] +
                                p->bytes_per_token[part][HOME_MAPPED]);
        gpu += (double)p->bytes_per_token[part][HOME_GPU];
    }
    return cpu / (dram_gb_s(mc, &mid) * GIGA) +
           gpu / (known(mc->vram_gb_s, GUESS_VRAM_GB_S, &mid) * GIGA);
}

/* ---- a prompt ---- */

/* Seconds per step of n tokens for one tensor on the CPU. A tile was timed with TILE_TOKENS tokens
 * and weights from memory: part of its time is getting at the weights, however few tokens share them. */
#define TILE_TOKENS 128
static double panel_s(const struct model *m, const struct rates *mc, const struct temper *t,
                      int i, double n)
{
    const struct model_tensor *mt = &m->tensors[i];
    const struct params *q = &m->params;
    enum tensor_type type = mt->spec->is_f32 ? TYPE_F32 : mt->tensor->type;
    double bytes = (double)mt->tensor->bytes;
    double elements = (double)(mt->tensor->ne[0] * tensor_rows(mt->tensor)), per_token = elements;
    double touched = 1;
    struct temper plain = *t;
    plain.cpu = 1;
    if (mt->role == ROLE_EMBED && !q->tied_output)
        return 0;
    if (mt->role == ROLE_HEAD || mt->role == ROLE_EMBED)
        n = 1; /* logits of the last token only */
    if (mt->role == ROLE_ROUTED) {
        double pick = (double)q->top_k / q->n_routed;
        touched = 1 - pow(1 - pick, n);
        per_token = elements * pick;
    }
    double read = bytes / (stream_gb_s(mc, type, HOME_RAM, &plain) * GIGA);
    double tile = 2 * elements * TILE_TOKENS / (tile_gops(mc, type, t) * GIGA);
    double per_product = max_of(tile - read, 0.5 * tile) / (elements * TILE_TOKENS);
    return (touched * read + per_token * n * per_product) / t->tiles;
}

static double prefill_s(const struct model *m, const struct placement *p, const struct rates *mc,
                        const struct temper *t, double n)
{
    const struct params *q = &m->params;
    double cpu_trunk = 0, routed = 0, upload = 0, gpu_ops = 0, vram = 0;
    double pick = q->n_routed ? (double)q->top_k / q->n_routed : 0;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *mt = &m->tensors[i];
        double elements = (double)(mt->tensor->ne[0] * tensor_rows(mt->tensor));
        if (!is_read(m, p, i))
            continue;
        if (mt->role == ROLE_ROUTED && p->homes[i] != HOME_GPU) {
            routed += panel_s(m, mc, t, i, n);
            upload += (1 - pow(1 - pick, n)) * (double)mt->tensor->bytes;
        } else if (p->homes[i] == HOME_GPU) {
            gpu_ops += 2 * elements * (mt->role == ROLE_ROUTED ? pick * n
                                       : mt->role == ROLE_HEAD ? 1 : n);
            vram += (double)mt->tensor->bytes;
        } else {
            cpu_trunk += panel_s(m, mc, t, i, n);
        }
    }
    /* attention of each token over half the prompt on average, heads expanded from latents */
    double attention = 2.0 * (q->head_dim + q->value_dim) * q->n_heads * q->n_layers * n * n / 2;
    double on_gpu = (double)p->gpu_layers / q->n_layers;
    double cpu_rate = known(mc->prompt_attention_gops,
                            GUESS_PROMPT_ATTENTION_PER_CORE * max_of(mc->n_cores, 1), t);
    if (p->gpu_layers > 0) { /* the cheaper of computing in place and sending experts up */
        double sent = upload / (known(mc->pcie_gb_s, GUESS_PCIE_GB_S, t) * GIGA);
        routed = min_of(routed, sent / t->cpu);
    }
    return cpu_trunk + routed + attention * (1 - on_gpu) / (cpu_rate * GIGA) +
           vram / (known(mc->vram_gb_s, GUESS_VRAM_GB_S, t) * t->gpu * GIGA) +
           (gpu_ops + attention * on_gpu) /
               (known(mc->gpu_tops, GUESS_GPU_TOP_S, t) * t->compute * 1e12) +
           disk_s(p, mc, t) * min_of(n, 1 / max_of(pick, 1e-3));
}

static double prefill_rate(const struct model *m, const struct placement *p,
                           const struct rates *mc, const struct temper *t, int64_t prompt)
{
    double n = (double)min_of((int64_t)p->n_batch, max_of(prompt, (int64_t)1));
    return n / prefill_s(m, p, mc, t, n);
}

/* ---- words ---- */

/* The largest term, and the next when it is worth naming. */
static void name_bounds(struct forecast *f, const struct placement *p)
{
    bool gpu = p->gpu_layers > 0;
    const struct {
        const char *name;
        double s;
    } terms[] = {
        { gpu ? "DRAM" : "memory reads", f->token.cpu_weights },
        { "GPU weights", f->token.gpu_weights },
        { "hand-off", f->token.handoff },
        { "synchronisation", f->token.steps },
        { "attention", f->token.attention },
        { "the disk", f->token.disk },
    };
    size_t first = 0, second = 1;
    for (size_t i = 1; i < ARRAY_LEN(terms); i++)
        first = terms[i].s > terms[first].s ? i : first;
    second = first == 0 ? 1 : 0;
    for (size_t i = 0; i < ARRAY_LEN(terms); i++)
        if (i != first && terms[i].s > terms[second].s)
            second = i;
    f->bound_first = terms[first].name;
    f->bound_second = terms[second].s >= 0.25 * terms[first].s ? terms[second].name : NULL;
}

static void spread_reads(struct forecast *f, const struct model *m, const struct placement *p,
                         int64_t depth)
{
    for (int part = 0; part < N_PARTS; part++)
        for (int home = 0; home < N_HOMES; home++)
            f->reads[part][home] = (double)p->bytes_per_token[part][home];
    for (int home = 0; home < N_HOMES; home++)
        f->reads[PART_CACHE][home] = cache_reads(m, p, (enum home)home, (double)depth);
    for (int home = HOME_RAM; home <= HOME_MAPPED; home++) {
        f->reads[PART_EXPERT_CACHE][HOME_GPU] += f->hit_rate * f->reads[PART_ROUTED][home];
        f->reads[PART_ROUTED][home] *= 1 - f->hit_rate;
    }
}

static bool all_measured(const struct model *m, const struct placement *p,
                         const struct rates *mc)
{
    bool ok = mc->dram_gb_s > 0;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *mt = &m->tensors[i];
        bool gpu = p->homes[i] == HOME_GPU;
        if (is_read(m, p, i) && !mt->spec->is_f32 && mt->role != ROLE_EMBED)
            ok = ok && (gpu ? mc->vram_gb_s > 0 : mc->dot_gb_s[mt->tensor->type] > 0);
    }
    return ok && (n_handoffs(m, p) == 0 || mc->handoff_s > 0) && disk_s(p, mc, &mid) == 0;
}

void forecast_make(struct forecast *f, const struct model *m, const struct placement *p,
                   const struct rates *mc, int64_t depth, int64_t prompt)
{
    *f = (struct forecast){ .hit_rate = hit_rate(m, p, &mid) };
    f->token = token_time(m, p, mc, &mid, depth);
    f->decode_tok_s = (struct range){
        1 / token_time(m, p, mc, &low, depth).all, 1 / f->token.all,
        1 / token_time(m, p, mc, &high, depth).all,
    };
    f->prefill_tok_s = (struct range){
        prefill_rate(m, p, mc, &low, prompt), prefill_rate(m, p, mc, &mid, prompt),
        prefill_rate(m, p, mc, &high, prompt),
    };
    f->serial_tok_s = 1 / serial_s(m, p, mc);
    f->watts = p->gpu_layers > 0 ? mc->busy_gpu_w : mc->busy_w;
    f->joules = f->watts / f->decode_tok_s.mid;
    if (mc->disk_gb_s > 0)
        f->load_s = (double)m->weight_bytes / (mc->disk_gb_s * GIGA);
    f->measured = all_measured(m, p, mc);
    name_bounds(f, p);
    spread_reads(f, m, p, depth);
}

/* ---- goals ---- */

static bool meets(const struct forecast *f, const struct goals *g)
{
    return (g->min_tok_s <= 0 || f->decode_tok_s.mid >= g->min_tok_s) &&
           (g->max_joules <= 0 || (f->joules > 0 && f->joules <= g->max_joules));
}

/* Halve the context until the goals are met, where the wishes leave it open. */
static bool choose_context(struct placement *p, struct forecast *f, const struct model *m,
                           const struct rates *mc, const struct placement_wishes *w,
                           const struct goals *goals, bool *met, struct error *err)
{
    bool asked = goals->min_tok_s > 0 || goals->max_joules > 0;
    struct placement_wishes wishes = *w;
    for (;;) {
        if (!placement_make(p, m, mc, &wishes, err))
            return false;
        forecast_make(f, m, p, mc, asked ? p->n_ctx : 0, p->n_batch);
        *met = meets(f, goals);
        if (*met || w->n_ctx || !p->fits || p->n_ctx <= 1024)
            return true;
        wishes.n_ctx = p->n_ctx / 2;
        placement_free(p);
    }
}

bool forecast_choose(struct placement *p, struct forecast *f, const struct model *m,
                     const struct rates *mc, const struct placement_wishes *w,
                     const struct goals *goals, bool *met, struct error *err)
{
    struct placement_wishes cpu = *w;
    struct placement q;
    struct forecast g;
    bool cpu_meets;
    if (!choose_context(p, f, m, mc, w, goals, met, err))
        return false;
    if (*met || goals->max_joules <= 0 || w->gpu_layers != PLACE_AUTO || p->gpu_layers == 0)
        return true;
    cpu.gpu_layers = 0; /* slower, and it may be thriftier */
    if (!choose_context(&q, &g, m, mc, &cpu, goals, &cpu_meets, err)) {
        placement_free(p);
        return false;
    }
    if (cpu_meets) {
        placement_free(p);
        *p = q;
        *f = g;
        *met = true;
    } else {
        placement_free(&q);
    }
    return true;
}
