#include <assert.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/split_internal.h"

/* ---- memory ---- */

static struct block *block_of(const struct split *d, const void *data)
{
    for (int i = 0; i < d->n_blocks; i++) {
        struct block *b = &d->blocks[i];
        if ((const char *)data >= b->ram && (const char *)data < b->ram + b->bytes)
            return b;
    }
    return NULL;
}

void *split_vram(const struct split *d, const void *data)
{
    const struct block *b = block_of(d, data);
    assert(b);
    size_t at = (size_t)((const char *)data - b->ram);
    return b->vram + (b->apart == TOGETHER ? at : at - b->apart);
}

static void free_block(struct split *d, struct block *b)
{
    if (b->mapped)
        mem_unmap(b->ram, b->bytes);
    else
        mem_free(b->ram);
    if (b->vram)
        d->o.gpu->ops->release(d->o.gpu, b->vram);
    *b = d->blocks[--d->n_blocks];
}

static bool grow(struct split *d, struct error *err)
{
    if (d->n_blocks < d->max_blocks)
        return true;
    size_t n = (size_t)d->max_blocks + 8;
    struct block *more = mem_resize(d->blocks, n, sizeof *more, "list of blocks", err);
    if (!more)
        return false;
    d->blocks = more;
    d->max_blocks = (int)n;
    return true;
}

/* Untouched pages of a mapping take no memory: main memory has addresses for all of a block that
 * lies apart, and pages for its own part. */
static void *split_alloc(struct device *dev, size_t bytes, const char *what, struct error *err)
{
    struct split *d = split(dev);
    size_t apart = d->next_apart;
    d->next_apart = TOGETHER;
    if (!grow(d, err))
        return NULL;
    struct block *b = &d->blocks[d->n_blocks];
    *b = (struct block){ .bytes = bytes, .apart = apart, .mapped = apart != TOGETHER };
    b->ram = b->mapped ? mem_map(max_of(bytes, (size_t)1), what, err)
                       : mem_alloc_aligned(1, max_of(bytes, (size_t)1), what, err);
    if (!b->ram)
        return NULL;
    d->n_blocks++;
    size_t on_gpu = apart == TOGETHER ? bytes : bytes - min_of(apart, bytes);
    if (on_gpu > 0 && !(b->vram = d->o.gpu->ops->alloc(d->o.gpu, on_gpu, what, err))) {
        free_block(d, b);
        return NULL;
    }
    return b->ram;
}

static void split_release(struct device *dev, void *data)
{
    struct block *b = data ? block_of(split(dev), data) : NULL;
    if (b)
        free_block(split(dev), b);
}

/* Caches are read and written between steps; what lies on both sides is scratch. A row may begin on
 * one side only. */
static bool split_write(struct device *dev, void *dst, const void *src, size_t bytes,
                        struct error *err)
{
    struct split *d = split(dev);
    const struct block *b = block_of(d, dst);
    size_t at = (size_t)((char *)dst - b->ram);
    if (b->apart != TOGETHER && at >= b->apart)
        return d->o.gpu->ops->write(d->o.gpu, split_vram(d, dst), src, bytes, err);
    return d->o.cpu->ops->write(d->o.cpu, dst, src, bytes, err);
}

static bool split_read(struct device *dev, void *dst, const void *src, size_t bytes,
                       struct error *err)
{
    struct split *d = split(dev);
    const struct block *b = block_of(d, src);
    size_t at = (size_t)((const char *)src - b->ram);
    if (b->apart != TOGETHER && at >= b->apart)
        return d->o.gpu->ops->read(d->o.gpu, dst, split_vram(d, src), bytes, err);
    return d->o.cpu->ops->read(d->o.cpu, dst, src, bytes, err);
}

void split_next_apart(struct device *d, size_t bytes)
{
    split(d)->next_apart = bytes;
}

/* ---- who has the valid copy ---- */

void split_watch(struct device *dev, const struct arch *arch, const struct activations *a)
{
    struct split *d = split(dev);
    d->n_buffers = 0;
    for (int i = 0; i < arch->n_buffers; i++) {
        const struct rows *r = (const struct rows *)((const char *)a + arch->buffers[i].offset);
        if (r->data && d->n_buffers < MAX_BUFFERS)
            d->buffers[d->n_buffers++] = (struct buffer){ .rows = *r };
    }
}

/* The buffer that r is, or some columns of; NULL: memory of the CPU's alone, which is not ours. Buffers of different parts of a layer may lie at the same
 * place; what is true of one is then true of the other, the one that nobody uses. */
static struct buffer *buffer_of(struct split *d, struct rows r)
{
    for (int i = 0; i < d->n_buffers; i++) {
        struct rows *b = &d->buffers[i].rows;
        if (r.stride == b->stride && r.data >= b->data && r.data < b->data + b->stride)
            return &d->buffers[i];
    }
    assert(block_of(d, r.data) == NULL); /* else: rows that were not announced */
    return NULL;
}

struct rows split_rows(const struct split *d, struct rows r, enum side side)
{
    if (side == GPU)
        r.data = split_vram(d, r.data);
    return r;
}

/* Until nobody else computes on the CPU: before its turn, and before rows cross. */
static void settle(struct split *d)
{
    if (!d->o.settle(d->o.ctx, &d->failed))
        d->stuck = true;
}

