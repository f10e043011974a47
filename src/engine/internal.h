/* What engine.c and session.c share. */
#ifndef TANDEM_ENGINE_INTERNAL_H
#define TANDEM_ENGINE_INTERNAL_H

#include "cpu/device_cpu.h"
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
    struct placement_wishes wishes;
    struct placement placement; /* of the model and one session, as decided before loading */
    struct pool *pool;
    struct hybrid *hybrid; /* NULL: everything on the CPU */
    unsigned isa;
    int n_batch;
    struct pick_counts picks;
    struct workspace *last; /* the newest workspace that is in use; NULL: none */
};

/* Tokens per step that a mixture of n_routed experts, top_k of them used, is read with best. */
int engine_wanted_batch(int n_routed, int top_k);

/* Free bytes of the memory that caches and workspaces come from. */
uint64_t engine_available(const struct engine *e);
/* What a device for steps over n_ctx positions must be made for; the pool is left out. */
struct device_cpu_options device_needs(const struct model *m, bool act_f32, int n_batch,
                                       int64_t n_ctx);
/* Bytes of a workspace for n_ctx positions, before making one, and with the lists of a session. */
uint64_t workspace_bytes(const struct engine *e, int64_t n_ctx);
uint64_t session_list_bytes(const struct model *m, int64_t n_ctx);
/* The context of a new session: as asked, or chosen when 0. ERR_FIT when it does not fit beside
 * what is loaded. */
bool engine_place_session(const struct engine *e, int64_t asked, int64_t *n_ctx,
                          struct error *err);
/* Free memory of the GPU that was found, within the user's limit; 0: there is none. */
uint64_t engine_vram(const struct engine *e);
/* Wishes like these, for the CPU alone. */
struct placement_wishes wishes_of_cpu(const struct placement_wishes *w);
/* Main memory that may be taken now, by what is free and by the user's limit; `held` bytes of it
 * are ours already. */
uint64_t engine_ram(const struct engine *e, uint64_t held);
/* One that fits n_ctx positions: shared where possible. workspace_leave frees it with its last
 * user. */
struct workspace *workspace_join(struct engine *e, int64_t n_ctx, struct error *err);
void workspace_leave(struct engine *e, struct workspace *w);

/* Give up the GPU after `why`: says so in one line, and from here on workspaces are the CPU's. Those
 * of the GPU stay valid to be left, and no more than that. False, nothing changed: there is none
 * in use, or it was asked for by name (GPU_MUST). */
bool engine_leave_gpu(struct engine *e, const struct error *why);

/* A session's cache, for prefix_file.c: where it lies and how much of the timeline it holds. Borrowed
 * until the next call with that session. */
struct session_cache {
    struct device *device;
    const struct kvcache *cache;
    struct draft *draft;  /* NULL: this session does not draft */
    int64_t n_cached;
    const struct arch *arch;
    const struct params *params;
    bool any_position;    /* the cache can go back to any position */
    int32_t *tokens;      /* [n_ctx] of the timeline */
    int64_t n_ctx;
};
/* All that can be there is: a session that lost its GPU has moved, pairs to draft from are read. The
 * device's errors. */
bool session_cache_settle(struct session *s, struct session_cache *c, struct error *err);
/* The cache now holds tokens[0 .. n-1], which the caller has put there behind session_truncate; rings
 * that it came from had seen `newest` positions. */
void session_cache_adopt(struct session *s, int64_t n, int64_t newest);
const struct engine *session_engine(const struct session *s);

#endif
