#include "src/engine/prefix_stream.h"

#include <errno.h>
#include <unistd.h>

#include "src/base/crc32c.h"
#include "src/base/util.h"

bool file_read_at(int fd, void *bytes, size_t n, uint64_t at)
{
    uint8_t *to = bytes;
    while (n > 0) {
        ssize_t got = pread(fd, to, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got ? errno : 0;
            return false;
        }
        to += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return true;
}

bool file_write_at(int fd, const void *bytes, size_t n, uint64_t at)
{
    const uint8_t *from = bytes;
    while (n > 0) {
        ssize_t done = pwrite(fd, from, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            errno = done ? errno : ENOSPC;
            return false;
        }
        from += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return true;
}

static bool tell(struct prefix_stream *s, struct error *err)
{
    if (s->progress && !s->progress(s->ctx, min_of(s->at, s->total_bytes), s->total_bytes))
        return fail(err, ERR_INTERRUPTED, "interrupted");
    return true;
}

/* ---- writing ---- */

bool stream_flush(struct prefix_stream *s, struct error *err)
{
    if (!file_write_at(s->fd, s->buffer, s->used, s->at))
        return fail(err, ERR_RUN, "%s: cannot be written: %s", s->path, strerror(errno));
    s->at += s->used;
    s->used = 0;
    return tell(s, err);
}

/* Units that fit behind what the buffer holds; at least one after a flush. */
static bool room_for(struct prefix_stream *s, size_t row_bytes, int64_t *n, struct error *err)
{
    if (PREFIX_STREAM_BYTES - s->used < row_bytes && !stream_flush(s, err))
        return false;
    *n = min_of(*n, (int64_t)((PREFIX_STREAM_BYTES - s->used) / row_bytes));
    return true;
}

bool stream_save(struct prefix_stream *s, const struct cache_part *part, struct device *d,
                 struct cache_range range, struct error *err)
{
    for (int64_t n; range.n > 0; range.first += n, range.n -= n) {
        n = range.n;
        uint8_t *to;
        if (!room_for(s, part->row_bytes, &n, err) ||
            !cache_part_read(part, d, range.first, n, to = s->buffer + s->used, err))
            return false;
        s->crc = crc32c(s->crc, to, (size_t)n * part->row_bytes);
        s->used += (size_t)n * part->row_bytes;
    }
    return true;
}

bool stream_put(struct prefix_stream *s, const void *bytes, size_t n, struct error *err)
{
    int64_t one = 1;
    if (!room_for(s, n, &one, err))
        return false;
    memcpy(s->buffer + s->used, bytes, n);
    s->used += n;
    return true;
}

/* ---- reading ---- */

/* Make at least `least` bytes of the file stand in the buffer at `used`. */
static bool need(struct prefix_stream *s, size_t least, struct error *err)
{
    if (s->have - s->used >= least)
        return true;
    memmove(s->buffer, s->buffer + s->used, s->have - s->used);
    s->have -= s->used;
    s->used = 0;
    size_t more = (size_t)min_of((uint64_t)(PREFIX_STREAM_BYTES - s->have), s->end - s->at);
    if (s->have + more < least)
        return fail(err, ERR_FILE, "%s: a segment is shorter than its parts", s->path);
    if (!file_read_at(s->fd, s->buffer + s->have, more, s->at))
        return fail(err, ERR_FILE, "%s: cannot be read: %s", s->path,
                    errno ? strerror(errno) : "it became shorter");
    s->at += more;
    s->have += more;
    return tell(s, err);
}

static void take(struct prefix_stream *s, size_t n)
{
    s->crc = crc32c(s->crc, s->buffer + s->used, n);
    s->used += n;
}

bool stream_load(struct prefix_stream *s, const struct cache_part *part, struct device *d,
                 struct cache_range range, struct cache_range wanted, struct error *err)
{
    int64_t end = wanted.first + wanted.n;
    for (int64_t n; range.n > 0; range.first += n, range.n -= n) {
        if (!need(s, part->row_bytes, err))
            return false;
        n = min_of(range.n, (int64_t)((s->have - s->used) / part->row_bytes));
        int64_t first = max_of(range.first, wanted.first);
        int64_t many = min_of(range.first + n, end) - first;
        const uint8_t *rows = s->buffer + s->used;
        if (many > 0 &&
            !cache_part_write(part, d, first, many,
                              rows + (size_t)(first - range.first) * part->row_bytes, err))
            return false;
        take(s, (size_t)n * part->row_bytes);
    }
    return true;
}

bool stream_skip(struct prefix_stream *s, uint64_t n, struct error *err)
{
    while (n > 0) {
        if (!need(s, 1, err))
            return false;
        size_t some = (size_t)min_of(n, (uint64_t)(s->have - s->used));
        take(s, some);
        n -= some;
    }
    return true;
}
