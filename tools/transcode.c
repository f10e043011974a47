#include "tools/transcode.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/format/quant.h"

#define SYNC_S 2.0
#define LARGEST_F16 65504.0f
#define BIG_FILE (4ull << 30) /* what is larger is not left in the page cache */

typedef unsigned long long ull;

/* ---- a GGUF file as source ---- */

static bool read_source(const struct gguf_source *s, uint64_t at, size_t n, void *out,
                        struct error *err)
{
    const struct gguf_shard *shard = &s->gguf->shards[s->tensor->shard];
    uint64_t from = s->tensor->file_offset + at;
    if (shard->fd < 0) { /* a file in memory */
        memcpy(out, (const uint8_t *)s->tensor->data + at, n);
        return true;
    }
    uint8_t *to = out;
    for (size_t left = n; left;) {
        ssize_t done = pread(shard->fd, to, left, (off_t)from);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return fail(err, ERR_RUN, "%s: byte %llu: cannot be read: %s", shard->path, (ull)from,
                        done ? strerror(errno) : "the file has become shorter");
        to += done;
        from += (uint64_t)done;
        left -= (size_t)done;
    }
    if (shard->size > BIG_FILE)
        posix_fadvise(shard->fd, (off_t)(from - n), (off_t)n, POSIX_FADV_DONTNEED);
    return true;
}

static bool gguf_rows(const void *ctx, int64_t row, int64_t n, float *out, void *scratch,
                      struct error *err)
{
    const struct gguf_source *s = ctx;
    const struct tensor *t = s->tensor;
    int64_t cols = (int64_t)t->ne[0];
    size_t row_bytes = quant_row_bytes(t->type, cols);
    void *blocks = t->type == TYPE_F32 ? out : scratch;
    if (!read_source(s, (uint64_t)row * row_bytes, (size_t)n * row_bytes, blocks, err))
        return false;
    if (t->type != TYPE_F32)
        quant_traits(t->type)->dequantize(blocks, out, n * cols);
    return true;
}

static bool gguf_bytes(const void *ctx, uint64_t at, size_t n, void *out, void *scratch,
                       struct error *err)
{
    (void)scratch;
    return read_source(ctx, at, n, out, err);
}

struct transcode_source transcode_gguf_source(struct gguf_source *slot, const struct gguf *g,
                                              const struct tensor *t)
{
    const struct quant_traits *traits = quant_traits(t->type);
    *slot = (struct gguf_source){ g, t };
    size_t per_element = (size_t)(traits->block_bytes + traits->block_elements - 1) /
                         (size_t)traits->block_elements;
    return (struct transcode_source){
        .rows = gguf_rows, .bytes = gguf_bytes, .ctx = slot, .scratch_per_element = per_element };
}

/* ---- chunks ---- */

/* What became of a chunk. CLAIMED: by the journal of an earlier run, still to be compared. */
enum { OPEN, CLAIMED, DONE, RECORDED };

struct worker {
    float *rows, *importance;
    uint8_t *out;
    void *scratch;
    struct error err;
    uint64_t n_replaced, n_taken_up;
};

struct run {
    struct transcode *t;
    struct worker *workers;
    int n_workers;
    uint64_t *first_chunk;    /* [n_tensors + 1] */
    int64_t chunk_elements;
    uint64_t total_bytes;
    uint32_t *crc;            /* [n_chunks], written by who did the chunk before its state */
    atomic_uchar *state;      /* [n_chunks]; DONE is stored after the data was written */
    struct journal_record *batch;
    double synced_s;
    atomic_uint_least64_t next, done_bytes;
    atomic_bool stop;
};

static int64_t chunk_rows(const struct run *r, const struct transcode_tensor *t)
{
    return max_of((int64_t)1, r->chunk_elements / t->cols);
}

struct chunk {
    const struct transcode_tensor *tensor;
    int64_t row, n;
    size_t bytes;
    uint64_t at; /* in the tensor */
};

