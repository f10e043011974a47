/* For terminals whose character set is not UTF-8: what we draw with, in ASCII. */
#ifndef TANDEM_CLI_ASCII_H
#define TANDEM_CLI_ASCII_H

#include "src/cli/buf.h"

/* Does the environment name a character set (LC_ALL, LC_CTYPE, LANG, the first that is not empty), and
 * is it another one? Where nothing is said, as in containers, terminals speak UTF-8. */
bool ascii_wanted(void);

/* Append `text`: lines, blocks, bullets and dots become their likes, column by column ("…" two dots, so
 * that no line grows by more than one); everything else stays. */
void ascii_add(struct buf *out, struct str text);

#endif
