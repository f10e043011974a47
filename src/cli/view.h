/* The last lines on a terminal, drawn over as long as they change.
 *
 *     lines that are done          never touched again, they scroll away
 *     lines that may change  ┐     the region: compared with what is wanted, and only what differs
 *     ... the cursor         ┘     is written, in one call, so that nothing flickers
 *
 * The region is never as high as the window, since what has scrolled away cannot be changed: of an
 * open block that is higher, its last lines are shown until it is done. The cursor stands behind the
 * region's last line. Lines must fit the window's width (styled.h). */
#ifndef TANDEM_CLI_VIEW_H
#define TANDEM_CLI_VIEW_H

#include "src/cli/buf.h"

/* Zeroed shows nothing; the cursor then stands at the start of a line. */
struct view {
    struct buf shown; /* the region's lines, each ended by a newline */
    int columns;      /* of the window when they were drawn */
};

/* Write the finished lines `done`, then show `open` as the region. Either may be empty. */
void view_show(struct view *v, struct str done, struct str open, struct buf *out);

/* The cursor was moved by somebody else to the start of a line (a note, another program): draw anew
 * from there the next time. */
void view_lost(struct view *v);

#endif
