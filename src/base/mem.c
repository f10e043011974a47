#include "src/base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/util.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define NEVER UINT64_MAX

/* Relaxed: counters for tests, nothing is ordered by them. */
static atomic_uint_fast64_t n_allocations;
static atomic_uint_fast64_t fail_at = NEVER;

static bool may_allocate(size_t count, size_t size, size_t *bytes)
{
    uint64_t n = atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    if (n >= atomic_load_explicit(&fail_at, memory_order_relaxed))
        return false;
    return !__builtin_mul_overflow(count, size, bytes);
}

static void *no_memory(size_t count, size_t size, const char *what, struct error *err)
{
    fail(err, ERR_FIT, "out of memory: %s: %zu x %zu bytes", what, count, size);
    return NULL;
}

void *mem_alloc(size_t count, size_t size, const char *what, struct error *err)
{
    size_t bytes;
    void *block = may_allocate(count, size, &bytes) ? calloc(bytes ? bytes : 1, 1) : NULL;
    return block ? block : no_memory(count, size, what, err);
}

void *mem_alloc_aligned(size_t count, size_t size, const char *what, struct error *err)
{
    size_t bytes;
    void *block = NULL;
    if (may_allocate(count, size, &bytes) && bytes <= SIZE_MAX - 64)
        block = aligned_alloc(64, (bytes + 64) / 64 * 64);
    return block ? block : no_memory(count, size, what, err);
}

void *mem_resize(void *block, size_t count, size_t size, const char *what, struct error *err)
{
    size_t bytes;
    void *bigger = may_allocate(count, size, &bytes) ? realloc(block, bytes ? bytes : 1) : NULL;
    return bigger ? bigger : no_memory(count, size, what, err);
}

char *mem_strndup(const char *text, size_t len, struct error *err)
{
    char *copy = len < SIZE_MAX ? mem_alloc(len + 1, 1, "text", err) : NULL;
    if (copy && len)
        memcpy(copy, text, len);
    return copy;
}

void mem_free(void *block)
{
    free(block);
}

/* A mapping that starts at the border of a huge page: what stands over is given back. */
void *mem_map(size_t bytes, const char *what, struct error *err)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), used = align_up(bytes, page), total;
    char *all = bytes < SIZE_MAX / 2 && may_allocate(used + HUGE_PAGE, 1, &total)
                    ? mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                    : MAP_FAILED;
    if (all == MAP_FAILED)
        return no_memory(bytes, 1, what, err);
    size_t before = align_up((size_t)all, HUGE_PAGE) - (size_t)all;
    if (before > 0)
        munmap(all, before);
    if (before < HUGE_PAGE)
        munmap(all + before + used, HUGE_PAGE - before);
    (void)madvise(all + before, used, MADV_HUGEPAGE); /* only an advice */
    return all + before;
}

void mem_unmap(void *pages, size_t bytes)
{
    if (pages)
        munmap(pages, bytes);
}

void mem_populate(void *pages, size_t bytes)
{
#ifdef MADV_POPULATE_WRITE
    if (madvise(pages, bytes, MADV_POPULATE_WRITE) == 0)
        return;
#endif
    memset(pages, 0, bytes); /* kernels before 5.14 */
}

uint64_t mem_allocations(void)
{
    return atomic_load_explicit(&n_allocations, memory_order_relaxed);
}

void mem_fail_after(uint64_t n)
{
    atomic_store_explicit(&fail_at, mem_allocations() + n, memory_order_relaxed);
}

void mem_fail_never(void)
{
    atomic_store_explicit(&fail_at, NEVER, memory_order_relaxed);
}
