/* Lines without editing: from a pipe or a file, or typed where there is no readline. */
#include "src/cli/line.h"

#include <errno.h>
#include <unistd.h>

#include "src/cli/keys.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"

static enum line_result read_line(struct buf *text, struct error *err)
{
    static char ahead[4096]; /* read, but behind the line that was asked for */
    static size_t n_ahead, at;
    for (;;) {
        char *newline = memchr(ahead + at, '\n', n_ahead - at);
        size_t n = newline ? (size_t)(newline - (ahead + at)) : n_ahead - at;
        buf_add(text, ahead + at, n);
        at += n + (newline ? 1 : 0);
        if (!buf_ok(text, err))
            return LINE_FAILED;
        if (newline) {
            if (text->len && text->data[text->len - 1] == '\r')
                text->data[--text->len] = 0;
            return LINE_TEXT;
        }
        bool ready = signals_wait(STDIN_FILENO);
        if (signals_leave())
            return LINE_LEAVE;
        if (!ready && signals_cancelled()) {
            signals_rearm();
            return LINE_CLEARED;
        }
        if (!ready)
            continue;
        ssize_t got = read(STDIN_FILENO, ahead, sizeof ahead);
        at = 0;
        n_ahead = got > 0 ? (size_t)got : 0;
        if (got == 0)
            return text->len ? LINE_TEXT : LINE_END;
        if (got < 0 && errno != EINTR) {
            fail(err, ERR_RUN, "standard input: cannot read: %s", strerror(errno));
            return LINE_FAILED;
        }
    }
}

/* The same from a terminal, in the system's own editing; what was typed ahead begins the line. */
static enum line_result read_typed(struct buf *text, struct error *err)
{
    bool ahead = true;
    for (;;) {
        for (int key; (key = keys_next()) >= 0;) {
            char byte = (char)key;
            if (ahead)
                err_write(&byte, 1);
            if (byte == '\n')
                return buf_ok(text, err) ? LINE_TEXT : LINE_FAILED;
            buf_add(text, &byte, 1);
        }
        ahead = false;
        bool ready = signals_wait(STDIN_FILENO);
        if (signals_leave())
            return LINE_LEAVE;
        if (!ready && signals_cancelled()) {
            signals_rearm();
            err_write("\n", 1);
            return LINE_CLEARED;
        }
        if (ready && !keys_fill())
            return text->len ? LINE_TEXT : LINE_END;
    }
}

enum line_result line_plain(const char *prompt, struct buf *text, struct error *err)
{
    buf_clear(text);
    if (!term_stdin())
        return read_line(text, err);
    err_write(prompt, strlen(prompt));
    term_release(); /* the system's own editing: erase, kill, end of file */
    enum line_result result = read_typed(text, err);
    term_hold();
    return result;
}
