/* The two halves of kv_b_proj, as absorbed attention wants them (gguf: attn_k_b, attn_v_b).
 *
 *     kv_b  [heads][nope + value][rank]            one matrix, as checkpoints and older files have it
 *     k_b   [heads][rank][nope]                    the key part of each head, transposed
 *     v_b   [heads][value][rank]                   the value part, row for row
 *
 * Both are views: sources for transcode that read from a source of kv_b. */
#ifndef TANDEM_TOOLS_KV_B_H
#define TANDEM_TOOLS_KV_B_H

#include "tools/transcode.h"

struct kv_b_shape {
    int64_t heads, nope, value, rank;
};

/* What a view remembers; lives as long as its source. */
struct kv_b_view {
    struct transcode_source kv_b;
    struct kv_b_shape shape;
    size_t row_bytes; /* of kv_b where its rows may be copied */
};

struct transcode_source kv_b_keys(struct kv_b_view *view, const struct transcode_source *kv_b,
                                  const struct kv_b_shape *shape);
struct transcode_source kv_b_values(struct kv_b_view *view, const struct transcode_source *kv_b,
                                    const struct kv_b_shape *shape, size_t row_bytes);

#endif
