/* Making weights ready: read once into the page cache, or copied to huge pages of our own.
 *
 * Copied weights decode faster, because streaming through 4 KiB pages keeps the hardware from reading
 * ahead: V2-Lite's shape cut to 6 layers, 2 threads, in pairs: 38.9 and 34.5 tok/s mapped, 44.2 and
 * 44.7 copied. So LOAD_AUTO copies when weights, cache and room for everybody else fit into memory, and
 * maps otherwise: the system then keeps what it can. The page cache behind a copy is given back unless
 * there is room for both, which makes the next start quick.
 *
 * MADV_RANDOM is not used on mapped experts: an expert is megabytes in a row, and where a model is
 * larger than memory the read-ahead is what makes fetching one bearable. */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/format/quant.h"
#include "src/model/arch.h"
#include "src/model/kvcache.h"
#include "src/model/memory.h"

#define STEP_BYTES ((size_t)1 << 20)    /* between looks at the clock: 10 ms of a slow disk */
#define WINDOW_BYTES ((size_t)8 << 20)  /* announced ahead of reading, dropped behind copying */
#define PROGRESS_S 0.05
#define HUGE_PAGE ((size_t)2 << 20)
#define MARGIN_BYTES ((uint64_t)256 << 20) /* left to the system when copying was asked for */
#define ROOM_BYTES ((uint64_t)2 << 30)     /* left when it was not */
#define COPY_BYTES ((uint64_t)64 << 20)    /* below this caches and page tables hold the file anyway */
#define USUAL_CONTEXT 32768                /* positions of a session that nobody sized */

struct loader {
    struct model *m;
    load_progress *progress;
    void *ctx;
    uint64_t done, total;
    double last_s;
    size_t page;
    bool drop_cache; /* copying: no room for the page cache too */
};

/* Tell the caller how far we are, at most every PROGRESS_S unless `now`. */
static bool tick(struct loader *l, bool now, struct error *err)
{
    double t = now_s();
    if (!l->progress || (!now && t - l->last_s < PROGRESS_S))
        return true;
    l->last_s = t;
    if (l->progress(l->ctx, l->done, l->total))
        return true;
    return fail(err, ERR_INTERRUPTED, "loading was interrupted");
}

/* madvise on whole pages; advice that is refused is no error. */
static void advise(const struct loader *l, const void *data, size_t bytes, int advice)
{
    uintptr_t begin = (uintptr_t)data & ~(l->page - 1);
    uintptr_t end = align_up((uintptr_t)data + bytes, l->page);
    (void)madvise((void *)begin, end - begin, advice);
}

/* One byte of every page brings it in; the sum keeps the compiler from leaving it out. */
static void touch(const char *data, size_t bytes, size_t page)
{
    unsigned sum = 0;
    for (size_t i = 0; i < bytes; i += page)
        sum += (unsigned char)data[i];
    __asm__ volatile("" : : "r"(sum));
}

static bool read_tensor(struct loader *l, const struct tensor *t, struct error *err)
{
    const char *data = t->data;
    for (size_t at = 0; at < t->bytes; at += STEP_BYTES) {
        if (at % WINDOW_BYTES == 0) {
            size_t window = min_of(WINDOW_BYTES, t->bytes - at);
            advise(l, data + at, window, MADV_WILLNEED);
        }
        size_t n = min_of(STEP_BYTES, t->bytes - at);
        touch(data + at, n, l->page);
        l->done += n;
        if (!tick(l, false, err))
            return false;
    }
    return true;
}

/* Copy to `to`, and let go of the mapping's pages window by window. */
static bool copy_tensor(struct loader *l, const struct tensor *t, char *to, struct error *err)
{
    const struct gguf_shard *shard = &l->m->gguf.shards[t->shard];
    const char *data = t->data;
    for (size_t at = 0; at < t->bytes; at += WINDOW_BYTES) {
        size_t window = min_of(WINDOW_BYTES, t->bytes - at);
        advise(l, data + at, window, MADV_WILLNEED);
        for (size_t i = 0; i < window; i += STEP_BYTES) {
            size_t n = min_of(STEP_BYTES, window - i);
            memcpy(to + at + i, data + at + i, n);
            l->done += n;
            if (!tick(l, false, err))
                return false;
        }
        advise(l, data + at, window, MADV_DONTNEED);
        if (l->drop_cache)
            (void)posix_fadvise(shard->fd, (off_t)(t->file_offset + at), (off_t)window,
                                POSIX_FADV_DONTNEED);
    }
    return true;
}

static bool is_matrix(const struct model_tensor *mt)
{
    return !mt->spec->is_f32 && mt->role != ROLE_MTP;
}

/* The trunk first: it is read for every token. Routed experts that do not fit beside it are left to
 * be fetched when they are chosen. */
