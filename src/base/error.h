/* Errors that travel.
 *
 * Every function that can fail returns bool and takes `struct error *err` last. On failure it
 * calls fail(), which records a code, one line of text and the place, and returns false; callers
 * forward the false or put context in front of the text. The first cause is kept: a second fail()
 * on an error that is already set changes nothing.
 *
 * The codes are the exit codes of the program (main.c returns them unchanged).
 * `err` may be NULL where the caller does not want to know why. A zeroed struct means "no error". */
#ifndef TANDEM_BASE_ERROR_H
#define TANDEM_BASE_ERROR_H

#include <stdbool.h>

enum error_code {
    ERR_NONE = 0,
    ERR_RUN = 1,       /* run-time failure: I/O, a system call, a file that changed while in use */
    ERR_USAGE = 2,     /* the command line asks for something that does not exist */
    ERR_FILE = 3,      /* file missing, damaged or unsupported */
    ERR_FIT = 4,       /* does not fit into memory */
    ERR_DEVICE = 5,    /* no usable device */
    ERR_CHECK = 6,     /* a requested check failed; non-finite logits */
    ERR_INTERNAL = 7,  /* an invariant of ours is broken */
    ERR_INTERRUPTED = 130, /* stopped by the user (SIGINT) */
};

struct error {
    enum error_code code;
    const char *file; /* source position of the first cause */
    int line;
    char text[1024]; /* one line, control bytes escaped, no trailing newline */
};

#define fail(err, code, ...) error_set(err, code, __FILE__, __LINE__, __VA_ARGS__)

/* Record a failure; returns false always. */
bool error_set(struct error *err, enum error_code code, const char *file, int line,
               const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Put "context: " in front of the text of a set error; returns false always. */
bool error_prefix(struct error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Make the error empty again, for a caller that has dealt with it. */
void error_clear(struct error *err);

#endif
