#include "src/model/checkpoint.h"

#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"

static size_t ring_bytes(const struct cache_part *part)
{
    return part->kind == CACHE_ROWS ? 0 : (size_t)part->n_rows * part->row_bytes;
}

static size_t copy_bytes(const struct arch *arch, const struct cache_part *parts, int n_parts)
{
    size_t sum = 0;
    for (int i = 0; i < n_parts && arch->cache_rewind; i++)
        sum += ring_bytes(&parts[i]);
    return sum;
}

uint64_t checkpoints_bytes(const struct arch *arch, const struct params *p, enum tensor_type type,
                           int64_t n_ctx)
{
    struct cache_part parts[CACHE_MAX_PARTS];
    uint64_t sum = 0;
    for (int i = 0; i < p->n_layers && arch->cache_rewind && arch->cache_parts; i++)
        sum += copy_bytes(arch, parts, arch->cache_parts(p, type, n_ctx, i, parts));
    return CHECKPOINTS * sum;
}

bool checkpoints_open(struct checkpoints *k, const struct arch *arch, const struct kvcache *c,
                      struct error *err)
{
    *k = (struct checkpoints){ .bytes = copy_bytes(arch, c->parts, c->n_parts) };
    if (k->bytes > 0)
        k->copies = mem_alloc_aligned(CHECKPOINTS, k->bytes, "checkpoints", err);
    return k->bytes == 0 || k->copies;
}

void checkpoints_close(struct checkpoints *k)
{
    mem_free(k->copies);
    *k = (struct checkpoints){ 0 };
}

void checkpoints_forget(struct checkpoints *k)
{
    k->n = 0;
}

static void drop(struct checkpoints *k, int i)
{
    memmove(&k->at[i], &k->at[i + 1], (size_t)(k->n - i - 1) * sizeof k->at[0]);
    k->n--;
}

/* Of those in use, the one whose neighbours (the beginning, and the new position) are nearest to each
 * other. */
static int most_crowded(const struct checkpoints *k, int64_t position)
{
    int best = 0;
    int64_t least = INT64_MAX;
    for (int i = 0; i < k->n; i++) {
        int64_t before = i > 0 ? k->at[i - 1].position : 0;
        int64_t behind = i + 1 < k->n ? k->at[i + 1].position : position;
        if (behind - before < least) {
            least = behind - before;
            best = i;
        }
    }
    return best;
}

static int free_slot(const struct checkpoints *k)
{
    bool used[CHECKPOINTS] = { false };
    int slot = 0;
    for (int i = 0; i < k->n; i++)
        used[k->at[i].slot] = true;
    while (used[slot])
        slot++;
    return slot;
}

/* Rings to or from a copy. */
static bool transfer(const struct checkpoints *k, int slot, const struct kvcache *c,
                     struct device *d, bool back, struct error *err)
{
    char *copy = k->copies + (size_t)slot * k->bytes;
    bool ok = true;
    for (int i = 0; i < c->n_parts && ok; i++) {
        const struct cache_part *part = &c->parts[i];
        if (ring_bytes(part) == 0)
            continue;
        ok = back ? cache_part_write(part, d, 0, part->n_rows, copy, err)
                  : cache_part_read(part, d, 0, part->n_rows, copy, err);
        copy += ring_bytes(part);
    }
    return ok;
}

void checkpoints_take(struct checkpoints *k, const struct kvcache *c, struct device *d, int64_t n)
{
    struct error ignored = { 0 };
    while (k->n > 0 && k->at[k->n - 1].position >= n)
        k->n--;
    if (k->bytes == 0)
        return;
    if (k->n == CHECKPOINTS)
        drop(k, most_crowded(k, n));
    int slot = free_slot(k);
    if (transfer(k, slot, c, d, false, &ignored))
        k->at[k->n++] = (struct checkpoint){ n, max_of(c->newest, n), slot };
}

int64_t checkpoints_rewind(struct checkpoints *k, const struct arch *arch, const struct params *p,
                           struct kvcache *c, struct device *d, int64_t n_past, int64_t n)
{
    struct error ignored = { 0 };
    if (!arch->cache_rewind || n >= n_past)
        return n;
    int64_t kept = arch->cache_rewind(p, c, n_past, n);
    while (k->n > 0 && k->at[k->n - 1].position > n)
        k->n--;
    const struct checkpoint *last = k->n > 0 ? &k->at[k->n - 1] : NULL;
    if (kept == n || !last || last->position <= kept)
        return kept;
    if (!transfer(k, last->slot, c, d, true, &ignored)) {
        checkpoints_forget(k);
        c->newest = 0;
        return 0;
    }
    c->newest = last->newest;
    return last->position;
}
