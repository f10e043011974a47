/* A curve in the terminal and in an SVG file.
 *
 * The terminal's canvas is a grid of dots, 2 x 4 to a character: the braille block of Unicode has a
 * character for each of the 256 patterns (U+2800 plus a bit per dot). Without UTF-8 a character is
 * one dot, a star. */
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/cli/bench.h"

#define MAX_COLUMNS 200
#define MAX_ROWS 50

bool plot_can_utf8(void)
{
    locale_t here = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
    if (!here)
        return false;
    bool yes = strcmp(nl_langinfo_l(CODESET, here), "UTF-8") == 0;
    freelocale(here);
    return yes;
}

/* ---- scales ---- */

/* The next round number: where an axis can end. */
static double round_up(double x)
{
    static const double steps[] = { 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10 };
    if (!(x > 0))
        return 1;
    double power = pow(10, floor(log10(x)));
    for (size_t i = 0; i < ARRAY_LEN(steps); i++)
        if (x <= steps[i] * power * (1 + 1e-9))
            return steps[i] * power;
    return 10 * power;
}

struct scale {
    double x0, x1, y1; /* y begins at 0 */
};

static struct scale scale_of(const struct plot *p)
{
    struct scale s = { 0, 1, 0 };
    for (int i = 0; i < p->n; i++)
        s.y1 = fmax(s.y1, p->points[i].y);
    s.y1 = round_up(s.y1);
    if (p->n) {
        s.x0 = p->points[0].x;
        s.x1 = fmax(p->points[p->n - 1].x, s.x0 + 1);
    }
    return s;
}

/* ---- the terminal ---- */

struct canvas {
    int columns, rows;   /* characters */
    int dots_x, dots_y;  /* per character */
    uint8_t cell[MAX_ROWS][MAX_COLUMNS]; /* bits of the dots set */
};

/* Dot (x, y) from the lower left corner; what lies outside is left out. */
static void set_dot(struct canvas *c, int x, int y)
{
    static const uint8_t bit[4][2] = { { 0x01, 0x08 }, { 0x02, 0x10 }, { 0x04, 0x20 },
                                       { 0x40, 0x80 } };
    int from_top = c->rows * c->dots_y - 1 - y;
    if (x < 0 || x >= c->columns * c->dots_x || y < 0 || from_top < 0)
        return;
    c->cell[from_top / c->dots_y][x / c->dots_x] |= bit[from_top % c->dots_y][x % c->dots_x];
}

/* A dot per step along the longer side. */
static void draw_line(struct canvas *c, double x0, double y0, double x1, double y1)
{
    int n = (int)ceil(fmax(fabs(x1 - x0), fabs(y1 - y0)));
    for (int i = 0; i <= n; i++) {
        double part = n ? (double)i / n : 0;
        set_dot(c, (int)lround(x0 + part * (x1 - x0)), (int)lround(y0 + part * (y1 - y0)));
    }
}

static void draw_points(struct canvas *c, const struct plot *p, const struct scale *s)
{
    double width = c->columns * c->dots_x - 1, height = c->rows * c->dots_y - 1;
    double last_x = 0, last_y = 0;
    for (int i = 0; i < p->n; i++) {
        double x = (p->points[i].x - s->x0) / (s->x1 - s->x0) * width;
        double y = p->points[i].y / s->y1 * height;
        draw_line(c, i ? last_x : x, i ? last_y : y, x, y);
        last_x = x;
        last_y = y;
    }
}

/* A character of the braille block in three bytes of UTF-8. */
static void put_braille(struct buf *out, uint8_t dots)
{
    char bytes[3] = { (char)0xe2, (char)(0xa0 | dots >> 6), (char)(0x80 | (dots & 0x3f)) };
    buf_add(out, bytes, sizeof bytes);
}

static void put_row(struct buf *out, const struct canvas *c, int row, bool utf8)
{
    int last = c->columns;
    while (last > 0 && c->cell[row][last - 1] == 0)
        last--;
    for (int i = 0; i < last; i++) {
        if (utf8 && c->cell[row][i])
            put_braille(out, c->cell[row][i]);
        else
            buf_puts(out, c->cell[row][i] ? "*" : " ");
    }
    buf_puts(out, "\n");
}

