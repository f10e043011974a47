#include "src/engine/prefix_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/crc32c.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/prefix_internal.h"

#define VERSION 1
#define MOST_POSITIONS ((int64_t)1 << 24)
#define SAMPLES 64
#define SAMPLE_BYTES 1024

static const char magic[8] = "tndmcach", segment_magic[4] = "segm";

/* ---- whose caches ---- */

/* A few places of a shard's weights: two files can have the same header. */
static uint32_t sample(uint32_t crc, const struct gguf_shard *s)
{
    uint64_t bytes = s->size - s->data_start;
    if (bytes <= SAMPLES * SAMPLE_BYTES)
        return crc32c(crc, s->map + s->data_start, (size_t)bytes);
    for (uint64_t i = 0; i < SAMPLES; i++) {
        uint64_t at = (bytes - SAMPLE_BYTES) / (SAMPLES - 1) * i;
        crc = crc32c(crc, s->map + s->data_start + at, SAMPLE_BYTES);
    }
    return crc;
}

uint64_t file_fingerprint(const struct gguf *g)
{
    uint32_t heads = 0, samples = 0;
    for (int i = 0; i < g->n_shards; i++) {
        heads = crc32c(heads, g->shards[i].map, (size_t)g->shards[i].data_start);
        heads = crc32c(heads, &g->shards[i].size, sizeof g->shards[i].size);
        samples = sample(samples, &g->shards[i]);
    }
    return (uint64_t)samples << 32 | heads;
}

uint64_t engine_fingerprint(const struct engine *e)
{
    uint64_t file = file_fingerprint(&e->model.gguf);
    uint32_t how[2] = { (uint32_t)e->model.params.numerics, (uint32_t)e->wishes.cache_type };
    return (uint64_t)crc32c((uint32_t)(file >> 32), how, sizeof how) << 32 | (uint32_t)file;
}

uint32_t prefix_sum(const struct cache_part *parts, int n)
{
    uint32_t crc = 0;
    for (int i = 0; i < n; i++) {
        const struct cache_part *p = &parts[i];
        int64_t numbers[6] = { p->layer, (int64_t)p->kind, (int64_t)p->row_bytes, p->span, p->lag,
                               p->kind == CACHE_ROWS ? 0 : p->n_rows };
        crc = crc32c(crc, p->name, strlen(p->name) + 1);
        crc = crc32c(crc, numbers, sizeof numbers);
    }
    return crc | 1;
}

/* ---- heads ---- */

static void pack_head(uint8_t h[PREFIX_HEAD], const struct prefix_file *f)
{
    memset(h, 0, PREFIX_HEAD);
    memcpy(h, magic, 8);
    put32(h + 8, VERSION);
    put64(h + 16, f->fingerprint);
    put32(h + 24, f->parts_sum);
    put32(h + 12, crc32c(0, h + 16, PREFIX_HEAD - 16));
}

static bool check_head(const uint8_t h[PREFIX_HEAD], const struct prefix_file *f, struct error *err)
{
    if (memcmp(h, magic, 8) != 0)
        return fail(err, ERR_FILE, "%s: not a file of cached prompts", f->path);
    if (get32(h + 8) != VERSION)
        return fail(err, ERR_FILE, "%s: version %u of such files, this program reads %d", f->path,
                    (unsigned)get32(h + 8), VERSION);
    if (get32(h + 12) != crc32c(0, h + 16, PREFIX_HEAD - 16))
        return fail(err, ERR_FILE, "%s: its head is damaged", f->path);
    if (get64(h + 16) != f->fingerprint || get32(h + 24) != f->parts_sum)
        return fail(err, ERR_FILE, "%s: belongs to another model, or to this one computed in "
                    "another way (--cache-type, --numerics)", f->path);
    return true;
}

void prefix_pack(uint8_t h[PREFIX_SEGMENT], const struct segment *s)
{
    memset(h, 0, PREFIX_SEGMENT);
    memcpy(h, segment_magic, 4);
    put64(h + 8, s->bytes);
    put64(h + 16, (uint64_t)s->from);
    put64(h + 24, (uint64_t)s->to);
    put32(h + 32, (uint32_t)s->parent);
    put32(h + 36, s->draft);
    put32(h + 40, s->state);
    put64(h + 44, (uint64_t)s->newest);
    uint32_t crc = crc32c(0, h + 8, PREFIX_SEGMENT - 8);
    put32(h + 4, crc32c(crc, s->tokens, (size_t)(s->to - s->from) * sizeof *s->tokens));
}

/* ---- the list of segments ---- */

int64_t prefix_ring_from(const struct prefix_file *f, const struct segment *s)
{
    bool joined = s->parent >= 0 && f->segments[s->parent].to == s->from;
    return joined ? s->from : 0;
}

struct cache_range prefix_range(const struct prefix_file *f, const struct segment *s,
                                   const struct cache_part *part)
{
    int64_t from = part->kind == CACHE_RING ? prefix_ring_from(f, s) : s->from;
    return cache_part_added(part, from, s->to);
}

bool prefix_list(struct prefix_file *f, const struct segment *s, struct error *err)
{
    if (f->n_segments == f->capacity) {
        int capacity = f->capacity ? 2 * f->capacity : 16;
        struct segment *more = mem_resize(f->segments, (size_t)capacity, sizeof *more,
                                          "cached prompts", err);
        if (!more)
            return false;
        f->segments = more;
        f->capacity = capacity;
    }
    f->segments[f->n_segments++] = *s;
    f->end = s->at + s->bytes;
    return true;
}

