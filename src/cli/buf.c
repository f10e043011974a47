#include "src/cli/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"

/* Room for `len` more bytes and the terminator. */
static bool reserve(struct buf *b, size_t len)
{
    if (b->out_of_memory || len > SIZE_MAX / 4 - b->len) {
        b->out_of_memory = true;
        return false;
    }
    if (b->len + len < b->capacity)
        return true;
    size_t capacity = max_of(b->capacity * 2, b->len + len + 64);
    char *bigger = mem_resize(b->data, capacity, 1, "text buffer", NULL);
    if (!bigger) {
        b->out_of_memory = true;
        return false;
    }
    b->data = bigger;
    b->capacity = capacity;
    return true;
}

void buf_add(struct buf *b, const char *bytes, size_t len)
{
    if (!reserve(b, len))
        return;
    if (len)
        memcpy(b->data + b->len, bytes, len);
    b->len += len;
    b->data[b->len] = 0;
}

void buf_puts(struct buf *b, const char *text)
{
    buf_add(b, text, strlen(text));
}

void buf_printf(struct buf *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    if (len >= 0 && reserve(b, (size_t)len + 1)) {
        vsnprintf(b->data + b->len, (size_t)len + 1, format, again);
        b->len += (size_t)len;
    }
    va_end(again);
    va_end(args);
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = 0;
}

void buf_release(struct buf *b)
{
    mem_free(b->data);
    memset(b, 0, sizeof *b);
}

bool buf_ok(const struct buf *b, struct error *err)
{
    return !b->out_of_memory || fail(err, ERR_FIT, "out of memory: text of %zu bytes", b->len);
}

bool buf_read_fd(struct buf *b, int fd, const char *name, struct error *err)
{
    for (;;) {
        if (!reserve(b, 65536))
            return buf_ok(b, err);
        bool ready = signals_wait(fd);
        if (signals_cancelled())
            return fail(err, ERR_INTERRUPTED, "interrupted while reading %s", name);
        if (!ready)
            continue;
        ssize_t n = read(fd, b->data + b->len, 65536);
        if (n == 0)
            break;
        if (n > 0)
            b->len += (size_t)n;
        else if (errno != EINTR)
            return fail(err, ERR_RUN, "%s: cannot read: %s", name, strerror(errno));
    }
    b->data[b->len] = 0;
    return true;
}

void buf_note_waiting(int fd, const char *what)
{
    struct pollfd in = { .fd = fd, .events = POLLIN };
    if (poll(&in, 1, term_animates() ? 100 : 2000) == 0)
        note("waiting for %s", what);
}

/* A pipe is opened without waiting for its writer, who may never come. */
bool buf_read_file(struct buf *b, const char *path, struct error *err)
{
    if (strcmp(path, "-") == 0) {
        if (term_stdin())
            note("reading from the terminal: end it with Ctrl-D");
        return buf_read_fd(b, STDIN_FILENO, "standard input", err);
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail(err, ERR_FILE, "%s: %s", path, strerror(errno));
    struct stat st;
    fcntl(fd, F_SETFL, 0);
    if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
        buf_note_waiting(fd, path);
    bool ok = fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode);
    ok = ok ? buf_read_fd(b, fd, path, err) : fail(err, ERR_FILE, "%s: is a directory", path);
    close(fd);
    return ok;
}
