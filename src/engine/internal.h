/* What engine.c and session.c share. */
#ifndef TANDEM_ENGINE_INTERNAL_H
#define TANDEM_ENGINE_INTERNAL_H

#include "src/base/pool.h"
#include "src/engine/engine.h"
#include "src/engine/hybrid.h"
#include "src/model/arch.h"

/* A device with the working memory of one step, for caches of up to n_ctx positions. Sessions of
 * similar size share one: only one of them runs at a time. */
struct workspace {
    struct device *device;
    struct hybrid_pair *pair; /* owns the device; NULL: the workspace does */
    struct activations work;
    int64_t n_ctx;
    int n_batch; /* most tokens per step */
    int n_users; /* sessions */
    uint64_t bytes;
};

struct engine {
    struct model model;
    struct engine_options options;
    struct pool *pool;
    struct hybrid *hybrid; /* NULL: everything on the CPU */
    unsigned isa;
    int n_batch;
    struct workspace *last; /* the newest workspace that is in use; NULL: none */
};

/* Tokens per step that a mixture of n_routed experts, top_k of them used, is read with best. */
int engine_wanted_batch(int n_routed, int top_k);

/* Free bytes of the memory that caches and workspaces come from. */
uint64_t engine_available(const struct engine *e);
/* Bytes of a workspace for n_ctx positions, before making one. */
uint64_t workspace_bytes(const struct engine *e, int64_t n_ctx);
/* One that fits n_ctx positions: shared where possible. workspace_leave frees it with its last
 * user. */
struct workspace *workspace_join(struct engine *e, int64_t n_ctx, struct error *err);
void workspace_leave(struct engine *e, struct workspace *w);

#endif
