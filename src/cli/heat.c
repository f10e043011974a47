#include "src/cli/heat.h"

#include <math.h>
#include <unistd.h>

#include "src/cli/chat_actions.h"
#include "src/cli/output_file.h"
#include "src/cli/styled.h"
#include "src/cli/term.h"
#include "src/cli/wrap.h"

/* ---- figures ---- */

static const uint32_t *row_of(const struct pick_counts *c, int row)
{
    return c->n + (size_t)row * (size_t)c->n_routed;
}

static uint64_t sum_of(const uint32_t *n, int count)
{
    uint64_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += n[i];
    return sum;
}

double heat_evenness(const struct pick_counts *c, int row)
{
    const uint32_t *n = row_of(c, row);
    double sum = (double)sum_of(n, c->n_routed), entropy = 0;
    for (int i = 0; i < c->n_routed; i++)
        if (n[i])
            entropy -= n[i] / sum * log(n[i] / sum);
    return c->n_routed > 1 ? entropy / log(c->n_routed) : sum > 0;
}

/* A tenth of a layer's experts, rounded up. */
static int hot_of(const struct pick_counts *c)
{
    return (c->n_routed + 9) / 10;
}

/* Picks of the n_hot hottest experts of a row: those that fewer than n_hot others go before. */
static uint64_t hottest(const struct pick_counts *c, int row, int n_hot)
{
    const uint32_t *n = row_of(c, row);
    uint64_t sum = 0;
    for (int i = 0; i < c->n_routed; i++) {
        int before = 0;
        for (int k = 0; k < c->n_routed; k++)
            before += n[k] > n[i] || (n[k] == n[i] && k < i);
        sum += before < n_hot ? n[i] : 0;
    }
    return sum;
}

void heat_figures(const struct pick_counts *c, struct heat_figures *f)
{
    uint64_t hot = 0;
    double least = INFINITY, most = -INFINITY;
    *f = (struct heat_figures){ 0 };
    for (int row = 0; row < c->n_layers; row++) {
        const uint32_t *n = row_of(c, row);
        uint64_t sum = sum_of(n, c->n_routed);
        if (sum == 0)
            continue;
        double evenness = heat_evenness(c, row);
        f->n_seen++;
        f->n_picks += sum;
        f->evenness += evenness;
        for (int i = 0; i < c->n_routed; i++)
            f->n_never += n[i] == 0;
        hot += hottest(c, row, hot_of(c));
        if (evenness < least) {
            least = evenness;
            f->least = row;
        }
        if (evenness > most) {
            most = evenness;
            f->most = row;
        }
    }
    f->hot_share = f->n_picks ? (double)hot / (double)f->n_picks : 0;
    f->evenness /= max_of(f->n_seen, 1);
}

/* ---- steps of heat ---- */

#define STEPS 10

/* 0: never; 5: about the even share; 9: four times that or more. */
static int step_of(uint64_t picks, int n_experts, uint64_t row_picks, int n_routed)
{
    if (picks == 0)
        return 0;
    double even = (double)row_picks * n_experts / n_routed;
    return (int)fmin(fmax(lround(2 * log2((double)picks / even)) + 5, 1), STEPS - 1);
}

/* From dark to light, in the terminal's palette of 256 and the same in RGB. */
static const struct {
    int palette;
    const char *rgb;
} colours[STEPS] = {
    { 234, "#1c1c1c" }, { 17, "#00005f" },  { 54, "#5f0087" },  { 90, "#870087" },
    { 126, "#af0087" }, { 162, "#d70087" }, { 203, "#ff5f5f" }, { 208, "#ff8700" },
    { 220, "#ffd700" }, { 230, "#ffffd7" },
};

/* ---- the terminal ---- */

/* How a row is cut into cells. */
struct grid {
    const struct pick_counts *c;
    int group;   /* experts of a cell; the last may have fewer */
    int n_cells;
    int span;    /* characters of a cell: more than one where there are few experts */
    bool labels; /* evenness behind the rows */
};

