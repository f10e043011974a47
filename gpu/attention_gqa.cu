/* Grouped-query attention (Ainslie et al. 2023): the kernels are those of gpu/attend.cu.
 *
 * A group of query heads shares its keys, so the cache is read once whatever the group's size; see
 * there for bytes and operations. */
#include "gpu/attend.cuh"

void gpu_attention_gqa(struct gpu_stream *s, struct rows dst, struct rows q, const void *k,
                       const void *v, enum tensor_type cache_type, int n_heads, int n_kv_heads,
                       int head_dim, float scale, const struct gpu_step *step, int64_t kv_bound,
                       int n_tokens)
{
    struct attend a = {};
    a.q = q.data;
    a.q_stride = q.stride;
    a.q_head = head_dim;
    a.k = k;
    a.v = v;
    a.k_stride = a.v_stride = (int64_t)n_kv_heads * head_dim;
    a.k_head = a.v_head = head_dim;
    a.key = a.value = head_dim;
    a.n_heads = n_heads;
    a.group = n_heads / n_kv_heads;
    a.n_tokens = n_tokens;
    a.scale = scale;
    a.n_positions = kv_bound;
    a.step = step;
    int n_splits = attend_splits(s, &a, cache_type, s->scratch, false);
    attend_run(s, &a, cache_type, n_splits);
    attend_merge(s, &a, n_splits, dst.data, dst.stride);
}

size_t gpu_attention_scratch(const struct gpu_limits *l) { return attend_scratch(l); }
