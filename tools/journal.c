#include "tools/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/base/util.h"

#define VERSION 1
#define HEADER 20
#define RECORD 16
#define MAX_BYTES (1ll << 31)

static const char magic[8] = "tndmjrnl";

/* ---- the file ---- */

static void put_u32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* "dir/x.gguf" gives "dir/.x.gguf.journal". */
static char *name_journal(const char *path, struct error *err)
{
    size_t room = strlen(path) + 16;
    const char *slash = strrchr(path, '/');
    int dir = slash ? (int)(slash - path) + 1 : 0;
    char *name = mem_alloc(room, 1, "name of a journal", err);
    if (name)
        snprintf(name, room, "%.*s.%s.journal", dir, path, path + dir);
    return name;
}

static bool write_all(struct journal *j, const uint8_t *bytes, size_t n, struct error *err)
{
    while (n) {
        ssize_t done = write(j->fd, bytes, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return fail(err, ERR_RUN, "%s: cannot be written: %s", j->path,
                        strerror(done ? errno : ENOSPC));
        bytes += done;
        n -= (size_t)done;
    }
    return true;
}

static bool flush(struct journal *j, struct error *err)
{
    return fdatasync(j->fd) == 0 || errno == EINVAL ||
           fail(err, ERR_RUN, "%s: cannot be flushed: %s", j->path, strerror(errno));
}

static bool lock(const struct journal *j, struct error *err)
{
    return flock(j->fd, LOCK_EX | LOCK_NB) == 0 ||
           fail(err, ERR_RUN, "%s: another run is writing this file", j->path);
}

bool journal_create(struct journal *j, const char *path, const char *plan, struct error *err)
{
    uint8_t head[HEADER];
    size_t len = strlen(plan);
    *j = (struct journal){ .fd = -1, .path = name_journal(path, err) };
    if (!j->path)
        return false;
    j->open = true;
    j->fd = open(j->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (j->fd < 0)
        return fail(err, ERR_RUN, "%s: cannot be created: %s", j->path, strerror(errno));
    if (!lock(j, err))
        return false;
    if (ftruncate(j->fd, 0) != 0)
        return fail(err, ERR_RUN, "%s: %s", j->path, strerror(errno));
    memcpy(head, magic, 8);
    put_u32(head + 8, VERSION);
    put_u32(head + 12, (uint32_t)len);
    put_u32(head + 16, crc32c(0, plan, len));
    return write_all(j, head, sizeof head, err) &&
           write_all(j, (const uint8_t *)plan, len, err) && flush(j, err);
}

/* The first line in which two texts differ, for a message. */
static bool other_plan(const struct journal *j, const char *old, const char *now, struct error *err)
{
    for (;;) {
        size_t a = strcspn(old, "\n"), b = strcspn(now, "\n");
        if (a != b || memcmp(old, now, a) != 0)
            return fail(err, ERR_USAGE,
                        "%s: cannot go on with the interrupted work, which is of another job: "
                        "it was \"%.*s\", now it is \"%.*s\"; --force, without --resume, begins "
                        "anew", j->path, (int)min_of(a, (size_t)200), old, (int)min_of(b, (size_t)200), now);
        if (!old[a] || !now[b])
            return fail(err, ERR_USAGE, "%s: cannot go on with the interrupted work, which is of "
                        "another job; --force, without --resume, begins anew", j->path);
        old += a + 1;
        now += b + 1;
    }
}

/* Take the records up to the first that is torn, and cut the file there. */
static bool read_records(struct journal *j, const uint8_t *bytes, size_t at, size_t size,
                         struct error *err)
{
    j->records = mem_alloc((size - at) / RECORD, sizeof *j->records, "records of a journal", err);
    if (!j->records)
        return false;
    for (; size - at >= RECORD; at += RECORD) {
        const uint8_t *p = bytes + at;
        if (crc32c(0, p, 12) != get_u32(p + 12))
            break;
        struct journal_record *r = &j->records[j->n_records++];
        memcpy(&r->chunk, p, 8);
        r->crc = get_u32(p + 8);
    }
    if (ftruncate(j->fd, (off_t)at) != 0 || lseek(j->fd, (off_t)at, SEEK_SET) < 0)
        return fail(err, ERR_RUN, "%s: %s", j->path, strerror(errno));
    return true;
}

static bool read_journal(struct journal *j, const uint8_t *bytes, size_t size, const char *plan,
                         bool *found, struct error *err)
{
    if (size < HEADER || memcmp(bytes, magic, 8) != 0)
        return true;
    if (get_u32(bytes + 8) != VERSION)
        return fail(err, ERR_USAGE, "%s: of another version of this program; --force, without "
                    "--resume, begins anew", j->path);
    size_t len = get_u32(bytes + 12);
    if (len > size - HEADER || crc32c(0, bytes + HEADER, len) != get_u32(bytes + 16))
        return true;
    char *old = mem_strndup((const char *)bytes + HEADER, len, err);
    if (!old)
        return false;
    bool same = strcmp(old, plan) == 0;
    *found = same;
    if (!same && size - HEADER - len < RECORD) { /* of another job, but nothing is finished */
        mem_free(old);
        return true;
    }
    bool ok = same ? read_records(j, bytes, HEADER + len, size, err)
                   : other_plan(j, old, plan, err);
    mem_free(old);
    return ok;
}

bool journal_is_left(const char *path)
{
    char *name = name_journal(path, NULL);
    bool is = name && access(name, F_OK) == 0;
    mem_free(name);
    return is;
}

bool journal_resume(struct journal *j, const char *path, const char *plan, bool *found,
                    struct error *err)
{
    struct stat st;
    *found = false;
    *j = (struct journal){ .fd = -1, .path = name_journal(path, err) };
    if (!j->path)
        return false;
    j->open = true;
    j->fd = open(j->path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (j->fd < 0 && errno == ENOENT) {
        journal_close(j);
        return true;
    }
    if (j->fd < 0 || fstat(j->fd, &st) != 0)
        return fail(err, ERR_RUN, "%s: %s", j->path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size > MAX_BYTES)
        return fail(err, ERR_RUN, "%s: not a journal of this program", j->path);
    if (!lock(j, err))
        return false;
    uint8_t *bytes = mem_alloc((size_t)st.st_size, 1, "journal", err);
    if (!bytes)
        return false;
    ssize_t n = pread(j->fd, bytes, (size_t)st.st_size, 0);
    bool ok = n >= 0 ? read_journal(j, bytes, (size_t)n, plan, found, err)
                     : fail(err, ERR_RUN, "%s: %s", j->path, strerror(errno));
    mem_free(bytes);
    if (ok && !*found)
        journal_close(j);
    return ok;
}

bool journal_append(struct journal *j, const struct journal_record *records, size_t n,
                    struct error *err)
{
    uint8_t bytes[64 * RECORD];
    for (size_t i = 0; i < n;) {
        size_t k = 0;
        for (; k < 64 && i < n; k++, i++) {
            uint8_t *p = bytes + k * RECORD;
            memcpy(p, &records[i].chunk, 8);
            put_u32(p + 8, records[i].crc);
            put_u32(p + 12, crc32c(0, p, 12));
        }
        if (!write_all(j, bytes, k * RECORD, err))
            return false;
    }
    return flush(j, err);
}

void journal_close(struct journal *j)
{
    if (!j->open)
        return;
    if (j->fd >= 0)
        close(j->fd);
    mem_free(j->path);
    mem_free(j->records);
    *j = (struct journal){ 0 };
}

void journal_remove(struct journal *j)
{
    if (j->open)
        unlink(j->path);
    journal_close(j);
}
