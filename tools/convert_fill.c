#include "tools/convert_fill.h"

#include <math.h>

#include "src/base/mem.h"
#include "src/base/pool.h"

#define CHUNKS_PER_THREAD 4 /* between two looks at the clock and at Ctrl-C */

typedef unsigned long long ull;

/* Everything a thread needs for one chunk, and what went wrong in it. */
struct worker {
    uint8_t *raw;   /* source rows as stored */
    float *values;  /* decoded, in source order */
    float *scales;  /* of the 128 x 128 blocks that the rows touch */
    float *row;     /* one row gathered from a column of `values` */
    uint8_t *out;   /* encoded rows */
    struct error err;
};

struct fill {
    const struct plan *plan;
    struct gguf_writer *writer;
    struct worker *workers;
    float e4m3[256];
    size_t tensor;         /* the one being converted */
    int64_t first_chunk;   /* of this round */
};

/* ---- sizes ---- */

struct sizes {
    size_t values, raw, scales, row, out; /* elements, bytes, elements, elements, bytes */
};

static struct sizes chunk_sizes(const struct plan *p)
{
    struct sizes s = { 1, 1, 1, 1, 1 };
    for (size_t i = 0; i < p->n_tensors; i++) {
        const struct plan_tensor *t = &p->tensors[i];
        if (t->how == HOW_FREQS)
            continue;
        int64_t from, n;
        plan_source_rows(p, t, 0, 0, t->rows_per_chunk, &from, &n);
        size_t source_cols = t->how == HOW_K_B ? (size_t)t->rows : (size_t)t->cols;
        size_t values = (size_t)n * source_cols;
        size_t out = (size_t)t->rows_per_chunk *
                     (t->n_dims == 1 ? (size_t)t->cols * 4 : quant_row_bytes(t->type, t->cols));
        size_t blocks = ((size_t)n / FP8_BLOCK + 2) * (source_cols / FP8_BLOCK + 1);
        s.values = max_of(s.values, values);
        s.raw = max_of(s.raw, values * st_dtype_bytes(ST_F32));
        s.scales = max_of(s.scales, blocks);
        s.row = max_of(s.row, (size_t)t->cols);
        s.out = max_of(s.out, out);
    }
    return s;
}

uint64_t convert_memory(const struct plan *p, int n_threads)
{
    struct sizes s = chunk_sizes(p);
    return (uint64_t)n_threads * (s.raw + s.out + 4 * (s.values + s.scales + s.row));
}

static bool open_worker(struct worker *k, const struct sizes *s, struct error *err)
{
    k->raw = mem_alloc_aligned(s->raw, 1, "conversion buffer", err);
    k->out = mem_alloc_aligned(s->out, 1, "conversion buffer", err);
    k->values = mem_alloc_aligned(s->values, sizeof(float), "conversion buffer", err);
    k->scales = mem_alloc_aligned(s->scales, sizeof(float), "conversion buffer", err);
    k->row = mem_alloc_aligned(s->row, sizeof(float), "conversion buffer", err);
    return k->raw && k->out && k->values && k->scales && k->row;
}

static void close_worker(struct worker *k)
{
    mem_free(k->raw);
    mem_free(k->out);
    mem_free(k->values);
    mem_free(k->scales);
    mem_free(k->row);
}

/* ---- decoding ---- */

static void decode(const struct fill *f, enum st_dtype dtype, const uint8_t *raw, float *out,
                   int64_t n)
{
    switch (dtype) {
    case ST_F32:
        memcpy(out, raw, (size_t)n * sizeof *out);
        break;
    case ST_F16:
        quant_traits(TYPE_F16)->dequantize(raw, out, n);
        break;
    case ST_BF16:
        quant_traits(TYPE_BF16)->dequantize(raw, out, n);
        break;
    default: /* ST_F8_E4M3: nothing else gets into a plan */
        for (int64_t i = 0; i < n; i++)
            out[i] = f->e4m3[raw[i]];
    }
}

/* Scales of the block rows that source rows first .. first + n - 1 touch, as floats; returns the
 * number of the first block row, -1 on error. */
