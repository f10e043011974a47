#include "src/engine/card.h"

#include <math.h>
#include <stdio.h>

#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/handoff_probe.h"
#include "src/gpu_load.h"

#define MIB ((size_t)1 << 20)

/* ---- finding ---- */

bool card_code_installed(void)
{
    return gpu_load(NULL) != NULL;
}

bool card_find(const struct gpu_library **library, struct gpu_info *info, int index,
               struct error *err)
{
    *library = gpu_load(err);
    int n = *library ? (*library)->count(err) : 0;
    if (n == 0)
        return false;
    if (index < 0 || index >= n)
        return fail(err, ERR_DEVICE, "no GPU %d: there %s %d", index, n == 1 ? "is" : "are", n);
    return (*library)->info(index, info, err);
}

static double read_link(const char *root, const char *pci, const char *what)
{
    char path[256];
    double value = 0;
    snprintf(path, sizeof path, "%.150s/sys/bus/pci/devices/%.23s/%s", root, pci, what);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%lf", &value) != 1)
        value = 0;
    if (f)
        fclose(f);
    return value;
}

void card_link(const struct gpu_info *info, const char *root, char *text, size_t size)
{
    static const double gt_s[] = { 2.5, 5, 8, 16, 32, 64 }; /* of generations 1, 2 ... */
    double speed = read_link(root, info->pci, "max_link_speed"); /* "16.0 GT/s PCIe" */
    int lanes = (int)read_link(root, info->pci, "max_link_width"), generation = 0;
    for (size_t i = 0; i < ARRAY_LEN(gt_s); i++)
        generation = speed >= gt_s[i] ? (int)i + 1 : generation;
    *text = 0;
    if (generation > 0 && lanes > 0 && lanes <= 32)
        snprintf(text, size, "PCIe %d.0 x%d", generation, lanes);
}

/* ---- the rig ---- */

#define MAX_BLOCKS 64
#define N_PASSES 3

bool card_open(struct card *c, int index, const struct gpu_limits *limits, struct error *err)
{
    *c = (struct card){ .seconds = 0.04 };
    c->blocks = mem_alloc(MAX_BLOCKS, sizeof *c->blocks, "blocks to measure with", err);
    bool ok = c->blocks && card_find(&c->library, &c->info, index, err) &&
              c->library->stream_open(&c->s, index, limits, err);
    if (!ok) {
        card_close(c);
        return false;
    }
    c->gpu = &c->library->launch;
    c->quick = c->info.emulated;
    return true;
}

void card_close(struct card *c)
{
    for (int i = 0; i < c->n_blocks; i++)
        c->gpu->release(c->s, c->blocks[i]);
    if (c->library)
        c->library->stream_close(c->s);
    mem_free(c->blocks);
    *c = (struct card){ 0 };
}

void *card_block(struct card *c, size_t bytes, int byte, struct error *err)
{
    if (c->n_blocks == MAX_BLOCKS) {
        fail(err, ERR_FIT, "more than %d blocks to measure with", MAX_BLOCKS);
        return NULL;
    }
    void *block = c->gpu->alloc(c->s, bytes, "measuring", err);
    if (block) {
        c->blocks[c->n_blocks++] = block;
        c->gpu->fill(c->s, block, byte, bytes);
    }
    return block;
}

static bool cancelled(const struct card *c)
{
    return c->cancel && atomic_load_explicit(c->cancel, memory_order_relaxed);
}

bool card_check(struct card *c, struct error *err)
{
    if (!c->gpu->finish(c->s, err))
        return false;
    return !cancelled(c) || fail(err, ERR_INTERRUPTED, "interrupted");
}

/* Seconds for n calls; negative after a failure. */
static double pass(struct card *c, card_launch *launch, void *ctx, int *i, int n)
{
    double start = now_s();
    for (int end = *i + n; *i < end; (*i)++)
        launch(c, ctx, *i);
    return c->gpu->finish(c->s, NULL) ? now_s() - start : -1;
}

double card_time(struct card *c, card_launch *launch, void *ctx)
{
    int i = 0, n = 1;
    double best = pass(c, launch, ctx, &i, 1), once = 0; /* the first loads the kernel */
    if (c->quick || best < 0 || cancelled(c))
        return best < 0 || cancelled(c) ? NAN : best;
    /* as many calls as fill a pass */
    for (once = pass(c, launch, ctx, &i, 2) / 2; once >= 0 && n * once < c->seconds / 2 && n < 1 << 20;
         n *= 2)
        once = pass(c, launch, ctx, &i, n) / n;
    for (int k = 0; k < N_PASSES && once >= 0; k++) {
        double s = pass(c, launch, ctx, &i, n) / n;
        once = s < 0 || cancelled(c) ? -1 : min_of(once, s);
    }
    return once < 0 ? NAN : once;
}