static struct chunk chunk_at(const struct run *r, uint64_t number)
{
    size_t low = 0, high = r->t->n_tensors;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (r->first_chunk[middle] <= number)
            low = middle;
        else
            high = middle;
    }
    const struct transcode_tensor *t = &r->t->tensors[low];
    int64_t per = chunk_rows(r, t), row = (int64_t)(number - r->first_chunk[low]) * per;
    size_t row_bytes = quant_row_bytes(t->type, t->cols);
    int64_t n = min_of(per, t->rows - row);
    return (struct chunk){ t, row, n, (size_t)n * row_bytes, (uint64_t)row * row_bytes };
}

/* ---- one chunk ---- */

/* NaN becomes 0, an infinity the largest finite value of the row. */
static uint64_t replace_nonfinite(float *x, int64_t n)
{
    float top = 0;
    uint64_t replaced = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i]))
            top = max_of(top, fabsf(x[i]));
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) {
            x[i] = isnan(x[i]) ? 0 : copysignf(top, x[i]);
            replaced++;
        }
    return replaced;
}

/* Index of the first value that is not finite, or -1. Sums of x * 0 are 0 unless there is one. */
static int64_t first_nonfinite(const float *x, int64_t n)
{
    float zero = 0;
    for (int64_t i = 0; i < n; i++)
        zero += x[i] * 0.0f;
    for (int64_t i = 0; zero != 0 && i < n; i++)
        if (!isfinite(x[i]))
            return i;
    return -1;
}

static bool check_finite(const struct run *r, struct worker *w, const struct chunk *c,
                         struct error *err)
{
    const struct transcode_tensor *t = c->tensor;
    for (int64_t i = 0; i < c->n; i++) {
        float *x = w->rows + i * t->cols;
        int64_t bad = first_nonfinite(x, t->cols);
        if (bad < 0)
            continue;
        if (!r->t->replace_nonfinite)
            return fail(err, ERR_CHECK,
                        "%s: the value in matrix %lld, row %lld, column %lld is %g; "
                        "--replace-nonfinite would write a finite one", t->name,
                        (long long)((c->row + i) / t->matrix_rows),
                        (long long)((c->row + i) % t->matrix_rows), (long long)bad, (double)x[bad]);
        w->n_replaced += replace_nonfinite(x, t->cols);
    }
    return true;
}

/* Scales are F16 in most types: what lies beyond its range cannot be held, and fits that square
 * such values lose themselves. Weights are around 1. */
static bool check_range(const struct worker *w, const struct chunk *c, struct error *err)
{
    const struct transcode_tensor *t = c->tensor;
    if (t->type == TYPE_F32 || t->type == TYPE_BF16)
        return true;
    for (int64_t i = 0; i < c->n * t->cols; i++)
        if (fabsf(w->rows[i]) > LARGEST_F16)
            return fail(err, ERR_CHECK, "%s: the value %g in row %lld is beyond the range of %s; "
                        "choose F32 or BF16 for it with --tensor-type", t->name, (double)w->rows[i],
                        (long long)(c->row + i / t->cols), quant_traits(t->type)->name);
    return true;
}

static bool encode(const struct run *r, struct worker *w, const struct chunk *c, struct error *err)
{
    const struct transcode_tensor *t = c->tensor;
    const struct quant_traits *traits = quant_traits(t->type);
    size_t row_bytes = quant_row_bytes(t->type, t->cols);
    int64_t have = -1; /* matrix whose importance is at hand */
    if (!t->source.rows(t->source.ctx, c->row, c->n, w->rows, w->scratch, err) ||
        !check_finite(r, w, c, err) || !check_range(w, c, err))
        return false;
    for (int64_t i = 0; i < c->n; i++) {
        int64_t matrix = (c->row + i) / t->matrix_rows;
        if (t->importance && matrix != have)
            imatrix_row(t->importance, (uint64_t)(have = matrix), t->cols, w->importance);
        traits->quantize(w->rows + i * t->cols, w->out + (size_t)i * row_bytes, t->cols,
                         t->importance ? w->importance : NULL);
    }
    int64_t bad = quant_bad_block(t->type, w->out, c->n * t->cols);
    if (bad >= 0) /* */
        return fail(err, ERR_CHECK,
                    "%s: row %lld has values beyond the range of %s; choose another "
                    "type for it with --tensor-type", t->name,
                    (long long)(c->row + bad * traits->block_elements / t->cols), traits->name);
    return true;
}

