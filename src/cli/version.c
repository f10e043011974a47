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
    buf_printf(out, "instruction sets: %s\n", cpu_isa_name(cpu_isa()));
}
