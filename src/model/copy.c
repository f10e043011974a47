#include "src/model/copy.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/util.h"
#include "src/model/arch.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define PART_GRAIN 16                     /* rows: whole tiles of every kernel */
#define DEALT_BYTES ((size_t)8 << 20)     /* of each node, for a common weight to be dealt out */
#define MASK_BITS (8 * sizeof(unsigned long))

/* Fused gate and up are two halves of one tensor: both are split. */
static int halves(const struct weight *w, const struct model_tensor *mt)
{
    return mt->role == ROLE_ROUTED && mt->spec->shape[1] == DIM_EXPERT2 && w->rows % 2 == 0 ? 2 : 1;
}

/* Rows of a part of each half; 0: the tensor stays whole. */
static int64_t part_rows(const struct copy *c, const struct model_tensor *mt)
{
    const struct tensor *t = mt->tensor;
    int64_t rows = mt->weight->rows / halves(mt->weight, mt);
    if (c->n_parts == 1 || mt->role != ROLE_ROUTED || rows < c->n_parts * PART_GRAIN ||
        t->bytes != mt->weight->row_bytes * (uint64_t)(mt->weight->rows * mt->weight->n_matrices))
        return 0;
    return (int64_t)align_up((size_t)((rows + c->n_parts - 1) / c->n_parts), PART_GRAIN);
}

/* Address and place in the file agree modulo DIRECT_ALIGN, as direct reading wants it. */
static size_t place_of(const struct tensor *t, size_t used)
{
    return used + (size_t)(t->file_offset - used) % DIRECT_ALIGN;
}

/* The pieces of one split tensor in the order of the file; returns how many. With `extents` NULL
 * they are only counted. */
static size_t split(const struct copy *c, const struct model_tensor *mt, char *to, int64_t each,
                    struct extent *extents)
{
    const struct weight *w = mt->weight;
    const struct tensor *t = mt->tensor;
    int n_halves = halves(w, mt);
    int64_t rows = w->rows / n_halves;
    size_t n = 0;
    for (int64_t i = 0; i < w->n_matrices * n_halves; i++) { /* half matrices */
        for (int p = 0; p * each < rows; p++, n++) {
            int64_t first = p * each, here = min_of(each, rows - first);
            if (extents)
                extents[n] = (struct extent){
                    .shard = t->shard,
                    .offset = t->file_offset + (uint64_t)(i * rows + first) * w->row_bytes,
                    .bytes = (size_t)here * w->row_bytes,
                    .to = to + (size_t)p * c->part_bytes + (size_t)(i * each) * w->row_bytes,
                };
        }
    }
    return n;
}

/* Both passes: without a base sizes, with one addresses. */
static void lay_out(struct copy *c, char *base, struct extent *extents)
{
    size_t common = 0, part = 0, n = 0;
    for (int i = 0; i < c->n_tensors; i++) {
        const struct model_tensor *mt = c->tensors[i];
        struct weight *w = mt->weight;
        int64_t each = part_rows(c, mt);
        if (each > 0) {
            size_t matrix_bytes = (size_t)(each * halves(w, mt)) * w->row_bytes;
            part = align_up(part, 64);
            char *to = base ? base + c->common_bytes + part : NULL;
            n += split(c, mt, to, each, base ? extents + n : NULL);
            part += matrix_bytes * (size_t)w->n_matrices;
            if (base) {
                w->data = to;
                w->part_rows = each;
                w->part_bytes = c->part_bytes;
                w->matrix_bytes = matrix_bytes;
            }
        } else {
            common = place_of(mt->tensor, common);
            if (base) {
                w->data = base + common;
                extents[n] = (struct extent){ mt->tensor->shard, mt->tensor->file_offset,
                                              mt->tensor->bytes, base + common };
            }
            common += mt->tensor->bytes;
            n++;
        }
    }
    c->common_bytes = align_up(common, HUGE_PAGE);
    c->part_bytes = align_up(part, HUGE_PAGE);
    c->n_extents = n;
}

void copy_measure(struct copy *c)
{
    lay_out(c, NULL, NULL);
}

void copy_place(const struct copy *c, char *base, struct extent *extents)
{
    struct copy same = *c;
    lay_out(&same, base, extents);
}

/* ---- nodes ---- */

/* Pages of [begin, end) on the nodes of part p; in turn where they are several. */
static bool bind(const struct copy *c, const struct cpus *cpus, int p, char *begin, char *end)
{
    unsigned long mask[CPUS_MAX / MASK_BITS] = { 0 };
    int first = p * cpus->n_nodes / c->n_parts, last = (p + 1) * cpus->n_nodes / c->n_parts;
    for (int node = first; node < max_of(last, first + 1); node++) {
        size_t id = (size_t)cpus->node_id[node];
        mask[id / MASK_BITS] |= 1ul << id % MASK_BITS;
    }
    return begin == end || syscall(SYS_mbind, begin, (size_t)(end - begin), MPOL_INTERLEAVE, mask,
                                   CPUS_MAX + 1, 0) == 0;
}

bool copy_bind(const struct copy *c, char *base, const struct cpus *cpus)
{
    bool ok = true;
    char *parts = base + c->common_bytes;
    for (int p = 0; p < c->n_parts; p++, parts += c->part_bytes)
        ok = bind(c, cpus, p, parts, parts + c->part_bytes) && ok;
    for (int i = 0; i < c->n_tensors; i++) {
        const struct weight *w = c->tensors[i]->weight;
        size_t bytes = c->tensors[i]->tensor->bytes;
        if (w->part_rows > 0 || bytes < (size_t)c->n_parts * DEALT_BYTES)
            continue;
        size_t at = align_up((size_t)w->data, HUGE_PAGE);
        for (int p = 0; p < c->n_parts; p++) {
            size_t to = align_up((size_t)w->data + bytes / (size_t)c->n_parts * (size_t)(p + 1),
                                 HUGE_PAGE);
            if (p == c->n_parts - 1) /* the rest of its last page belongs to others */
                to = ((size_t)w->data + bytes) & ~(HUGE_PAGE - 1);
            ok = bind(c, cpus, p, (char *)at, (char *)to) && ok;
            at = to;
        }
    }
    return ok;
}
