#include "src/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Messages may quote bytes of an untrusted file; a terminal must never see them raw. */
static void escape_controls(char *text, size_t size)
{
    char clean[sizeof(((struct error *)0)->text)];
    size_t n = 0;
    for (const char *p = text; *p && n + 5 < sizeof clean; p++) {
        unsigned char c = (unsigned char)*p;
        if (c >= 0x20 && c != 0x7f) {
            clean[n++] = *p;
        } else {
            n += (size_t)snprintf(clean + n, sizeof clean - n, "\\x%02x", c);
        }
    }
    clean[n] = 0;
    snprintf(text, size, "%s", clean);
}

bool error_set(struct error *err, enum error_code code, const char *file, int line,
               const char *format, ...)
{
    if (!err || err->code != ERR_NONE)
        return false;
    err->code = code;
    err->file = file;
    err->line = line;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    escape_controls(err->text, sizeof err->text);
    return false;
}

bool error_prefix(struct error *err, const char *format, ...)
{
    if (!err || err->code == ERR_NONE)
        return false;
    char context[512], joined[sizeof err->text + sizeof context + 3];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    snprintf(joined, sizeof joined, "%s: %s", context, err->text);
    joined[sizeof err->text - 1] = 0;
    memcpy(err->text, joined, sizeof err->text);
    escape_controls(err->text, sizeof err->text);
    return false;
}

void error_clear(struct error *err)
{
    if (err)
        memset(err, 0, sizeof *err);
}
