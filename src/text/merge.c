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

static bool comes_first(const struct merge_candidate *a, const struct merge_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void heap_push(struct merger *m, struct merge_candidate c)
{
    struct merge_candidate *heap = m->heap;
    size_t at = m->n_heap++;
    while (at > 0 && comes_first(&c, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = c;
}

static struct merge_candidate heap_pop(struct merger *m)
{
    struct merge_candidate *heap = m->heap, top = heap[0], last = heap[--m->n_heap];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < m->n_heap) {
        if (child + 1 < m->n_heap && comes_first(&heap[child + 1], &heap[child]))
            child++;
        if (!comes_first(&heap[child], &last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

static void consider(struct merger *m, struct str piece, int32_t left, merge_find *find,
                     const void *ctx)
{
    const struct symbol *l = &m->symbols[left];
    const struct symbol *r = &m->symbols[l->next];
    struct merge_candidate c = { .left = left, .len = l->len + r->len };
    if (find(ctx, piece, l, r, &c.rank, &c.id))
        heap_push(m, c);
}

/* Room for one more candidate per merge: each takes one and adds at most two. */
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
    for (size_t i = 0; i + 1 < m->n_symbols; i++)
        consider(m, piece, (int32_t)i, find, ctx);

    while (m->n_heap > 0) {
        struct merge_candidate c = heap_pop(m);
        struct symbol *left = &m->symbols[c.left];
        if (left->len == 0 || left->next < 0)
            continue;
        struct symbol *right = &m->symbols[left->next];
        /* Symbols only grow rightward, so an equal sum means that both are as they were. */
        if (left->len + right->len != c.len)
            continue;
        left->len = c.len;
        left->id = c.id;
        left->next = right->next;
        right->len = 0;
        if (left->next >= 0)
            m->symbols[left->next].previous = c.left;
        if (!heap_room(m, m->n_heap + 2, err))
            return false;
        if (left->previous >= 0)
            consider(m, piece, left->previous, find, ctx);
        if (left->next >= 0)
            consider(m, piece, c.left, find, ctx);
    }
    return true;
}

void merger_release(struct merger *m)
{
    mem_free(m->symbols);
    mem_free(m->heap);
    *m = (struct merger){ 0 };
}
