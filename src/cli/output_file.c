#include "src/cli/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static bool open_with(struct output_file *f, const char *path, mode_t mode, struct error *err)
{
    struct stat st;
    f->path = path;
    f->fd = -1;
    f->temporary[0] = 0;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        f->fd = open(path, O_WRONLY | O_CLOEXEC);
    } else {
        int n = snprintf(f->temporary, sizeof f->temporary, "%s.%ld.part", path, (long)getpid());
        if (n < 0 || (size_t)n >= sizeof f->temporary)
            return fail(err, ERR_USAGE, "%.60s…: the path is too long", path);
        f->fd = open(f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    }
    return f->fd >= 0 || fail(err, ERR_RUN, "%s: cannot write: %s", path, strerror(errno));
}

bool output_open(struct output_file *f, const char *path, struct error *err)
{
    return open_with(f, path, 0666, err);
}

bool output_open_private(struct output_file *f, const char *path, struct error *err)
{
    return open_with(f, path, 0600, err);
}

bool output_try(const char *path, struct error *err)
{
    struct output_file f = { .fd = -1 };
    struct stat st;
    if (stat(path, &st) == 0 && S_ISFIFO(st.st_mode))
        return true;
    bool ok = output_open(&f, path, err);
    output_close(&f, false, NULL);
    return ok;
}

bool output_write(struct output_file *f, const void *bytes, size_t len, struct error *err)
{
    const char *at = bytes;
    while (len > 0) {
        ssize_t n = write(f->fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail(err, ERR_RUN, "%s: cannot write: %s", f->path, strerror(errno));
        at += n;
        len -= (size_t)n;
    }
    return true;
}

bool output_close(struct output_file *f, bool ok, struct error *err)
{
    if (f->fd < 0)
        return ok;
    int fd = f->fd;
    f->fd = -1;
    if (close(fd) != 0 && ok)
        ok = fail(err, ERR_RUN, "%s: cannot write: %s", f->path, strerror(errno));
    if (ok && f->temporary[0] && rename(f->temporary, f->path) != 0)
        ok = fail(err, ERR_RUN, "%s: cannot rename: %s", f->path, strerror(errno));
    if (!ok && f->temporary[0])
        unlink(f->temporary);
    return ok;
}
