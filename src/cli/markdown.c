#include "src/cli/markdown.h"

#include <md4c.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/cli/markdown_table.h"
#include "src/cli/width.h"
#include "src/text/utf8.h"

#define MAX_LISTS 16
#define RULE_COLUMNS 40

struct list {
    bool ordered, tight;
    unsigned number; /* of the next item */
    char delimiter;
};

struct render {
    const struct markdown_options *o;
    struct buf *out;
    struct error *err;
    struct styled text;     /* of the block or cell so far */
    struct margins margins;
    struct list lists[MAX_LISTS];
    int n_lists;            /* nested; may exceed MAX_LISTS, then the last one stands for all */
    int spans[6];           /* how many of each are open, by the bits of enum look */
    unsigned block_look;
    bool gap;               /* a blank line is due before the next block */
    bool in_code;
    struct highlight highlight;
    size_t link_start;
    bool in_table;
    struct table table;
};

bool markdown_available(void)
{
    return true;
}

static bool is_plain(const struct render *r)
{
    return r->o->palette == PALETTE_PLAIN;
}

static void put_gap(struct render *r)
{
    if (r->gap) {
        margins_put(&r->margins, r->out, true, r->o->palette);
        buf_puts(r->out, "\n");
    }
    r->gap = false;
}

/* Lay out the text of a block that ends here, or that stops for a block within it. */
static void flush(struct render *r)
{
    if (r->text.text.len > 0)
        styled_wrap(r->out, &r->text, &r->margins, r->o->columns, false, r->o->palette);
    styled_clear(&r->text);
}

static struct list *innermost(struct render *r)
{
    return &r->lists[min_of(r->n_lists, MAX_LISTS) - 1];
}

static void enter_list(struct render *r, struct list list)
{
    flush(r);
    put_gap(r);
    if (r->n_lists == 0 && list.ordered && r->o->first_number >= 0)
        list.number = (unsigned)r->o->first_number;
    r->n_lists++;
    if (r->n_lists <= MAX_LISTS)
        *innermost(r) = list;
}

static void enter_item(struct render *r, const MD_BLOCK_LI_DETAIL *detail)
{
    static const char *const bullets[] = { "• ", "◦ ", "▪ " };
    struct list *l = innermost(r);
    char first[24], rest[24];
    r->gap = r->gap && !l->tight;
    put_gap(r);
    if (detail->is_task)
        snprintf(first, sizeof first, "%s", detail->task_mark == ' ' ? "☐ " : "☑ ");
    else if (l->ordered)
        snprintf(first, sizeof first, "%u%c ", l->number, l->delimiter);
    else
        snprintf(first, sizeof first, "%s", bullets[(r->n_lists - 1) % (int)ARRAY_LEN(bullets)]);
    l->number++;
    snprintf(rest, sizeof rest, "%*s", width_of(str_of(first)), "");
    margins_push(&r->margins, first, rest);
}

static void leave_item(struct render *r)
{
    flush(r);
    struct margins *m = &r->margins;
    if (m->n > 0 && m->n_deeper == 0 && !m->of[m->n - 1].used) { /* an empty item */
        margins_put(m, r->out, true, r->o->palette);
        buf_puts(r->out, "\n");
    }
    margins_pop(m);
    r->gap = !innermost(r)->tight;
}

static void put_horizontal_rule(struct render *r)
{
    for (int i = min_of(RULE_COLUMNS, r->o->columns - margins_columns(&r->margins)); i > 0; i--)
        styled_add(&r->text, str_of("─"), LOOK_DIM);
    flush(r);
    r->gap = true;
}

static struct str attribute(const MD_ATTRIBUTE *a)
{
    return (struct str){ a->text ? a->text : "", a->size };
}

static void enter_heading(struct render *r, unsigned level)
{
    put_gap(r);
    r->block_look = LOOK_BOLD | (level == 1 ? LOOK_UNDERLINE : level > 2 ? LOOK_ITALIC : 0);
    for (unsigned i = 0; is_plain(r) && i <= level; i++)
        styled_add(&r->text, str_of(i < level ? "#" : " "), 0);
}

