/* A path becomes mapped bytes.
 *
 * The file is opened once, without blocking, and everything afterwards uses the descriptor (G-01).
 * Pages that cannot be read any more (the file was cut short, the disk fails) raise SIGBUS: the
 * handler finds the address in a fixed table of mappings, puts a zero page there, notes where, and
 * the program goes on to ask gguf_lost at its next step (G-51). */
#include "src/format/gguf_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SMALLEST_FILE 24 /* header of a file without entries */

typedef unsigned long long ull;

/* ---- the table of mappings ---- */

#define MAX_MAPPINGS 16384 /* more than the shards of one set */
#define NOT_LOST UINT64_MAX

/* A row is free while start is 0. bytes is written before start (release) and read after it
 * (acquire), so the handler never sees a start with another mapping's length. */
static struct mapping {
    atomic_uintptr_t start;
    atomic_uintptr_t bytes;
    atomic_uint_least64_t lost; /* offset of the first unreadable page, or NOT_LOST */
} mappings[MAX_MAPPINGS];

static atomic_int n_rows_used;   /* rows beyond were never used: where a search may stop */
static atomic_uint n_pages_lost; /* zero on a healthy machine: makes the per-token question cheap */
static atomic_bool handler_installed;

/* Async-signal-safe: atomics, mmap and raise are plain system calls. */
static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    int saved_errno = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    int n = atomic_load_explicit(&n_rows_used, memory_order_acquire);
    for (int i = 0; i < n; i++) {
        struct mapping *m = &mappings[i];
        uintptr_t start = atomic_load_explicit(&m->start, memory_order_acquire);
        if (!start || address < start ||
            address - start >= atomic_load_explicit(&m->bytes, memory_order_relaxed))
            continue;
        uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
        uintptr_t page = address & ~(page_bytes - 1);
        if (mmap((void *)page, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) == MAP_FAILED)
            break;
        uint_least64_t expected = NOT_LOST;
        atomic_compare_exchange_strong(&m->lost, &expected, page - start);
        atomic_fetch_add(&n_pages_lost, 1);
        errno = saved_errno;
        return;
    }
    /* Not ours: the default action ends the program when the access is tried again. */
    signal(signal_number, SIG_DFL);
    errno = saved_errno;
}

