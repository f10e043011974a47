/* Where the time of an answer went: by block of the forward pass, with the bytes that each reads
 * and what share of the memory's measured rate that is; and the one change that would help most. */
#ifndef TANDEM_CLI_WHY_H
#define TANDEM_CLI_WHY_H

#include "src/cli/generate.h"
#include "src/cli/json.h"

/* A table and a sentence. `dram_gb_s`: measured, 0: nobody knows. In a window of few columns the table
 * leaves out what is read. */
void why_text(struct buf *out, const struct loaded *m, const struct generation *g,
              double dram_gb_s, int columns);

/* The same in one line, for --stats; nothing when nothing was decoded. */
void why_line(struct buf *out, const struct generation *g);

/* What the steps since `before` were bound by, in a few words: "bound by memory", "mostly routed
 * experts"; nothing before there was a step. dram_share: of what memory can read, gpu_busy: share of
 * the time in which the GPU computed; NAN: not known. */
void why_bound(struct buf *out, const struct session_times *before,
               const struct session_times *now, double dram_share, double gpu_busy);

/* The same for programs: milliseconds per step of each block and of guessing; NULL when nothing was decoded. */
struct json *why_json(const struct generation *g);

/* Bytes of weights that one token reads in each block. */
void why_bytes(const struct model *m, double bytes[N_PHASES]);

#endif