#define LABEL 4 /* columns of a layer's number */
#define EVENNESS 4
#define WIDE 60 /* columns from which there is room for figures */
#define MAX_SPAN 4
#define LEAST 36 /* columns of the legend */

static struct grid grid_of(const struct pick_counts *c, int columns, int layers_a_line)
{
    struct grid g = { .c = c, .labels = columns >= WIDE };
    int room = max_of(columns - LABEL - (g.labels ? EVENNESS * layers_a_line : 0), 1);
    g.group = max_of((c->n_routed + room - 1) / room, 1);
    g.n_cells = max_of((c->n_routed + g.group - 1) / g.group, 1);
    g.span = min_of(room / g.n_cells, MAX_SPAN);
    return g;
}

static int cell_step(const struct grid *g, int row, int cell)
{
    const uint32_t *n = row_of(g->c, row);
    int first = cell * g->group, count = min_of(g->group, g->c->n_routed - first);
    return step_of(sum_of(n + first, count), count, sum_of(n, g->c->n_routed), g->c->n_routed);
}

/* A cell of one layer. In colour it is the upper half, of `step`, over the lower (-1: nothing). */
static void put_cell(struct buf *out, enum heat_ink ink, int step, int lower)
{
    static const char *const shades[STEPS] = { " ", "░", "░", "░", "▒", "▒", "▓", "▓", "█", "█" };
    if (ink == HEAT_ASCII)
        buf_add(out, " .:-=+*#%@" + step, 1);
    else if (ink == HEAT_SHADES)
        buf_puts(out, shades[step]);
    else if (lower < 0)
        buf_printf(out, "\033[38;5;%dm▀", colours[step].palette);
    else
        buf_printf(out, "\033[38;5;%d;48;5;%dm▀", colours[step].palette, colours[lower].palette);
}

static void put_rows(struct buf *out, const struct grid *g, enum heat_ink ink)
{
    const struct pick_counts *c = g->c;
    int layers_a_line = ink == HEAT_COLOUR ? 2 : 1;
    for (int row = 0; row < c->n_layers; row += layers_a_line) {
        bool pair = layers_a_line == 2 && row + 1 < c->n_layers;
        buf_printf(out, "%*d ", LABEL - 1, c->layers[row]);
        for (int i = 0; i < g->n_cells * g->span; i++)
            put_cell(out, ink, cell_step(g, row, i / g->span),
                     pair ? cell_step(g, row + 1, i / g->span) : -1);
        if (ink == HEAT_COLOUR)
            buf_puts(out, "\033[0m");
        for (int i = row; g->labels && i <= row + pair; i++)
            buf_printf(out, "%*.0f", EVENNESS, 100 * heat_evenness(c, i));
        buf_puts(out, "\n");
    }
}

static void put_legend(struct buf *out, enum heat_ink ink)
{
    buf_printf(out, "%*snever ", LABEL, "");
    for (int step = 0; step < STEPS; step++) {
        if (step == 1)
            buf_printf(out, "%s  1/4 ", ink == HEAT_COLOUR ? "\033[0m" : "");
        put_cell(out, ink, step, ink == HEAT_COLOUR ? step : -1);
    }
    buf_printf(out, "%s 4 x even\n", ink == HEAT_COLOUR ? "\033[0m" : "");
}

static void put_sentences(struct buf *out, const char *text, int columns)
{
    struct margins margins = { 0 };
    struct styled s = { 0 };
    styled_add(&s, str_of(text), 0);
    styled_wrap(out, &s, &margins, columns, false, PALETTE_PLAIN);
    styled_release(&s);
}