static bool do_chunk(struct run *r, struct worker *w, uint64_t number, struct error *err)
{
    struct chunk c = chunk_at(r, number);
    const struct transcode_tensor *t = c.tensor;
    struct gguf_writer *writer = r->t->writer;
    if (atomic_load(&r->state[number]) == CLAIMED) {
        if (!gguf_writer_read_at(writer, t->index, c.at, w->out, c.bytes, err))
            return false;
        if (crc32c(0, w->out, c.bytes) == r->crc[number]) {
            gguf_writer_trust(writer, c.bytes);
            atomic_store(&r->state[number], RECORDED);
            w->n_taken_up++;
            return true;
        }
    }
    bool ok = t->copy
                  ? t->source.bytes(t->source.ctx, c.at, c.bytes, w->out, w->scratch, err)
                  : encode(r, w, &c, err);
    if (!ok || !gguf_writer_write_at(writer, t->index, c.at, w->out, c.bytes, err))
        return false;
    if (r->t->journal || r->t->verify)
        r->crc[number] = crc32c(0, w->out, c.bytes);
    atomic_store(&r->state[number], DONE);
    return true;
}

/* ---- the journal ---- */

/* Record what is done: first the data, then the words about it. */
static bool record(struct run *r, struct error *err)
{
    size_t n = 0;
    if (!r->t->journal)
        return true;
    for (uint64_t i = 0; i < r->t->n_chunks; i++)
        if (atomic_load(&r->state[i]) == DONE)
            r->batch[n++] = (struct journal_record){ i, r->crc[i] };
    r->synced_s = now_s();
    if (!n)
        return true;
    if (!gguf_writer_sync(r->t->writer, err) || !journal_append(r->t->journal, r->batch, n, err))
        return false;
    for (size_t i = 0; i < n; i++)
        atomic_store(&r->state[r->batch[i].chunk], RECORDED);
    if (r->total_bytes > BIG_FILE)
        gguf_writer_forget(r->t->writer);
    r->synced_s = now_s();
    return true;
}

static void take_records(struct run *r)
{
    const struct journal *j = r->t->journal;
    for (size_t i = 0; j && i < j->n_records; i++)
        if (j->records[i].chunk < r->t->n_chunks) {
            r->crc[j->records[i].chunk] = j->records[i].crc;
            atomic_store(&r->state[j->records[i].chunk], CLAIMED);
        }
}

/* ---- all chunks ---- */

/* Every worker takes the next chunk until there is none; worker 0, the caller's thread, also shows
 * progress and keeps the journal. */
static void work(void *ctx, int64_t begin, int64_t end, int number)
{
    struct run *r = ctx;
    struct transcode *t = r->t;
    struct worker *w = &r->workers[number];
    double interval = t->sync_s > 0 ? t->sync_s : SYNC_S;
    (void)begin, (void)end;
    while (!atomic_load(&r->stop)) {
        uint64_t i = atomic_fetch_add(&r->next, 1);
        if (i >= t->n_chunks)
            break;
        bool ok = t->cancel && atomic_load(t->cancel)
                      ? fail(&w->err, ERR_INTERRUPTED, "stopped") : do_chunk(r, w, i, &w->err);
        if (ok)
            atomic_fetch_add(&r->done_bytes, chunk_at(r, i).bytes);
        if (ok && number == 0 && now_s() - r->synced_s >= interval)
            ok = record(r, &w->err);
        if (number == 0 && t->progress)
            t->progress(t->progress_ctx, atomic_load(&r->done_bytes), r->total_bytes);
        if (!ok)
            atomic_store(&r->stop, true);
    }
}

