/* A map of the routed experts: a row for each layer, a cell for each expert or for a few side by
 * side, as hot as the router's picks went there. Heat is a multiple of the even share, in nine steps
 * of a factor of the square root of two from a quarter to four; a step of its own says never. */
#ifndef TANDEM_CLI_HEAT_H
#define TANDEM_CLI_HEAT_H

#include "src/cli/buf.h"
#include "src/cli/options.h"
#include "src/engine/engine.h"

/* What cells are drawn with. HEAT_COLOUR: half blocks, so that two layers share a line. */
enum heat_ink { HEAT_ASCII, HEAT_SHADES, HEAT_COLOUR };

/* What the counts say, of the layers that were picked from at all. */
struct heat_figures {
    int n_seen;            /* those layers; 0: what follows means nothing */
    uint64_t n_picks;
    int n_never;           /* experts in them that were never picked */
    double hot_share;      /* of the picks: by each layer's hottest tenth of experts, rounded up */
    double evenness;       /* mean over the layers */
    int least, most;       /* rows of the least and the most even layer */
};
void heat_figures(const struct pick_counts *c, struct heat_figures *f);

/* Entropy of a row's picks over that of equal shares, 0 .. 1; 0 where nothing was picked. */
double heat_evenness(const struct pick_counts *c, int row);

/* The map and its figures, in lines of at most `columns` columns (at least 36). */
void heat_text(struct buf *out, const struct pick_counts *c, int columns, enum heat_ink ink);
void heat_csv(struct buf *out, const struct pick_counts *c);
void heat_svg(struct buf *out, const struct pick_counts *c);

/* Write a picture if the name ends in .svg, else a table. ERR_RUN, ERR_USAGE as output_open. */
bool heat_write(const struct pick_counts *c, const char *path, struct error *err);

/* --heat before anything is computed: ERR_RUN, ERR_USAGE when nothing could be written there. */
bool heat_check(const struct options *o, struct error *err);

/* --heat at the end of a command that has gone well (ok) or not; without an engine there is nothing
 * to keep. Returns ok, or false with an error when writing failed. */
bool heat_keep(const struct engine *e, const struct options *o, bool ok, struct error *err);

#endif