static int enter_block(MD_BLOCKTYPE type, void *detail, void *ctx)
{
    struct render *r = ctx;
    const MD_BLOCK_UL_DETAIL *ul = detail;
    const MD_BLOCK_OL_DETAIL *ol = detail;
    switch (type) {
    case MD_BLOCK_UL:
        enter_list(r, (struct list){ .tight = ul->is_tight });
        break;
    case MD_BLOCK_OL:
        enter_list(r, (struct list){ true, ol->is_tight, ol->start, ol->mark_delimiter });
        break;
    case MD_BLOCK_LI:
        enter_item(r, detail);
        break;
    case MD_BLOCK_QUOTE:
        flush(r);
        put_gap(r);
        margins_push(&r->margins, "│ ", "│ ");
        break;
    case MD_BLOCK_H:
        flush(r);
        enter_heading(r, ((MD_BLOCK_H_DETAIL *)detail)->level);
        break;
    case MD_BLOCK_CODE:
        flush(r);
        put_gap(r);
        r->in_code = true;
        markdown_code_open(r->out, &r->highlight, attribute(&((MD_BLOCK_CODE_DETAIL *)detail)->lang),
                           &r->margins, r->o);
        break;
    case MD_BLOCK_P:
        flush(r);
        put_gap(r);
        break;
    case MD_BLOCK_HR:
        flush(r);
        put_gap(r);
        put_horizontal_rule(r);
        break;
    case MD_BLOCK_TABLE:
        flush(r);
        put_gap(r);
        r->in_table = true;
        r->table.n_columns =
            (int)min_of(((MD_BLOCK_TABLE_DETAIL *)detail)->col_count, MAX_TABLE_COLUMNS + 1u);
        break;
    default:
        break;
    }
    return 0;
}

/* The lines of a block of code. */
static void put_code(struct render *r)
{
    struct str all = buf_str(&r->text.text);
    while (all.len > 0) {
        const char *newline = memchr(all.data, '\n', all.len);
        size_t n = newline ? (size_t)(newline - all.data) : all.len;
        markdown_code_line(r->out, &r->highlight, (struct str){ all.data, n }, &r->margins, r->o);
        n += newline ? 1 : 0;
        all = (struct str){ all.data + n, all.len - n };
    }
    markdown_code_close(r->out, &r->margins, r->o);
    styled_clear(&r->text);
    r->in_code = false;
    r->gap = true;
}

static bool leave_cell(struct render *r, MD_ALIGN align)
{
    int column = r->table.n_columns ? r->table.n_cells % r->table.n_columns : 0;
    if (r->table.n_columns > MAX_TABLE_COLUMNS)
        return fail(r->err, ERR_USAGE, "too many columns");
    r->table.align[column] = align == MD_ALIGN_RIGHT ? 'r' : align == MD_ALIGN_CENTER ? 'c' : 'l';
    r->block_look = 0;
    return table_add(&r->table, &r->text, r->err);
}

static int leave_block(MD_BLOCKTYPE type, void *detail, void *ctx)
{
    struct render *r = ctx;
    switch (type) {
    case MD_BLOCK_UL:
    case MD_BLOCK_OL:
        r->n_lists--;
        r->gap = true;
        break;
    case MD_BLOCK_LI:
        leave_item(r);
        break;
    case MD_BLOCK_QUOTE:
        flush(r);
        margins_pop(&r->margins);
        r->gap = true;
        break;
    case MD_BLOCK_H:
        flush(r);
        r->block_look = 0;
        r->gap = true;
        break;
    case MD_BLOCK_P:
        flush(r);
        r->gap = true;
        break;
    case MD_BLOCK_CODE:
        put_code(r);
        break;
    case MD_BLOCK_TH:
    case MD_BLOCK_TD:
        return leave_cell(r, ((MD_BLOCK_TD_DETAIL *)detail)->align) ? 0 : 1;
    case MD_BLOCK_TABLE:
        table_put(r->out, &r->table, &r->margins, r->o);
        table_release(&r->table);
        r->in_table = false;
        r->gap = true;
        break;
    default:
        break;
    }
    return 0;
}

static int *span_of(struct render *r, MD_SPANTYPE type)
{
    switch (type) {
    case MD_SPAN_STRONG: return &r->spans[0];
    case MD_SPAN_EM: return &r->spans[1];
    case MD_SPAN_A:
    case MD_SPAN_IMG: return &r->spans[2];
    case MD_SPAN_DEL: return &r->spans[3];
    case MD_SPAN_CODE: return &r->spans[5];
    default: return &r->spans[4];
    }
}

static unsigned look_now(const struct render *r)
{
    unsigned look = r->block_look;
    for (int i = 0; i < 4; i++)
        look |= r->spans[i] ? 1u << i : 0;
    if (r->spans[5]) /* without colours, code in a sentence is underlined */
        look |= r->o->palette == PALETTE_ATTRIBUTES ? LOOK_UNDERLINE : LOOK_CODE;
    else if (r->spans[2])
        look |= LOOK_LINK;
    return look;
}

/* Where a page without looks cannot show it, the mark stays. */
static void plain_mark(struct render *r, MD_SPANTYPE type)
{
    const char *mark = type == MD_SPAN_STRONG ? "**" : type == MD_SPAN_EM ? "*"
                     : type == MD_SPAN_CODE ? "`" : type == MD_SPAN_DEL ? "~~" : "";
    if (is_plain(r))
        styled_add(&r->text, str_of(mark), 0);
}

static int enter_span(MD_SPANTYPE type, void *detail, void *ctx)
{
    struct render *r = ctx;
    (void)detail;
    plain_mark(r, type);
    ++*span_of(r, type);
    if (type == MD_SPAN_A || type == MD_SPAN_IMG)
        r->link_start = r->text.text.len;
    return 0;
}