/* One more pass over the output, after everything was flushed: does the disk hold what was made? */
static void verify(void *ctx, int64_t begin, int64_t end, int number)
{
    struct run *r = ctx;
    struct transcode *t = r->t;
    struct worker *w = &r->workers[number];
    (void)begin, (void)end;
    while (!atomic_load(&r->stop)) {
        uint64_t i = atomic_fetch_add(&r->next, 1);
        if (i >= t->n_chunks)
            break;
        struct chunk c = chunk_at(r, i);
        bool ok = t->cancel && atomic_load(t->cancel)
                      ? fail(&w->err, ERR_INTERRUPTED, "stopped")
                      : gguf_writer_read_at(t->writer, c.tensor->index, c.at, w->out, c.bytes,
                                            &w->err);
        if (ok && crc32c(0, w->out, c.bytes) != r->crc[i])
            ok = fail(&w->err, ERR_RUN, "%s: the disk gives back other bytes than were written, "
                      "from byte %llu on", c.tensor->name, (ull)c.at);
        atomic_fetch_add(&r->done_bytes, c.bytes);
        if (number == 0 && t->progress)
            t->progress(t->progress_ctx, atomic_load(&r->done_bytes), r->total_bytes);
        if (!ok)
            atomic_store(&r->stop, true);
    }
}

static bool check_tensor(const struct transcode_tensor *t, struct error *err)
{
    const struct quant_traits *traits = quant_traits(t->type);
    if (t->cols > TRANSCODE_MAX_COLS)
        return fail(err, ERR_FIT, "%s: rows of %lld elements, at most %lld can be handled", t->name,
                    (long long)t->cols, TRANSCODE_MAX_COLS);
    if (t->cols < 1 || t->rows < 1 || t->matrix_rows < 1 || t->cols % traits->block_elements)
        return fail(err, ERR_INTERNAL, "%s: %lld rows of %lld as %s", t->name, (long long)t->rows,
                    (long long)t->cols, traits->name);
    return t->copy || traits->quantize ||
           fail(err, ERR_USAGE, "%s: %s cannot be written", t->name, traits->name);
}

/* Elements of the largest chunk, and scratch of the worker with the greediest source. */
static void sizes(const struct transcode *t, size_t *elements, size_t *scratch, size_t *cols)
{
    int64_t chunk = t->chunk_elements ? t->chunk_elements : TRANSCODE_CHUNK;
    *elements = *scratch = *cols = 0;
    for (size_t i = 0; i < t->n_tensors; i++) {
        const struct transcode_tensor *x = &t->tensors[i];
        size_t n = (size_t)(max_of((int64_t)1, chunk / x->cols) * x->cols);
        *elements = max_of(*elements, n);
        *scratch = max_of(*scratch, n * x->source.scratch_per_element + x->source.scratch_bytes);
        *cols = max_of(*cols, (size_t)x->cols);
    }
}

#define MAX_BYTES_PER_ELEMENT 8 /* of any type that is written */

uint64_t transcode_memory(const struct transcode *t, int n_threads)
{
    size_t elements, scratch, cols;
    sizes(t, &elements, &scratch, &cols);
    return (uint64_t)n_threads *
           (4 * elements + 4 * cols + MAX_BYTES_PER_ELEMENT * elements + scratch);
}

