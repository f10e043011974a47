#include "tools/fit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/pool.h"
#include "src/cli/rates.h"
#include "src/cli/retype.h"
#include "src/cli/term.h"
#include "src/engine/engine.h"
#include "src/format/quant.h"
#include "src/model/forecast.h"
#include "src/model/memory.h"

#define DEFAULT_CONTEXT 8192
#define BLOCK 256      /* elements of a sample */
#define N_BLOCKS 16    /* samples of a tensor */
#define ATTEMPTS 16
#define MAX_COLS (1 << 20)

bool fit_wanted(const struct options *o)
{
    return o->fit_ram || o->fit_vram || o->min_tok_s > 0;
}

struct fit {
    struct type_plan *p;
    const struct options *o;
    struct model model;
    struct retyped retyped;
    int *model_of;                /* [n] tensor of the model for each of the plan; -1: none */
    unsigned char *purses;        /* [n] */
    struct engine_options engine; /* which the wishes borrow */
    struct placement_wishes wishes;
    struct rates rates;
    struct budget budget;
    uint64_t rest[N_PURSES];      /* everything but weights */
    struct placement placement;   /* of the last choice */
    struct forecast forecast;
};

/* ---- measuring errors ---- */

struct sampler {
    struct fit *f;
    const struct fit_source *source;
    enum tensor_type ladder[N_TENSOR_TYPES];
    int n_ladder;
    float *rows;                  /* [workers][2 * MAX_COLS]: a row, its importance */
};

/* Add the squares of one block to each type's sums. */
static void add_block(const struct sampler *s, size_t i, const float *x, const float *v,
                      double error[N_TENSOR_TYPES], double *all)
{
    const struct recipe_tensor *t = &s->f->p->tensors[i];
    uint8_t blocks[8 * BLOCK];
    float y[BLOCK];
    for (int k = 0; k < BLOCK; k++)
        *all += (double)v[k] * (double)x[k] * (double)x[k];
    for (int l = 0; l < s->n_ladder; l++) {
        enum tensor_type type = s->ladder[l];
        if (type_bits(type) >= type_bits(t->source))
            continue;
        quant_traits(type)->quantize(x, blocks, BLOCK, v);
        quant_traits(type)->dequantize(blocks, y, BLOCK);
        for (int k = 0; k < BLOCK; k++) {
            double d = (double)y[k] - (double)x[k];
            error[type] += (double)v[k] * d * d;
        }
    }
}

static void sample_tensor(const struct sampler *s, size_t i, float *row, float *importance)
{
    const struct recipe_tensor *t = &s->f->p->tensors[i];
    int64_t cols = (int64_t)t->ne[0], rows = (int64_t)(t->ne[1] * t->ne[2] * t->ne[3]);
    uint64_t n_matrices = t->ne[2] * t->ne[3];
    struct imatrix_entry e;
    double error[N_TENSOR_TYPES] = { 0 }, all = 0;
    bool exact;
    const struct imatrix_entry *found = imatrix_find(&s->f->p->imatrix, t->name, &exact);
    if (!found || cols % BLOCK || cols > MAX_COLS ||
        !imatrix_fit(found, t->name, t->ne[0], n_matrices, &e, NULL))
        return;
    for (int64_t b = 0; b < N_BLOCKS; b++) { /* spread over rows and columns */
        int64_t r = rows * (2 * b + 1) / (2 * N_BLOCKS), c = b * 7 % (cols / BLOCK) * BLOCK;
        if (!s->source->row(s->source->ctx, i, r, row))
            return;
        imatrix_row(&e, (uint64_t)r / t->ne[1], cols, importance);
        for (int64_t k = 0; k < BLOCK; k++)
            if (!isfinite(row[c + k]))
                return;
        add_block(s, i, row + c, importance + c, error, &all);
    }
    for (int type = 0; all > 0 && type < N_TENSOR_TYPES; type++)
        s->f->budget.errors[i][type] = error[type] / all;
}

static void sample_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct sampler *s = ctx;
    float *row = s->rows + (size_t)worker * 2 * MAX_COLS;
    for (int64_t i = begin; i < end; i++) {
        const struct recipe_tensor *t = &s->f->p->tensors[i];
        if (t->reason != RECIPE_KEPT && t->reason != RECIPE_OVERRIDE)
            sample_tensor(s, (size_t)i, row, row + MAX_COLS);
    }
}

static bool measure_errors(struct fit *f, const struct fit_source *source, struct error *err)
{
    struct sampler s = { .f = f, .source = source };
    struct pool *pool = NULL;
    if (!f->p->has_imatrix || !source->row)
        return true;
    s.n_ladder = budget_ladder(true, s.ladder);
    f->budget.errors = mem_alloc(f->p->n, sizeof *f->budget.errors, "errors of types", err);
    bool ok = f->budget.errors && pool_open(&pool, (int)f->o->threads, err);
    if (ok)
        s.rows = mem_alloc((size_t)pool_threads(pool) * 2 * MAX_COLS, sizeof *s.rows, "samples",
                           err);
    ok = ok && s.rows;
    if (ok)
        pool_run(pool, sample_job, &s, (int64_t)f->p->n, 1);
    mem_free(s.rows);
    pool_close(pool);
    return ok;
}

