#include "tools/shapes.h"

#include <stddef.h>
#include <string.h>

#include "src/base/util.h"

/* The tiny ones keep what published models do and change only sizes; the first of an architecture
 * is what --arch alone means. Source of the others: published configurations. */
static const struct shape shapes[] = {
    { "tiny-llama", "llama", .layers = 2, .hidden = 64, .ffn = 128, .heads = 4, .kv_heads = 2,
      .head = 16, .value = 16, .vocab = 320, .context = 4096, .rope_base = 500000,
      .rope_factor = 1, .tied = true, .rope_freqs = true, .pre = "llama-bpe" },
    { "llm-7b", "llama", .layers = 30, .hidden = 4096, .ffn = 11008, .heads = 32, .kv_heads = 32,
      .head = 128, .value = 128, .vocab = 102400, .context = 4096, .rope_base = 10000,
      .rope_factor = 1, .pre = "deepseek-llm" },
    { "distill-llama-8b", "llama", .layers = 32, .hidden = 4096, .ffn = 14336, .heads = 32,
      .kv_heads = 8, .head = 128, .value = 128, .vocab = 128256, .context = 131072,
      .rope_base = 500000, .rope_factor = 1, .rope_freqs = true, .pre = "llama-bpe" },
    { "tiny-qwen2", "qwen2", .layers = 2, .hidden = 64, .ffn = 128, .heads = 4, .kv_heads = 2,
      .head = 16, .value = 16, .vocab = 320, .context = 4096, .rope_base = 1000000,
      .rope_factor = 1, .pre = "qwen2" },
    { "distill-qwen-1.5b", "qwen2", .layers = 28, .hidden = 1536, .ffn = 8960, .heads = 12,
      .kv_heads = 2, .head = 128, .value = 128, .vocab = 151936, .context = 131072,
      .rope_base = 10000, .rope_factor = 1, .pre = "qwen2" },
    { "tiny-qwen3", "qwen3", .layers = 2, .hidden = 64, .ffn = 128, .heads = 4, .kv_heads = 2,
      .head = 32, .value = 32, .vocab = 320, .context = 4096, .rope_base = 1000000,
      .rope_factor = 4, .original_context = 64, .pre = "qwen2" },
    { "r1-qwen3-8b", "qwen3", .layers = 36, .hidden = 4096, .ffn = 12288, .heads = 32,
      .kv_heads = 8, .head = 128, .value = 128, .vocab = 151936, .context = 131072,
      .rope_base = 1000000, .rope_factor = 4, .original_context = 32768, .pre = "qwen2" },
    { "tiny-deepseek", "deepseek", .layers = 3, .hidden = 64, .ffn = 128, .heads = 4,
      .kv_heads = 4, .head = 16, .value = 16, .routed = 16, .top_k = 4, .shared = 2, .expert = 32,
      .dense_lead = 1, .gating = 1, .scale = 1.0f, .vocab = 320, .context = 4096,
      .rope_base = 10000, .rope_factor = 1, .pre = "deepseek-llm" },
    { "moe-16b", "deepseek", .layers = 28, .hidden = 2048, .ffn = 10944, .heads = 16,
      .kv_heads = 16, .head = 128, .value = 128, .routed = 64, .top_k = 6, .shared = 2,
      .expert = 1408, .dense_lead = 1, .gating = 1, .scale = 1.0f, .vocab = 102400,
      .context = 4096, .rope_base = 10000, .rope_factor = 1, .pre = "deepseek-llm" },
    { "tiny-v3", "deepseek2", .layers = 3, .hidden = 64, .ffn = 128, .heads = 4, .kv_heads = 4,
      .head = 48, .q_rank = 48, .kv_rank = 64, .nope = 32, .rotary = 16, .value = 32,
      .routed = 256, .top_k = 8, .shared = 1, .expert = 32, .dense_lead = 1, .groups = 8,
      .groups_used = 4, .gating = 2, .scale = 2.5f, .vocab = 320, .context = 4096,
      .rope_base = 10000, .rope_factor = 40, .original_context = 64, .log_multiplier = 0.1,
      .beta_fast = 32, .pre = "deepseek-v3" },
    { "tiny-v2", "deepseek2", .layers = 3, .hidden = 64, .ffn = 128, .heads = 4, .kv_heads = 4,
      .head = 48, .q_rank = 48, .kv_rank = 64, .nope = 32, .rotary = 16, .value = 32,
      .routed = 160, .top_k = 6, .shared = 2, .expert = 32, .dense_lead = 1, .groups = 8,
      .groups_used = 3, .gating = 1, .scale = 16.0f, .vocab = 320, .context = 4096,
      .rope_base = 10000, .rope_factor = 40, .original_context = 64, .log_multiplier = 0.1,
      .beta_fast = 32, .pre = "deepseek-llm" },
    { "tiny-v2-lite", "deepseek2", .layers = 3, .hidden = 64, .ffn = 128, .heads = 4,
      .kv_heads = 4, .head = 48, .kv_rank = 64, .nope = 32, .rotary = 16, .value = 32,
      .routed = 64, .top_k = 6, .shared = 2, .expert = 32, .dense_lead = 1, .groups = 1,
      .groups_used = 1, .gating = 1, .scale = 1.0f, .vocab = 320, .context = 4096,
      .rope_base = 10000, .rope_factor = 40, .original_context = 64, .log_multiplier = 0.0707,
      .beta_fast = 32, .pre = "deepseek-llm" },
    { "tiny-kimi", "deepseek2", .layers = 3, .hidden = 64, .ffn = 128, .heads = 4, .kv_heads = 4,
      .head = 48, .q_rank = 48, .kv_rank = 64, .nope = 32, .rotary = 16, .value = 32,
      .routed = 384, .top_k = 8, .shared = 1, .expert = 32, .dense_lead = 1, .groups = 1,
      .groups_used = 1, .gating = 2, .scale = 2.827f, .vocab = 320, .context = 4096,
      .rope_base = 50000, .rope_factor = 32, .original_context = 64, .log_multiplier = 0.1,
      .beta_fast = 1, .pre = "kimi-k2" },
    { "v2-lite", "deepseek2", .layers = 27, .hidden = 2048, .ffn = 10944, .heads = 16,
      .kv_heads = 16, .head = 192, .kv_rank = 512, .nope = 128, .rotary = 64, .value = 128,
      .routed = 64, .top_k = 6, .shared = 2, .expert = 1408, .dense_lead = 1, .groups = 1,
      .groups_used = 1, .gating = 1, .scale = 1.0f, .vocab = 102400, .context = 163840,
      .rope_base = 10000, .rope_factor = 40, .original_context = 4096, .log_multiplier = 0.0707,
      .beta_fast = 32, .pre = "deepseek-llm" },
    { "v2", "deepseek2", .layers = 60, .hidden = 5120, .ffn = 12288, .heads = 128, .kv_heads = 128,
      .head = 192, .q_rank = 1536, .kv_rank = 512, .nope = 128, .rotary = 64, .value = 128,
      .routed = 160, .top_k = 6, .shared = 2, .expert = 1536, .dense_lead = 1, .groups = 8,
      .groups_used = 3, .gating = 1, .scale = 16.0f, .vocab = 102400, .context = 163840,
      .rope_base = 10000, .rope_factor = 40, .original_context = 4096, .log_multiplier = 0.1,
      .beta_fast = 32, .pre = "deepseek-llm" },
    { "v3", "deepseek2", .layers = 61, .hidden = 7168, .ffn = 18432, .heads = 128, .kv_heads = 128,
      .head = 192, .q_rank = 1536, .kv_rank = 512, .nope = 128, .rotary = 64, .value = 128,
      .routed = 256, .top_k = 8, .shared = 1, .expert = 2048, .dense_lead = 3, .groups = 8,
      .groups_used = 4, .gating = 2, .scale = 2.5f, .vocab = 129280, .context = 163840,
      .rope_base = 10000, .rope_factor = 40, .original_context = 4096, .log_multiplier = 0.1,
      .beta_fast = 32, .pre = "deepseek-v3" },
    { "v3-1025", "deepseek2", .layers = 61, .hidden = 7168, .ffn = 18432, .heads = 128,
      .kv_heads = 128, .head = 192, .q_rank = 1536, .kv_rank = 512, .nope = 128, .rotary = 64,
      .value = 128, .routed = 256, .top_k = 8, .shared = 1, .expert = 2048, .dense_lead = 3,
      .groups = 8, .groups_used = 4, .gating = 2, .scale = 2.5f, .vocab = 129280,
      .context = 163840, .rope_base = 10000, .rope_factor = 40, .original_context = 4096,
      .log_multiplier = 0.1, .beta_fast = 32, .pre = "deepseek-v3", .generation = "a" },
    { "kimi-k2", "deepseek2", .layers = 61, .hidden = 7168, .ffn = 18432, .heads = 64,
      .kv_heads = 64, .head = 192, .q_rank = 1536, .kv_rank = 512, .nope = 128, .rotary = 64,
      .value = 128, .routed = 384, .top_k = 8, .shared = 1, .expert = 2048, .dense_lead = 1,
      .groups = 1, .groups_used = 1, .gating = 2, .scale = 2.827f, .vocab = 163840,
      .context = 131072, .rope_base = 50000, .rope_factor = 32, .original_context = 4096,
      .log_multiplier = 0.1, .beta_fast = 1, .pre = "kimi-k2" },
    { "tiny-v3.2", "deepseek32", .layers = 3, .hidden = 64, .ffn = 128, .heads = 4, .kv_heads = 4,
      .head = 48, .q_rank = 48, .kv_rank = 64, .nope = 32, .rotary = 16, .value = 32,
      .routed = 256, .top_k = 8, .shared = 1, .expert = 32, .dense_lead = 1, .groups = 8,
      .groups_used = 4, .gating = 2, .scale = 2.5f, .vocab = 320, .context = 4096,
      .rope_base = 10000, .rope_factor = 40, .original_context = 64, .log_multiplier = 0.1,
      .beta_fast = 32, .pre = "deepseek-v3", .index_heads = 4, .index_dim = 32, .index_top_k = 16 },
    { "v3.2", "deepseek32", .layers = 61, .hidden = 7168, .ffn = 18432, .heads = 128,
      .kv_heads = 128, .head = 192, .q_rank = 1536, .kv_rank = 512, .nope = 128, .rotary = 64,
      .value = 128, .routed = 256, .top_k = 8, .shared = 1, .expert = 2048, .dense_lead = 3,
      .groups = 8, .groups_used = 4, .gating = 2, .scale = 2.5f, .vocab = 129280,
      .context = 163840, .rope_base = 10000, .rope_factor = 40, .original_context = 4096,
      .log_multiplier = 0.1, .beta_fast = 32, .pre = "deepseek-v3", .index_heads = 64,
      .index_dim = 128, .index_top_k = 2048 },
    { "v3.2-cut", "deepseek32", .layers = 4, .hidden = 7168, .ffn = 18432, .heads = 128,
      .kv_heads = 128, .head = 192, .q_rank = 1536, .kv_rank = 512, .nope = 128, .rotary = 64,
      .value = 128, .routed = 32, .top_k = 8, .shared = 1, .expert = 2048, .dense_lead = 1,
      .groups = 8, .groups_used = 4, .gating = 2, .scale = 2.5f, .vocab = 129280,
      .context = 163840, .rope_base = 10000, .rope_factor = 40, .original_context = 4096,
      .log_multiplier = 0.1, .beta_fast = 32, .pre = "deepseek-v3", .index_heads = 64,
      .index_dim = 128, .index_top_k = 2048 },
    { "tiny-v4", "deepseek4", .layers = 6, .hidden = 64, .heads = 4, .kv_heads = 1, .head = 32,
      .q_rank = 48, .rotary = 16, .value = 32, .routed = 16, .top_k = 6, .shared = 1, .expert = 32,
      .gating = 4, .scale = 1.5f, .vocab = 320, .context = 4096, .rope_base = 10000,
      .rope_factor = 16, .original_context = 64, .beta_fast = 32, .pre = "deepseek-v3",
      .index_heads = 4, .index_dim = 32, .index_top_k = 16, .window = 8, .out_groups = 2,
      .out_rank = 16, .streams = 4, .hash_layers = 3, .compress_base = 160000 },
    { "v4-flash", "deepseek4", .layers = 43, .hidden = 4096, .heads = 64, .kv_heads = 1,
      .head = 512, .q_rank = 1024, .rotary = 64, .value = 512, .routed = 256, .top_k = 6,
      .shared = 1, .expert = 2048, .gating = 4, .scale = 1.5f, .vocab = 129280, .context = 1048576,
      .rope_base = 10000, .rope_factor = 16, .original_context = 65536, .beta_fast = 32,
      .pre = "deepseek-v3", .index_heads = 64, .index_dim = 128, .index_top_k = 512, .window = 128,
      .out_groups = 8, .out_rank = 1024, .streams = 4, .hash_layers = 3, .compress_base = 160000 },
    /* an eighth of v4-flash in small: its layers' shapes, fewer experts to choose from */
    { "v4-flash-cut", "deepseek4", .layers = 8, .hidden = 4096, .heads = 64, .kv_heads = 1,
      .head = 512, .q_rank = 1024, .rotary = 64, .value = 512, .routed = 64, .top_k = 6,
      .shared = 1, .expert = 2048, .gating = 4, .scale = 1.5f, .vocab = 129280, .context = 1048576,
      .rope_base = 10000, .rope_factor = 16, .original_context = 65536, .beta_fast = 32,
      .pre = "deepseek-v3", .index_heads = 64, .index_dim = 128, .index_top_k = 512, .window = 128,
      .out_groups = 8, .out_rank = 1024, .streams = 4, .hash_layers = 3, .compress_base = 160000 },
    { "v4-pro", "deepseek4", .layers = 61, .hidden = 7168, .heads = 128, .kv_heads = 1,
      .head = 512, .q_rank = 1536, .rotary = 64, .value = 512, .routed = 384, .top_k = 6,
      .shared = 1, .expert = 3072, .gating = 4, .scale = 2.5f, .vocab = 129280, .context = 1048576,
      .rope_base = 10000, .rope_factor = 16, .original_context = 65536, .beta_fast = 32,
      .pre = "deepseek-v3", .index_heads = 64, .index_dim = 128, .index_top_k = 1024,
      .window = 128, .out_groups = 16, .out_rank = 1024, .streams = 4, .hash_layers = 3,
      .compress_base = 160000 },
};