/* ---- the rates of plan ---- */

#define READ_BYTES (512 * MIB)
#define BUS_BYTES (64 * MIB)
#define QUICK_BYTES (64 << 10)
#define GEMM_SIZE 4096
#define GEMM_TOKENS 512

struct transfer {
    void *device, *host;
    int32_t *sum;
    size_t bytes;
};

static void read_vram(struct card *c, void *ctx, int i)
{
    const struct transfer *t = ctx;
    (void)i;
    c->gpu->probe_read(c->s, t->sum, t->device, t->bytes);
}

static void to_card(struct card *c, void *ctx, int i)
{
    const struct transfer *t = ctx;
    (void)i;
    c->gpu->write(c->s, t->device, t->host, t->bytes);
}

static void from_card(struct card *c, void *ctx, int i)
{
    const struct transfer *t = ctx;
    (void)i;
    c->gpu->read(c->s, t->host, t->device, t->bytes);
}

static double rate(struct card *c, card_launch *launch, struct transfer *t)
{
    return (double)t->bytes / card_time(c, launch, t) / 1e9;
}

static bool probe_memory(struct card *c, struct card_rates *r, struct error *err)
{
    size_t most = (size_t)(c->info.free_bytes / 4) / 4096 * 4096;
    struct transfer t = { .bytes = c->quick ? QUICK_BYTES : min_of(READ_BYTES, most) };
    t.device = card_block(c, t.bytes, 0x21, err);
    t.sum = card_block(c, sizeof *t.sum, 0, err);
    if (!t.device || !t.sum)
        return false;
    r->vram_gb_s = rate(c, read_vram, &t);
    t.bytes = min_of(t.bytes, BUS_BYTES);
    void *pinned = c->gpu->host_alloc(c->s, t.bytes, "transfers", err);
    void *pageable = mem_alloc(t.bytes, 1, "transfers", err);
    if (pinned && pageable) {
        t.host = pinned;
        r->h2d_gb_s = rate(c, to_card, &t);
        r->d2h_gb_s = rate(c, from_card, &t);
        t.host = pageable;
        r->h2d_pageable_gb_s = rate(c, to_card, &t);
        r->d2h_pageable_gb_s = rate(c, from_card, &t);
    }
    bool ok = pinned && pageable && card_check(c, err);
    c->gpu->host_release(c->s, pinned); /* waits for the queue */
    mem_free(pageable);
    return ok;
}

struct product {
    struct weight w;
    struct rows src, dst;
    int n_tokens;
};

static void multiply(struct card *c, void *ctx, int i)
{
    const struct product *p = ctx;
    (void)i;
    c->gpu->gemm(c->s, p->dst, &p->w, p->src, NULL, p->n_tokens);
}

static int64_t gemm_size(bool quick)
{
    return quick ? 64 : GEMM_SIZE;
}

static bool probe_arithmetic(struct card *c, struct card_rates *r, struct error *err)
{
    int64_t n = gemm_size(c->quick);
    struct product p = { .n_tokens = c->quick ? 16 : GEMM_TOKENS };
    size_t row_bytes = (size_t)n * 2, rows_bytes = (size_t)(n * p.n_tokens) * sizeof(float);
    p.w = (struct weight){ .type = TYPE_F16, .cols = n, .rows = n, .n_matrices = 1,
                           .row_bytes = row_bytes, .matrix_bytes = row_bytes * (size_t)n };
    p.w.data = card_block(c, p.w.matrix_bytes, 0x21, err);
    p.src = (struct rows){ card_block(c, rows_bytes, 0x21, err), n, n };
    p.dst = (struct rows){ card_block(c, rows_bytes, 0, err), n, n };
    if (!p.w.data || !p.src.data || !p.dst.data)
        return false;
    r->tops = 2.0 * (double)(n * n) * p.n_tokens / card_time(c, multiply, &p) / 1e12;
    return card_check(c, err);
}

bool card_probe(struct card_rates *r, int index, const atomic_int *cancel, struct error *err)
{
    struct gpu_limits limits = { .max_tokens = GEMM_TOKENS, .max_cols = GEMM_SIZE,
                                 .max_rows = GEMM_SIZE };
    struct card c;
    *r = (struct card_rates){ 0 };
    if (!card_open(&c, index, &limits, err))
        return false;
    c.cancel = cancel;
    const struct gpu_library *library = c.library;
    bool ok = probe_memory(&c, r, err) && probe_arithmetic(&c, r, err);
    card_close(&c);
    return ok && handoff_probe(&r->handoff, library, index, GEMM_SIZE, err);
}
