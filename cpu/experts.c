/* Three jobs, one after the other:
 *
 *   1  h = silu(gate src) * up src     blocks of rows of the experts in use, dealt out by cost
 *   2  encode h for the down matrices
 *   3  dst = sum weight * down h       each worker owns output rows, for all experts
 *
 * With one token (decode) every picked expert is thereby split over all workers by rows, and each
 * worker reads a few long contiguous streams of weights.
 *
 * Experts that are split by rows over NUMA nodes are worked off part by part: workers are in the
 * order of the nodes, so the shares of a node's workers lie in its part. */
#include "cpu/experts.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/matmul.h"
#include "src/base/util.h"
#include "src/format/quant.h"

/* Reading a block of rows costs about as much as multiplying it with this many tokens. */
#define READ_COST 2

struct experts_job {
    struct device_cpu *d;
    const struct experts *e;
    struct rows src, dst;
    int n_tokens, top_k;
    const float *weights; /* [n_tokens * top_k], by pair */
    struct weight gate, up;
    struct dot_plan gate_plan, up_plan, down_plan;
    struct encoded gate_act, up_act; /* src by token; the same where the types agree */
    struct encoded h_act;            /* h by place in the order */
    int tile; /* pairs gathered at a time */
};

/* Stable counting sort of the pairs (token, slot) by expert; returns how many there are here. */
static int sort_pairs(struct device_cpu *d, int n_routed, int n_pairs, const int32_t *ids)
{
    int32_t *first = d->first;
    memset(first, 0, ((size_t)n_routed + 1) * sizeof *first);
    for (int i = 0; i < n_pairs; i++) {
        assert(ids[i] >= -1 && ids[i] < n_routed);
        if (ids[i] >= 0)
            first[ids[i] + 1]++;
    }
    for (int e = 0; e < n_routed; e++)
        first[e + 1] += first[e];
    for (int i = 0; i < n_pairs; i++)
        if (ids[i] >= 0)
            d->order[first[ids[i]]++] = i;
    memmove(first + 1, first, (size_t)n_routed * sizeof *first); /* back to the beginnings */
    first[0] = 0;
    return first[n_routed];
}

/* The activations of pairs [at, at + n) side by side in `to`; one is used where it lies. */
static struct encoded gather(const struct experts_job *j, const struct dot_plan *p,
                             struct encoded act, int at, int n, uint8_t *to)
{
    const int32_t *order = j->d->order + at;
    if (n == 1) {
        act.data += (size_t)(order[0] / j->top_k) * act.stride;
        return act;
    }
    size_t bytes = quant_row_bytes(p->act, p->cols);
    struct encoded dense = { to, align_up(bytes, 64) };
    for (int i = 0; i < n; i++)
        memcpy(to + (size_t)i * dense.stride,
               act.data + (size_t)(order[i] / j->top_k) * act.stride, bytes);
    return dense;
}

/* h of up to j->tile pairs from `at` on, rows [first, last) of one expert. */
static void gate_up_tile(const struct experts_job *j, int worker, int expert, int at, int n,
                         int64_t first, int64_t last)
{
    struct device_cpu *d = j->d;
    float *row_floats = d->scratch[worker].row;
    uint8_t *gathered = d->scratch[worker].gathered;
    struct encoded gate_act = gather(j, &j->gate_plan, j->gate_act, at, n, gathered);
    struct encoded up_act = gate_act;
    if (j->up_act.data != j->gate_act.data)
        up_act = gather(j, &j->up_plan, j->up_act, at, n, gathered + (size_t)n * gate_act.stride);
    float up[TOKEN_TILE * ROW_GROUP]; /* [n][group] */
    int64_t group = n == 1 ? LONE_GROUP : ROW_GROUP;
    for (int64_t r0 = first; r0 < last && !step_cancelled(d); r0 += group) {
        int n_rows = (int)min_of(last - r0, group);
        float *h = d->h + at * j->e->expert_size + r0;
        dot_rows(&j->gate_plan, weight_at(&j->gate, expert, r0), j->gate.row_bytes, n_rows,
                 gate_act, n, row_floats, h, (size_t)j->e->expert_size);
        dot_rows(&j->up_plan, weight_at(&j->up, expert, r0), j->up.row_bytes, n_rows, up_act, n,
                 row_floats, up, (size_t)group);
        for (int t = 0; t < n; t++, h += j->e->expert_size) {
            if (j->e->limit > 0) {
                clamp_floats(h, n_rows, -INFINITY, j->e->limit);
                clamp_floats(up + t * group, n_rows, -j->e->limit, j->e->limit);
            }
            d->kernels.swiglu(h, up + t * group, h, n_rows);
        }
    }
}

