/* The files behind a writer: hidden until complete, checked before they get their names. */
#include "src/format/gguf_write_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/format/gguf_internal.h"

typedef unsigned long long ull;

/* ---- names ---- */

/* "dir/x.gguf" gives "dir/x-00002-of-00003.gguf" and, for the time of writing,
 * "dir/.x-00002-of-00003.gguf.part". */
static bool name_shard(struct gguf_writer *w, int i, const char *path, struct error *err)
{
    struct gguf_writer_shard *s = &w->shards[i];
    size_t len = strlen(path), room = len + 32;
    bool has_suffix = len > 5 && strcmp(path + len - 5, ".gguf") == 0;
    char *name = arena_alloc(&w->arena, room, 1, err);
    char *part = arena_alloc(&w->arena, room + 8, 1, err);
    if (!name || !part)
        return false;
    if (w->n_shards > 1)
        snprintf(name, room, "%.*s-%05d-of-%05d.gguf", (int)(has_suffix ? len - 5 : len), path,
                 i + 1, w->n_shards);
    else
        snprintf(name, room, "%s", path);
    const char *slash = strrchr(name, '/');
    int dir_len = slash ? (int)(slash - name) + 1 : 0;
    snprintf(part, room + 8, "%.*s.%s.part", dir_len, name, name + dir_len);
    s->path = name;
    s->part_path = part;
    return true;
}

/* ---- bytes ---- */

