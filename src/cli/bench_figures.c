/* The figures of a test: what it read and computed, how fast the machine lets that be, and what the
 * repetitions say. bench.h defines the words. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/cli/bench.h"
#include "src/cli/term.h"
#include "src/model/arch.h"
#include "src/model/forecast.h"
#include "src/model/kvcache.h"

#define MANY_POSITIONS 4096 /* so that alignment does not count */

/* ---- what a token costs, and the speed that this allows ---- */

void token_cost(const struct model *m, enum tensor_type cache, struct token_cost *cost)
{
    const struct params *p = &m->params;
    *cost = (struct token_cost){ 0 };
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *mt = &m->tensors[i];
        uint64_t elements = mt->tensor->ne[0] * tensor_rows(mt->tensor);
        if (mt->role == ROLE_ROUTED) {
            cost->routed_bytes += mt->tensor->bytes / (uint64_t)p->n_routed * (uint64_t)p->top_k;
            cost->products += elements / (uint64_t)p->n_routed * (uint64_t)p->top_k;
        } else if (mt->role == ROLE_TRUNK && mt->tensor->n_dims > 1) {
            cost->products += elements;
        }
    }
    cost->other_bytes = m->bytes_per_token - cost->routed_bytes;
    cost->cache_bytes = kvcache_bytes(m->arch, p, cache, MANY_POSITIONS) / MANY_POSITIONS;
}

/* Positions of the cache that a step of this row reads, on average. */
static double mean_depth(const struct bench_row *r)
{
    return (double)max_of(r->depth, 1) + ((double)r->n_generate - 1) / 2;
}

double row_cache_bytes(const struct bench *b, const struct bench_row *r)
{
    const struct params *p = &b->model->params;
    if (!r->n_generate)
        return 0;
    if (p->index_top_k || p->n_streams) /* not all rows of a position, and not of every position */
        return forecast_cache_reads(p, b->o->act_f32 ? TYPE_F32 : TYPE_F16, 0, p->n_layers, mean_depth(r));
    return mean_depth(r) * (double)b->cost.cache_bytes;
}

/* What each side reads for a token: weights where the placement has them, routed experts where they were
 * found, the cache by layers. */
static void read_by(const struct bench *b, const struct bench_row *r, double *cpu, double *gpu)
{
    const struct placement *p = b->placement;
    double hits = r->experts.n_picks ? expert_hit_rate(&r->experts) : 0;
    double layers = (double)p->gpu_layers / b->model->params.n_layers;
    *gpu = row_cache_bytes(b, r) * layers;
    *cpu = row_cache_bytes(b, r) * (1 - layers);
    for (int part = PART_TRUNK; part <= PART_ROUTED; part++) {
        double host = (double)(p->bytes_per_token[part][HOME_RAM] +
                               p->bytes_per_token[part][HOME_MAPPED]);
        double share = part == PART_ROUTED ? hits : 0;
        *gpu += (double)p->bytes_per_token[part][HOME_GPU] + share * host;
        *cpu += (1 - share) * host;
    }
}

/* With a GPU: the one after the other. */
static void gpu_limit(const struct bench *b, struct bench_row *r)
{
    const struct token_cost *c = &b->cost;
    const struct machine *m = &b->machine;
    double cpu, gpu;
    if (r->n_generate) {
        read_by(b, r, &cpu, &gpu);
        r->bytes_per_token = cpu;
        r->limit_tok_s = 1e9 / (cpu / m->dram_gb_s + gpu / m->vram_gb_s);
        r->limit = "serial";
    } else if (m->gpu_tops > 0 && !b->o->act_f32) {
        r->limit_tok_s = 1e12 * m->gpu_tops / (2 * (double)c->products);
        r->limit = "arithmetic";
    }
}

void row_limit(const struct bench *b, struct bench_row *r)
{
    const struct token_cost *c = &b->cost;
    double weights = (double)(c->routed_bytes + c->other_bytes);
    double memory_s = 1e9 * b->machine.dram_gb_s, int8_s = 1e9 * b->machine.int8_gops;
    r->limit = "";
    r->limit_tok_s = NAN;
    r->bytes_per_token = NAN;
    if (!(memory_s > 0) || (b->gpu && !(b->machine.vram_gb_s > 0)))
        return;
    if (b->gpu) {
        gpu_limit(b, r);
    } else if (r->n_generate) {
        r->bytes_per_token = weights + row_cache_bytes(b, r);
        r->limit_tok_s = memory_s / r->bytes_per_token;
        r->limit = "memory";
    } else if (int8_s > 0 && !b->o->act_f32) {
        double reading = weights / memory_s;
        double computing = 2 * (double)c->products * (double)r->n_prompt / int8_s;
        r->limit_tok_s = (double)r->n_prompt / max_of(reading, computing);
        r->limit = reading > computing ? "memory" : "arithmetic";
    }
}

/* ---- what was measured ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double row_median(const struct bench_row *r)
{
    double sorted[MAX_REPETITIONS];
    memcpy(sorted, r->tok_s, (size_t)r->n * sizeof *sorted);
    qsort(sorted, (size_t)r->n, sizeof *sorted, by_value);
    return r->n % 2 ? sorted[r->n / 2] : (sorted[r->n / 2 - 1] + sorted[r->n / 2]) / 2;
}

double row_mean(const struct bench_row *r)
{
    double sum = 0;
    for (int i = 0; i < r->n; i++)
        sum += r->tok_s[i];
    return sum / r->n;
}

double row_deviation(const struct bench_row *r)
{
    double mean = row_mean(r), sum = 0;
    for (int i = 0; i < r->n; i++)
        sum += (r->tok_s[i] - mean) * (r->tok_s[i] - mean);
    return r->n > 1 ? sqrt(sum / (r->n - 1)) : 0;
}

double row_gb_s(const struct bench_row *r)
{
    return r->n_generate ? row_median(r) * r->bytes_per_token / 1e9 : NAN;
}

double row_of_limit(const struct bench_row *r)
{
    return row_median(r) / r->limit_tok_s;
}

double row_joules_per_token(const struct bench_row *r)
{
    return r->joules / (double)((r->n_prompt + r->n_generate) * r->n);
}

const char *row_doubt(const struct bench *b, const struct bench_row *r, char *text, size_t size)
{
    char name[64], weights[32], cache[32];
    *text = 0;
    if (!(row_of_limit(r) > 1))
        return text;
    row_name(b, r, name, sizeof name);
    if (strcmp(r->limit, "arithmetic") == 0) {
        snprintf(text, size, "%s is faster than %s was in the probe: was the probe disturbed?", name,
                 b->gpu ? "the GPU's GEMM" : "int8 arithmetic");
        return text;
    }
    if (b->gpu) {
        snprintf(text, size, "%s is faster than the serial bound: experts cached in VRAM, or a probe "
                 "that was disturbed", name);
        return text;
    }
    bool fits = (double)b->model->weight_bytes < 1e9 * b->machine.l3_gb;
    human_bytes((double)b->model->weight_bytes, weights, sizeof weights);
    human_bytes(1e9 * b->machine.l3_gb, cache, sizeof cache);
    if (fits)
        snprintf(text, size, "%s is faster than memory can be read: the weights (%s) fit into the "
                 "last cache (%s), so this is no measure of a model that does not", name, weights,
                 cache);
    else
        snprintf(text, size, "%s is faster than memory was read by the probe (%.1f GB/s): was the "
                 "probe disturbed?", name, b->machine.dram_gb_s);
    return text;
}
