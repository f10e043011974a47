#include "src/text/presplit.h"

const char *presplit_name(struct str pre)
{
    static const struct { const char *alias, *name; } table[] = {
        { "deepseek-llm", "deepseek-llm" },
        { "deepseek-coder", "deepseek-coder" },
        { "deepseek-v3", "deepseek-v3" },
        { "joyai-llm", "deepseek-v3" },
        { "hunyuan-dense", "deepseek-v3" },
        { "qwen2", "qwen2" },
        { "deepseek-r1-qwen", "qwen2" },
        { "llama-bpe", "llama-bpe" },
        { "llama3", "llama-bpe" },
        { "llama-v3", "llama-bpe" },
        { "kimi-k2", "kimi-k2" },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (str_is(pre, table[i].alias))
            return table[i].name;
    return NULL;
}
