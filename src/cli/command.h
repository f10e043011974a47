/* The commands and what each promises to the help. */
#ifndef TANDEM_CLI_COMMAND_H
#define TANDEM_CLI_COMMAND_H

#include "src/cli/options.h"

struct command {
    const char *name;
    unsigned bit;        /* enum command_bit; 0: help itself */
    const char *summary; /* one line */
    const char *usage;
    const char *examples; /* lines, indented */
    const char *about;    /* for the manual page: paragraphs, each a line */
    bool (*run)(struct options *o, struct error *err);
};

const struct command *command_find(const char *name); /* NULL: unknown */
const struct command *command_at(int index);          /* NULL behind the last */

/* Nearest command to a word that is none, or NULL. */
const char *command_nearest(const char *word);

/* The command of a program called tandem-COMMAND, or NULL. */
const struct command *command_of_program(const char *path);

/* The page without a command, and that of one command. */
void help_overview(struct buf *out);
void help_command(struct buf *out, const struct command *c, bool all);

bool cmd_chat(struct options *o, struct error *err);
bool cmd_run(struct options *o, struct error *err);
bool cmd_sessions(struct options *o, struct error *err);
bool cmd_plan(struct options *o, struct error *err);
bool cmd_inspect(struct options *o, struct error *err);
bool cmd_eval(struct options *o, struct error *err);
bool cmd_bench(struct options *o, struct error *err);
bool cmd_config(struct options *o, struct error *err);
bool cmd_replay(struct options *o, struct error *err);
bool cmd_doctor(struct options *o, struct error *err);
bool cmd_quantize(struct options *o, struct error *err); /* in tools/ */
bool cmd_convert(struct options *o, struct error *err); /* in tools/ */

#endif
