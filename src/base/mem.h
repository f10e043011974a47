/* The only door to the heap.
 *
 * Everything allocates here, so that a test can count allocations ("decode allocates nothing")
 * and make the n-th one fail ("every failed allocation is reported, nothing leaks").
 * Sizes are products of checked factors: pass count and size, never their product.
 * All functions are thread-safe. */
#ifndef TANDEM_BASE_MEM_H
#define TANDEM_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/error.h"

/* `count` objects of `size` bytes, zeroed; NULL and ERR_FIT naming `what` on failure.
 * Zero objects give a valid pointer to free. */
void *mem_alloc(size_t count, size_t size, const char *what, struct error *err);

/* The same with 64-byte aligned start, not zeroed. Free with mem_free too. */
void *mem_alloc_aligned(size_t count, size_t size, const char *what, struct error *err);

/* Grow or shrink; contents kept; on failure NULL and the old block stays valid. */
void *mem_resize(void *block, size_t count, size_t size, const char *what, struct error *err);

/* Copy of `len` bytes plus a terminating 0. */
char *mem_strndup(const char *text, size_t len, struct error *err);

void mem_free(void *block);

/* Whole pages, zeroed, in huge ones where the system has them: for what is large and streamed
 * through. Taken when they are touched. Give back with mem_unmap (NULL is fine) and the same size. */
void *mem_map(size_t bytes, const char *what, struct error *err);
void mem_unmap(void *pages, size_t bytes);
/* Take all pages of a fresh mapping now, so that using them takes no page fault. */
void mem_populate(void *pages, size_t bytes);

/* For tests. */
uint64_t mem_allocations(void);       /* calls that allocated, since the start */
void mem_fail_after(uint64_t n);      /* allocation n from now (0 = the next) and all later fail */
void mem_fail_never(void);

#endif