/* The blocks of ROW_TILE rows of all experts in use stand in one line, each as long as its cost; one
 * such line for each part, one behind the other. */
static int64_t block_cost(const struct experts_job *j, int expert)
{
    const int32_t *first = j->d->first;
    return first[expert + 1] == first[expert] ? 0 : first[expert + 1] - first[expert] + READ_COST;
}

static int64_t n_blocks(int64_t n_rows)
{
    return (n_rows + ROW_TILE - 1) / ROW_TILE;
}

/* The blocks of rows [row, row_end) that begin in [begin, end) of a line that begins at `at`; returns
 * where it ends. */
static int64_t run_part(const struct experts_job *j, int worker, int64_t row, int64_t row_end,
                        int64_t at, int64_t begin, int64_t end)
{
    const int32_t *first = j->d->first;
    int64_t blocks = n_blocks(row_end - row);
    for (int e = 0; e < j->e->n_routed && at < end; e++) {
        int64_t cost = block_cost(j, e);
        if (cost == 0)
            continue;
        int64_t from = at >= begin ? 0 : min_of((begin - at + cost - 1) / cost, blocks);
        int64_t to = min_of((end - at + cost - 1) / cost, blocks);
        at += cost * blocks;
        for (int t = first[e]; from < to && t < first[e + 1]; t += j->tile)
            gate_up_tile(j, worker, e, t, min_of(first[e + 1] - t, j->tile),
                         row + from * ROW_TILE, min_of(row + to * ROW_TILE, row_end));
    }
    return at;
}

/* Job 1. */
static void run_gate_up(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct experts_job *j = ctx;
    int64_t at = 0, row = 0;
    for (int p = 0; row < j->gate.rows && at < end; p++) {
        int64_t row_end = weight_part_end(&j->gate, p);
        at = run_part(j, worker, row, row_end, at, begin, end);
        row = row_end;
    }
}

/* Up to TOKEN_TILE pairs of one expert add their part to rows [begin, end) of dst. */
static void down_tile(const struct experts_job *j, int worker, int expert, int at, int n,
                      int64_t begin, int64_t end)
{
    struct device_cpu *d = j->d;
    struct encoded act = { j->h_act.data + (size_t)at * j->h_act.stride, j->h_act.stride };
    float out[TOKEN_TILE * ROW_GROUP]; /* [n][group] */
    int64_t group = n == 1 ? LONE_GROUP : ROW_GROUP;
    for (int64_t r0 = begin; r0 < end && !step_cancelled(d); r0 += group) {
        int n_rows = (int)min_of(end - r0, group);
        dot_rows(&j->down_plan, weight_at(&j->e->down, expert, r0), j->e->down.row_bytes, n_rows,
                 act, n, d->scratch[worker].row, out, (size_t)group);
        for (int t = 0; t < n; t++) {
            int32_t pair = d->order[at + t];
            float weight = j->weights[pair];
            float *dst = j->dst.data + pair / j->top_k * j->dst.stride + r0;
            for (int r = 0; r < n_rows; r++)
                dst[r] += weight * out[t * group + r];
        }
    }
}

