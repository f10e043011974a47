/* From the options of the command line to a placement, and what to do when it does not fit. */
#ifndef TANDEM_CLI_PLACING_H
#define TANDEM_CLI_PLACING_H

#include "src/cli/paths.h"
#include "src/engine/engine.h"
#include "src/model/forecast.h"

/* Zeroed is closed. */
struct placing {
    struct engine_options engine; /* everything that options say; wishes points below */
    struct placement_wishes wishes;
    struct placement_rule *rules;
};

/* ERR_USAGE for a rule of -ot that is none. */
bool placing_open(struct placing *p, const struct options *o, struct error *err);
void placing_close(struct placing *p);

/* Warn of rules of -ot that no tensor of the model matches. */
void placing_tell_idle(const struct placing *p, const struct options *o, const struct model *m);

/* Commands that would run, best first. */
struct way_out {
    char what[96];    /* "a 4-bit file, 378 GiB" */
    char command[2 * PATH_SIZE];
};
#define MAX_WAYS 4

/* Ways out for a placement that does not fit: each was tried with the same budget, a higher one of
 * the user's own (--ram) with that. `path`: the model as the user wrote it. Returns how many. */
int placing_ways(struct way_out ways[MAX_WAYS], const struct model *m, const struct placement *p,
                 const struct rates *mc, const struct placement_wishes *w, const struct options *o,
                 const char *path);

/* The same as numbered lines. */
void placing_print_ways(struct buf *out, const struct way_out *ways, int n);

/* Ways out of a refusal, to be told behind the error (note_later). */
void placing_advise(const struct options *o, const struct placing *p, const char *path);

/* "12 - 16" with as many digits as matter. */
void range_text(char *text, size_t size, const struct range *r);

#endif
