#include "src/cli/blocks.h"

#include <ctype.h>

/* ---- what a line is -------------------------------------------------------------------------- */

/* Columns of white space at the start; *at is set behind it. */
static int indent_of(struct str line, size_t *at)
{
    int columns = 0;
    for (*at = 0; *at < line.len; ++*at) {
        if (line.data[*at] == ' ')
            columns++;
        else if (line.data[*at] == '\t')
            columns += 4 - columns % 4;
        else
            break;
    }
    return columns;
}

static bool is_blank(struct str line)
{
    size_t at;
    indent_of(line, &at);
    return at == line.len;
}

/* How often `c` stands at `at`. */
static int run_of(struct str line, size_t at, char c)
{
    int n = 0;
    while (at + (size_t)n < line.len && line.data[at + (size_t)n] == c)
        n++;
    return n;
}

/* A fence that opens a block of code: its length, 0: none. */
static int fence_of(struct str line, char *c, int *indent)
{
    size_t at;
    *indent = indent_of(line, &at);
    if (*indent > 3 || at == line.len || (line.data[at] != '`' && line.data[at] != '~'))
        return 0;
    *c = line.data[at];
    int n = run_of(line, at, *c);
    bool inline_code = *c == '`' && memchr(line.data + at + n, '`', line.len - at - (size_t)n);
    return n >= 3 && !inline_code ? n : 0;
}

static bool is_heading(struct str line)
{
    size_t at;
    if (indent_of(line, &at) > 3)
        return false;
    int n = run_of(line, at, '#');
    at += (size_t)n;
    return n >= 1 && n <= 6 && (at == line.len || line.data[at] == ' ' || line.data[at] == '\t');
}

/* Three or more of one of "-*_" and blanks; or with `setext` a row of "=" or "-". */
static bool is_rule(struct str line, bool setext)
{
    size_t at;
    int n = 0;
    if (indent_of(line, &at) > 3 || at == line.len || !strchr(setext ? "=-" : "-*_", line.data[at]))
        return false;
    for (size_t i = at; i < line.len; i++) {
        bool white = line.data[i] == ' ' || line.data[i] == '\t';
        if (!white && line.data[i] != line.data[at])
            return false;
        n += !white;
    }
    return n >= (setext ? 1 : 3);
}

static bool is_quote(struct str line)
{
    size_t at;
    return indent_of(line, &at) <= 3 && at < line.len && line.data[at] == '>';
}

