/* Random model files for tests, written by the program tools/tiny into $B/tests. */
#ifndef TANDEM_TESTS_TINY_MODEL_H
#define TANDEM_TESTS_TINY_MODEL_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/check.h"

static inline const char *build_folder(void)
{
    const char *b = getenv("B");
    return b ? b : "build";
}

/* $B/tests/NAME.PID.gguf, so that runs beside each other do not meet. */
static inline void tiny_path(char path[256], const char *name)
{
    snprintf(path, 256, "%s/tests/%s.%d.gguf", build_folder(), name, (int)getpid());
}

/* Run tiny with these options; a failed check when it fails. */
static inline bool tiny_write(const char *path, const char *options)
{
    char command[1024];
    snprintf(command, sizeof command, "%s/tiny %s %s", build_folder(), path, options);
    return CHECK_MSG(system(command) == 0, "%s", command);
}

/* Offset of the value of a metadata key in the file, by its bytes; -1 when it is not there. The type
 * (u32) stands before it. */
static inline long tiny_value_offset(const char *path, const char *key)
{
    size_t size = 0, len = strlen(key);
    char *bytes = check_read_file(path, &size);
    long found = -1;
    for (size_t i = 8; bytes && found < 0 && i + len + 8 < size; i++) {
        uint64_t stored;
        memcpy(&stored, bytes + i - 8, 8);
        if (stored == len && memcmp(bytes + i, key, len) == 0)
            found = (long)(i + len + 4);
    }
    free(bytes);
    return found;
}

/* Put n bytes at an offset and hand back what was there. */
static inline bool tiny_patch(const char *path, long offset, const void *bytes, void *before,
                              size_t n)
{
    int fd = open(path, O_RDWR);
    bool ok = fd >= 0 && offset >= 0 && pread(fd, before, n, offset) == (ssize_t)n &&
              pwrite(fd, bytes, n, offset) == (ssize_t)n;
    if (fd >= 0)
        close(fd);
    return ok;
}

#endif