static bool open_workers(struct run *r, struct error *err)
{
    size_t elements, scratch, cols;
    sizes(r->t, &elements, &scratch, &cols);
    r->workers = mem_alloc((size_t)r->n_workers, sizeof *r->workers, "workers", err);
    for (int i = 0; r->workers && i < r->n_workers; i++) {
        struct worker *w = &r->workers[i];
        w->rows = mem_alloc_aligned(elements, sizeof(float), "rows", err);
        w->importance = mem_alloc_aligned(cols, sizeof(float), "importance", err);
        w->out = mem_alloc_aligned(elements, MAX_BYTES_PER_ELEMENT, "blocks", err);
        w->scratch = mem_alloc_aligned(scratch, 1, "source blocks", err);
        if (!w->rows || !w->importance || !w->out || !w->scratch)
            return false;
    }
    return r->workers != NULL;
}

static bool open_run(struct run *r, struct transcode *t, struct error *err)
{
    uint64_t n = 0;
    r->t = t;
    r->n_workers = pool_threads(t->pool);
    r->chunk_elements = t->chunk_elements ? t->chunk_elements : TRANSCODE_CHUNK;
    r->first_chunk = mem_alloc(t->n_tensors + 1, sizeof *r->first_chunk, "chunks", err);
    for (size_t i = 0; r->first_chunk && i < t->n_tensors; i++) {
        const struct transcode_tensor *x = &t->tensors[i];
        if (!check_tensor(x, err))
            return false;
        int64_t per = chunk_rows(r, x);
        r->first_chunk[i] = n;
        n += (uint64_t)((x->rows + per - 1) / per);
        r->total_bytes += (uint64_t)x->rows * quant_row_bytes(x->type, x->cols);
    }
    if (!r->first_chunk)
        return false;
    r->first_chunk[t->n_tensors] = t->n_chunks = n;
    r->crc = mem_alloc(n, sizeof *r->crc, "checksums", err);
    r->state = mem_alloc(n, sizeof *r->state, "states", err);
    r->batch = mem_alloc(n, sizeof *r->batch, "records", err);
    return r->crc && r->state && r->batch && open_workers(r, err);
}

static void close_run(struct run *r)
{
    for (int i = 0; r->workers && i < r->n_workers; i++) {
        mem_free(r->workers[i].rows);
        mem_free(r->workers[i].importance);
        mem_free(r->workers[i].out);
        mem_free(r->workers[i].scratch);
    }
    mem_free(r->workers);
    mem_free(r->first_chunk);
    mem_free(r->crc);
    mem_free(r->state);
    mem_free(r->batch);
}

/* The first error of the workers, if any. */
static bool worker_errors(const struct run *r, struct error *err)
{
    for (int i = 0; i < r->n_workers; i++) {
        const struct error *e = &r->workers[i].err;
        if (e->code)
            return error_set(err, e->code, e->file, e->line, "%s", e->text);
    }
    return true;
}

static bool verify_all(struct run *r, struct error *err)
{
    struct transcode *t = r->t;
    if (!gguf_writer_sync(t->writer, err))
        return false;
    gguf_writer_forget(t->writer);
    atomic_store(&r->next, 0);
    atomic_store(&r->done_bytes, 0);
    pool_run_team(t->pool, verify, r);
    t->n_verified = t->n_chunks;
    return worker_errors(r, err);
}

bool transcode_run(struct transcode *t, struct error *err)
{
    struct run r = { 0 };
    bool ok = open_run(&r, t, err);
    if (ok) {
        crc32c(0, NULL, 0); /* builds its tables before there are several threads */
        take_records(&r);
        r.synced_s = now_s();
        pool_run_team(t->pool, work, &r);
        for (int i = 0; i < r.n_workers; i++) {
            t->n_replaced += r.workers[i].n_replaced;
            t->n_taken_up += r.workers[i].n_taken_up;
        }
        ok = worker_errors(&r, err);
        ok = record(&r, ok ? err : NULL) && ok;
        t->all_bytes = r.total_bytes;
        for (uint64_t i = 0; i < t->n_chunks; i++)
            t->safe_bytes += atomic_load(&r.state[i]) == RECORDED ? chunk_at(&r, i).bytes : 0;
        ok = ok && (!t->verify || verify_all(&r, err));
    }
    close_run(&r);
    return ok;
}