/* An item of a list at the left margin; *number is -1 for a bullet. *empty: nothing behind it. */
static bool is_item(struct str line, int *number, bool *empty)
{
    size_t at;
    *number = -1;
    if (indent_of(line, &at) > 1 || at == line.len)
        return false;
    size_t digits = at;
    while (digits < line.len && digits - at < 9 && isdigit((unsigned char)line.data[digits]))
        digits++;
    if (digits > at) {
        *number = 0;
        for (size_t i = at; i < digits; i++)
            *number = 10 * *number + (line.data[i] - '0');
        at = digits;
        if (at == line.len || !strchr(".)", line.data[at]))
            return false;
    } else if (!strchr("-+*", line.data[at])) {
        return false;
    }
    at++;
    if (at < line.len && line.data[at] != ' ' && line.data[at] != '\t')
        return false;
    *empty = is_blank((struct str){ line.data + at, line.len - at });
    return true;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void put_gap(struct blocks *b)
{
    if (b->gap && b->wrote)
        buf_puts(&b->done, "\n");
    b->gap = false;
}

/* An ordered list goes on counting where every item is written as "1.". */
static int first_number(const struct blocks *b)
{
    return b->last_number >= 0 && b->number >= 0 && b->number <= b->last_number
               ? b->last_number + 1 : b->number;
}

/* The open block is complete. */
static bool finish(struct blocks *b, struct error *err)
{
    struct margins none = { 0 };
    bool ok = true;
    if (b->kind == BLOCK_FENCE) {
        markdown_code_close(&b->done, &none, &b->options);
        b->wrote = true;
    } else if (b->kind != BLOCK_NONE) {
        struct markdown_options o = b->options;
        o.first_number = first_number(b);
        put_gap(b);
        ok = markdown_render(&b->done, buf_str(&b->open), &o, err);
        b->last_number = b->kind == BLOCK_LIST ? o.first_number : -1;
        b->wrote = true;
    }
    buf_clear(&b->open);
    b->gap = b->blank;
    b->blank = false;
    b->kind = BLOCK_NONE;
    return ok && buf_ok(&b->done, err);
}

static void append(struct blocks *b, struct str line)
{
    buf_add(&b->open, line.data, line.len);
    buf_puts(&b->open, "\n");
}

/* A line with which a new block begins. */
static bool begin(struct blocks *b, struct str line, struct error *err)
{
    struct margins none = { 0 };
    int number, indent;
    bool empty;
    char c;
    size_t at;
    int n = fence_of(line, &c, &indent);
    if (n > 0) {
        struct str name = { line.data + indent + n, line.len - (size_t)(indent + n) };
        while (name.len && name.data[0] == ' ')
            name = (struct str){ name.data + 1, name.len - 1 };
        put_gap(b);
        b->kind = BLOCK_FENCE;
        b->fence = c;
        b->fence_length = n;
        b->fence_indent = indent;
        b->last_number = -1;
        markdown_code_open(&b->done, &b->highlight, name, &none, &b->options);
        return buf_ok(&b->done, err);
    }
    append(b, line);
    b->number = -1;
    b->kind = BLOCK_TEXT;
    if (is_heading(line) || is_rule(line, false))
        return finish(b, err);
    if (is_item(line, &number, &empty)) {
        b->kind = BLOCK_LIST;
        b->number = number;
    } else if (is_quote(line)) {
        b->kind = BLOCK_QUOTE;
    } else if (indent_of(line, &at) >= 4) {
        b->kind = BLOCK_INDENTED;
    }
    return true;
}

/* Does this line end a paragraph although no blank line came before? */
static bool interrupts(const struct blocks *b, struct str line)
{
    int number, indent;
    bool empty;
    char c;
    if (fence_of(line, &c, &indent) || is_heading(line) || is_rule(line, false))
        return true;
    if (is_item(line, &number, &empty))
        return b->kind == BLOCK_LIST || (!empty && number <= 1);
    return is_quote(line) && b->kind != BLOCK_QUOTE;
}

/* Does the line belong to the open block? */
static bool belongs(const struct blocks *b, struct str line)
{
    size_t at;
    int indent = indent_of(line, &at);
    switch (b->kind) {
    case BLOCK_TEXT:
        return is_rule(line, true) || !interrupts(b, line);
    case BLOCK_LIST:
        return indent >= 2 || (!b->blank && !interrupts(b, line));
    case BLOCK_QUOTE:
        return !b->blank && (is_quote(line) || !interrupts(b, line));
    case BLOCK_INDENTED:
        return indent >= 4;
    default:
        return false;
    }
}

/* A line of a block of code, or the fence that ends it. */
static bool take_code(struct blocks *b, struct str line, struct error *err)
{
    struct margins none = { 0 };
    size_t at;
    int indent = indent_of(line, &at), n = run_of(line, at, b->fence);
    struct str rest = { line.data + at + n, line.len - at - (size_t)n };
    if (indent <= 3 && n >= b->fence_length && is_blank(rest))
        return finish(b, err);
    size_t cut = min_of(at, (size_t)b->fence_indent);
    markdown_code_line(&b->done, &b->highlight, (struct str){ line.data + cut, line.len - cut },
                       &none, &b->options);
    b->wrote = true;
    return buf_ok(&b->done, err);
}

static bool take_plain(struct blocks *b, struct str line, struct error *err)
{
    struct styled text = { 0 };
    struct margins none = { 0 };
    styled_add(&text, line, b->look);
    styled_wrap(&b->done, &text, &none, b->options.columns, false, b->options.palette);
    styled_release(&text);
    return buf_ok(&b->done, err);
}

/* A whole line, without its newline. */
static bool take_line(struct blocks *b, struct str line, struct error *err)
{
    if (b->plain)
        return take_plain(b, line, err);
    if (b->kind == BLOCK_FENCE)
        return take_code(b, line, err);
    if (is_blank(line)) {
        if (b->kind == BLOCK_TEXT || b->kind == BLOCK_QUOTE) {
            b->blank = true;
            return finish(b, err);
        }
        b->gap = b->gap || b->kind == BLOCK_NONE;
        b->blank = b->kind != BLOCK_NONE;
        return true;
    }
    if (b->kind == BLOCK_NONE)
        return begin(b, line, err);
    if (!belongs(b, line))
        return finish(b, err) && begin(b, line, err);
    if (b->blank)
        append(b, (struct str){ "", 0 });
    b->blank = false;
    append(b, line);
    bool underlined = b->kind == BLOCK_TEXT && is_rule(line, true);
    return buf_ok(&b->open, err) && (!underlined || finish(b, err));
}

bool blocks_feed(struct blocks *b, const char *bytes, size_t len, struct error *err)
{
    while (len > 0) {
        const char *newline = memchr(bytes, '\n', len);
        size_t n = newline ? (size_t)(newline - bytes) : len;
        buf_add(&b->line, bytes, n);
        if (!buf_ok(&b->line, err))
            return false;
        if (!newline)
            return true;
        if (!take_line(b, buf_str(&b->line), err))
            return false;
        buf_clear(&b->line);
        bytes += n + 1;
        len -= n + 1;
    }
    return true;
}

bool blocks_end(struct blocks *b, struct error *err)
{
    bool ok = b->line.len == 0 || take_line(b, buf_str(&b->line), err);
    buf_clear(&b->line);
    b->blank = false;
    return ok && finish(b, err);
}

void blocks_release(struct blocks *b)
{
    buf_release(&b->done);
    buf_release(&b->open);
    buf_release(&b->line);
}

/* ---- preview --------------------------------------------------------------------------------- */

/* May the incomplete line still become something else entirely, such as a fence or a bullet? Then it
 * is held back: only marks so far, and few. */
static bool is_undecided(const struct blocks *b, struct str line)
{
    if (b->kind == BLOCK_FENCE)
        return line.len > 0 && run_of(line, 0, b->fence) == (int)line.len;
    size_t n = 0;
    while (n < line.len && strchr(" \t#*+-_=~`>|.)0123456789[", line.data[n]))
        n++;
    return n == line.len && n < 6;
}

/* Close what is open at the end of a block, so that half a "**bold" is bold already. */
static void close_marks(struct buf *text)
{
    bool code = false, strong = false, emphasis = false, strike = false;
    size_t end = text->len;
    while (end > 0 && strchr(" \n", text->data[end - 1]))
        end--;
    while (end > 0 && strchr("*_`~[", text->data[end - 1])) /* half a mark, or one that opens */
        end--;
    text->len = end;
    for (size_t i = 0; i < end; i++) {
        char c = text->data[i];
        bool open = i + 1 < end && !strchr(" \n", text->data[i + 1]);
        bool twice = i + 1 < end && text->data[i + 1] == c;
        if (c == '\\')
            i++;
        else if (c == '`')
            code = !code;
        else if (!code && c == '*' && twice) {
            strong = !strong;
            i++;
        } else if (!code && c == '~' && twice) {
            strike = !strike;
            i++;
        } else if (!code && c == '*' && (emphasis || open))
            emphasis = !emphasis;
        else if (c == '\n' && i + 1 < end && text->data[i + 1] == '\n')
            code = strong = emphasis = strike = false;
    }
    buf_puts(text, code ? "`" : "");
    buf_puts(text, emphasis ? "*" : "");
    buf_puts(text, strong ? "**" : "");
    buf_puts(text, strike ? "~~" : "");
}

bool blocks_preview(const struct blocks *b, struct buf *out, struct error *err)
{
    struct blocks copy = *b;
    copy.done = copy.open = copy.line = (struct buf){ 0 };
    buf_add(&copy.open, buf_str(&b->open).data, b->open.len);
    bool ok = buf_ok(&copy.open, err);
    if (b->line.len > 0 && (b->plain || !is_undecided(b, buf_str(&b->line))))
        ok = ok && take_line(&copy, buf_str(&b->line), err);
    if (copy.kind != BLOCK_NONE && copy.kind != BLOCK_FENCE) {
        if (copy.kind != BLOCK_INDENTED)
            close_marks(&copy.open);
        ok = ok && finish(&copy, err);
    }
    buf_add(out, buf_str(&copy.done).data, copy.done.len);
    blocks_release(&copy);
    return ok && buf_ok(out, err);
}