static int64_t read_scales(const struct fill *f, struct worker *k, const struct st_tensor *s,
                           int64_t first, int64_t n)
{
    size_t size = st_dtype_bytes(s->dtype), cols = (size_t)s->shape[1];
    int64_t from = first / FP8_BLOCK, to = (first + n - 1) / FP8_BLOCK;
    size_t count = (size_t)(to - from + 1) * cols;
    if (!checkpoint_read(f->plan->checkpoint, s, (uint64_t)from * cols * size, k->raw, count * size,
                         &k->err))
        return -1;
    if (s->dtype == ST_F8_E8M0)
        for (size_t i = 0; i < count; i++)
            k->scales[i] = e8m0_to_f32(k->raw[i]);
    else
        decode(f, s->dtype, k->raw, k->scales, (int64_t)count);
    return from;
}

/* value = e4m3(w[r][c]) * scale[r / 128][c / 128]: exact products of 4 and 24 bits, rounded once */
static void apply_scales(float *values, const float *scales, int64_t first_block_row,
                         int64_t first_row, int64_t n, int64_t cols)
{
    int64_t blocks = (cols + FP8_BLOCK - 1) / FP8_BLOCK;
    for (int64_t r = 0; r < n; r++) {
        const float *row = scales + ((first_row + r) / FP8_BLOCK - first_block_row) * blocks;
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t c = b * FP8_BLOCK; c < min_of((b + 1) * FP8_BLOCK, cols); c++)
                values[r * cols + c] *= row[b];
    }
}

static bool check_finite(struct worker *k, const struct st_tensor *s, int64_t first_row, int64_t n,
                         int64_t cols)
{
    for (int64_t i = 0; i < n * cols; i++)
        if (!isfinite(k->values[i]))
            return fail(&k->err, ERR_FILE, "%s: row %lld, column %lld is %s", s->name,
                        (long long)(first_row + i / cols), (long long)(i % cols),
                        isnan(k->values[i]) ? "NaN" : "infinite");
    return true;
}

/* Source rows first .. first + n - 1 as floats in k->values. */
static bool load_rows(const struct fill *f, struct worker *k, const struct st_tensor *s,
                      const struct st_tensor *scale, int64_t first, int64_t n, int64_t cols)
{
    size_t row_bytes = (size_t)cols * st_dtype_bytes(s->dtype), bytes = (size_t)n * row_bytes;
    int64_t block_row = scale ? read_scales(f, k, scale, first, n) : 0;
    if (block_row < 0 ||
        !checkpoint_read(f->plan->checkpoint, s, (uint64_t)first * row_bytes, k->raw, bytes,
                         &k->err))
        return false;
    if (bytes >= 1 << 20)
        checkpoint_forget(f->plan->checkpoint, s, (uint64_t)first * row_bytes, bytes);
    decode(f, s->dtype, k->raw, k->values, n * cols);
    if (scale)
        apply_scales(k->values, k->scales, block_row, first, n, cols);
    return check_finite(k, s, first, n, cols);
}

/* ---- encoding ---- */

/* Where row r of a chunk of whole heads comes from: pair p of a head is (p, p + half) in the
 * checkpoint and (2p, 2p + 1) in the file. */
static int64_t rotary_row(int64_t r, int64_t head_rows)
{
    int64_t in_head = r % head_rows;
    return r - in_head + in_head % 2 * (head_rows / 2) + in_head / 2;
}

/* Row r of the chunk, from k->values. */
static const float *chunk_row(const struct plan_tensor *t, struct worker *k, int64_t r,
                              int64_t source_rows)
{
    if (t->how == HOW_ROTARY)
        return k->values + rotary_row(r, t->head_rows) * t->cols;
    if (t->how != HOW_K_B)
        return k->values + r * t->cols;
    for (int64_t i = 0; i < source_rows; i++) /* column r of the head's key part */
        k->row[i] = k->values[i * t->rows + r];
    return k->row;
}