/* The figures in words. */
static void describe(struct buf *out, const struct pick_counts *c, const struct heat_figures *f)
{
    buf_printf(out, "The hottest tenth of the experts (%d of %d in each layer) took %.0f %% of %llu "
                    "picks; %d of %d were never picked. Evenness %.2f", hot_of(c), c->n_routed,
               100 * f->hot_share, (unsigned long long)f->n_picks, f->n_never,
               f->n_seen * c->n_routed, f->evenness);
    if (f->n_seen > 1)
        buf_printf(out, ", from %.2f in layer %d to %.2f in layer %d", heat_evenness(c, f->least),
                   c->layers[f->least], heat_evenness(c, f->most), c->layers[f->most]);
    buf_puts(out, ".");
    if (f->n_seen < c->n_layers)
        buf_printf(out, " Picks of %d more layers are not seen: all their experts lie on the GPU.",
                   c->n_layers - f->n_seen);
}

void heat_text(struct buf *out, const struct pick_counts *c, int columns, enum heat_ink ink)
{
    struct heat_figures f;
    struct buf words = { 0 };
    columns = max_of(columns, LEAST);
    struct grid g = grid_of(c, columns, ink == HEAT_COLOUR ? 2 : 1);
    heat_figures(c, &f);
    if (c->n_layers == 0 || f.n_seen == 0) {
        put_sentences(out, c->n_layers ? "no expert was picked yet"
                                       : "this model has no routed experts", columns);
        return;
    }
    buf_printf(&words, "Picks by layer and expert, 0 to %d", c->n_routed - 1);
    if (g.group > 1)
        buf_printf(&words, ", %d to a cell", g.group);
    if (g.labels)
        buf_puts(&words, "; behind each layer its evenness in %");
    put_sentences(out, buf_str(&words).data, columns);
    put_rows(out, &g, ink);
    put_legend(out, ink);
    buf_clear(&words);
    describe(&words, c, &f);
    put_sentences(out, buf_str(&words).data, columns);
    out->out_of_memory |= words.out_of_memory;
    buf_release(&words);
}

/* ---- files ---- */

void heat_csv(struct buf *out, const struct pick_counts *c)
{
    buf_puts(out, "layer,expert,picks\n");
    for (int row = 0; row < c->n_layers; row++)
        for (int i = 0; i < c->n_routed; i++)
            buf_printf(out, "%d,%d,%u\n", c->layers[row], i, (unsigned)row_of(c, row)[i]);
}

#define LEFT 48
#define RIGHT 64
#define TOP 56
#define BOTTOM 32
#define ROW 12 /* height of a layer */
#define MAP_WIDTH 1024
#define CAPTION 170 /* characters in a line of text above the map */

/* All cells of one step as one path; neighbours in a row are one rectangle. */
static void svg_step(struct buf *out, const struct grid *g, int step)
{
    buf_printf(out, "<path fill=\"%s\" d=\"", colours[step].rgb);
    for (int row = 0; row < g->c->n_layers; row++) {
        for (int i = 0, end; i < g->n_cells; i = end) {
            int here = cell_step(g, row, i);
            for (end = i + 1; end < g->n_cells && cell_step(g, row, end) == here; end++)
                ;
            if (here == step)
                buf_printf(out, "M%d,%dh%dv1h-%dz", i, row, end - i, end - i);
        }
    }
    buf_puts(out, "\"/>\n");
}

