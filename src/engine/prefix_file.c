#include "src/engine/prefix_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/crc32c.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/draft.h"
#include "src/engine/internal.h"
#include "src/engine/prefix_stream.h"

#define VERSION 1
#define HEAD 48
#define SEGMENT 56
#define TAIL 4
#define MOST_POSITIONS ((int64_t)1 << 24)
#define SAMPLES 64
#define SAMPLE_BYTES 1024

static const char magic[8] = "tndmcach", segment_magic[4] = "segm";

struct segment {
    uint64_t at, bytes; /* in the file */
    int64_t from, to;
    int parent;         /* -1: none */
    uint32_t draft;     /* sum of its draft parts; 0: none */
    bool state;
    int64_t newest;     /* of the cache when it was written: what of a ring was overwritten */
    bool damaged;       /* or a segment on its way is */
    int32_t *tokens;    /* [to - from] */
};

struct prefix_file {
    int fd;
    char *path;
    bool writes; /* we hold the lock */
    bool damaged;
    uint64_t end; /* behind the last whole segment */
    uint64_t fingerprint;
    uint32_t parts_sum;
    struct segment *segments;
    int n_segments, capacity;
    uint8_t *buffer;
};

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

uint64_t engine_fingerprint(const struct engine *e)
{
    const struct gguf *g = &e->model.gguf;
    uint32_t heads = 0, samples = 0;
    uint32_t how[2] = { (uint32_t)e->model.params.numerics, (uint32_t)e->wishes.cache_type };
    for (int i = 0; i < g->n_shards; i++) {
        heads = crc32c(heads, g->shards[i].map, (size_t)g->shards[i].data_start);
        heads = crc32c(heads, &g->shards[i].size, sizeof g->shards[i].size);
        samples = sample(samples, &g->shards[i]);
    }
    return (uint64_t)crc32c(samples, how, sizeof how) << 32 | heads;
}

/* What a row is, and of states and rings how many there are: such parts can take over each other's
 * bytes. Never 0. */
static uint32_t sum_of_parts(const struct cache_part *parts, int n)
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

static void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static void pack_head(uint8_t h[HEAD], const struct prefix_file *f)
{
    memset(h, 0, HEAD);
    memcpy(h, magic, 8);
    put32(h + 8, VERSION);
    put64(h + 16, f->fingerprint);
    put32(h + 24, f->parts_sum);
    put32(h + 12, crc32c(0, h + 16, HEAD - 16));
}

static bool check_head(const uint8_t h[HEAD], const struct prefix_file *f, struct error *err)
{
    if (memcmp(h, magic, 8) != 0)
        return fail(err, ERR_FILE, "%s: not a file of cached prompts", f->path);
    if (get32(h + 8) != VERSION)
        return fail(err, ERR_FILE, "%s: version %u of such files, this program reads %d", f->path,
                    (unsigned)get32(h + 8), VERSION);
    if (get32(h + 12) != crc32c(0, h + 16, HEAD - 16))
        return fail(err, ERR_FILE, "%s: its head is damaged", f->path);
    if (get64(h + 16) != f->fingerprint || get32(h + 24) != f->parts_sum)
        return fail(err, ERR_FILE, "%s: belongs to another model, or to this one computed in "
                    "another way (--cache-type, --numerics)", f->path);
    return true;
}

static void pack_segment(uint8_t h[SEGMENT], const struct segment *s)
{
    memset(h, 0, SEGMENT);
    memcpy(h, segment_magic, 4);
    put64(h + 8, s->bytes);
    put64(h + 16, (uint64_t)s->from);
    put64(h + 24, (uint64_t)s->to);
    put32(h + 32, (uint32_t)s->parent);
    put32(h + 36, s->draft);
    put32(h + 40, s->state);
    put64(h + 44, (uint64_t)s->newest);
    uint32_t crc = crc32c(0, h + 8, SEGMENT - 8);
    put32(h + 4, crc32c(crc, s->tokens, (size_t)(s->to - s->from) * sizeof *s->tokens));
}

/* ---- the list of segments ---- */

/* A ring is written whole where a segment does not go on from the end of another. */
static int64_t ring_from(const struct prefix_file *f, const struct segment *s)
{
    bool joined = s->parent >= 0 && f->segments[s->parent].to == s->from;
    return joined ? s->from : 0;
}

static struct cache_range range_of(const struct prefix_file *f, const struct segment *s,
                                   const struct cache_part *part)
{
    return cache_part_added(part, part->kind == CACHE_RING ? ring_from(f, s) : s->from, s->to);
}

