#include "src/base/log.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

static log_sink *current_sink;
static void *current_ctx;

void log_set_sink(log_sink *sink, void *ctx)
{
    current_sink = sink;
    current_ctx = ctx;
}

void log_line(enum log_level level, const char *format, ...)
{
    if (!current_sink)
        return;
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    current_sink(current_ctx, level, line);
}