static void install_handler(void)
{
    if (atomic_exchange(&handler_installed, true))
        return;
    struct sigaction action = { .sa_flags = SA_SIGINFO | SA_ONSTACK };
    action.sa_sigaction = on_sigbus;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

static bool table_add(const void *start, uint64_t bytes)
{
    install_handler();
    for (int i = 0; i < MAX_MAPPINGS; i++) {
        struct mapping *m = &mappings[i];
        if (atomic_load_explicit(&m->start, memory_order_relaxed))
            continue;
        atomic_store_explicit(&m->lost, NOT_LOST, memory_order_relaxed);
        atomic_store_explicit(&m->bytes, (uintptr_t)bytes, memory_order_relaxed);
        atomic_store_explicit(&m->start, (uintptr_t)start, memory_order_release);
        if (i >= atomic_load(&n_rows_used))
            atomic_store(&n_rows_used, i + 1);
        return true;
    }
    return false;
}

static struct mapping *table_find(const void *start)
{
    int n = atomic_load(&n_rows_used);
    for (int i = 0; start && i < n; i++)
        if (atomic_load(&mappings[i].start) == (uintptr_t)start)
            return &mappings[i];
    return NULL;
}

bool gguf_file_lost(const struct gguf_shard *shard, uint64_t *offset)
{
    if (atomic_load_explicit(&n_pages_lost, memory_order_relaxed) == 0)
        return false;
    struct mapping *m = table_find(shard->map);
    uint64_t lost = m ? atomic_load(&m->lost) : NOT_LOST;
    if (lost != NOT_LOST)
        *offset = lost;
    return lost != NOT_LOST;
}

/* ---- what kind of file is it? ---- */

static bool check_kind(const struct stat *st, const char *path, struct error *err)
{
    const char *kind = S_ISDIR(st->st_mode)    ? "a directory"
                       : S_ISFIFO(st->st_mode) ? "a pipe"
                       : S_ISSOCK(st->st_mode) ? "a socket"
                       : S_ISCHR(st->st_mode)  ? "a character device"
                       : S_ISBLK(st->st_mode)  ? "a block device"
                                               : "not a regular file";
    if (!S_ISREG(st->st_mode))
        return fail(err, ERR_FILE, "%s: is %s, expected a GGUF file (G-01)", path, kind);
    if (st->st_size == 0)
        return fail(err, ERR_FILE, "%s: the file is empty; download incomplete? (G-03)", path);
    if ((uint64_t)st->st_size > GGUF_MAX_FILE_BYTES || (uint64_t)st->st_size > SIZE_MAX / 2)
        return fail(err, ERR_FILE, "%s: %llu bytes are more than this machine can map (G-03)",
                    path, (ull)st->st_size);
    return true;
}

/* Files that people mistake for models, by their first bytes. */
static const struct lookalike {
    const char *start;
    unsigned n;
    const char *is;
} lookalikes[] = {
    { "<!DO", 4, "a web page, not a model; the download got an error page" },
    { "<!do", 4, "a web page, not a model; the download got an error page" },
    { "<htm", 4, "a web page, not a model; the download got an error page" },
    { "<HTM", 4, "a web page, not a model; the download got an error page" },
    { "<?xm", 4, "an XML page, not a model; the download got an error page" },
    { "vers", 4, "a Git LFS pointer, not the model itself; fetch it with 'git lfs pull'" },
    { "PK\3\4", 4, "a zip archive (a PyTorch checkpoint?); convert it to GGUF first" },
    { "lmgg", 4, "an old GGML file from before GGUF; convert the model again" },
    { "fmgg", 4, "an old GGMF file from before GGUF; convert the model again" },
    { "tjgg", 4, "an old GGJT file from before GGUF; convert the model again" },
    { "algg", 4, "a GGML adapter, not a model" },
    { "FUGG", 4, "a GGUF file with its bytes swapped; convert it to little-endian" },
    { "\0\0\0\0", 4, "zeros where the header should be; an interrupted download or conversion" },
    { "{", 1, "a JSON text, not a model" },
};

static bool check_magic(const struct gguf_shard *shard, struct error *err)
{
    const uint8_t *map = shard->map;
    if (shard->size >= 4 && memcmp(map, "GGUF", 4) == 0) {
        if (shard->size < SMALLEST_FILE)
            return fail(err, ERR_FILE, "%s: %llu bytes, expected at least %d; download incomplete? "
                        "(G-03)", shard->path, (ull)shard->size, SMALLEST_FILE);
        return true;
    }
    for (size_t i = 0; i < ARRAY_LEN(lookalikes); i++)
        if (shard->size >= lookalikes[i].n && !memcmp(map, lookalikes[i].start, lookalikes[i].n))
            return fail(err, ERR_FILE, "%s: byte 0: %s (G-04)", shard->path, lookalikes[i].is);
    if (shard->size > 8 && map[8] == '{')
        return fail(err, ERR_FILE, "%s: byte 0: a safetensors file; convert it to GGUF first "
                    "(G-04)", shard->path);
    if (shard->size < SMALLEST_FILE)
        return fail(err, ERR_FILE, "%s: %llu bytes, expected a GGUF file (G-03)", shard->path,
                    (ull)shard->size);
    return fail(err, ERR_FILE, "%s: byte 0: %02x %02x %02x %02x, expected \"GGUF\" (G-04)",
                shard->path, map[0], map[1], map[2], map[3]);
}

/* ---- bytes ---- */

static uint64_t available_bytes(void)
{
    ull kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f)
        return UINT64_MAX; /* unknown: let the allocation decide */
    char line[128];
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    fclose(f);
    return kib ? (uint64_t)kib * 1024 : UINT64_MAX;
}

