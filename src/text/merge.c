#include "src/text/merge.h"

#include "src/base/mem.h"

static bool grow(void *block_pointer, size_t *capacity, size_t wanted, size_t size,
                 const char *what, struct error *err)
{
    if (wanted <= *capacity)
        return true;
    void **block = block_pointer, *bigger;
    size_t room = max_of(wanted, *capacity * 2);
    bigger = mem_resize(*block, room, size, what, err);
    if (!bigger)
        return false;
    *block = bigger;
    *capacity = room;
    return true;
}

bool merger_start(struct merger *m, size_t n, struct error *err)
{
    m->n_symbols = m->n_heap = 0;
    return grow(&m->symbols, &m->symbol_capacity, max_of(n, (size_t)64), sizeof *m->symbols,
                "symbols of a text", err);
}

/* Four children a node: half the levels of a binary heap, and siblings share a cache line. */
#define CHILDREN 4

static void heap_push(struct merger *m, uint64_t entry)
{
    uint64_t *heap = m->heap;
    size_t at = m->n_heap++;
    while (at > 0 && entry < heap[(at - 1) / CHILDREN]) {
        heap[at] = heap[(at - 1) / CHILDREN];
        at = (at - 1) / CHILDREN;
    }
    heap[at] = entry;
}

static uint64_t heap_pop(struct merger *m)
{
    uint64_t *heap = m->heap, top = heap[0], last = heap[--m->n_heap];
    size_t at = 0, first;
    while ((first = CHILDREN * at + 1) < m->n_heap) {
        size_t least = first, end = min_of(first + CHILDREN, m->n_heap);
        for (size_t child = first + 1; child < end; child++)
            least = heap[child] < heap[least] ? child : least;
        if (heap[least] >= last)
            break;
        heap[at] = heap[least];
        at = least;
    }
    heap[at] = last;
    return top;
}

/* Look at the pair that begins with symbol `left`. */
static void consider(struct merger *m, struct str piece, int32_t left, merge_find *find,
                     const void *ctx)
{
    struct symbol *l = &m->symbols[left];
    if (l->next >= 0 && find(ctx, piece, l, &m->symbols[l->next], &l->rank, &l->merged))
        heap_push(m, (uint64_t)l->rank << 32 | (uint32_t)left);
    else
        l->rank = MERGE_NONE;
}

static bool heap_room(struct merger *m, size_t n, struct error *err)
{
    return grow(&m->heap, &m->heap_capacity, max_of(n, (size_t)64), sizeof *m->heap,
                "merges of a text", err);
}

bool merger_run(struct merger *m, struct str piece, merge_find *find, const void *ctx,
                struct error *err)
{
    if (!heap_room(m, m->n_symbols, err))
        return false;
    for (size_t i = 0; i < m->n_symbols; i++)
        consider(m, piece, (int32_t)i, find, ctx);

    while (m->n_heap > 0) {
        uint64_t entry = heap_pop(m);
        int32_t at = (int32_t)(uint32_t)entry;
        struct symbol *left = &m->symbols[at];
        if (left->rank != entry >> 32)
            continue; /* merged into a neighbour, or has another one now */
        struct symbol *right = &m->symbols[left->next];
        left->len += right->len;
        left->id = left->merged;
        left->next = right->next;
        right->rank = MERGE_NONE;
        if (left->next >= 0)
            m->symbols[left->next].previous = at;
        if (!heap_room(m, m->n_heap + 2, err))
            return false;
        if (left->previous >= 0)
            consider(m, piece, left->previous, find, ctx);
        consider(m, piece, at, find, ctx);
    }
    return true;
}

void merger_release(struct merger *m)
{
    mem_free(m->symbols);
    mem_free(m->heap);
    *m = (struct merger){ 0 };
}