static bool list_segment(struct prefix_file *f, const struct segment *s, struct error *err)
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

static void forget_segments(struct prefix_file *f)
{
    for (int i = 0; i < f->n_segments; i++)
        mem_free(f->segments[i].tokens);
    f->n_segments = 0;
    f->end = HEAD;
}

/* The segment at f->end, when it is there whole as far as its head and its tokens tell. */
static bool read_segment(struct prefix_file *f, uint64_t size, struct segment *s)
{
    uint8_t h[SEGMENT];
    if (size < f->end || size - f->end < SEGMENT + TAIL ||
        !file_read_at(f->fd, h, SEGMENT, f->end) || memcmp(h, segment_magic, 4) != 0)
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
    if (s->bytes < SEGMENT + TAIL + n * sizeof *s->tokens)
        return false;
    s->tokens = mem_alloc(n, sizeof *s->tokens, "cached prompts", NULL);
    if (!s->tokens || !file_read_at(f->fd, s->tokens, n * sizeof *s->tokens, s->at + SEGMENT) ||
        get32(h + 4) != crc32c(crc32c(0, h + 8, SEGMENT - 8), s->tokens, n * sizeof *s->tokens)) {
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
    forget_segments(f);
    while (read_segment(f, size, &s)) {
        if (!list_segment(f, &s, NULL)) {
            mem_free(s.tokens);
            break;
        }
    }
    if (size > f->end && f->writes && ftruncate(f->fd, (off_t)f->end) != 0)
        f->writes = false;
}

/* ---- open and close ---- */

static bool write_head(struct prefix_file *f, int fd, struct error *err)
{
    uint8_t h[HEAD];
    pack_head(h, f);
    return file_write_at(fd, h, HEAD, 0) ||
           fail(err, ERR_RUN, "%s: cannot be written: %s", f->path, strerror(errno));
}

static bool open_whole(struct prefix_file *f, struct error *err)
{
    uint8_t h[HEAD];
    struct stat st;
    f->fd = open(f->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (f->fd < 0)
        return fail(err, ERR_RUN, "%s: %s", f->path, strerror(errno));
    if (fstat(f->fd, &st) != 0 || !S_ISREG(st.st_mode))
        return fail(err, ERR_FILE, "%s: not a file", f->path);
    f->writes = flock(f->fd, LOCK_EX | LOCK_NB) == 0;
    if (st.st_size == 0) {
        f->end = HEAD;
        return !f->writes || write_head(f, f->fd, err);
    }
    if (!file_read_at(f->fd, h, HEAD, 0))
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
    f->parts_sum = sum_of_parts(c.cache->parts, c.cache->n_parts);
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
    forget_segments(f);
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

/* ---- which segment ---- */

static int64_t common(const int32_t *a, const int32_t *b, int64_t n)
{
    int64_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* How many positions the rings of a session have seen that was brought to the end of segment i. */
static int64_t newest_on_way(const struct prefix_file *f, int i)
{
    int64_t newest = 0;
    for (; i >= 0; i = f->segments[i].parent)
        newest = max_of(newest, f->segments[i].newest);
    return newest;
}

/* Can a cache that was brought to the end of segment i go back to n? Asked of a copy of its table. */
static bool can_rewind(const struct prefix_file *f, const struct session_cache *c, int i, int64_t n)
{
    struct kvcache copy = *c->cache;
    int64_t to = f->segments[i].to;
    copy.newest = newest_on_way(f, i);
    return n == to || !c->arch->cache_rewind ||
           c->arch->cache_rewind(c->params, &copy, to, n) == n;
}

/* The segment whose way holds the longest prefix of tokens, and how long that is; to be restored, it
 * must be where the cache can be brought. -1: none. */
static int longest(const struct prefix_file *f, const struct session_cache *c,
                   const int32_t *tokens, int64_t n, bool restore, int64_t *length,
                   struct error *err)
{
    int best = -1;
    *length = 0;
    int64_t *match = mem_alloc((size_t)f->n_segments, sizeof *match, "cached prompts", err);
    for (int i = 0; match && i < f->n_segments; i++) {
        const struct segment *s = &f->segments[i];
        int64_t before = s->parent < 0 ? 0 : match[s->parent];
        match[i] = before;
        if (s->damaged)
            match[i] = 0;
        else if (before >= s->from && n >= s->from)
            match[i] = s->from +
                       common(tokens + s->from, s->tokens, min_of(s->to, n) - s->from);
        if (!s->damaged && match[i] > *length && (!restore || can_rewind(f, c, i, match[i]))) {
            best = i;
            *length = match[i];
        }
    }
    mem_free(match);
    return best;
}

/* A segment that lied, and all that goes on from it. */
static void mark_damaged(struct prefix_file *f, int bad)
{
    f->damaged = true;
    f->segments[bad].damaged = true;
    for (int i = bad + 1; i < f->n_segments; i++)
        if (f->segments[i].parent >= 0 && f->segments[f->segments[i].parent].damaged)
            f->segments[i].damaged = true;
}

/* ---- restore ---- */

/* A segment's part in bringing positions start .. target into the cache: its own `from` up to
 * `until`, where the next one goes on. */
struct stretch {
    int segment;
    int64_t start, until, target;
};

static struct cache_range wanted_of(const struct prefix_file *f, const struct segment *s,
                                    const struct stretch *t, const struct cache_part *part)
{
    if (part->kind == CACHE_ROWS)
        return cache_part_added(part, max_of(t->start, s->from), t->until);
    if (part->kind == CACHE_RING)
        return cache_part_added(part, ring_from(f, s), t->until);
    return (struct cache_range){ 0, s->to == t->target ? part->n_rows : 0 };
}

static bool load_draft(struct prefix_file *f, const struct segment *s, const struct stretch *t,
                       const struct session_cache *c, struct prefix_stream *in, struct error *err)
{
    struct cache_part parts[DRAFT_PARTS];
    int n = draft_parts(c->draft, t->target, parts); /* after draft_adopt: with a state */
    int n_rows = n - 1;
    if (s->draft != sum_of_parts(parts, n_rows))
        return true;
    for (int i = 0; i < n_rows + s->state; i++) {
        struct cache_range wanted = wanted_of(f, s, t, &parts[i]);
        if (!stream_load(in, &parts[i], c->device, range_of(f, s, &parts[i]), wanted, err))
            return false;
    }
    return true;
}

/* Read one segment, all of it, and compare its sum. ERR_FILE: it is damaged. */
static bool load_segment(struct prefix_file *f, const struct stretch *t,
                         const struct session_cache *c, load_progress *progress, void *ctx,
                         uint64_t total, struct error *err)
{
    const struct segment *s = &f->segments[t->segment];
    struct prefix_stream in = {
        .fd = f->fd, .path = f->path, .buffer = f->buffer, .end = s->at + s->bytes - TAIL,
        .at = s->at + SEGMENT + (uint64_t)(s->to - s->from) * sizeof *s->tokens,
        .progress = progress, .ctx = ctx, .total_bytes = total,
    };
    for (int i = 0; i < c->cache->n_parts; i++) {
        const struct cache_part *part = &c->cache->parts[i];
        if (!stream_load(&in, part, c->device, range_of(f, s, part), wanted_of(f, s, t, part), err))
            return false;
    }
    uint8_t tail[TAIL];
    if ((c->draft && s->draft && !load_draft(f, s, t, c, &in, err)) ||
        !stream_skip(&in, in.end - in.at + (in.have - in.used), err))
        return false;
    if (!file_read_at(f->fd, tail, TAIL, in.end) || get32(tail) != in.crc)
        return fail(err, ERR_FILE, "%s: segment %d is damaged", f->path, t->segment);
    return true;
}

/* The segments on the way to `leaf`, first to last, with what each gives; how many. */
static int way_to(const struct prefix_file *f, int leaf, int64_t start, int64_t target,
                  struct stretch *way)
{
    int n = 0;
    int64_t until = target;
    for (int i = leaf; i >= 0; i = f->segments[i].parent) {
        way[n++] = (struct stretch){ .segment = i, .start = start, .until = until,
                                     .target = target };
        until = min_of(until, f->segments[i].from);
    }
    for (int i = 0; i < n / 2; i++) {
        struct stretch other = way[i];
        way[i] = way[n - 1 - i];
        way[n - 1 - i] = other;
    }
    return n;
}

static bool load_way(struct prefix_file *f, const struct stretch *way, int n,
                     const struct session_cache *c, load_progress *progress, void *ctx,
                     struct error *err)
{
    uint64_t total = f->segments[way[n - 1].segment].at + f->segments[way[n - 1].segment].bytes;
    for (int i = 0; i < n; i++) {
        struct error why = { 0 };
        if (c->any_position && way[i].until <= way[i].start)
            continue; /* all of it is there already */
        if (load_segment(f, &way[i], c, progress, ctx, total, &why))
            continue;
        if (why.code == ERR_FILE)
            mark_damaged(f, way[i].segment);
        return error_set(err, why.code, why.file, why.line, "%s", why.text);
    }
    return true;
}

/* Where the loaded cache ends, and what shall be kept of it. */
struct aim {
    int leaf;
    int64_t end, keep;
};

/* Load what lies between the session's cache and the end of the leaf's way, or as much of it as is
 * kept where any position can be. */
static bool load_leaf(struct prefix_file *f, const struct aim *aim, struct session *s,
                      const struct session_cache *c, load_progress *progress, void *ctx,
                      struct error *err)
{
    struct stretch *way = mem_alloc((size_t)f->n_segments, sizeof *way, "cached prompts", err);
    if (!way)
        return false;
    if (c->draft)
        draft_adopt(c->draft, aim->end, true);
    int n = way_to(f, aim->leaf, c->n_cached, aim->end, way);
    bool ok = load_way(f, way, n, c, progress, ctx, err);
    mem_free(way);
    if (!ok) { /* rows behind the session's are nobody's; its rings and states are lost */
        session_truncate(s, c->any_position ? c->n_cached : 0);
        return false;
    }
    int64_t until = aim->end; /* of each segment, what the next one has not replaced */
    for (int i = aim->leaf; i >= 0; i = f->segments[i].parent) {
        const struct segment *g = &f->segments[i];
        if (until > g->from)
            memcpy(c->tokens + g->from, g->tokens,
                   (size_t)(until - g->from) * sizeof *g->tokens);
        until = min_of(until, g->from);
    }
    session_cache_adopt(s, aim->end, newest_on_way(f, aim->leaf));
    if (c->draft)
        draft_adopt(c->draft, aim->end,
                    f->segments[aim->leaf].state && f->segments[aim->leaf].to == aim->end);
    session_truncate(s, aim->keep);
    return true;
}

/* One attempt; ERR_FILE when damage was found, and the next attempt will find less. */
static bool restore_once(struct prefix_file *f, struct session *s, const int32_t *tokens, int64_t n,
                         int64_t *n_read, load_progress *progress, void *ctx, struct error *err)
{
    struct session_cache c;
    struct aim aim;
    *n_read = 0;
    if (!session_cache_settle(s, &c, err))
        return false;
    int64_t held = common(session_tokens(s), tokens, min_of(session_n_past(s), n));
    if (!c.any_position) { /* only trying tells how much of it there still is */
        session_truncate(s, held);
        if (!session_cache_settle(s, &c, err))
            return false;
        held = c.n_cached;
    }
    aim.leaf = longest(f, &c, tokens, n, true, &aim.keep, err);
    if (aim.leaf < 0 || aim.keep <= held)
        return true;
    aim.end = c.any_position ? aim.keep : f->segments[aim.leaf].to;
    if (aim.end > c.n_ctx)
        return true;
    session_truncate(s, held);
    if (!session_cache_settle(s, &c, err) || !load_leaf(f, &aim, s, &c, progress, ctx, err))
        return false;
    *n_read = aim.keep - held;
    return true;
}

bool prefix_file_restore(struct prefix_file *f, struct session *s, const int32_t *tokens, int64_t n,
                         int64_t *n_read, load_progress *progress, void *ctx, struct error *err)
{
    n = min_of(n, session_n_ctx(s));
    for (;;) {
        struct error why = { 0 };
        if (restore_once(f, s, tokens, n, n_read, progress, ctx, &why))
            return true;
        if (why.code != ERR_FILE)
            return error_set(err, why.code, why.file, why.line, "%s", why.text);
    }
}

/* ---- save ---- */

struct saving {
    const struct session_cache *c;
    struct cache_part draft[DRAFT_PARTS];
    int n_draft; /* the state is the last, if s.state */
    struct segment s;
};

static void plan_segment(const struct prefix_file *f, struct saving *v, int parent, int64_t from,
                         uint64_t at)
{
    const struct session_cache *c = v->c;
    struct segment *s = &v->s;
    *s = (struct segment){ .at = at, .from = from, .to = c->n_cached, .parent = parent };
    s->tokens = c->tokens + from;
    s->newest = max_of(c->cache->newest, s->to);
    v->n_draft = c->draft ? draft_parts(c->draft, s->to, v->draft) : 0;
    s->state = v->n_draft > 0 && v->draft[v->n_draft - 1].kind == CACHE_STATE;
    if (v->n_draft > s->state)
        s->draft = sum_of_parts(v->draft, v->n_draft - s->state);
    s->bytes = SEGMENT + (uint64_t)(s->to - from) * sizeof *s->tokens + TAIL;
    for (int i = 0; i < c->cache->n_parts + v->n_draft; i++) {
        const struct cache_part *part = i < c->cache->n_parts ? &c->cache->parts[i]
                                                              : &v->draft[i - c->cache->n_parts];
        s->bytes += (uint64_t)range_of(f, s, part).n * part->row_bytes;
    }
}

/* Rows first, the head last: until it is there, there is no segment. */
static bool write_segment(struct prefix_file *f, int fd, const struct saving *v, struct error *err)
{
    const struct segment *s = &v->s;
    uint8_t h[SEGMENT], tail[TAIL];
    size_t token_bytes = (size_t)(s->to - s->from) * sizeof *s->tokens;
    struct prefix_stream out = {
        .fd = fd, .path = f->path, .buffer = f->buffer, .at = s->at + SEGMENT + token_bytes,
    };
    for (int i = 0; i < v->c->cache->n_parts + v->n_draft; i++) {
        const struct cache_part *part = i < v->c->cache->n_parts
                                            ? &v->c->cache->parts[i]
                                            : &v->draft[i - v->c->cache->n_parts];
        if (!stream_save(&out, part, v->c->device, range_of(f, s, part), err))
            return false;
    }
    put32(tail, out.crc);
    if (!stream_put(&out, tail, TAIL, err) || !stream_flush(&out, err))
        return false;
    pack_segment(h, s);
    return (file_write_at(fd, s->tokens, token_bytes, s->at + SEGMENT) &&
            file_write_at(fd, h, SEGMENT, s->at)) ||
           fail(err, ERR_RUN, "%s: cannot be written: %s", f->path, strerror(errno));
}

/* List what was just written, with tokens of its own. */
static bool keep_segment(struct prefix_file *f, struct segment s, struct error *err)
{
    size_t n = (size_t)(s.to - s.from);
    int32_t *tokens = mem_alloc(n, sizeof *tokens, "cached prompts", err);
    if (!tokens)
        return false;
    memcpy(tokens, s.tokens, n * sizeof *tokens);
    s.tokens = tokens;
    if (list_segment(f, &s, err))
        return true;
    mem_free(tokens);
    return false;
}

static bool append(struct prefix_file *f, struct saving *v, struct error *err)
{
    if (write_segment(f, f->fd, v, err) && keep_segment(f, v->s, err))
        return true;
    if (ftruncate(f->fd, (off_t)f->end) != 0)
        f->writes = false; /* what is behind the end stays there, and is found torn when read */
    return false;
}

/* A new file in place of the old one, with this timeline alone. */
static bool begin_anew(struct prefix_file *f, const struct session_cache *c, struct error *err)
{
    struct saving v = { .c = c };
    size_t room = strlen(f->path) + 8;
    char *other = mem_alloc(room, 1, "name of a file", err);
    if (!other)
        return false;
    snprintf(other, room, "%s.new", f->path);
    unlink(other);
    int fd = open(other, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    plan_segment(f, &v, -1, 0, HEAD);
    bool ok = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0
                  ? write_head(f, fd, err) && write_segment(f, fd, &v, err)
                  : fail(err, ERR_RUN, "%s: %s", other, strerror(errno));
    if (ok && rename(other, f->path) != 0)
        ok = fail(err, ERR_RUN, "%s: %s", other, strerror(errno));
    if (ok) {
        close(f->fd);
        f->fd = fd;
        forget_segments(f);
        ok = keep_segment(f, v.s, err);
    } else {
        if (fd >= 0)
            close(fd);
        unlink(other);
    }
    mem_free(other);
    return ok;
}

bool prefix_file_save(struct prefix_file *f, struct session *s, uint64_t max_bytes,
                      struct error *err)
{
    struct session_cache c;
    int64_t from;
    if (!f->writes)
        return true;
    if (!session_cache_settle(s, &c, err))
        return false;
    longest(f, &c, c.tokens, c.n_cached, true, &from, err);
    if (from == c.n_cached) /* all of it is there, or there is nothing */
        return true;
    /* Branching off needs rows alone, which are right at any position. */
    int parent = longest(f, &c, c.tokens, c.n_cached, false, &from, err);
    if (from == c.n_cached) { /* inside a segment, without its state there */
        from = f->segments[parent].from;
        parent = f->segments[parent].parent;
    }
    struct saving v = { .c = &c };
    plan_segment(f, &v, parent, from, f->end);
    if (max_bytes && f->end > HEAD && f->end + v.s.bytes > max_bytes)
        return begin_anew(f, &c, err);
    return append(f, &v, err);
}
