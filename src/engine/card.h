/* The graphics card: finding it, and how fast it is. Plan, bench and the engine all look here, so
 * they see the same card and give the same reason where there is none. */
#ifndef TANDEM_ENGINE_CARD_H
#define TANDEM_ENGINE_CARD_H

#include <stdatomic.h>

#include "gpu/gpu.h"
#include "src/engine/engine.h"

/* The library and card number `index` of those that can be used. ERR_DEVICE with the reason: no GPU
 * code installed, no driver or one too old, no card, no card of that number, in use by another
 * program alone. */
bool card_find(const struct gpu_library **library, struct gpu_info *info, int index,
               struct error *err);

/* Is there GPU code to look for a card with? Without it nobody needs to be told of a missing card. */
bool card_code_installed(void);

/* "PCIe 4.0 x16": the widest and fastest link that card and slot can have together, as Linux knows it
 * (what is in use right now is less while the card rests). `root` is put in front of /sys, for tests;
 * else "". Empty text when nothing is known. */
void card_link(const struct gpu_info *info, const char *root, char *text, size_t size);

/* ---- measuring ---- */

/* A card with a queue, and memory that lives until card_close: what measurements stand on. Zeroed is
 * closed. An emulated card is slow: sizes shrink and everything runs once (`quick`). */
struct card {
    const struct gpu_library *library;
    const struct gpu_launchers *gpu;
    struct gpu_info info;
    struct gpu_stream *s;
    bool quick;
    double seconds;           /* per measurement */
    const atomic_int *cancel; /* may be NULL */
    void **blocks;            /* owned, [n_blocks] on the card */
    int n_blocks;
};

/* ERR_DEVICE, ERR_FIT. */
bool card_open(struct card *c, int index, const struct gpu_limits *limits, struct error *err);
void card_close(struct card *c);

/* Device memory in which every byte is `byte` (0x21: small finite numbers in every format). */
void *card_block(struct card *c, size_t bytes, int byte, struct error *err);

/* Seconds that one call of launch(ctx, i) takes, i counting up from 0: after a warm-up, in passes of
 * many calls, each waited for as a whole; the best pass counts. NAN when the card failed or the
 * measurement was cancelled; card_check tells. */
typedef void card_launch(struct card *c, void *ctx, int i);
double card_time(struct card *c, card_launch *launch, void *ctx);

/* Did everything so far succeed? ERR_DEVICE, ERR_INTERRUPTED. */
bool card_check(struct card *c, struct error *err);

/* What transfers and plain reading reach; 1e9 bytes per second. tops: 1e12 operations per second of
 * the GEMM that prefill uses, F16 weights, 512 tokens. */
struct card_rates {
    double vram_gb_s;
    double h2d_gb_s, d2h_gb_s;                    /* pinned memory */
    double h2d_pageable_gb_s, d2h_pageable_gb_s;  /* memory as malloc gives it */
    double tops;
    struct handoff_rates handoff;                 /* to the CPU and back: src/engine/handoff_probe.h */
};

/* About half a second. ERR_DEVICE, ERR_FIT, ERR_INTERRUPTED. */
bool card_probe(struct card_rates *r, int index, const atomic_int *cancel, struct error *err);

#endif
