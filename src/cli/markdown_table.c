#include "src/cli/markdown_table.h"

#include "src/base/mem.h"

#define NARROWEST 4 /* columns of text */
#define BETWEEN 3   /* " │ " */

bool table_add(struct table *t, struct styled *cell, struct error *err)
{
    if (t->n_cells == t->capacity) {
        int capacity = t->capacity ? 2 * t->capacity : 32;
        struct styled *bigger = mem_resize(t->cells, (size_t)capacity, sizeof *bigger, "table", err);
        if (!bigger)
            return false;
        t->cells = bigger;
        t->capacity = capacity;
    }
    t->cells[t->n_cells++] = *cell;
    *cell = (struct styled){ 0 };
    return true;
}

void table_release(struct table *t)
{
    for (int i = 0; i < t->n_cells; i++)
        styled_release(&t->cells[i]);
    mem_free(t->cells);
    *t = (struct table){ 0 };
}

static int natural_width(const struct styled *s)
{
    size_t at = 0, begin, end;
    int taken, most = 0;
    while (styled_next_line(s, 1 << 20, false, &at, &begin, &end, &taken))
        most = max_of(most, taken);
    return most;
}

/* Widths of the columns: the widest give way first. False: too many columns for the room. */
static bool choose_widths(const struct table *t, int room, int width[])
{
    int sum = 0, widest = 0;
    for (int j = 0; j < t->n_columns; j++)
        width[j] = 1;
    for (int i = 0; i < t->n_cells; i++)
        width[i % t->n_columns] =
            max_of(width[i % t->n_columns], natural_width(&t->cells[i]));
    room -= BETWEEN * (t->n_columns - 1);
    for (int j = 0; j < t->n_columns; j++) {
        sum += width[j];
        widest = max_of(widest, width[j]);
    }
    for (int cap = widest - 1; sum > room && cap >= NARROWEST; cap--) {
        sum = 0;
        for (int j = 0; j < t->n_columns; j++)
            sum += width[j] = min_of(width[j], cap);
    }
    return sum <= room;
}

static void put_blanks(struct buf *out, int n)
{
    while (n-- > 0)
        buf_puts(out, " ");
}

static void put_bar(struct buf *out, const char *bar, enum palette palette)
{
    buf_puts(out, palette == PALETTE_PLAIN ? "" : "\033[2m");
    buf_puts(out, bar);
    buf_puts(out, palette == PALETTE_PLAIN ? "" : "\033[0m");
}

/* One row of cells, as many lines as its longest cell. */
static void put_row(struct buf *out, const struct table *t, const struct styled *row,
                    const int width[], struct margins *m, const struct markdown_options *o)
{
    size_t at[MAX_TABLE_COLUMNS] = { 0 }, begin, end;
    for (bool more = true; more;) {
        int owed = 0; /* blanks not written yet: none at the end of a line */
        more = false;
        margins_put(m, out, false, o->palette);
        for (int j = 0; j < t->n_columns; j++) {
            int taken = 0;
            begin = end = 0;
            if (j > 0) {
                put_blanks(out, owed);
                put_bar(out, j + 1 < t->n_columns || at[j] <= row[j].text.len ? " │ " : " │",
                        o->palette);
            }
            styled_next_line(&row[j], width[j], false, &at[j], &begin, &end, &taken);
            more = more || at[j] < row[j].text.len;
            int left = width[j] - taken;
            int before = t->align[j] == 'r' ? left : t->align[j] == 'c' ? left / 2 : 0;
            put_blanks(out, before);
            styled_put(out, &row[j], begin, end, o->palette);
            owed = left - before;
        }
        buf_puts(out, "\n");
    }
}

static void put_line(struct buf *out, const struct table *t, const int width[], struct margins *m,
                     const struct markdown_options *o)
{
    struct buf line = { 0 };
    for (int j = 0; j < t->n_columns; j++) {
        buf_puts(&line, j ? "─┼─" : "");
        for (int i = 0; i < width[j]; i++)
            buf_puts(&line, "─");
    }
    margins_put(m, out, false, o->palette);
    put_bar(out, buf_str(&line).data, o->palette);
    buf_puts(out, "\n");
    buf_release(&line);
}

/* "heading: text" for each cell, a blank line between rows. */
static void put_stacked(struct buf *out, const struct table *t, struct margins *m,
                        const struct markdown_options *o)
{
    struct styled line = { 0 };
    for (int i = t->n_columns; i < t->n_cells; i++) {
        const struct styled *heading = &t->cells[i % t->n_columns];
        if (i % t->n_columns == 0 && i > t->n_columns)
            buf_puts(out, "\n");
        styled_clear(&line);
        styled_add(&line, buf_str(&heading->text), LOOK_BOLD);
        styled_add(&line, str_of(": "), LOOK_BOLD);
        buf_add(&line.text, buf_str(&t->cells[i].text).data, t->cells[i].text.len);
        buf_add(&line.look, buf_str(&t->cells[i].look).data, t->cells[i].look.len);
        styled_wrap(out, &line, m, o->columns, false, o->palette);
    }
    styled_release(&line);
}

void table_put(struct buf *out, const struct table *t, struct margins *m,
               const struct markdown_options *o)
{
    int width[MAX_TABLE_COLUMNS];
    if (t->n_columns == 0 || t->n_cells == 0)
        return;
    bool fits = choose_widths(t, o->columns - margins_columns(m), width);
    if (!fits && t->n_cells > t->n_columns) {
        put_stacked(out, t, m, o);
        return;
    }
    for (int i = 0; i + t->n_columns <= t->n_cells; i += t->n_columns) {
        put_row(out, t, t->cells + i, width, m, o);
        if (i == 0)
            put_line(out, t, width, m, o);
    }
}
