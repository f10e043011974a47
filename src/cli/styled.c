#include "src/cli/styled.h"

#include <stdio.h>

#include "src/cli/width.h"

#define TAB 4

/* Blanks from the end of the text to the next stop. */
static int to_tab_stop(const struct styled *s)
{
    size_t line = s->text.len;
    while (line > 0 && s->text.data[line - 1] != '\n')
        line--;
    struct str before = { buf_str(&s->text).data + line, s->text.len - line };
    return TAB - width_of(before) % TAB;
}

void styled_add(struct styled *s, struct str text, unsigned look)
{
    for (size_t i = 0; i < text.len; i++) {
        bool tab = text.data[i] == '\t';
        char byte = (char)look;
        for (int n = tab ? to_tab_stop(s) : 1; n > 0; n--) {
            buf_add(&s->text, tab ? " " : text.data + i, 1);
            buf_add(&s->look, &byte, 1);
        }
    }
}

void styled_clear(struct styled *s)
{
    buf_clear(&s->text);
    buf_clear(&s->look);
}

void styled_release(struct styled *s)
{
    buf_release(&s->text);
    buf_release(&s->look);
}

/* ---- margins --------------------------------------------------------------------------------- */

void margins_push(struct margins *m, const char *first, const char *rest)
{
    if (m->n == MAX_MARGINS) {
        m->n_deeper++;
        return;
    }
    struct margin *to = &m->of[m->n++];
    *to = (struct margin){ .columns = width_of(str_of(first)) };
    snprintf(to->first, sizeof to->first, "%s", first);
    snprintf(to->rest, sizeof to->rest, "%s", rest);
}

void margins_pop(struct margins *m)
{
    if (m->n_deeper > 0)
        m->n_deeper--;
    else
        m->n--;
}

int margins_columns(const struct margins *m)
{
    int columns = 0;
    for (int i = 0; i < m->n; i++)
        columns += m->of[i].columns;
    return columns;
}

void margins_put(struct margins *m, struct buf *out, bool empty, enum palette palette)
{
    char text[MAX_MARGINS * sizeof m->of[0].first] = "";
    size_t len = 0;
    for (int i = 0; i < m->n; i++) {
        const char *part = m->of[i].used ? m->of[i].rest : m->of[i].first;
        memcpy(text + len, part, strlen(part));
        len += strlen(part);
        m->of[i].used = true;
    }
    while (empty && len > 0 && text[len - 1] == ' ')
        len--;
    bool looks = len > 0 && palette != PALETTE_PLAIN;
    buf_puts(out, looks ? "\033[2m" : "");
    buf_add(out, text, len);
    buf_puts(out, looks ? "\033[0m" : "");
}

/* ---- lines ----------------------------------------------------------------------------------- */

bool styled_next_line(const struct styled *s, int columns, bool anywhere, size_t *at, size_t *begin,
                      size_t *end, int *taken)
{
    struct str text = buf_str(&s->text);
    size_t n, i = *at, fits = 0; /* fits: where the line may end and the next begins; 0: nowhere */
    int used = 0, used_fits = 0, before = 0;
    if (*at > text.len || (*at == text.len && *at > 0))
        return false;
    *begin = i;
    for (; i < text.len && text.data[i] != '\n'; i += n) {
        int w = width_next((struct str){ text.data + i, text.len - i }, &n);
        bool blank = text.data[i] == ' ';
        if (!anywhere && i > *begin && !blank &&
            (text.data[i - 1] == ' ' || (w == 2 && before == 2))) {
            fits = i;
            used_fits = used;
        }
        if (used + w > columns && i > *begin && !(blank && !anywhere))
            break;
        used += w;
        if (w > 0)
            before = w;
    }
    bool whole = i >= text.len || text.data[i] == '\n';
    if (whole) {
        *at = i + 1; /* behind the newline; past the end at the end */
    } else if (fits) {
        *at = i = fits;
        used = used_fits;
    } else {
        *at = i;
    }
    if (!anywhere)
        for (; i > *begin && text.data[i - 1] == ' '; i--)
            used--;
    *end = i;
    *taken = used;
    return true;
}

static void put_look(struct buf *out, unsigned look)
{
    static const char *const colours[] = { "", ";36", ";35", ";32", ";90", ";33", ";34", ";31" };
    buf_puts(out, "\033[0");
    buf_puts(out, look & LOOK_BOLD ? ";1" : "");
    buf_puts(out, look & LOOK_DIM ? ";2" : "");
    buf_puts(out, look & LOOK_ITALIC ? ";3" : "");
    buf_puts(out, look & LOOK_UNDERLINE ? ";4" : "");
    buf_puts(out, look & LOOK_STRIKE ? ";9" : "");
    buf_puts(out, colours[(look & LOOK_COLOURS) >> 5]);
    buf_puts(out, "m");
}

void styled_put(struct buf *out, const struct styled *s, size_t begin, size_t end,
                enum palette palette)
{
    unsigned look = 0;
    unsigned mask = palette == PALETTE_COLOURS      ? 0xffu
                  : palette == PALETTE_ATTRIBUTES ? 0xffu & ~(unsigned)LOOK_COLOURS : 0;
    if (s->text.out_of_memory || s->look.out_of_memory)
        out->out_of_memory = true;
    else
        for (size_t i = begin, run; i < end; i = run) {
            unsigned wanted = (unsigned char)s->look.data[i] & mask;
            for (run = i + 1; run < end; run++)
                if (((unsigned char)s->look.data[run] & mask) != wanted)
                    break;
            if (wanted != look)
                put_look(out, look = wanted);
            buf_add(out, s->text.data + i, run - i);
        }
    if (look)
        put_look(out, 0);
}

void styled_wrap(struct buf *out, const struct styled *s, struct margins *m, int columns,
                 bool anywhere, enum palette palette)
{
    size_t at = 0, begin, end;
    int taken, room = max_of(columns - margins_columns(m), 8);
    while (styled_next_line(s, room, anywhere, &at, &begin, &end, &taken)) {
        margins_put(m, out, begin == end, palette);
        styled_put(out, s, begin, end, palette);
        buf_puts(out, "\n");
    }
}
