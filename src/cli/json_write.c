#include <stdio.h>
#include <stdlib.h>

#include "src/cli/buf.h"
#include "src/cli/json.h"

void js_write_text(struct buf *out, struct str text)
{
    static const char named[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    buf_puts(out, "\"");
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.data[i];
        const char *at = c ? strchr(named, c) : NULL;
        if (at)
            buf_printf(out, "\\%c", letters[at - named]);
        else if (c < 0x20)
            buf_printf(out, "\\u%04x", c);
        else
            buf_add(out, &text.data[i], 1);
    }
    buf_puts(out, "\"");
}

/* The fewest digits that are read back as the same number; with an exponent outside of 1e-4 .. 1e16. */
static void write_real(struct buf *out, double v)
{
    char text[32];
    int n = 0;
    do
        snprintf(text, sizeof text, "%.*e", n, v);
    while (++n < 18 && strtod(text, NULL) != v);
    int exponent = atoi(strchr(text, 'e') + 1);
    if (exponent >= -4 && exponent < 16)
        buf_printf(out, "%.*f", n - 1 > exponent ? n - 1 - exponent : 1, v);
    else
        buf_puts(out, text);
}

void js_write(struct buf *out, const struct json *j)
{
    struct str text;
    int64_t integer;
    double real;
    bool truth;
    if (js_as_text(j, &text)) {
        js_write_text(out, text);
    } else if (js_as_int(j, &integer)) {
        buf_printf(out, "%lld", (long long)integer);
    } else if (js_as_real(j, &real)) {
        write_real(out, real);
    } else if (js_as_bool(j, &truth)) {
        buf_puts(out, truth ? "true" : "false");
    } else if (js_is_array(j)) {
        buf_puts(out, "[");
        for (size_t i = 0; i < js_count(j); i++) {
            buf_puts(out, i ? ", " : "");
            js_write(out, js_at(j, i));
        }
        buf_puts(out, "]");
    } else if (js_is_object(j)) {
        struct js_cursor at = { 0 };
        buf_puts(out, "{");
        for (bool first = true; js_next(j, &at); first = false) {
            buf_puts(out, first ? "" : ", ");
            js_write_text(out, str_of(at.key));
            buf_puts(out, ": ");
            js_write(out, at.value);
        }
        buf_puts(out, "}");
    } else {
        buf_puts(out, "null");
    }
}