/* ---- the machine ---- */

static int model_tensor(const struct model *m, const char *name)
{
    for (int i = 0; i < m->n_tensors; i++)
        if (strcmp(m->tensors[i].tensor->name, name) == 0)
            return i;
    return -1;
}

/* Halves of an attn_kv_b that is split on the way stand for the whole, in the model. */
static int find_in_model(const struct model *m, const char *name)
{
    char whole[64];
    int at = model_tensor(m, name);
    if (at >= 0 || !strstr(name, ".attn_v_b."))
        return at;
    int prefix = (int)(strstr(name, "attn_v_b") - name);
    snprintf(whole, sizeof whole, "%.*sattn_kv_b.weight", prefix, name);
    return model_tensor(m, whole);
}

static void describe_machine(struct fit *f)
{
    const struct options *o = f->o;
    bool vram = o->fit_vram > 0;
    int64_t n_ctx = o->ctx_size > 0 ? o->ctx_size : DEFAULT_CONTEXT;
    f->rates.ram_bytes = o->fit_ram ? (uint64_t)o->fit_ram : memory_available();
    f->rates.vram_bytes = (uint64_t)o->fit_vram;
    f->engine = (struct engine_options){
        .n_threads = (int)o->threads, .n_ctx = min_of(n_ctx, f->model.params.context_length),
        .n_batch = USUAL_BATCH, .max_ram_bytes = f->rates.ram_bytes,
    };
    f->wishes = engine_wishes(&f->engine, &f->model);
    f->wishes.vram_margin = 0; /* the size says what may be used */
    f->wishes.gpu_layers = vram ? PLACE_ALL : 0;
    f->wishes.cpu_moe = PLACE_ALL;
    f->wishes.gpu_experts = 0;
}

/* Place the model without limits: which memory each tensor is paid from, and what else is needed. */
static bool find_purses(struct fit *f, struct error *err)
{
    struct rates endless = f->rates;
    struct placement p;
    endless.ram_bytes = (uint64_t)1 << 60;
    endless.vram_bytes = f->rates.vram_bytes ? (uint64_t)1 << 60 : 0;
    if (!placement_make(&p, &f->model, &endless, &f->wishes, err))
        return false;
    for (int part = 0; part < N_PARTS; part++)
        if (part != PART_TRUNK && part != PART_ENDS && part != PART_ROUTED) {
            f->rest[PURSE_RAM] += p.bytes[part][HOME_RAM];
            f->rest[PURSE_VRAM] += p.bytes[part][HOME_GPU];
        }
    f->rest[PURSE_RAM] += endless.ram_bytes - p.ram_budget;
    for (size_t i = 0; i < f->p->n; i++) {
        int at = f->model_of[i];
        f->purses[i] = at >= 0 && p.homes[at] == HOME_GPU ? PURSE_VRAM : PURSE_RAM;
    }
    placement_free(&p);
    return true;
}

static bool open_fit(struct fit *f, const char *in, struct error *err)
{
    size_t n = f->p->n;
    struct options here = *f->o;
    f->model_of = mem_alloc(n, sizeof *f->model_of, "tensors to fit", err);
    f->purses = mem_alloc(n, sizeof *f->purses, "tensors to fit", err);
    if (!f->model_of || !f->purses || !model_open(&f->model, in, (enum numerics)0, err) ||
        !retyped_open(&f->retyped, &f->model, err))
        return false;
    here.ram_bytes = here.vram_bytes = UNSET;
    if (f->o->min_tok_s > 0 && !rates_here(&f->rates, &here, true, err))
        return false;
    for (size_t i = 0; i < n; i++)
        f->model_of[i] = find_in_model(&f->model, f->p->tensors[i].name);
    describe_machine(f);
    f->budget.purses = f->purses;
    return find_purses(f, err);
}

static void close_fit(struct fit *f)
{
    placement_free(&f->placement);
    retyped_close(&f->retyped);
    model_close(&f->model);
    mem_free(f->model_of);
    mem_free(f->purses);
    mem_free(f->budget.errors);
}

/* ---- choosing ---- */

/* How the choice would be placed, and how fast it would be. */
static bool place(struct fit *f, struct error *err)
{
    for (size_t i = 0; i < f->p->n; i++)
        if (f->model_of[i] >= 0)
            retyped_set(&f->retyped, f->model_of[i], f->p->tensors[i].type);
    placement_free(&f->placement);
    f->placement = (struct placement){ 0 };
    if (!placement_make(&f->placement, &f->retyped.model, &f->rates, &f->wishes, err))
        return false;
    if (f->o->min_tok_s > 0)
        forecast_make(&f->forecast, &f->retyped.model, &f->placement, &f->rates, 0, USUAL_BATCH);
    return true;
}