void plot_text(struct buf *out, const struct plot *p, int columns, int rows, bool utf8)
{
    struct canvas c = { .columns = min_of(max_of(columns, 8), MAX_COLUMNS),
                        .rows = min_of(max_of(rows, 3), MAX_ROWS),
                        .dots_x = utf8 ? 2 : 1, .dots_y = utf8 ? 4 : 1 };
    struct scale s = scale_of(p);
    draw_points(&c, p, &s);
    buf_printf(out, "%s\n", p->title);
    for (int row = 0; row < c.rows; row++) {
        bool labelled = row == 0 || row == c.rows / 2 || row == c.rows - 1;
        double height = s.y1 * (double)(c.rows - 1 - row) / (double)(c.rows - 1);
        if (labelled)
            buf_printf(out, "%8.6g %s ", height, utf8 ? "┤" : "+");
        else
            buf_printf(out, "%8s %s ", "", utf8 ? "│" : "|");
        put_row(out, &c, row, utf8);
    }
    buf_printf(out, "%8s %s", "", utf8 ? "└" : "+");
    for (int i = 0; i <= c.columns; i++)
        buf_puts(out, utf8 ? "─" : "-");
    char left[32], right[32];
    int n = snprintf(left, sizeof left, "%.6g", s.x0);
    snprintf(right, sizeof right, "%.6g", s.x1);
    int middle = max_of(c.columns - n - (int)strlen(p->x_name), 2) / 2;
    buf_printf(out, "\n%8s   %s%*s%s%*s\n", "", left, middle, "", p->x_name,
               max_of(c.columns - n - middle - (int)strlen(p->x_name), (int)strlen(right) + 1),
               right);
}

/* ---- SVG ---- */

#define WIDTH 640
#define HEIGHT 280 /* of one plot */
#define LEFT 64
#define RIGHT 24
#define TOP 36
#define BOTTOM 44

static void svg_axes(struct buf *out, const struct plot *p, const struct scale *s, int top)
{
    int bottom = top + HEIGHT - BOTTOM, right = WIDTH - RIGHT;
    buf_printf(out, "<text x=\"%d\" y=\"%d\" font-weight=\"bold\">%s</text>\n", LEFT, top + 20,
               p->title);
    for (int i = 0; i <= 4; i++) {
        double y = bottom - (double)i / 4 * (bottom - top - TOP);
        double x = LEFT + (double)i / 4 * (right - LEFT);
        buf_printf(out, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/>\n", LEFT, y, right);
        buf_printf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n", LEFT - 8,
                   y + 4, s->y1 * i / 4);
        buf_printf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n", x,
                   bottom + 18, s->x0 + (s->x1 - s->x0) * i / 4);
    }
    buf_printf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
               (LEFT + right) / 2, bottom + 36, p->x_name);
}

static void svg_curve(struct buf *out, const struct plot *p, const struct scale *s, int top)
{
    int bottom = top + HEIGHT - BOTTOM, right = WIDTH - RIGHT;
    buf_puts(out, "<polyline fill=\"none\" stroke=\"#06c\" stroke-width=\"2\" points=\"");
    for (int i = 0; i < p->n; i++)
        buf_printf(out, "%s%.1f,%.1f", i ? " " : "",
                   LEFT + (p->points[i].x - s->x0) / (s->x1 - s->x0) * (right - LEFT),
                   bottom - p->points[i].y / s->y1 * (bottom - top - TOP));
    buf_puts(out, "\"/>\n");
}

bool plot_svg(const struct plot *plots, int n, const char *path, struct error *err)
{
    struct buf out = { 0 };
    buf_printf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
                     "font-family=\"sans-serif\" font-size=\"12\">\n"
                     "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
               WIDTH, n * HEIGHT);
    for (int i = 0; i < n; i++) {
        struct scale s = scale_of(&plots[i]);
        svg_axes(&out, &plots[i], &s, i * HEIGHT);
        svg_curve(&out, &plots[i], &s, i * HEIGHT);
    }
    buf_puts(&out, "</svg>\n");
    bool ok = buf_ok(&out, err);
    FILE *f = ok ? fopen(path, "we") : NULL;
    if (ok && (!f || fwrite(out.data, 1, out.len, f) != out.len))
        ok = fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
    if (f && fclose(f) != 0)
        ok = fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
    buf_release(&out);
    return ok;
}
