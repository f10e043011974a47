/* Code between fences. Its lines stand at the margin, so that they can be copied from the screen. */
#include "src/cli/markdown.h"
#include "src/cli/width.h"

#define RULE_COLUMNS 24

static void put_rule(struct buf *out, struct str name, struct margins *m,
                     const struct markdown_options *o)
{
    struct styled rule = { 0 };
    int n = min_of(RULE_COLUMNS, o->columns - margins_columns(m));
    if (name.len > 0 && width_of(name) + 4 < n) {
        styled_add(&rule, str_of("── "), LOOK_DIM);
        styled_add(&rule, name, LOOK_DIM);
        styled_add(&rule, str_of(" "), LOOK_DIM);
        n -= width_of(name) + 4;
    }
    while (n-- > 0)
        styled_add(&rule, str_of("─"), LOOK_DIM);
    margins_put(m, out, false, o->palette);
    styled_put(out, &rule, 0, rule.text.len, o->palette);
    buf_puts(out, "\n");
    styled_release(&rule);
}

void markdown_code_open(struct buf *out, struct highlight *h, struct str language,
                        struct margins *m, const struct markdown_options *o)
{
    size_t n = 0; /* "python title=x": the first word */
    while (n < language.len && !strchr(" \t{,", language.data[n]))
        n++;
    language.len = n;
    highlight_open(h, language);
    put_rule(out, language, m, o);
}

void markdown_code_line(struct buf *out, struct highlight *h, struct str line, struct margins *m,
                        const struct markdown_options *o)
{
    struct styled text = { 0 };
    highlight_line(h, line, &text);
    styled_wrap(out, &text, m, o->columns, true, o->palette);
    styled_release(&text);
}

void markdown_code_close(struct buf *out, struct margins *m, const struct markdown_options *o)
{
    put_rule(out, (struct str){ "", 0 }, m, o);
}
