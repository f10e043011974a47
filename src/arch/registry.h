/* Every architecture: one file, one line here, one line in registry.c. */
#ifndef TANDEM_ARCH_REGISTRY_H
#define TANDEM_ARCH_REGISTRY_H

#include "src/model/arch.h"

extern const struct arch arch_llama, arch_qwen2, arch_qwen3, arch_deepseek, arch_deepseek2,
    arch_deepseek32, arch_deepseek4;

#endif
