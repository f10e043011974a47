/* A file that appears under its name only when it is complete. */
#ifndef TANDEM_CLI_OUTPUT_FILE_H
#define TANDEM_CLI_OUTPUT_FILE_H

#include "src/base/error.h"
#include "src/cli/paths.h"

/* Closed: fd is -1. */
struct output_file {
    const char *path;          /* borrowed */
    char temporary[PATH_SIZE]; /* empty: written in place (a device or a pipe) */
    int fd;
};

/* ERR_RUN when it cannot be written, ERR_USAGE when the path is too long. */
bool output_open(struct output_file *f, const char *path, struct error *err);
/* The same, for nobody else to read (mode 0600). */
bool output_open_private(struct output_file *f, const char *path, struct error *err);
/* The same before long work, by making a file there and taking it away again. A pipe is left alone: its
 * reader would see an end. */
bool output_try(const char *path, struct error *err);

bool output_write(struct output_file *f, const void *bytes, size_t len, struct error *err);

/* Give the file its name if all went well (ok), else remove what was written. Returns ok, or false
 * with an error when the last step failed. Does nothing to a closed one. */
bool output_close(struct output_file *f, bool ok, struct error *err);

#endif