static uint64_t less(uint64_t all, uint64_t taken)
{
    return all > taken ? all - taken : 0;
}

/* The best choice within `part` of the memory. Rounding to pages may push it over the edge: then a
 * little less is tried. */
static bool choose_within(struct fit *f, double part, struct error *err)
{
    struct recipe_tensor *before = mem_alloc(f->p->n, sizeof *before, "types", err);
    uint64_t over[N_PURSES] = { 0 };
    bool ok = before != NULL, fits = false;
    if (ok)
        memcpy(before, f->p->tensors, f->p->n * sizeof *before);
    for (int i = 0; ok && !fits && i < ATTEMPTS; i++) {
        uint64_t ram = less(f->rates.ram_bytes, f->rest[PURSE_RAM]);
        uint64_t vram = less(f->rates.vram_bytes, f->rest[PURSE_VRAM]);
        f->budget.bytes[PURSE_RAM] = less((uint64_t)(part * (double)ram), over[PURSE_RAM]);
        f->budget.bytes[PURSE_VRAM] = less((uint64_t)(part * (double)vram), over[PURSE_VRAM]);
        memcpy(f->p->tensors, before, f->p->n * sizeof *before);
        ok = budget_choose(&f->budget, f->p, err) && place(f, err);
        fits = ok && f->placement.fits;
        const struct placement *q = &f->placement;
        over[PURSE_RAM] += less(q->ram_used + q->ram_mapped, q->ram_budget) + (1 << 20);
        over[PURSE_VRAM] += less(q->vram_used, q->vram_budget) + (1 << 20);
    }
    if (ok && !fits)
        ok = placement_check(&f->placement, err);
    mem_free(before);
    return ok;
}

/* The largest part of the memory whose best choice is fast enough, to a thousandth. */
static bool choose_fast(struct fit *f, struct error *err)
{
    struct recipe_tensor *base = mem_alloc(f->p->n, sizeof *base, "types", err);
    double low = 0, high = 1, best = 0, speed = 0;
    if (!base)
        return false;
    memcpy(base, f->p->tensors, f->p->n * sizeof *base);
    for (int i = 0; i < 12; i++) {
        struct error why = { 0 };
        double part = i == 0 ? 1 : (low + high) / 2;
        memcpy(f->p->tensors, base, f->p->n * sizeof *base);
        if (!choose_within(f, part, &why)) { /* too little for the smallest types */
            if (i == 0 || why.code != ERR_FIT) {
                mem_free(base);
                return fail(err, why.code, "%s", why.text);
            }
            low = part;
            continue;
        }
        speed = max_of(speed, f->forecast.decode_tok_s.mid);
        if (f->forecast.decode_tok_s.mid >= f->o->min_tok_s) {
            best = low = part;
            if (i == 0)
                break;
        } else {
            high = part;
        }
    }
    memcpy(f->p->tensors, base, f->p->n * sizeof *base);
    mem_free(base);
    if (best == 0)
        return fail(err, ERR_FIT, "--min-tps %g: the smallest types that fit decode about %.3g "
                    "tokens per second here", f->o->min_tok_s, speed);
    return choose_within(f, best, err);
}

/* ---- explaining ---- */

static void add_purse(const struct fit *f, enum purse purse, uint64_t all, const char *name,
                      struct buf *out)
{
    char a[32], b[32], c[32], d[32];
    uint64_t used = f->budget.used[purse], rest = f->rest[purse];
    buf_printf(out, "%-24s %s: %s of weights, %s for the rest, %s left\n", name,
               human_bytes((double)all, a, sizeof a), human_bytes((double)used, b, sizeof b),
               human_bytes((double)rest, c, sizeof c),
               human_bytes((double)less(all, used + rest), d, sizeof d));
}

static void explain(const struct fit *f, struct buf *out)
{
    if (f->rates.vram_bytes)
        add_purse(f, PURSE_VRAM, f->rates.vram_bytes, "VRAM", out);
    add_purse(f, PURSE_RAM, f->rates.ram_bytes, "main memory", out);
    if (f->o->min_tok_s > 0)
        buf_printf(out, "%-24s about %.3g tokens per second\n", "decode",
                   f->forecast.decode_tok_s.mid);
    budget_explain(f->p, out);
    buf_printf(out, "%-24s %.4g by %s; %s\n\n", "expected loss", f->budget.loss,
               f->budget.errors ? "samples of the weights and their importance"
                                : "the types' errors on normally distributed weights",
               f->budget.exact ? "no other choice has less" : "within a thousandth of the least");
}

bool fit_choose(struct type_plan *p, const struct options *o, const char *in,
                const struct fit_source *source, struct buf *out, struct error *err)
{
    struct fit f = { .p = p, .o = o };
    bool ok = open_fit(&f, in, err) && measure_errors(&f, source, err) &&
              (o->min_tok_s > 0 ? choose_fast(&f, err) : choose_within(&f, 1, err));
    if (ok)
        explain(&f, out);
    close_fit(&f);
    return ok;
}