static void bring(struct split *d, struct buffer *b, enum side side)
{
    if (b->valid == side)
        return;
    struct device *gpu = d->o.gpu;
    size_t bytes = (size_t)d->n_tokens * (size_t)b->rows.stride * sizeof(float);
    void *ram = b->rows.data, *vram = split_vram(d, ram);
    b->valid = side;
    if (d->mode == RECORDING) {
        b->early = b->early || side == GPU;
        return;
    }
    assert(d->mode == PLAIN || side == CPU || d->turn == CPU);
    if (d->turn == GPU)
        settle(d);
    if (side == GPU)
        gpu->ops->write(gpu, vram, ram, bytes, &d->failed);
    else
        gpu->ops->read(gpu, ram, vram, bytes, &d->failed);
}

/* The GPU's operations of this step begin. If they are known as a record, that runs: it needs what they
 * will ask for. */
static void begin_range(struct split *d)
{
    struct device *gpu = d->o.gpu;
    d->n_ranges++;
    if (d->mode != PLAIN || d->n_ranges > 1)
        return;
    for (int i = 0; i < d->n_buffers; i++)
        if (d->buffers[i].early)
            bring(d, &d->buffers[i], GPU);
    d->mode = gpu->ops->replay(gpu) ? REPLAYING : PLAIN;
}

struct device *split_device(struct split *d, enum side side)
{
    if (side == GPU && d->turn == CPU)
        begin_range(d);
    else if (side == CPU && d->turn == GPU && d->mode != RECORDING)
        settle(d);
    d->turn = side;
    bool silent = side == GPU ? d->mode == REPLAYING : d->mode == RECORDING || d->stuck;
    assert(silent || side == GPU || d->o.is_settled(d->o.ctx));
    return silent ? NULL : device_of(d, side);
}

struct rows split_input(struct split *d, struct rows r, enum side side)
{
    bring(d, buffer_of(d, r), side);
    return split_rows(d, r, side);
}

bool split_is_ours(struct split *d, struct rows r)
{
    return buffer_of(d, r) != NULL;
}

struct rows split_output(struct split *d, struct rows r, enum side side)
{
    struct buffer *b = buffer_of(d, r);
    if (r.width < b->rows.width)
        bring(d, b, side);
    b->valid = side;
    return split_rows(d, r, side);
}

enum side split_valid(struct split *d, struct rows r)
{
    return buffer_of(d, r)->valid;
}

/* ---- the step ---- */

static void split_begin(struct device *dev, const struct step *s)
{
    struct split *d = split(dev);
    d->n_tokens = s->n_tokens;
    d->failed = (struct error){ 0 };
    d->mode = PLAIN;
    d->turn = CPU;
    d->n_ranges = 0;
    d->stuck = false;
    d->o.cpu->ops->begin(d->o.cpu, s);
    d->o.gpu->ops->begin(d->o.gpu, s);
    settle(d); /* a piece that an earlier step gave up */
}

/* What the GPU does between two turns of the CPU can run as one: it is recorded where that is all it
 * does in a step. */
static bool split_record(struct device *dev)
{
    struct split *d = split(dev);
    if (d->n_ranges != 1 || !d->o.gpu->ops->record(d->o.gpu))
        return false;
    d->mode = RECORDING;
    d->turn = CPU;
    d->n_ranges = 0;
    return true;
}

static bool split_recorded(struct device *dev, bool ok, struct error *err)
{
    struct split *d = split(dev);
    assert(!ok || d->n_ranges == 1);
    d->mode = PLAIN;
    return d->o.gpu->ops->recorded(d->o.gpu, ok, err);
}

static bool split_end(struct device *dev, struct error *err)
{
    struct split *d = split(dev);
    bool ok = d->o.gpu->ops->end(d->o.gpu, err);
    ok = d->o.cpu->ops->end(d->o.cpu, err) && ok;
    if (ok && d->failed.code != ERR_NONE)
        return fail(err, d->failed.code, "%s", d->failed.text);
    return ok;
}

/* ---- open and close ---- */

static void split_close(struct device *dev)
{
    struct split *d = split(dev);
    if (!d)
        return;
    while (d->n_blocks > 0)
        free_block(d, &d->blocks[0]);
    mem_free(d->blocks);
    mem_free(d->k);
    mem_free(d->sparse);
    mem_free(d);
}

bool split_open(struct device **out, const struct split_options *o, struct error *err)
{
    *out = NULL;
    struct split *d = mem_alloc(1, sizeof *d, "split device", err);
    if (!d)
        return false;
    d->ops = (struct device_ops){
        .name = "split", .alloc = split_alloc, .release = split_release, .write = split_write,
        .read = split_read, .begin = split_begin, .end = split_end, .record = split_record,
        .recorded = split_recorded, .close = split_close,
    };
    split_operations(&d->ops);
    d->base.ops = &d->ops;
    d->o = *o;
    d->next_apart = TOGETHER;
    size_t n_layers = (size_t)o->n_layers;
    d->k = mem_alloc(n_layers * 2, sizeof *d->k, "cache table", err);
    d->sparse = mem_alloc(n_layers, sizeof *d->sparse, "cache table", err);
    if (!d->k || !d->sparse) {
        split_close(&d->base);
        return false;
    }
    d->v = d->k + n_layers;
    *out = &d->base;
    return true;
}
