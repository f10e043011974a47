/* Manual pages and shell completions, from the tables of commands and options: what the parser takes
 * is what they tell. `tandem help --man` and `--completions` print them, make install puts them where
 * man and the shells look. */
#ifndef TANDEM_CLI_MANUAL_H
#define TANDEM_CLI_MANUAL_H

#include "src/cli/buf.h"
#include "src/cli/command.h"

/* tandem-COMMAND(1), or tandem(1) without a command, in the macros of man(7). */
void manual_page(struct buf *out, const struct command *c);

/* For "bash", "zsh" or "fish". ERR_USAGE: another shell. */
bool completions_print(struct buf *out, const char *shell, struct error *err);

#endif
