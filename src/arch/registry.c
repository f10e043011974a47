#include "src/arch/registry.h"

#include "src/base/util.h"

static const struct arch *const known[] = {
    &arch_llama,
    &arch_qwen2,
    &arch_qwen3,
    &arch_deepseek,
    &arch_deepseek2,
    &arch_deepseek32,
    &arch_deepseek4,
};

const struct arch *arch_at(int index)
{
    return index >= 0 && index < (int)ARRAY_LEN(known) ? known[index] : NULL;
}

const struct arch *arch_find(struct str name)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (str_is(name, known[i]->name))
            return known[i];
    }
    return NULL;
}