/* Job 3. */
static void run_down(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct experts_job *j = ctx;
    const int32_t *first = j->d->first;
    for (int t = 0; t < j->n_tokens; t++)
        memset(j->dst.data + t * j->dst.stride + begin, 0, (size_t)(end - begin) * sizeof(float));
    for (int p = 0; begin < end; p++) {
        int64_t part_end = min_of(weight_part_end(&j->e->down, p), end);
        for (int e = 0; e < j->e->n_routed && begin < part_end; e++) {
            for (int t = first[e]; t < first[e + 1]; t += TOKEN_TILE)
                down_tile(j, worker, e, t, min_of(first[e + 1] - t, TOKEN_TILE), begin, part_end);
        }
        begin = max_of(begin, part_end);
    }
}

/* Bytes that one gathered pair takes. */
static size_t gathered_stride(const struct experts_job *j)
{
    size_t bytes = align_up(quant_row_bytes(j->gate_plan.act, j->gate_plan.cols), 64);
    if (j->up_act.data != j->gate_act.data)
        bytes += align_up(quant_row_bytes(j->up_plan.act, j->up_plan.cols), 64);
    return bytes;
}

void experts_run(struct device_cpu *d, const struct experts *e, struct rows dst, struct rows src,
                 int n_tokens, const int32_t *ids, const float *weights)
{
    assert(e->n_routed <= d->options.n_routed && e->top_k <= d->options.top_k &&
           e->expert_size <= d->options.expert_size && n_tokens <= d->options.max_tokens);
    struct experts_job job = { .d = d, .e = e, .src = src, .dst = dst, .n_tokens = n_tokens,
                               .top_k = e->top_k, .weights = weights };
    job.gate = e->gate;
    job.up = e->up;
    if (e->gate_up.data) { /* one tensor, gate rows first in each matrix */
        job.gate = job.up = e->gate_up;
        job.gate.rows = job.up.rows = e->expert_size;
        int64_t rows = e->gate_up.part_rows > 0 ? e->gate_up.part_rows : e->expert_size;
        job.up.data = (const uint8_t *)e->gate_up.data + (size_t)rows * e->gate_up.row_bytes;
    }
    job.gate_plan = dot_plan(d, &job.gate);
    job.up_plan = dot_plan(d, &job.up);
    job.down_plan = dot_plan(d, &e->down);
    job.gate_act = encode_rows(d, &job.gate_plan, src, n_tokens, d->act, d->act_stride);
    job.up_act = job.gate_act;
    if (job.up_plan.act != job.gate_plan.act)
        job.up_act = encode_rows(d, &job.up_plan, src, n_tokens, d->h_act, d->act_stride);
    job.tile = (int)min_of(d->gathered_bytes / gathered_stride(&job), TOKEN_TILE);
    int n_pairs = sort_pairs(d, e->n_routed, n_tokens * e->top_k, ids);

    int64_t total = 0, blocks = 0, row = 0;
    for (int p = 0; row < job.gate.rows; p++) {
        int64_t row_end = weight_part_end(&job.gate, p);
        blocks += n_blocks(row_end - row);
        row = row_end;
    }
    for (int i = 0; i < e->n_routed; i++)
        total += block_cost(&job, i) * blocks;
    if (n_pairs > 0)
        pool_run(d->pool, run_gate_up, &job, total, grain_of(2 * ROW_TILE * job.gate.cols));
    struct rows h = { d->h, e->expert_size, e->expert_size };
    if (n_pairs > 0)
        job.h_act = encode_rows(d, &job.down_plan, h, n_pairs, d->h_act, d->h_stride);
    int64_t grain = grain_of(e->expert_size * n_pairs);
    pool_run(d->pool, run_down, &job, e->down.rows, (grain + ROW_TILE - 1) / ROW_TILE * ROW_TILE);
}

struct experts_last experts_last(const struct device_cpu *d)
{
    return (struct experts_last){ d->first, d->order, d->h };
}
