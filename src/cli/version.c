#include "src/cli/version.h"

#include "cpu/features.h"
#include "src/cli/json.h"
#include "src/cli/line.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

const char *version_prefix(void)
{
    return TANDEM_PREFIX;
}

const char *version_commit(void)
{
    return TANDEM_COMMIT;
}

void version_print(struct buf *out)
{
    buf_printf(out, "tandem %s (%s)\n", TANDEM_VERSION, TANDEM_COMMIT);
    buf_printf(out, "compiler: %s\n", COMPILER);
    buf_printf(out, "line editing: %s; JSON: %s\n", line_library(),
               js_available(NULL) ? "jansson" : "left out");
    buf_puts(out, "CUDA: none, this version computes on the CPU\n");
    static const unsigned sets[] = { ISA_AVX2, ISA_AVX512, ISA_AMX, ISA_NEON };
    buf_puts(out, "instruction sets:");
    for (size_t i = 0; i < ARRAY_LEN(sets); i++)
        if (cpu_isa() & sets[i])
            buf_printf(out, " %s", cpu_isa_name(sets[i]));
    buf_puts(out, cpu_isa() ? "\n" : " plain C\n");
}