void heat_svg(struct buf *out, const struct pick_counts *c)
{
    struct grid g = { .c = c, .group = 1, .n_cells = c->n_routed };
    struct heat_figures f;
    struct buf words = { 0 }, lines = { 0 };
    int height = c->n_layers * ROW;
    heat_figures(c, &f);
    if (f.n_seen)
        describe(&words, c, &f);
    wrap_lines(&lines, buf_str(&words), CAPTION);
    buf_printf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
                    "font-family=\"sans-serif\" font-size=\"11\">\n"
                    "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
               LEFT + MAP_WIDTH + RIGHT, TOP + height + BOTTOM);
    int y = 18;
    for (const char *line = buf_str(&lines).data; *line; y += 15) {
        size_t n = strcspn(line, "\n");
        buf_printf(out, "<text x=\"%d\" y=\"%d\">%.*s</text>\n", LEFT, y, (int)n, line);
        line += n + (line[n] == '\n');
    }
    out->out_of_memory |= words.out_of_memory || lines.out_of_memory;
    buf_release(&words);
    buf_release(&lines);
    buf_printf(out, "<g transform=\"translate(%d %d) scale(%.6g %d)\" "
                    "shape-rendering=\"crispEdges\">\n",
               LEFT, TOP, (double)MAP_WIDTH / max_of(c->n_routed, 1), ROW);
    for (int step = 0; step < STEPS; step++)
        svg_step(out, &g, step);
    buf_printf(out, "</g>\n<text x=\"%d\" y=\"%d\" text-anchor=\"end\">layer</text>\n"
                    "<text x=\"%d\" y=\"%d\">evenness</text>\n",
               LEFT - 8, TOP - 8, LEFT + MAP_WIDTH + 8, TOP - 8);
    for (int row = 0; row < c->n_layers; row++)
        buf_printf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%d</text>"
                        "<text x=\"%d\" y=\"%d\">%.2f</text>\n",
                   LEFT - 8, TOP + row * ROW + ROW - 2, c->layers[row], LEFT + MAP_WIDTH + 8,
                   TOP + row * ROW + ROW - 2, heat_evenness(c, row));
    for (int step = 0; step < STEPS; step++)
        buf_printf(out, "<rect x=\"%d\" y=\"%d\" width=\"16\" height=\"12\" fill=\"%s\"/>\n",
                   LEFT + 40 + step * 16 + (step ? 48 : 0), TOP + height + 12, colours[step].rgb);
    buf_printf(out, "<text x=\"%d\" y=\"%d\">never</text><text x=\"%d\" y=\"%d\">1/4</text>"
                    "<text x=\"%d\" y=\"%d\">4 times the even share</text>\n</svg>\n",
               LEFT, TOP + height + 22, LEFT + 78, TOP + height + 22, LEFT + 254, TOP + height + 22);
}

bool heat_write(const struct pick_counts *c, const char *path, struct error *err)
{
    struct buf out = { 0 };
    struct output_file f = { .fd = -1 };
    size_t len = strlen(path);
    bool svg = len >= 4 && strcmp(path + len - 4, ".svg") == 0;
    (svg ? heat_svg : heat_csv)(&out, c);
    bool ok = buf_ok(&out, err) && output_open(&f, path, err) &&
              output_write(&f, out.data, out.len, err);
    ok = output_close(&f, ok, ok ? err : NULL) && ok;
    buf_release(&out);
    return ok;
}

bool heat_check(const struct options *o, struct error *err)
{
    return !o->heat || output_try(o->heat, err) || error_prefix(err, "option --heat");
}

bool heat_keep(const struct engine *e, const struct options *o, bool ok, struct error *err)
{
    struct error late = { 0 };
    if (!o->heat || !e)
        return ok;
    struct pick_counts c = engine_picks(e);
    if (c.n_layers == 0)
        note("%s is not written: this model has no routed experts", o->heat);
    return (c.n_layers == 0 || heat_write(&c, o->heat, ok ? err : &late)) && ok;
}

bool chat_do_heat(struct chat *c, const char *argument, struct error *err)
{
    struct pick_counts counts = engine_picks(c->m.engine);
    struct error why = { 0 };
    struct buf out = { 0 };
    char path[4096];
    if (*argument && counts.n_layers > 0) {
        chat_file_name(argument, path, sizeof path);
        bool ok = heat_write(&counts, path, &why);
        note("%s%s", ok ? "written to " : "", ok ? path : why.text);
        return true;
    }
    enum heat_ink ink = term_ascii()                 ? HEAT_ASCII
                        : term_colour(STDERR_FILENO) ? HEAT_COLOUR
                                                     : HEAT_SHADES;
    heat_text(&out, &counts, term_columns() - 1, ink);
    bool ok = buf_ok(&out, err);
    if (ok)
        err_write(out.data, out.len);
    buf_release(&out);
    return ok;
}