static bool write_all(int fd, const char *path, const uint8_t *bytes, size_t n, uint64_t at,
                      struct error *err)
{
    while (n) {
        ssize_t done = pwrite(fd, bytes, min_of(n, (size_t)1 << 30), (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return fail(err, ERR_RUN, "%s: byte %llu: cannot be written: %s", path, (ull)at,
                        strerror(done ? errno : ENOSPC));
        bytes += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return true;
}

void gguf_writer_sparse(struct gguf_writer *w)
{
    w->sparse = true;
}

/* Claim the space now rather than run out of it hours later. */
static bool reserve(const struct gguf_writer *w, const struct gguf_writer_shard *s,
                    struct error *err)
{
    int failed;
    do
        failed = w->sparse                              ? EOPNOTSUPP
               : fallocate(s->fd, 0, 0, (off_t)s->size) ? errno
                                                        : 0;
    while (failed == EINTR);
    if (failed == EOPNOTSUPP || failed == ENOSYS) /* this file system cannot promise space */
        failed = ftruncate(s->fd, (off_t)s->size) ? errno : 0;
    if (failed)
        return fail(err, ERR_RUN, "%s: cannot reserve %llu bytes: %s", s->path, (ull)s->size,
                    strerror(failed));
    return true;
}

static bool open_part(struct gguf_writer_shard *s, struct error *err)
{
    int fd = open(s->part_path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return fail(err, ERR_RUN, "%s: cannot be created: %s", s->part_path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd); /* and leave the other one's file alone */
        return fail(err, ERR_RUN, "%s: another run is writing this file", s->part_path);
    }
    s->fd = fd;
    return true;
}

static bool read_all(int fd, const char *path, uint8_t *bytes, size_t n, uint64_t at,
                     struct error *err)
{
    while (n) {
        ssize_t done = pread(fd, bytes, min_of(n, (size_t)1 << 30), (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return fail(err, ERR_RUN, "%s: byte %llu: cannot be read: %s", path, (ull)at,
                        done ? strerror(errno) : "the file became shorter");
        bytes += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return true;
}

bool gguf_writer_put_value(struct gguf_writer *w, const struct gguf_writer_kv *kv,
                           struct error *err)
{
    const struct gguf_writer_shard *s = &w->shards[0];
    return write_all(s->fd, s->part_path, (const uint8_t *)kv->value.data, kv->value.len, kv->at, err);
}

/* Does the hidden file hold this header and room for the data? Values that come later may be there
 * already, or half of them. */
static bool same_layout(const struct gguf_writer *w, int shard, const uint8_t *header)
{
    const struct gguf_writer_shard *s = &w->shards[shard];
    struct stat st;
    if (fstat(s->fd, &st) != 0 || (uint64_t)st.st_size != s->size)
        return false;
    uint8_t *found = mem_alloc(s->data_start, 1, "header of an unfinished file", NULL);
    bool same = found && read_all(s->fd, s->part_path, found, s->data_start, 0, NULL);
    for (size_t i = 0; same && shard == 0 && i < w->n_kv; i++)
        if (w->kv[i].later)
            memcpy(found + w->kv[i].at, header + w->kv[i].at, w->kv[i].value.len);
    same = same && memcmp(found, header, s->data_start) == 0;
    mem_free(found);
    return same;
}

/* One hidden file with its header. With *resume it may be there already, and *resume stays true. */
static bool prepare(struct gguf_writer *w, int i, bool *resume, struct error *err)
{
    struct gguf_writer_shard *s = &w->shards[i];
    uint8_t *header = gguf_writer_header(w, i, err);
    if (!header)
        return false;
    bool ok = s->fd >= 0 || open_part(s, err);
    if (ok && *resume && same_layout(w, i, header)) {
        mem_free(header);
        return true;
    }
    *resume = false;
    if (ok && ftruncate(s->fd, 0) != 0)
        ok = fail(err, ERR_RUN, "%s: %s", s->part_path, strerror(errno));
    ok = ok && reserve(w, s, err) && write_all(s->fd, s->part_path, header, s->data_start, 0, err);
    mem_free(header);
    return ok;
}

static bool begin(struct gguf_writer *w, const char *path, bool *resume, struct error *err)
{
    if (w->shards)
        return fail(err, ERR_INTERNAL, "gguf_writer_begin: called twice");
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return fail(err, ERR_USAGE, "%s: exists and is not a regular file", path);
    if (!*path || path[strlen(path) - 1] == '/')
        return fail(err, ERR_USAGE, "\"%s\" is not the name of a file", path);
    if (!gguf_writer_layout(w, err))
        return false;
    for (int i = 0; i < w->n_shards; i++)
        if (!name_shard(w, i, path, err))
            return false;
    bool asked = *resume;
    for (int i = 0; i < w->n_shards; i++)
        if (!prepare(w, i, resume, err))
            return false;
    /* a set of which only a part fits is no set: begin all of it anew */
    for (int i = 0; asked && !*resume && i < w->n_shards; i++)
        if (!prepare(w, i, resume, err))
            return false;
    return true;
}

bool gguf_writer_begin(struct gguf_writer *w, const char *path, struct error *err)
{
    bool resume = false;
    return begin(w, path, &resume, err);
}

bool gguf_writer_resume(struct gguf_writer *w, const char *path, bool *found, struct error *err)
{
    *found = true;
    return begin(w, path, found, err);
}

/* The shard and place of n bytes of a tensor; NULL when they are not all inside it. */
static const struct gguf_writer_shard *locate(const struct gguf_writer *w, size_t tensor,
                                              uint64_t at, size_t n, uint64_t *place,
                                              struct error *err)
{
    if (tensor >= w->n_tensors || !w->shards) {
        fail(err, ERR_INTERNAL, "gguf_writer: data for tensor %zu of %zu", tensor, w->n_tensors);
        return NULL;
    }
    const struct gguf_writer_tensor *t = &w->tensors[tensor];
    if (at > t->bytes || n > t->bytes - at) {
        fail(err, ERR_INTERNAL, "%s: %zu bytes at %llu, expected at most %llu in all", t->name, n,
             (ull)at, (ull)t->bytes);
        return NULL;
    }
    const struct gguf_writer_shard *s = &w->shards[t->shard];
    *place = s->data_start + t->offset + at;
    return s;
}

const char *gguf_writer_path(const struct gguf_writer *w, int shard)
{
    return w->shards[shard].path;
}

bool gguf_writer_write_at(struct gguf_writer *w, size_t tensor, uint64_t at, const void *bytes,
                          size_t n, struct error *err)
{
    uint64_t place;
    const struct gguf_writer_shard *s = locate(w, tensor, at, n, &place, err);
    if (!s || !write_all(s->fd, s->part_path, bytes, n, place, err))
        return false;
    atomic_fetch_add(&w->written_bytes, n);
    return true;
}

bool gguf_writer_read_at(struct gguf_writer *w, size_t tensor, uint64_t at, void *bytes, size_t n,
                         struct error *err)
{
    uint64_t place;
    const struct gguf_writer_shard *s = locate(w, tensor, at, n, &place, err);
    return s && read_all(s->fd, s->part_path, bytes, n, place, err);
}

void gguf_writer_trust(struct gguf_writer *w, uint64_t n)
{
    atomic_fetch_add(&w->written_bytes, n);
}

bool gguf_writer_sync(struct gguf_writer *w, struct error *err)
{
    for (int i = 0; i < w->n_shards; i++)
        if (fdatasync(w->shards[i].fd) != 0)
            return fail(err, ERR_RUN, "%s: cannot be flushed: %s", w->shards[i].part_path,
                        strerror(errno));
    return true;
}

void gguf_writer_forget(struct gguf_writer *w)
{
    for (int i = 0; i < w->n_shards; i++)
        posix_fadvise(w->shards[i].fd, 0, 0, POSIX_FADV_DONTNEED);
}

void gguf_writer_keep(struct gguf_writer *w)
{
    w->keep_parts = true;
}

bool gguf_writer_data(struct gguf_writer *w, const void *bytes, size_t n, struct error *err)
{
    const uint8_t *from = bytes;
    while (n) {
        if (w->data_tensor >= w->n_tensors)
            return fail(err, ERR_INTERNAL, "gguf_writer: %zu bytes more than the tensors have", n);
        uint64_t left = w->tensors[w->data_tensor].bytes - w->data_at;
        size_t part = (size_t)min_of((uint64_t)n, left);
        if (!gguf_writer_write_at(w, w->data_tensor, w->data_at, from, part, err))
            return false;
        from += part;
        n -= part;
        w->data_at += part;
        if (part == left) {
            w->data_tensor++;
            w->data_at = 0;
        }
    }
    return true;
}

/* ---- completion ---- */

/* Our own reader must accept the file and find what was asked for. */
static bool read_back(const struct gguf_writer *w, int i, struct error *err)
{
    const struct gguf_writer_shard *s = &w->shards[i];
    struct arena arena = { 0 };
    struct gguf_shard shard = { .fd = -1, .path = s->part_path };
    struct gguf_part part = { 0 };
    bool ok = gguf_file_open(&shard, err) && gguf_parse(&arena, &shard, i, &part, err);
    if (ok && part.n_tensors != s->n_tensors)
        ok = fail(err, ERR_INTERNAL, "%s: %llu tensors read back, expected %zu", s->part_path,
                  (ull)part.n_tensors, s->n_tensors);
    for (uint64_t k = 0; ok && k < part.n_tensors; k++) {
        const struct gguf_writer_tensor *t = &w->tensors[s->first_tensor + k];
        if (part.tensors[k].bytes != t->bytes ||
            part.tensors[k].file_offset != s->data_start + t->offset)
            ok = fail(err, ERR_INTERNAL, "%s: %s is not where it was put", s->part_path, t->name);
    }
    gguf_file_close(&shard);
    arena_release(&arena);
    return ok;
}

static bool sync_directory(const char *path, struct error *err)
{
    char dir[4096];
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) : 0;
    if (len >= sizeof dir)
        return fail(err, ERR_RUN, "%s: the name is too long", path);
    snprintf(dir, sizeof dir, "%.*s", (int)len, path);
    int fd = open(slash ? (len ? dir : "/") : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && (fsync(fd) == 0 || errno == EINVAL || errno == EROFS);
    if (!ok)
        fail(err, ERR_RUN, "%s: its directory cannot be flushed: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return ok;
}

bool gguf_writer_finish(struct gguf_writer *w, struct error *err)
{
    if (!w->shards)
        return fail(err, ERR_INTERNAL, "gguf_writer_finish: before gguf_writer_begin");
    uint64_t wanted = 0, written = atomic_load(&w->written_bytes);
    for (size_t i = 0; i < w->n_tensors; i++)
        wanted += w->tensors[i].bytes;
    if (written != wanted && !w->sparse)
        return fail(err, ERR_INTERNAL, "%s: %llu bytes of tensors written, expected %llu",
                    w->shards[0].path, (ull)written, (ull)wanted);
    for (int i = 0; i < w->n_shards; i++) {
        if (fsync(w->shards[i].fd) != 0)
            return fail(err, ERR_RUN, "%s: cannot be flushed: %s", w->shards[i].part_path,
                        strerror(errno));
        if (!read_back(w, i, err))
            return false;
    }
    for (int i = w->n_shards - 1; i >= 0; i--) { /* shard 1 present means all are */
        struct gguf_writer_shard *s = &w->shards[i];
        if (rename(s->part_path, s->path) != 0)
            return fail(err, ERR_RUN, "%s: cannot be renamed to %s: %s", s->part_path, s->path,
                        strerror(errno));
        s->renamed = true;
    }
    return sync_directory(w->shards[0].path, err);
}

void gguf_writer_release(struct gguf_writer *w)
{
    for (int i = 0; i < w->n_shards; i++) {
        struct gguf_writer_shard *s = &w->shards[i];
        if (s->fd < 0)
            continue;
        if (!s->renamed && !w->keep_parts)
            unlink(s->part_path);
        close(s->fd);
    }
    mem_free(w->kv);
    mem_free(w->tensors);
    arena_release(&w->arena);
    *w = (struct gguf_writer){ 0 };
}
