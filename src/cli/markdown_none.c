/* Twin of markdown.c for builds without md4c: Markdown is shown as it was written. */
#include "src/cli/markdown.h"

bool markdown_available(void)
{
    return false;
}

bool markdown_render(struct buf *out, struct str source, const struct markdown_options *o,
                     struct error *err)
{
    struct styled text = { 0 };
    struct margins none = { 0 };
    while (source.len && source.data[source.len - 1] == '\n')
        source.len--;
    styled_add(&text, source, 0);
    styled_wrap(out, &text, &none, o->columns, false, o->palette);
    styled_release(&text);
    return buf_ok(out, err);
}
