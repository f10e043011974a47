#include "src/cli/wrap.h"

#include <stdio.h>

#include "src/cli/styled.h"
#include "src/cli/width.h"

/* Bytes of `line` up to where its rest is aligned: behind the blanks at its start, or behind the last
 * two blanks within half of the window. */
static size_t aligned_at(struct str line, int columns)
{
    size_t at = 0, n;
    int column = 0;
    while (at < line.len && line.data[at] == ' ')
        at++;
    column = (int)at;
    for (size_t i = at; i + 1 < line.len && column < columns / 2; i += n) {
        column += width_next((struct str){ line.data + i, line.len - i }, &n);
        if (i > at && line.data[i] == ' ' && line.data[i - 1] == ' ' && line.data[i + 1] != ' ')
            at = i + 1;
    }
    return at;
}

static void wrap_line(struct buf *out, struct str line, int columns)
{
    char first[sizeof ((struct margin *)0)->first], rest[sizeof first];
    size_t at = aligned_at(line, columns), blanks = strspn(line.data, " ");
    bool hang = at > 0 && at == blanks; /* a row of a list: what goes on stands a little deeper */
    struct margins margins = { 0 };
    struct styled text = { 0 };
    if (at >= sizeof first)
        at = 0;
    snprintf(first, sizeof first, "%.*s", (int)at, line.data);
    snprintf(rest, sizeof rest, "%*s", width_of(str_of(first)) + 2 * hang, "");
    margins_push(&margins, first, rest);
    styled_add(&text, (struct str){ line.data + at, line.len - at }, 0);
    styled_wrap(out, &text, &margins, columns - 2 * hang, false, PALETTE_PLAIN);
    out->out_of_memory |= text.text.out_of_memory;
    styled_release(&text);
}

void wrap_lines(struct buf *out, struct str text, int columns)
{
    while (text.len > 0) {
        const char *newline = memchr(text.data, '\n', text.len);
        size_t n = newline ? (size_t)(newline - text.data) : text.len;
        struct str line = { text.data, n };
        if (width_of(line) <= columns) {
            buf_add(out, line.data, line.len);
            buf_puts(out, "\n");
        } else {
            wrap_line(out, line, columns);
        }
        n += newline ? 1 : 0;
        text = (struct str){ text.data + n, text.len - n };
    }
}