void prefix_forget(struct prefix_file *f)
{
    for (int i = 0; i < f->n_segments; i++)
        mem_free(f->segments[i].tokens);
    f->n_segments = 0;
    f->end = PREFIX_HEAD;
}

/* The segment at f->end, when it is there whole as far as its head and its tokens tell. */
static bool read_segment(struct prefix_file *f, uint64_t size, struct segment *s)
{
    uint8_t h[PREFIX_SEGMENT];
    if (size < f->end || size - f->end < PREFIX_SEGMENT + PREFIX_TAIL ||
        !file_read_at(f->fd, h, PREFIX_SEGMENT, f->end) || memcmp(h, segment_magic, 4) != 0)
        return false;
    *s = (struct segment){
        .at = f->end, .bytes = get64(h + 8), .from = (int64_t)get64(h + 16),
        .to = (int64_t)get64(h + 24), .parent = (int)get32(h + 32), .draft = get32(h + 36),
        .state = get32(h + 40) & 1, .newest = (int64_t)get64(h + 44),
    };
    if (s->bytes > size - s->at || s->from < 0 || s->to <= s->from || s->to > MOST_POSITIONS ||
        s->newest < s->to || s->newest > MOST_POSITIONS ||
        s->parent < -1 || s->parent >= f->n_segments || (s->parent < 0) != (s->from == 0) ||
        (s->parent >= 0 && f->segments[s->parent].to < s->from))
        return false;
    size_t n = (size_t)(s->to - s->from);
    if (s->bytes < PREFIX_SEGMENT + PREFIX_TAIL + n * sizeof *s->tokens)
        return false;
    s->tokens = mem_alloc(n, sizeof *s->tokens, "cached prompts", NULL);
    uint32_t crc = crc32c(0, h + 8, PREFIX_SEGMENT - 8);
    size_t bytes = n * sizeof *s->tokens;
    if (!s->tokens || !file_read_at(f->fd, s->tokens, bytes, s->at + PREFIX_SEGMENT) ||
        get32(h + 4) != crc32c(crc, s->tokens, bytes)) {
        mem_free(s->tokens);
        return false;
    }
    return true;
}

static void read_segments(struct prefix_file *f)
{
    struct stat st;
    struct segment s;
    uint64_t size = fstat(f->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    prefix_forget(f);
    while (read_segment(f, size, &s)) {
        if (!prefix_list(f, &s, NULL)) {
            mem_free(s.tokens);
            break;
        }
    }
    if (size > f->end && f->writes && ftruncate(f->fd, (off_t)f->end) != 0)
        f->writes = false;
}

/* ---- open and close ---- */

bool prefix_write_head(const struct prefix_file *f, int fd, struct error *err)
{
    uint8_t h[PREFIX_HEAD];
    pack_head(h, f);
    return file_write_at(fd, h, PREFIX_HEAD, 0) ||
           fail(err, ERR_RUN, "%s: cannot be written: %s", f->path, strerror(errno));
}

static bool open_whole(struct prefix_file *f, struct error *err)
{
    uint8_t h[PREFIX_HEAD];
    struct stat st;
    bool is_new = lstat(f->path, &st) != 0;
    f->fd = open(f->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (f->fd < 0)
        return fail(err, ERR_RUN, "%s: %s", f->path, strerror(errno));
    if (fstat(f->fd, &st) != 0 || !S_ISREG(st.st_mode))
        return fail(err, ERR_FILE, "%s: not a file", f->path);
    f->writes = flock(f->fd, LOCK_EX | LOCK_NB) == 0;
    if (st.st_size == 0) {
        f->end = PREFIX_HEAD;
        if (!f->writes || prefix_write_head(f, f->fd, err))
            return true;
        if (is_new) /* nothing is left of what could not be begun */
            unlink(f->path);
        return false;
    }
    if (!file_read_at(f->fd, h, PREFIX_HEAD, 0))
        return fail(err, ERR_FILE, "%s: not a file of cached prompts", f->path);
    if (!check_head(h, f, err))
        return false;
    read_segments(f);
    return true;
}

bool prefix_file_open(struct prefix_file **out, const char *path, struct session *s,
                      struct error *err)
{
    struct session_cache c;
    *out = NULL;
    if (!session_cache_settle(s, &c, err))
        return false;
    struct prefix_file *f = mem_alloc(1, sizeof *f, "cached prompts", err);
    if (!f)
        return false;
    f->fd = -1;
    f->fingerprint = engine_fingerprint(session_engine(s));
    f->parts_sum = prefix_sum(c.cache->parts, c.cache->n_parts);
    f->path = mem_strndup(path, strlen(path), err);
    f->buffer = f->path ? mem_alloc_aligned(1, PREFIX_STREAM_BYTES, "cached prompts", err) : NULL;
    if (!f->buffer || !open_whole(f, err)) {
        prefix_file_close(f);
        return false;
    }
    *out = f;
    return true;
}

void prefix_file_close(struct prefix_file *f)
{
    if (!f)
        return;
    prefix_forget(f);
    if (f->fd >= 0)
        close(f->fd);
    mem_free(f->segments);
    mem_free(f->buffer);
    mem_free(f->path);
    mem_free(f);
}

uint64_t prefix_file_bytes(const struct prefix_file *f)
{
    return f->end;
}

bool prefix_file_damaged(const struct prefix_file *f)
{
    return f->damaged;
}
