#include "src/engine/expert_copy.h"

#include <string.h>

#include "src/base/util.h"
#include "src/format/weave.h"

#define ALIGNMENT ((size_t)256)

/* The matrices of an expert in their order. */
struct matrices {
    const struct weight *w[3];
    int n;
};

static struct matrices matrices_of(const struct experts *e)
{
    if (e->gate_up.data)
        return (struct matrices){ { &e->gate_up, &e->down }, 2 };
    return (struct matrices){ { &e->gate, &e->up, &e->down }, 3 };
}

/* Of one matrix with plain rows. */
static size_t plain_bytes(const struct weight *w)
{
    return (size_t)w->rows * w->row_bytes;
}

size_t expert_copy_bytes(const struct experts *e)
{
    struct matrices m = matrices_of(e);
    size_t bytes = 0;
    for (int i = 0; i < m.n; i++)
        bytes += plain_bytes(m.w[i]);
    return bytes;
}

size_t expert_slots_bytes(const struct experts *e, int n_slots)
{
    struct matrices m = matrices_of(e);
    size_t bytes = 0;
    for (int i = 0; i < m.n; i++)
        bytes += align_up((size_t)n_slots * plain_bytes(m.w[i]), ALIGNMENT);
    return bytes;
}

struct experts expert_slots_at(const struct experts *e, int n_slots, void *block)
{
    struct experts slots = *e;
    struct weight *all[] = { &slots.gate_up, &slots.gate, &slots.up, &slots.down };
    char *to = block;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct weight *w = all[i];
        if (!w->data)
            continue;
        w->data = to;
        w->matrix_bytes = plain_bytes(w);
        w->n_matrices = n_slots;
        w->part_rows = 0;
        w->part_bytes = 0;
        w->woven = false;
        to += align_up((size_t)n_slots * w->matrix_bytes, ALIGNMENT);
    }
    return slots;
}

/* Rows of one matrix, run by run: a run ends where a part ends. */
static void take_rows(const struct weight *w, int id, uint8_t *to)
{
    int64_t row = 0;
    for (int part = 0; row < w->rows; part++) {
        int64_t end = weight_part_end(w, part);
        if (!w->woven)
            memcpy(to + (size_t)row * w->row_bytes, weight_at(w, id, row),
                   (size_t)(end - row) * w->row_bytes);
        for (int64_t r = row; w->woven && r < end; r += WEAVE_ROWS)
            unweave_rows(w->type, w->cols, weight_at(w, id, r), to + (size_t)r * w->row_bytes);
        row = end;
    }
}

void expert_copy_take(const struct experts *e, int id, void *to)
{
    struct matrices m = matrices_of(e);
    uint8_t *at = to;
    for (int i = 0; i < m.n; i++) {
        const struct weight *w = m.w[i];
        if (w == &e->gate_up && w->part_rows > 0) { /* its halves are split each */
            struct weight half = *w;
            half.rows = e->expert_size;
            take_rows(&half, id, at);
            half.data = (const char *)w->data + (size_t)w->part_rows * w->row_bytes;
            take_rows(&half, id, at + plain_bytes(&half));
        } else {
            take_rows(w, id, at);
        }
        at += plain_bytes(w);
    }
}

void expert_copy_queue(const struct gpu_launchers *gpu, struct gpu_stream *s,
                       const struct experts *slots, int slot, const void *from)
{
    struct matrices m = matrices_of(slots);
    const char *at = from;
    for (int i = 0; i < m.n; i++) {
        size_t bytes = plain_bytes(m.w[i]);
        gpu->write(s, (char *)(uintptr_t)m.w[i]->data + (size_t)slot * bytes, at, bytes);
        at += bytes;
    }
}
