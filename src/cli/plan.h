/* Parts of tandem plan. */
#ifndef TANDEM_CLI_PLAN_H
#define TANDEM_CLI_PLAN_H

#include "src/cli/placing.h"

/* A plan as far as it got: everything that is printed. */
struct plan {
    const struct options *o;
    const char *path;        /* as the user wrote it */
    struct model model;
    struct rates rates;
    struct placing placing;
    struct placement_wishes wishes; /* what was placed by */
    struct placement placement;
    struct forecast forecast;       /* behind an empty context */
    struct forecast full;           /* behind a full one */
    bool met;                       /* the goals are */
    struct way_out ways[MAX_WAYS];
    int n_ways;
};

/* Read the header of the model at `path`, ask what the machine can do (which may take a second, once),
 * and place. A plan that does not fit is no failure. p->o and p->path are set, the rest is zeroed.
 * ERR_FILE, ERR_USAGE, ERR_DEVICE, ERR_INTERRUPTED. plan_close in any case. */
bool plan_open(struct plan *p, struct error *err);
void plan_close(struct plan *p);

/* One line of the table. */
struct plan_part {
    char name[64];
    enum home home;
    double bytes, read_bytes; /* read per token; negative: nothing */
    char remark[48];
};
#define MAX_PLAN_PARTS 24
int plan_parts(struct plan_part parts[MAX_PLAN_PARTS], const struct plan *p);

/* The flags that make this placement, without the model. */
void plan_flags(struct buf *out, const struct plan *p);

/* In a window of few columns (0: no window) the table takes two lines a row. */
void plan_text(struct buf *out, const struct plan *p, int columns);
void plan_explain(struct buf *out, const struct plan *p);
struct json;
bool plan_json(const struct plan *p, struct error *err);
struct json *plan_range_json(const struct range *r);

/* Types and contexts compared: as a table into `out`, or as an array of objects into `rows`; the other
 * one is NULL. */
bool plan_compare(struct buf *out, struct json *rows, const struct plan *p, struct error *err);

#endif
