#include "src/model/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/pool.h"

#define PIECE_BYTES ((size_t)8 << 20) /* dealt to a reader at a time */
#define STEP_BYTES ((size_t)1 << 20)  /* between looks at the wish to stop: 10 ms of a slow disk */
#define BOUNCE_BYTES ((size_t)256 << 10)
#define TICK_NS 50000000              /* between calls of progress */
#define MIN_READERS 4                 /* a disk wants requests beside each other, not processors */
#define MAX_READERS 16                /* more than this was slower on machines with many cores */

struct team {
    struct reading *r;
    struct pool *pool;
    size_t page;
    int *direct_fds;   /* [n_shards] second descriptors without page cache; -1: refused */
    void *bounces;     /* owns the next */
    char *bounce;      /* [readers * BOUNCE_BYTES], aligned for direct reads */
    atomic_int refused; /* errno of the first refusal to read directly */
    atomic_bool stop;
    atomic_uint_least64_t done;

    pthread_mutex_t lock; /* over everything below */
    pthread_cond_t all_left;
    size_t extent, at; /* the next piece begins at byte `at` of this extent */
    int n_readers;     /* still at work */
    struct error first; /* what went wrong first */
};

/* ---- what one reader does ---- */

static bool give_up(struct team *t, const struct error *why)
{
    pthread_mutex_lock(&t->lock);
    if (!t->first.code)
        t->first = *why;
    pthread_mutex_unlock(&t->lock);
    atomic_store(&t->stop, true);
    return false;
}

static bool unreadable(struct team *t, const struct gguf_shard *s, uint64_t offset)
{
    struct error why = { 0 };
    fail(&why, ERR_RUN, "%s: model file changed or unreadable at offset %" PRIu64, s->path, offset);
    return give_up(t, &why);
}

/* At least `least` of n bytes. `refused` (may be NULL) is set where the file system takes no such
 * request at all. */
static bool read_fd(int fd, char *to, size_t n, size_t least, uint64_t offset, atomic_int *refused)
{
    for (size_t got = 0; got < least;) {
        ssize_t k = pread(fd, to + got, n - got, (off_t)(offset + got));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EINVAL && got == 0 && refused)
            atomic_store(refused, EINVAL);
        if (k <= 0)
            return false;
        got += (size_t)k;
    }
    return true;
}

/* Some of n bytes past the page cache; 0 when that does not work. */
static size_t direct_step(struct team *t, int fd, char *bounce, char *to, size_t n, uint64_t offset)
{
    size_t lead = offset % DIRECT_ALIGN;
    bool agree = (uintptr_t)to % DIRECT_ALIGN == lead;
    if (agree && lead == 0 && n >= DIRECT_ALIGN) {
        n &= ~(DIRECT_ALIGN - 1);
        return read_fd(fd, to, n, n, offset, &t->refused) ? n : 0;
    }
    n = min_of(n, (agree ? DIRECT_ALIGN : BOUNCE_BYTES) - lead);
    if (!read_fd(fd, bounce, align_up(lead + n, DIRECT_ALIGN), lead + n, offset - lead,
                 &t->refused))
        return 0;
    memcpy(to, bounce + lead, n);
    return n;
}

static bool reads_directly(struct team *t, int shard)
{
    return t->r->direct && !atomic_load(&t->refused) && t->direct_fds[shard] >= 0;
}

/* Some of n bytes to `to`; 0 when they cannot be read. What fails directly is tried once more: the
 * end of a file that became shorter is not a matter of alignment. */
static size_t copy_step(struct team *t, int reader, const struct extent *e, char *to, size_t n,
                        uint64_t offset)
{
    size_t done = 0;
    if (reads_directly(t, e->shard))
        done = direct_step(t, t->direct_fds[e->shard], t->bounce + (size_t)reader * BOUNCE_BYTES,
                           to, n, offset);
    if (!done && read_fd(t->r->gguf->shards[e->shard].fd, to, n, n, offset, NULL))
        done = n;
    return done;
}

/* Map the pages of a step. Kernels before 5.14 do not know the advice, and where a page cannot be
 * read it fails: one byte of every page then brings it in, or finds out what is wrong. The sum keeps
 * the compiler from leaving that out. */
static void map_step(const struct team *t, const char *data, size_t n)
{
    uintptr_t begin = (uintptr_t)data & ~(t->page - 1);
    uintptr_t end = align_up((uintptr_t)data + n, t->page);
#ifdef MADV_POPULATE_READ
    if (madvise((void *)begin, end - begin, MADV_POPULATE_READ) == 0)
        return;
#endif
    unsigned sum = 0;
    for (; begin < end; begin += t->page)
        sum += *(const unsigned char *)begin;
    __asm__ volatile("" : : "r"(sum));
}

