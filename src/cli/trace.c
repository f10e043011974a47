#include "src/cli/trace.h"

#include "src/base/mem.h"
#include "src/base/util.h"

uint64_t logits_hash(const float *logits, int64_t n)
{
    const unsigned char *bytes = (const unsigned char *)logits;
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < (size_t)n * sizeof *logits; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

bool trace_add(struct trace *t, int32_t id, uint64_t bits, struct error *err)
{
    if (t->n == t->capacity) {
        size_t capacity = max_of(2 * t->capacity, (size_t)256);
        struct trace_step *steps = mem_resize(t->steps, capacity, sizeof *steps, "steps", err);
        if (!steps)
            return false;
        t->steps = steps;
        t->capacity = capacity;
    }
    size_t at = t->n++;
    t->steps[at] = (struct trace_step){ id, bits };
    t->differs = t->wanted && (at >= t->wanted->n || t->wanted->steps[at].id != id);
    return !t->differs || fail(err, ERR_CHECK, "token %zu is another one", at + 1);
}

void trace_release(struct trace *t)
{
    mem_free(t->steps);
    *t = (struct trace){ 0 };
}

int64_t trace_other_token(const struct trace *a, const struct trace *b)
{
    for (size_t i = 0; i < min_of(a->n, b->n); i++)
        if (a->steps[i].id != b->steps[i].id)
            return (int64_t)i;
    return a->n == b->n ? -1 : (int64_t)min_of(a->n, b->n);
}

int64_t trace_other_bits(const struct trace *a, const struct trace *b)
{
    for (size_t i = 0; i < min_of(a->n, b->n); i++)
        if (a->steps[i].bits != b->steps[i].bits)
            return (int64_t)i;
    return -1;
}
