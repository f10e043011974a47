#include "src/cli/store_log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/crc32c.h"

#define HEAD 16
#define RECORD 16
#define PATIENCE 8 /* bytes of false records for each byte of a file; damage makes one or two */

static const char magic[8] = "tndmtalk", mark[4] = "rec:";

static void put_u32(char *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

static uint32_t get_u32(const char *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* ---- writing ---- */

/* All of it behind the end of the file, or nothing. */
static bool append(struct store_log *l, const char *bytes, size_t n, struct error *err)
{
    off_t end = lseek(l->fd, 0, SEEK_END);
    for (size_t done = 0; done < n;) {
        ssize_t some = write(l->fd, bytes + done, n - done);
        if (some < 0 && errno == EINTR)
            continue;
        if (some <= 0) {
            int cause = some ? errno : ENOSPC;
            if (end < 0 || ftruncate(l->fd, end) != 0)
                cause = errno; /* a torn record stays, and is found out when it is read */
            return fail(err, ERR_RUN, "%s: cannot be written: %s", l->path, strerror(cause));
        }
        done += (size_t)some;
    }
    return true;
}

static bool open_file(struct store_log *l, const char *path, int flags, struct error *err)
{
    *l = (struct store_log){ .path = path };
    l->fd = open(path, flags | O_RDWR | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    l->open = l->fd >= 0;
    return l->open || fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
}

bool store_log_create(struct store_log *l, const char *path, struct error *err)
{
    char head[HEAD] = { 0 };
    memcpy(head, magic, 8);
    put_u32(head + 8, STORE_LOG_VERSION);
    if (!open_file(l, path, O_CREAT | O_EXCL, err))
        return false;
    if (append(l, head, HEAD, err))
        return true;
    store_log_close(l);
    return false;
}

bool store_log_open(struct store_log *l, const char *path, struct error *err)
{
    return open_file(l, path, 0, err);
}

void store_log_close(struct store_log *l)
{
    if (l->open)
        close(l->fd);
    buf_release(&l->record);
    *l = (struct store_log){ 0 };
}

void store_log_begin(struct store_log *l, const char type[4])
{
    char head[RECORD] = { 0 };
    memcpy(head, mark, 4);
    memcpy(head + 4, type, 4);
    buf_clear(&l->record);
    if (l->open)
        buf_add(&l->record, head, RECORD);
}

void store_log_number(struct store_log *l, int64_t value)
{
    if (l->open)
        buf_add(&l->record, (const char *)&value, sizeof value);
}

void store_log_text(struct store_log *l, struct str text)
{
    uint32_t len = (uint32_t)text.len;
    if (text.len > UINT32_MAX / 2)
        l->record.out_of_memory = true;
    if (!l->open)
        return;
    buf_add(&l->record, (const char *)&len, sizeof len);
    buf_add(&l->record, text.data, text.len);
}

bool store_log_end(struct store_log *l, struct error *err)
{
    if (!l->open)
        return true;
    if (!buf_ok(&l->record, err)) {
        buf_release(&l->record);
        return false;
    }
    char *r = l->record.data;
    put_u32(r + 8, (uint32_t)(l->record.len - RECORD));
    put_u32(r + 12, crc32c(crc32c(0, r + 4, 8), r + RECORD, l->record.len - RECORD));
    return append(l, r, l->record.len, err);
}

bool store_log_sync(struct store_log *l, struct error *err)
{
    return !l->open || fdatasync(l->fd) == 0 ||
           fail(err, ERR_RUN, "%s: cannot be written: %s", l->path, strerror(errno));
}

/* ---- reading ---- */

int64_t store_field_number(struct store_fields *f)
{
    int64_t value = 0;
    f->ok = f->ok && (size_t)(f->end - f->at) >= sizeof value;
    if (!f->ok)
        return 0;
    memcpy(&value, f->at, sizeof value);
    f->at += sizeof value;
    return value;
}

struct str store_field_text(struct store_fields *f)
{
    uint32_t len = 0;
    size_t left = (size_t)(f->end - f->at);
    f->ok = f->ok && left >= sizeof len;
    if (f->ok)
        memcpy(&len, f->at, sizeof len);
    f->ok = f->ok && left - sizeof len >= len;
    if (!f->ok)
        return (struct str){ "", 0 };
    struct str text = { (const char *)f->at + sizeof len, len };
    f->at += sizeof len + len;
    return text;
}

/* Bytes of the whole record that begins here; 0: there is none. What only looks like one costs its
 * bytes of patience, so that a file full of marks is not summed up from every one of them. */
static size_t whole_record(const char *at, size_t left, uint64_t *patience)
{
    if (left < RECORD || memcmp(at, mark, 4) != 0)
        return 0;
    size_t n = get_u32(at + 8);
    if (n > left - RECORD || n > *patience)
        return 0;
    if (get_u32(at + 12) == crc32c(crc32c(0, at + 4, 8), at + RECORD, n))
        return RECORD + n;
    *patience -= n;
    return 0;
}

bool store_log_read(struct str bytes, const char *path, store_visit *visit, void *ctx,
                    uint64_t *n_lost, struct error *err)
{
    const char *at = bytes.data, *end = bytes.data + bytes.len;
    bool has_head = bytes.len >= HEAD && memcmp(at, magic, 8) == 0;
    uint32_t version = has_head ? get_u32(at + 8) : 0;
    uint64_t n_records = 0, patience = PATIENCE * (uint64_t)bytes.len;
    *n_lost = 0;
    if (has_head && version > STORE_LOG_VERSION && version < 1000)
        return fail(err, ERR_FILE, "%s: written by a newer version of this program", path);
    at += has_head ? HEAD : 0;
    while (at < end) {
        size_t n = whole_record(at, (size_t)(end - at), &patience);
        if (n == 0) { /* damage: on with the next mark */
            const char *next = memmem(at + 1, (size_t)(end - at) - 1, mark, sizeof mark);
            next = next ? next : end;
            *n_lost += (uint64_t)(next - at);
            at = next;
            continue;
        }
        struct store_fields f = { .type = at + 4, .at = (const uint8_t *)at + RECORD,
                                  .end = (const uint8_t *)at + n, .ok = true };
        visit(ctx, &f);
        n_records++;
        at += n;
    }
    return n_records > 0 || has_head ||
           fail(err, ERR_FILE, "%s: not a conversation of ours, or damaged beyond recognition",
                path);
}