static bool convert_chunk(const struct fill *f, struct worker *k, int64_t chunk)
{
    const struct plan_tensor *t = &f->plan->tensors[f->tensor];
    const struct quant_traits *q = quant_traits(t->type);
    int64_t per_matrix = (t->rows + t->rows_per_chunk - 1) / t->rows_per_chunk;
    int64_t matrix = chunk / per_matrix, first = chunk % per_matrix * t->rows_per_chunk;
    int64_t n = min_of(t->rows_per_chunk, t->rows - first), source_first, source_n;
    int64_t source = t->how == HOW_ROWS ? matrix : 0;
    size_t row_bytes = t->n_dims == 1 ? (size_t)t->cols * 4 : quant_row_bytes(t->type, t->cols);

    plan_source_rows(f->plan, t, matrix, first, n, &source_first, &source_n);
    if (!load_rows(f, k, t->sources[source], t->scales[source], source_first, source_n,
                   t->how == HOW_K_B ? t->rows : t->cols))
        return false;
    for (int64_t r = 0; r < n; r++)
        q->quantize(chunk_row(t, k, r, source_n), k->out + (size_t)r * row_bytes, t->cols, NULL);
    if (quant_bad_block(t->type, k->out, n * t->cols) >= 0)
        return fail(&k->err, ERR_FILE, "%s: a value is too large for %s (use bf16 or f32)",
                    t->sources[source]->name, q->name);
    return gguf_writer_write_at(f->writer, f->tensor,
                                (uint64_t)(matrix * t->rows + first) * row_bytes, k->out,
                                (size_t)n * row_bytes, &k->err);
}

static void run_chunks(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct fill *f = ctx;
    struct worker *k = &f->workers[worker];
    for (int64_t i = begin; i < end && !k->err.code; i++)
        convert_chunk(f, k, f->first_chunk + i);
}

/* ---- everything ---- */

static bool fill_tensor(struct fill *f, struct pool *pool, convert_tick *tick, void *ctx,
                        struct error *err)
{
    const struct plan_tensor *t = &f->plan->tensors[f->tensor];
    int64_t chunks = (t->rows + t->rows_per_chunk - 1) / t->rows_per_chunk * t->n_matrices;
    int64_t round = (int64_t)pool_threads(pool) * CHUNKS_PER_THREAD;
    for (int64_t at = 0; at < chunks; at += round) {
        f->first_chunk = at;
        pool_run(pool, run_chunks, f, min_of(round, chunks - at), 1);
        for (int i = 0; i < pool_threads(pool); i++)
            if (f->workers[i].err.code) {
                *err = f->workers[i].err;
                return false;
            }
        if (!tick(ctx, atomic_load(&f->writer->written_bytes)))
            return fail(err, ERR_INTERRUPTED, "interrupted; nothing was written");
    }
    return true;
}

static bool fill_freqs(struct fill *f, struct error *err)
{
    const struct plan_tensor *t = &f->plan->tensors[f->tensor];
    float *divisors = mem_alloc((size_t)t->cols, sizeof *divisors, "rope_freqs", err);
    if (!divisors)
        return false;
    hf_config_rope_freqs(f->plan->config, divisors);
    bool ok = gguf_writer_write_at(f->writer, f->tensor, 0, divisors,
                                   (size_t)t->cols * sizeof *divisors, err);
    mem_free(divisors);
    return ok;
}

bool convert_fill(const struct plan *p, struct gguf_writer *w, int n_threads, convert_tick *tick,
                  void *ctx, struct error *err)
{
    struct fill f = { .plan = p, .writer = w };
    struct pool *pool = NULL;
    struct sizes sizes = chunk_sizes(p);
    for (int i = 0; i < 256; i++)
        f.e4m3[i] = e4m3_to_f32((uint8_t)i);
    if (!pool_open(&pool, n_threads, err))
        return false;
    int n = pool_threads(pool);
    f.workers = mem_alloc((size_t)n, sizeof *f.workers, "conversion buffers", err);
    bool ok = f.workers != NULL;
    for (int i = 0; ok && i < n; i++)
        ok = open_worker(&f.workers[i], &sizes, err);
    for (f.tensor = 0; ok && f.tensor < p->n_tensors; f.tensor++)
        ok = p->tensors[f.tensor].how == HOW_FREQS ? fill_freqs(&f, err)
                                                   : fill_tensor(&f, pool, tick, ctx, err);
    for (int i = 0; f.workers && i < n; i++)
        close_worker(&f.workers[i]);
    mem_free(f.workers);
    pool_close(pool);
    return ok;
}