/* Bytes [at, at + n) of an extent, step by step, each announced while the one before it is read. */
static bool read_piece(struct team *t, int reader, const struct extent *e, size_t at, size_t n)
{
    const struct gguf_shard *s = &t->r->gguf->shards[e->shard];
    bool buffered = !reads_directly(t, e->shard);
    size_t announced = 0;
    for (size_t done = 0; done < n;) {
        if (atomic_load_explicit(&t->stop, memory_order_relaxed))
            return false;
        for (; buffered && announced < min_of(n, done + 2 * STEP_BYTES); announced += STEP_BYTES)
            (void)posix_fadvise(s->fd, (off_t)(e->offset + at + announced), STEP_BYTES,
                                POSIX_FADV_WILLNEED);
        uint64_t offset = e->offset + at + done;
        size_t step = min_of(STEP_BYTES, n - done);
        if (!e->to)
            map_step(t, (const char *)s->map + offset, step);
        else if (!(step = copy_step(t, reader, e, e->to + at + done, step, offset)))
            return unreadable(t, s, offset);
        done += step;
        atomic_fetch_add_explicit(&t->done, step, memory_order_relaxed);
    }
    if (e->to && t->r->drop_cache)
        (void)posix_fadvise(s->fd, (off_t)(e->offset + at), (off_t)n, POSIX_FADV_DONTNEED);
    return true;
}

/* The next piece; false when there is none. Pieces end at multiples of their size in memory, so that
 * two readers do not ask for the same huge page. */
static bool take_piece(struct team *t, const struct extent **e, size_t *at, size_t *n)
{
    pthread_mutex_lock(&t->lock);
    bool some = t->extent < t->r->n_extents;
    if (some) {
        *e = &t->r->extents[t->extent];
        *at = t->at;
        size_t to_border = PIECE_BYTES - ((uintptr_t)(*e)->to + t->at) % PIECE_BYTES;
        *n = min_of((*e)->bytes - t->at, to_border);
        t->at += *n;
        if (t->at == (*e)->bytes) {
            t->extent++;
            t->at = 0;
        }
    }
    pthread_mutex_unlock(&t->lock);
    return some;
}

/* ---- the team: worker 0 tells, the others read ---- */

static bool tell(struct team *t)
{
    struct reading *r = t->r;
    if (!r->progress || r->progress(r->ctx, r->done + atomic_load(&t->done), r->total))
        return true;
    struct error why = { 0 };
    fail(&why, ERR_INTERRUPTED, "loading was interrupted");
    return give_up(t, &why);
}

static void tell_until_done(struct team *t)
{
    pthread_mutex_lock(&t->lock);
    while (t->n_readers > 0) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += TICK_NS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&t->all_left, &t->lock, &until);
        pthread_mutex_unlock(&t->lock);
        if (!atomic_load(&t->stop))
            tell(t);
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
}

/* A team of one, where no thread could be started, does both in turn. */
static void on_worker(void *ctx, int64_t worker, int64_t n_workers, int unused)
{
    struct team *t = ctx;
    const struct extent *e;
    size_t at, n;
    (void)unused;
    if (worker == 0 && n_workers > 1) {
        tell_until_done(t);
        return;
    }
    int reader = (int)max_of(worker - 1, 0);
    while (!atomic_load(&t->stop) && take_piece(t, &e, &at, &n)) {
        if (!read_piece(t, reader, e, at, n) || (n_workers == 1 && !tell(t)))
            break;
    }
    pthread_mutex_lock(&t->lock);
    if (--t->n_readers == 0)
        pthread_cond_signal(&t->all_left);
    pthread_mutex_unlock(&t->lock);
}

/* ---- direct reading ---- */

/* Descriptors of their own: the flag belongs to an open file, and others read through the first. By
 * /proc it is the same file, whatever has become of its name. */
static bool open_direct(struct team *t, struct error *err)
{
    const struct gguf *g = t->r->gguf;
    t->direct_fds = mem_alloc((size_t)g->n_shards, sizeof *t->direct_fds, "file descriptors", err);
    for (int i = 0; t->direct_fds && i < g->n_shards; i++)
        t->direct_fds[i] = -1;
    t->bounces = mem_alloc_aligned(1, MAX_READERS * BOUNCE_BYTES + DIRECT_ALIGN,
                                   "buffers to read into", err);
    if (!t->direct_fds || !t->bounces)
        return false;
    t->bounce = (char *)align_up((size_t)t->bounces, DIRECT_ALIGN);
    for (int i = 0; i < g->n_shards; i++) {
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", g->shards[i].fd);
        t->direct_fds[i] = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
        if (t->direct_fds[i] < 0)
            t->refused = errno;
    }
    return true;
}

static void close_direct(struct team *t)
{
    for (int i = 0; t->direct_fds && i < t->r->gguf->n_shards; i++)
        if (t->direct_fds[i] >= 0)
            close(t->direct_fds[i]);
    mem_free(t->direct_fds);
    mem_free(t->bounces);
    if (t->refused)
        log_note("--load direct: the file system refuses to read past the page cache (%s): "
                 "reading through it", strerror(t->refused));
}

bool reading_run(struct reading *r, struct error *err)
{
    struct team t = { .r = r, .page = (size_t)sysconf(_SC_PAGESIZE) };
    int n = max_of(min_of(cpu_usable_cores(), MAX_READERS), MIN_READERS);
    pthread_mutex_init(&t.lock, NULL);
    pthread_cond_init(&t.all_left, NULL);
    bool ok = (!r->direct || open_direct(&t, err)) && pool_open(&t.pool, n + 1, err);
    if (ok) {
        t.n_readers = max_of(pool_threads(t.pool) - 1, 1);
        pool_run_team(t.pool, on_worker, &t);
        pool_close(t.pool);
        r->done += atomic_load(&t.done);
    }
    if (r->direct)
        close_direct(&t);
    pthread_cond_destroy(&t.all_left);
    pthread_mutex_destroy(&t.lock);
    if (t.first.code)
        *err = t.first;
    return ok && !t.first.code;
}
