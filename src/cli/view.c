#include "src/cli/view.h"

#include "src/cli/term.h"
#include "src/cli/width.h"

#define NO_WRAP "\033[?7l"
#define WRAP "\033[?7h"

static int count_lines(struct str s)
{
    int n = 0;
    for (size_t i = 0; i < s.len; i++)
        n += s.data[i] == '\n';
    return n;
}

/* The first line of `s`, without its newline; *s moves behind it. */
static struct str next_line(struct str *s)
{
    const char *newline = memchr(s->data, '\n', s->len);
    size_t n = newline ? (size_t)(newline - s->data) : s->len;
    struct str line = { s->data, n };
    n += newline ? 1 : 0;
    *s = (struct str){ s->data + n, s->len - n };
    return line;
}

/* The last n lines of `s`. */
static struct str last_lines(struct str s, int n)
{
    for (int skip = count_lines(s) - n; skip > 0; skip--)
        next_line(&s);
    return s;
}

/* Columns of a line, which may hold sequences for colour. */
static int columns_of(struct str line)
{
    int columns = 0;
    for (size_t n; line.len > 0; line = (struct str){ line.data + n, line.len - n }) {
        if (line.data[0] != '\033') {
            columns += width_next(line, &n);
            continue;
        }
        for (n = 1; n < line.len && line.data[n - 1] != 'm'; n++)
            ;
    }
    return columns;
}

/* Rows that lines take in a window of `columns`, which may have become narrower than they are. */
static int count_rows(struct str s, int columns)
{
    int n = 0;
    while (s.len > 0) {
        int taken = columns_of(next_line(&s));
        n += max_of(1, (taken + columns - 1) / columns);
    }
    return n;
}

/* From the end of the region's last line up by n lines, to column 0. */
static void move_up(struct buf *out, int n)
{
    buf_puts(out, "\r");
    if (n > 0)
        buf_printf(out, "\033[%dA", n);
}

/* Lines that both begin with. */
static int count_same(struct str a, struct str b)
{
    int n = 0;
    while (a.len > 0 && b.len > 0) {
        struct str x = next_line(&a), y = next_line(&b);
        if (x.len != y.len || memcmp(x.data, y.data, x.len) != 0)
            break;
        n++;
    }
    return n;
}

/* Replace the shown lines by `wanted`, of which n_done are finished: keep those at the top that are the
 * same, write the others over the old ones, clear what is left below. Lines that may change are cut at
 * the edge of a window that is narrower already than we have been told (tmux tells a quarter of a second
 * late): wrapped, each drawing would leave a row behind. */
static void replace(struct view *v, struct str wanted, int n_done, struct buf *out)
{
    struct str shown = buf_str(&v->shown);
    int n_shown = count_lines(shown), n_wanted = count_lines(wanted);
    bool resized = v->columns != term_columns();
    int same = resized ? 0 : count_same(shown, wanted);
    if (same == n_shown && same == n_wanted)
        return;
    if (n_shown == 0) {
        /* the cursor stands where the first line goes */
    } else if (same == n_shown) {
        buf_puts(out, "\n");
    } else if (resized) {
        int rows = term_reflows() ? count_rows(shown, term_columns()) : n_shown;
        move_up(out, min_of(rows, term_rows()) - 1);
        buf_puts(out, "\033[J");
    } else {
        move_up(out, n_shown - 1 - same);
    }
    for (int i = 0; i < same; i++)
        next_line(&wanted);
    for (int i = same; i < n_wanted; i++) {
        struct str line = next_line(&wanted);
        buf_puts(out, i > same ? "\n" : "");
        buf_puts(out, i == max_of(same, n_done) ? NO_WRAP : "");
        buf_add(out, line.data, line.len);
        if (i < n_shown)
            buf_puts(out, "\033[K"); /* the rest of the old line */
    }
    if (max_of(same, n_done) < n_wanted)
        buf_puts(out, WRAP);
    if (n_wanted == same && n_wanted > 0) { /* only lines to take away: go back to the end */
        buf_puts(out, "\033[J");
        move_up(out, 1);
        struct str keep = buf_str(&v->shown), line = { "", 0 };
        for (int i = 0; i < same; i++)
            line = next_line(&keep);
        buf_add(out, line.data, line.len);
    } else if (n_shown > n_wanted) {
        buf_puts(out, "\033[J");
    }
}

void view_show(struct view *v, struct str done, struct str open, struct buf *out)
{
    struct buf all = { 0 };
    int most = max_of(term_rows() - 1, 1);
    open = last_lines(open, most);
    buf_add(&all, done.data, done.len);
    buf_add(&all, open.data, open.len);
    replace(v, buf_str(&all), count_lines(done), out);
    if (done.len > 0 && open.len == 0)
        buf_puts(out, "\n"); /* behind the last finished line */
    v->columns = term_columns();
    buf_clear(&v->shown);
    buf_add(&v->shown, open.data, open.len);
    buf_release(&all);
}

void view_lost(struct view *v)
{
    buf_clear(&v->shown);
}
