#include "src/cli/version.h"

#include "cpu/features.h"
#include "src/cli/json.h"
#include "src/cli/line.h"
#include "src/gpu_load.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

const char *version_prefix(void)
{
    return TANDEM_PREFIX;
}

const char *version_number(void)
{
    return TANDEM_VERSION;
}

const char *version_commit(void)
{
    return TANDEM_COMMIT;
}

static void gpu_line(struct buf *out)
{
    struct error err = { 0 };
    const struct gpu_library *gpu = gpu_load(&err);
    if (!gpu)
        buf_printf(out, "GPU: %s\n", err.text);
    else
        buf_printf(out, "GPU: library of interface %d; tandem bench --probe tells of the card\n",
                   GPU_ABI);
}

void version_print(struct buf *out)
{
    buf_printf(out, "tandem %s (%s)\n", TANDEM_VERSION, TANDEM_COMMIT);
    buf_printf(out, "compiler: %s\n", COMPILER);
    buf_printf(out, "line editing: %s; JSON: %s\n", line_library(),
               js_available(NULL) ? "jansson" : "left out");
    gpu_line(out);
    static const unsigned sets[] = { ISA_AVX2, ISA_AVXVNNI, ISA_AVX512, ISA_AMX, ISA_NEON };
    buf_puts(out, "instruction sets:");
    for (size_t i = 0; i < ARRAY_LEN(sets); i++)
        if (cpu_isa() & sets[i])
            buf_printf(out, " %s", cpu_isa_name(sets[i]));
    buf_puts(out, cpu_isa() ? "\n" : " plain C\n");
}