static bool read_all(struct loader *l, struct error *err)
{
    uint64_t budget = memory_available();
    bool left_out = false;
    for (int routed = 0; routed < 2; routed++) {
        for (int i = 0; i < l->m->n_tensors; i++) {
            const struct model_tensor *mt = &l->m->tensors[i];
            if (!is_matrix(mt) || (mt->role == ROLE_ROUTED) != routed)
                continue;
            if (routed && l->done + mt->tensor->bytes > budget)
                left_out = true;
            else if (!read_tensor(l, mt->tensor, err))
                return false;
        }
    }
    if (left_out)
        log_note("the model is larger than free memory (%" PRIu64 " MiB): experts are read from "
                 "the file when they are chosen", budget >> 20);
    return true;
}

static bool copy_all(struct loader *l, struct error *err)
{
    struct model *m = l->m;
    size_t bytes = 0;
    for (int i = 0; i < m->n_tensors; i++)
        bytes += is_matrix(&m->tensors[i]) ? align_up(m->tensors[i].tensor->bytes, 64) : 0;
    bytes = align_up(bytes, HUGE_PAGE);
    uint64_t available = memory_available();
    if (available < MARGIN_BYTES || bytes > available - MARGIN_BYTES)
        return fail(err, ERR_FIT, "a copy of the model needs %zu MiB, available are %" PRIu64
                    " MiB; --load mmap needs less", bytes >> 20, available >> 20);
    void *copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return fail(err, ERR_FIT, "out of memory: copy of the model: %zu bytes", bytes);
    (void)madvise(copy, bytes, MADV_HUGEPAGE);
    m->copy = copy;
    m->copy_bytes = bytes;
    l->drop_cache = available / 2 < bytes + ROOM_BYTES / 2;

    char *to = copy;
    for (int i = 0; i < m->n_tensors; i++) {
        struct model_tensor *mt = &m->tensors[i];
        if (!is_matrix(mt))
            continue;
        if (!copy_tensor(l, mt->tensor, to, err))
            return false;
        mt->weight->data = to;
        to += align_up(mt->tensor->bytes, 64);
    }
    return true;
}

/* What LOAD_AUTO does: see the top. */
static bool worth_copying(const struct loader *l, bool act_f32)
{
    const struct params *p = &l->m->params;
    uint64_t available = memory_available();
    uint64_t cache = kvcache_bytes(l->m->arch, p, act_f32 ? TYPE_F32 : TYPE_F16,
                                   min_of(p->context_length, USUAL_CONTEXT));
    return l->total >= COPY_BYTES && available > ROOM_BYTES && cache < available - ROOM_BYTES &&
           l->total <= available - ROOM_BYTES - cache;
}

/* Norms, biases and routers: decoded to F32 in the model's arena. */
static bool decode_small(struct model *m, struct error *err)
{
    for (int i = 0; i < m->n_tensors; i++) {
        struct model_tensor *mt = &m->tensors[i];
        struct weight *w = mt->weight;
        if (!mt->spec->is_f32)
            continue;
        int64_t n = w->cols * w->rows * w->n_matrices;
        float *values = arena_alloc(&m->arena, (size_t)n, sizeof *values, err);
        if (!values)
            return false;
        quant_traits(w->type)->dequantize(mt->tensor->data, values, n);
        w->data = values;
        w->type = TYPE_F32;
        w->row_bytes = (size_t)w->cols * sizeof *values;
        w->matrix_bytes = w->row_bytes * (size_t)w->rows;
    }
    return true;
}

/* Views and operation structs on the new addresses; then what this file lacks, and again. */
static bool assemble_all(struct loader *l, bool act_f32, struct error *err)
{
    struct model *m = l->m;
    size_t before = m->arena.total_bytes;
    for (int i = 0; i < m->params.n_layers + m->params.n_mtp; i++) {
        if (!m->arch->assemble(m, i, err) || !tick(l, false, err))
            return false;
        if (m->arch->derive &&
            (!m->arch->derive(m, i, act_f32, err) || !m->arch->assemble(m, i, err)))
            return false;
    }
    m->derived_bytes = m->arena.total_bytes - before;
    if (m->params.tied_output)
        m->output = m->token_embd;
    return true;
}

static bool file_is_whole(const struct model *m, struct error *err)
{
    int shard;
    uint64_t offset;
    if (!gguf_lost(&m->gguf, &shard, &offset))
        return true;
    return fail(err, ERR_RUN, "%s: model file changed or unreadable at offset %" PRIu64,
                m->gguf.shards[shard].path, offset);
}

bool model_load(struct model *m, enum load_mode mode, bool act_f32, load_progress *progress,
                void *ctx, struct error *err)
{
    struct loader l = {
        .m = m, .progress = progress, .ctx = ctx, .last_s = now_s(),
        .page = (size_t)sysconf(_SC_PAGESIZE),
    };
    for (int i = 0; i < m->n_tensors; i++)
        l.total += is_matrix(&m->tensors[i]) ? m->tensors[i].tensor->bytes : 0;
    bool copy = mode == LOAD_COPY || (mode == LOAD_AUTO && worth_copying(&l, act_f32));
    bool ok = tick(&l, true, err) && (copy ? copy_all(&l, err) : read_all(&l, err)) &&
              decode_small(m, err) && assemble_all(&l, act_f32, err);
    l.done = l.total;
    return file_is_whole(m, err) && ok && tick(&l, true, err);
}