void *gguf_file_read_whole(int fd, const char *path, uint64_t size, struct error *err)
{
    uint64_t available = available_bytes();
    if (size > available) {
        fail(err, ERR_FIT, "%s: cannot be mapped, and its %llu bytes do not fit into %llu bytes of "
             "free memory (G-54)", path, (ull)size, (ull)available);
        return NULL;
    }
    uint8_t *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) {
        fail(err, ERR_FIT, "%s: out of memory: %llu bytes (G-54)", path, (ull)size);
        return NULL;
    }
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(fd, bytes + done, min_of(size - done, (uint64_t)1 << 30), (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            fail(err, ERR_FILE, "%s: byte %llu: cannot be read: %s (G-54)", path, (ull)done,
                 n < 0 ? strerror(errno) : "the file became shorter");
            munmap(bytes, size);
            return NULL;
        }
        done += (uint64_t)n;
    }
    return bytes;
}

static bool map_bytes(struct gguf_shard *shard, struct error *err)
{
    void *map = mmap(NULL, shard->size, PROT_READ, MAP_SHARED, shard->fd, 0);
    shard->in_memory = map == MAP_FAILED;
    if (shard->in_memory)
        map = gguf_file_read_whole(shard->fd, shard->path, shard->size, err);
    if (!map)
        return false;
    shard->map = map;
    if (!table_add(map, shard->size))
        return fail(err, ERR_FIT, "%s: more than %d files are mapped (G-51)", shard->path,
                    MAX_MAPPINGS);
    return true;
}

static int64_t changed_ns(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

void gguf_forget(const struct gguf *g)
{
    for (int i = 0; i < g->n_shards; i++)
        if (g->shards[i].fd >= 0 && g->shards[i].map && !g->shards[i].in_memory)
            madvise((void *)g->shards[i].map, g->shards[i].size, MADV_DONTNEED);
}

bool gguf_unchanged(const struct gguf *g, struct error *err)
{
    for (int i = 0; i < g->n_shards; i++) {
        const struct gguf_shard *s = &g->shards[i];
        struct stat st;
        if (s->fd < 0)
            continue;
        if (fstat(s->fd, &st) != 0)
            return fail(err, ERR_RUN, "%s: %s", s->path, strerror(errno));
        if ((uint64_t)st.st_size != s->size || changed_ns(&st) != s->changed_ns)
            return fail(err, ERR_RUN, "%s: the file was changed while in use: %llu bytes, %llu "
                        "when it was opened (G-05)", s->path, (ull)st.st_size, (ull)s->size);
    }
    return true;
}

bool gguf_file_open(struct gguf_shard *shard, struct error *err)
{
    int fd = open(shard->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && fd <= 2) { /* the standard streams were closed: stay out of their places */
        int higher = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        close(fd);
        fd = higher;
    }
    shard->fd = fd;
    if (fd < 0)
        return fail(err, ERR_FILE, "%s: %s", shard->path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0)
        return fail(err, ERR_FILE, "%s: %s", shard->path, strerror(errno));
    if (!check_kind(&st, shard->path, err))
        return false;
    shard->size = (uint64_t)st.st_size;
    shard->device = (uint64_t)st.st_dev;
    shard->inode = (uint64_t)st.st_ino;
    shard->changed_ns = changed_ns(&st);
    return map_bytes(shard, err) && check_magic(shard, err);
}

void gguf_file_close(struct gguf_shard *shard)
{
    if (shard->fd < 0) /* borrowed bytes, or never opened */
        return;
    struct mapping *m = table_find(shard->map);
    if (m)
        atomic_store(&m->start, 0);
    if (shard->map)
        munmap((void *)shard->map, shard->size);
    close(shard->fd);
    *shard = (struct gguf_shard){ .fd = -1 };
}
