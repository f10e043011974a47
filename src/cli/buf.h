/* A growing run of bytes, always terminated by a 0 that does not count.
 *
 * Adding never fails on the spot: when memory runs out the buffer remembers it, ignores what
 * follows, and buf_ok reports ERR_FIT once at the end. A zeroed struct is an empty buffer; it owns
 * its bytes until buf_release. */
#ifndef TANDEM_CLI_BUF_H
#define TANDEM_CLI_BUF_H

#include "src/base/error.h"
#include "src/base/util.h"

struct buf {
    char *data; /* NULL while empty */
    size_t len, capacity;
    bool out_of_memory;
};

void buf_add(struct buf *b, const char *bytes, size_t len);
void buf_puts(struct buf *b, const char *text);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_clear(struct buf *b); /* keeps the memory */
void buf_release(struct buf *b);

/* False and ERR_FIT when something did not fit into memory. */
bool buf_ok(const struct buf *b, struct error *err);

static inline struct str buf_str(const struct buf *b)
{
    return (struct str){ b->data ? b->data : "", b->len };
}

/* Everything that can be read from a descriptor or a file ("-": standard input; a terminal is told
 * that it is waited for), appended.
 * ERR_FILE when it cannot be opened or is a directory, ERR_RUN on a read error, ERR_INTERRUPTED on
 * Ctrl-C. */
bool buf_read_fd(struct buf *b, int fd, const char *name, struct error *err);
/* Say what is waited for, unless `fd` can be read soon: at once to people, after two seconds to a log. */
void buf_note_waiting(int fd, const char *what);
bool buf_read_file(struct buf *b, const char *path, struct error *err);

#endif