static const struct generation generations[] = {
    { .name = "a", .kv_b = true },
    { .name = "a-ik", .kv_b = true, .split = true, .folded = true },
    { .name = "b", .split = true },
    { .name = "b+", .split = true, .groups = true },
    { .name = "b++", .split = true, .groups = true, .betas = true },
    { .name = "b-mtp", .split = true, .groups = true, .betas = true, .mtp = true },
    { .name = "b-mtp-halves", .split = true, .groups = true, .betas = true, .mtp = true,
      .halves = true },
    { .name = "b-mtp-own", .split = true, .groups = true, .betas = true, .mtp = true, .own = true },
    { .name = "arrays", .split = true, .groups = true, .betas = true, .arrays = true,
      .old_names = true },
    { .name = "fused", .split = true, .groups = true, .betas = true, .fused = true },
};

const struct shape *shape_at(int index)
{
    return index >= 0 && index < (int)ARRAY_LEN(shapes) ? &shapes[index] : NULL;
}

const struct shape *shape_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

const struct shape *shape_of_arch(const char *arch)
{
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        if (strcmp(shapes[i].arch, arch) == 0)
            return &shapes[i];
    return NULL;
}

const struct generation *generation_at(int index)
{
    return index >= 0 && index < (int)ARRAY_LEN(generations) ? &generations[index] : NULL;
}

const struct generation *generation_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(generations); i++)
        if (strcmp(generations[i].name, name) == 0)
            return &generations[i];
    return NULL;
}

/* The first two layers of V4-Flash have no compression, those of V4-Pro sum up 128 positions; then
 * 4 and 128 take turns. */
int shape_ratio(const struct shape *s, int layer)
{
    bool wide = s->layers % 2 && s->layers > 50;
    if (!s->compress_base)
        return 0;
    if (layer < 2)
        return wide ? 128 : 0;
    return layer % 2 ? 128 : 4;
}
