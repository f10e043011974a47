/* Small things everybody needs: bounds, rounding, byte strings, time. */
#ifndef TANDEM_BASE_UTIL_H
#define TANDEM_BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define min_of(a, b) ((a) < (b) ? (a) : (b))
#define max_of(a, b) ((a) > (b) ? (a) : (b))

/* Round up to a power of two; the caller has checked that it cannot wrap. */
static inline size_t align_up(size_t n, size_t alignment)
{
    return (n + alignment - 1) & ~(alignment - 1);
}

/* Bytes with a length; may contain 0, is not terminated, owns nothing. */
struct str {
    const char *data;
    size_t len;
};

static inline bool str_is(struct str s, const char *text)
{
    return s.len == strlen(text) && (s.len == 0 || memcmp(s.data, text, s.len) == 0);
}

static inline struct str str_of(const char *text)
{
    return (struct str){ text, strlen(text) };
}

/* Seconds of a clock that never goes back. */
static inline double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
