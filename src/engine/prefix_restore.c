/* Bringing a session to what a prefix file holds. */
#include "src/base/crc32c.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/prefix_internal.h"

/* ---- which segment ---- */

static int64_t common(const int32_t *a, const int32_t *b, int64_t n)
{
    int64_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* How many positions the rings of a session have seen that was brought to the end of segment i. */
static int64_t prefix_newest(const struct prefix_file *f, int i)
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
    copy.newest = prefix_newest(f, i);
    return n == to || !c->arch->cache_rewind ||
           c->arch->cache_rewind(c->params, &copy, to, n) == n;
}

int prefix_longest(const struct prefix_file *f, const struct session_cache *c,
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
static void prefix_mark_damaged(struct prefix_file *f, int bad)
{
    f->damaged = true;
    f->segments[bad].damaged = true;
    for (int i = bad + 1; i < f->n_segments; i++)
        if (f->segments[i].parent >= 0 && f->segments[f->segments[i].parent].damaged)
            f->segments[i].damaged = true;
}

/* ---- reading ---- */

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
        return cache_part_added(part, prefix_ring_from(f, s), t->until);
    return (struct cache_range){ 0, s->to == t->target ? part->n_rows : 0 };
}

static bool load_draft(struct prefix_file *f, const struct segment *s, const struct stretch *t,
                       const struct session_cache *c, struct prefix_stream *in, struct error *err)
{
    struct cache_part parts[DRAFT_PARTS];
    int n = draft_parts(c->draft, t->target, parts); /* after draft_adopt: with a state */
    int n_rows = n - 1;
    if (s->draft != prefix_sum(parts, n_rows))
        return true;
    for (int i = 0; i < n_rows + s->state; i++) {
        struct cache_range wanted = wanted_of(f, s, t, &parts[i]);
        if (!stream_load(in, &parts[i], c->draft->device, prefix_range(f, s, &parts[i]), wanted,
                         err))
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
        .fd = f->fd, .path = f->path, .buffer = f->buffer, .end = s->at + s->bytes - PREFIX_TAIL,
        .at = s->at + PREFIX_SEGMENT + (uint64_t)(s->to - s->from) * sizeof *s->tokens,
        .progress = progress, .ctx = ctx, .total_bytes = total,
    };
    for (int i = 0; i < c->cache->n_parts; i++) {
        const struct cache_part *part = &c->cache->parts[i];
        struct cache_range wanted = wanted_of(f, s, t, part);
        if (!stream_load(&in, part, c->device, prefix_range(f, s, part), wanted, err))
            return false;
    }
    uint8_t tail[PREFIX_TAIL];
    if ((c->draft && s->draft && !load_draft(f, s, t, c, &in, err)) ||
        !stream_skip(&in, in.end - in.at + (in.have - in.used), err))
        return false;
    if (!file_read_at(f->fd, tail, PREFIX_TAIL, in.end) || get32(tail) != in.crc)
        return fail(err, ERR_FILE, "%s: segment %d is damaged", f->path, t->segment);
    return true;
}

/* The segments on the way to `leaf`, first to last, with what each gives; how many. */
static int prefix_way(const struct prefix_file *f, int leaf, int64_t start, int64_t target,
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
            prefix_mark_damaged(f, way[i].segment);
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
    bool pairs = c->draft && c->draft->base == 0; /* what the session has of them */
    if (c->draft)
        draft_adopt(c->draft, aim->end, true, true);
    int n = prefix_way(f, aim->leaf, c->n_cached, aim->end, way);
    bool ok = load_way(f, way, n, c, progress, ctx, err);
    mem_free(way);
    if (!ok) { /* rows behind the session's are nobody's; its rings and states are lost */
        session_truncate(s, c->any_position ? c->n_cached : 0);
        return false;
    }
    int64_t until = aim->end; /* of each segment, what the next one has not replaced */
    for (int i = aim->leaf; i >= 0; i = f->segments[i].parent) {
        const struct segment *g = &f->segments[i];
        pairs = pairs && g->draft;
        if (until > g->from)
            memcpy(c->tokens + g->from, g->tokens,
                   (size_t)(until - g->from) * sizeof *g->tokens);
        until = min_of(until, g->from);
    }
    session_cache_adopt(s, aim->end, prefix_newest(f, aim->leaf));
    if (c->draft)
        draft_adopt(c->draft, aim->end, pairs,
                    pairs && f->segments[aim->leaf].state && f->segments[aim->leaf].to == aim->end);
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
    aim.leaf = prefix_longest(f, &c, tokens, n, true, &aim.keep, err);
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
