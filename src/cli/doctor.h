/* What about a machine decides how fast models run on it, how it stands, and what mends it.
 *
 * Looking reads small files of /sys and /proc and changes nothing. What they do not tell (the card
 * as its driver sees it, rates measured earlier) the caller adds. A gain is stated only where it
 * follows from the figures found; most changes are worth trying and cannot be predicted. */
#ifndef TANDEM_CLI_DOCTOR_H
#define TANDEM_CLI_DOCTOR_H

#include "gpu/gpu.h"
#include "src/base/cpus.h"
#include "src/engine/machine.h"

enum finding_state {
    FINDING_GOOD,
    FINDING_POOR,    /* costs speed or memory; `mend` says what to do */
    FINDING_UNKNOWN, /* the system does not tell; `mend` may say how it would */
};

struct finding {
    const char *topic; /* "CPU governor"; unique */
    enum finding_state state;
    char found[240];
    const char *why; /* it matters */
    char mend[240];  /* empty: nothing to do, or nothing can be done */
    char gain[160];  /* empty: no estimate */
};

#define FINDINGS_MAX 24
struct doctor {
    struct finding findings[FINDINGS_MAX];
    int n;
};

/* What the files do not tell. */
struct doctor_case {
    const char *root;              /* put in front of /sys and /proc: "" but in tests */
    const struct cpus *cpus;       /* read from the same root */
    const struct machine *machine; /* measured earlier on this machine; NULL: nothing was */
    const struct gpu_info *card;   /* that the engine would use; NULL: none, and no_card says why */
    const char *no_card;           /* borrowed */
    bool card_code;                /* a library to use it with is installed */
    const char *model;             /* file whose disk is looked at; NULL: none */
    unsigned disk_major, disk_minor; /* of the device it lies on */
    double disk_gb_s;              /* read from it just now; 0: not measured */
};

void doctor_look(struct doctor *d, const struct doctor_case *c);

#endif