static bool ends_with(struct str s, struct str tail)
{
    return s.len >= tail.len && memcmp(s.data + s.len - tail.len, tail.data, tail.len) == 0;
}

static int leave_span(MD_SPANTYPE type, void *detail, void *ctx)
{
    struct render *r = ctx;
    --*span_of(r, type);
    plain_mark(r, type);
    if (type != MD_SPAN_A && type != MD_SPAN_IMG)
        return 0;
    struct str to = attribute(type == MD_SPAN_A ? &((MD_SPAN_A_DETAIL *)detail)->href
                                                : &((MD_SPAN_IMG_DETAIL *)detail)->src);
    struct str all = buf_str(&r->text.text);
    size_t from = min_of(r->link_start, all.len);
    struct str shown = { all.data + from, all.len - from };
    if (to.len == 0 || (shown.len > 0 && ends_with(to, shown)))
        return 0; /* the text is its own address */
    styled_add(&r->text, str_of(shown.len ? " (" : "("), LOOK_DIM);
    styled_add(&r->text, to, LOOK_DIM);
    styled_add(&r->text, str_of(")"), LOOK_DIM);
    return 0;
}

/* "&amp;", "&#228;", "&#xe4;": the few names that models use; others stay as they are. */
static void add_entity(struct render *r, struct str entity)
{
    static const struct {
        const char *name, *text;
    } names[] = {
        { "&amp;", "&" }, { "&lt;", "<" }, { "&gt;", ">" }, { "&quot;", "\"" }, { "&apos;", "'" },
        { "&nbsp;", "\302\240" }, { "&copy;", "©" }, { "&hellip;", "…" }, { "&mdash;", "—" },
        { "&ndash;", "–" }, { "&rarr;", "→" }, { "&larr;", "←" }, { "&times;", "×" },
        { "&deg;", "°" }, { "&euro;", "€" },
    };
    char text[4];
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_is(entity, names[i].name)) {
            styled_add(&r->text, str_of(names[i].text), look_now(r));
            return;
        }
    if (entity.len > 3 && entity.data[1] == '#') {
        bool hex = (entity.data[2] | 32) == 'x';
        unsigned long code = strtoul(entity.data + (hex ? 3 : 2), NULL, hex ? 16 : 10);
        bool shown = code >= 0xa0 || (code >= 0x20 && code < 0x7f); /* no control characters */
        if (shown && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000)) {
            struct str s = { text, utf8_encode((uint32_t)code, text) };
            styled_add(&r->text, s, look_now(r));
            return;
        }
    }
    styled_add(&r->text, entity, look_now(r));
}

static int add_text(MD_TEXTTYPE type, const MD_CHAR *bytes, MD_SIZE size, void *ctx)
{
    struct render *r = ctx;
    struct str text = { bytes, size };
    switch (type) {
    case MD_TEXT_BR:
    case MD_TEXT_SOFTBR:
        text = str_of(r->in_table ? " " : "\n");
        styled_add(&r->text, text, 0);
        break;
    case MD_TEXT_NULLCHAR:
        styled_add(&r->text, str_of("\357\277\275"), look_now(r));
        break;
    case MD_TEXT_ENTITY:
        add_entity(r, text);
        break;
    default:
        styled_add(&r->text, text, r->in_code ? 0 : look_now(r));
        break;
    }
    return 0;
}

/* As it was written: a block of which nothing would be seen, such as the definition of a link. */
static void put_source(struct render *r, struct str source)
{
    while (source.len && (source.data[source.len - 1] == '\n' || source.data[source.len - 1] == ' '))
        source.len--;
    styled_clear(&r->text);
    r->margins = (struct margins){ 0 };
    styled_add(&r->text, source, 0);
    flush(r);
}

bool markdown_render(struct buf *out, struct str source, const struct markdown_options *o,
                     struct error *err)
{
    static const MD_PARSER parser = {
        .flags = MD_FLAG_TABLES | MD_FLAG_STRIKETHROUGH | MD_FLAG_TASKLISTS | MD_FLAG_NOHTML |
                 MD_FLAG_PERMISSIVEURLAUTOLINKS,
        .enter_block = enter_block, .leave_block = leave_block,
        .enter_span = enter_span, .leave_span = leave_span, .text = add_text,
    };
    struct error why = { 0 };
    struct render r = { .o = o, .out = out, .err = &why };
    size_t before = out->len;
    int code = source.len < 1u << 30 ? md_parse(source.data, (MD_SIZE)source.len, &parser, &r) : 1;
    if (code != 0 || out->len == before) {
        out->len = before; /* what was laid out until then */
        put_source(&r, source);
    }
    styled_release(&r.text);
    table_release(&r.table);
    return buf_ok(out, err);
}
