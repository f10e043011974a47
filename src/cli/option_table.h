/* The rows behind options.h, shared by the parser and the help. */
#ifndef TANDEM_CLI_OPTION_TABLE_H
#define TANDEM_CLI_OPTION_TABLE_H

#include "src/cli/options.h"

enum option_kind {
    OPT_FLAG,   /* bool becomes true */
    OPT_COUNT,  /* int grows by one each time */
    OPT_ACTION, /* read() without a value */
    OPT_CONST,  /* int becomes `low` */
    OPT_INT,    /* int64_t in low .. high */
    OPT_REAL,   /* double in low .. high */
    OPT_TEXT,   /* const char * */
    OPT_LIST,   /* struct text_list, repeatable */
    OPT_SIZES,  /* struct size_list, comma separated */
    OPT_SIZE,   /* int64_t of at least `low` bytes: "48G", "1.5T" */
    OPT_CHOICE, /* int: position in `choices` */
    OPT_CUSTOM, /* read() decides */
    OPT_MAYBE,  /* bool becomes true; an argument that is there goes to the text at offset2 */
};

enum option_group {
    GROUP_PROMPT, GROUP_ANSWER, GROUP_SAMPLING, GROUP_MODEL, GROUP_PLACEMENT, GROUP_TASK, GROUP_OUTPUT,
    N_GROUPS
};

struct option {
    const char *name;     /* without dashes; also the configuration key and TANDEM_NAME */
    const char *brief;    /* "-m", or NULL */
    const char *also;     /* other spellings, separated by blanks, or NULL */
    const char *argument; /* for the help; NULL for kinds without one */
    unsigned commands;
    enum option_group group;
    enum option_kind kind;
    size_t offset;
    double low, high;
    const char *choices; /* "a|b|c" */
    bool (*read)(struct options *o, const char *value, struct error *err);
    size_t offset2;
    bool common;         /* shown by -h, too */
    const char *help;    /* NULL: an alias that needs no line of its own */
    const char *fallback; /* default as shown, or NULL */
};

extern const struct option option_rows[];
extern const int n_option_rows;

/* Flags of other programs: `habit` ones have no effect here and print a note, the others are
 * refused with a hint. */
struct foreign_option {
    const char *name; /* with dashes */
    enum { ALONE, ONE_VALUE, SWITCH_VALUE } takes; /* the last: on, off, auto, 0, 1 may follow */
    bool habit;
    const char *text;
};
extern const struct foreign_option foreign_options[];
extern const int n_foreign_options;

/* "48G", "500M", "1.5TiB", plain bytes; powers of 1024. False below `least` or when it is none. */
bool option_size(const char *value, int64_t least, int64_t *bytes);

const char *option_group_title(enum option_group group);

#endif
