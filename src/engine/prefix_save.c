/* Appending what a session has computed to a prefix file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include "src/base/crc32c.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/prefix_internal.h"

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
        s->draft = prefix_sum(v->draft, v->n_draft - s->state);
    s->bytes = PREFIX_SEGMENT + (uint64_t)(s->to - from) * sizeof *s->tokens + PREFIX_TAIL;
    for (int i = 0; i < c->cache->n_parts + v->n_draft; i++) {
        const struct cache_part *part = i < c->cache->n_parts ? &c->cache->parts[i]
                                                              : &v->draft[i - c->cache->n_parts];
        s->bytes += (uint64_t)prefix_range(f, s, part).n * part->row_bytes;
    }
}

/* Rows first, the head last: until it is there, there is no segment. */
static bool write_segment(struct prefix_file *f, int fd, const struct saving *v, struct error *err)
{
    const struct segment *s = &v->s;
    uint8_t h[PREFIX_SEGMENT], tail[PREFIX_TAIL];
    size_t token_bytes = (size_t)(s->to - s->from) * sizeof *s->tokens;
    struct prefix_stream out = {
        .fd = fd, .path = f->path, .buffer = f->buffer, .at = s->at + PREFIX_SEGMENT + token_bytes,
    };
    for (int i = 0; i < v->c->cache->n_parts + v->n_draft; i++) {
        int k = i - v->c->cache->n_parts;
        const struct cache_part *part = k < 0 ? &v->c->cache->parts[i] : &v->draft[k];
        struct device *device = k < 0 ? v->c->device : v->c->draft->device;
        if (!stream_save(&out, part, device, prefix_range(f, s, part), err))
            return false;
    }
    put32(tail, out.crc);
    if (!stream_put(&out, tail, PREFIX_TAIL, err) || !stream_flush(&out, err))
        return false;
    prefix_pack(h, s);
    return (file_write_at(fd, s->tokens, token_bytes, s->at + PREFIX_SEGMENT) &&
            file_write_at(fd, h, PREFIX_SEGMENT, s->at)) ||
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
    if (prefix_list(f, &s, err))
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

/* ---- beginning anew ---- */

/* Copy a segment as it is, only that it goes on from the one copied before it. */
static bool copy_segment(const struct prefix_file *f, struct segment *s, int fd, uint64_t at,
                         int parent, struct error *err)
{
    uint8_t h[PREFIX_SEGMENT];
    uint64_t from = s->at + PREFIX_SEGMENT, left = s->bytes - PREFIX_SEGMENT;
    s->at = at;
    s->parent = parent;
    prefix_pack(h, s);
    bool ok = file_write_at(fd, h, PREFIX_SEGMENT, at);
    for (at += PREFIX_SEGMENT; ok && left > 0;) {
        size_t n = (size_t)min_of(left, (uint64_t)PREFIX_STREAM_BYTES);
        ok = file_read_at(f->fd, f->buffer, n, from) && file_write_at(fd, f->buffer, n, at);
        from += n;
        at += n;
        left -= n;
    }
    return ok || fail(err, ERR_RUN, "%s: cannot be written: %s", f->path, strerror(errno));
}

/* The segments on the way to `leaf` are those that `other` begins with. */
static bool copy_way(const struct prefix_file *f, int leaf, struct prefix_file *other,
                     struct error *err)
{
    int n = 0;
    for (int i = leaf; i >= 0; i = f->segments[i].parent)
        n++;
    for (int k = n - 1; k >= 0; k--) {
        int i = leaf;
        for (int up = 0; up < k; up++)
            i = f->segments[i].parent;
        struct segment s = f->segments[i];
        if (!copy_segment(f, &s, other->fd, other->end, other->n_segments - 1, err) ||
            !keep_segment(other, s, err))
            return false;
    }
    return true;
}

/* A new file in place of the old one that holds the way to `leaf` alone. */
static bool begin_anew(struct prefix_file *f, int leaf, struct error *err)
{
    struct prefix_file other = *f;
    size_t room = strlen(f->path) + 8;
    char *path = mem_alloc(room, 1, "name of a file", err);
    if (!path)
        return false;
    snprintf(path, room, "%s.new", f->path);
    unlink(path);
    other.segments = NULL;
    other.n_segments = other.capacity = 0;
    other.end = PREFIX_HEAD;
    other.fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool ok = other.fd >= 0 && flock(other.fd, LOCK_EX | LOCK_NB) == 0
                  ? prefix_write_head(f, other.fd, err) && copy_way(f, leaf, &other, err)
                  : fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
    if (ok && rename(path, f->path) != 0)
        ok = fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
    struct prefix_file gone = ok ? *f : other;
    if (ok)
        *f = other;
    else if (other.fd >= 0)
        unlink(path);
    if (gone.fd >= 0)
        close(gone.fd);
    prefix_forget(&gone);
    mem_free(gone.segments);
    mem_free(path);
    return ok;
}

/* ---- save ---- */

bool prefix_file_holds(const struct prefix_file *f, struct session *s)
{
    struct session_cache c;
    int64_t n = 0;
    if (!session_cache_settle(s, &c, NULL))
        return false;
    prefix_longest(f, &c, c.tokens, c.n_cached, true, &n, NULL);
    return n == c.n_cached;
}

bool prefix_file_save(struct prefix_file *f, struct session *s, uint64_t max_bytes,
                      struct error *err)
{
    struct session_cache c;
    int64_t from;
    if (!f->writes)
        return true;
    if (!gguf_unchanged(&session_engine(s)->model.gguf, err) || !session_cache_settle(s, &c, err))
        return false;
    prefix_longest(f, &c, c.tokens, c.n_cached, true, &from, err);
    if (from == c.n_cached) /* all of it is there, or there is nothing */
        return true;
    /* Branching off needs rows alone, which are right at any position. */
    int parent = prefix_longest(f, &c, c.tokens, c.n_cached, false, &from, err);
    if (from == c.n_cached) { /* inside a segment, without its state there */
        from = f->segments[parent].from;
        parent = f->segments[parent].parent;
    }
    struct saving v = { .c = &c };
    plan_segment(f, &v, parent, from, f->end);
    if (max_bytes && f->end > PREFIX_HEAD && f->end + v.s.bytes > max_bytes) {
        if (!begin_anew(f, parent, err))
            return false;
        plan_segment(f, &v, f->n_segments - 1, from, f->end);
    }
    return append(f, &v, err);
}
