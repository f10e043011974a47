/* Patterns of names: POSIX extended regular expressions, as options and files give them.
 *
 * The C library copies what a "+" or "{m,n}" repeats, so repetitions of repetitions multiply: thirty
 * "+" in a row take gigabytes. Patterns also come with folders, recipes and records of strangers, so
 * what would grow too large is refused before it is compiled, and so are back-references, whose
 * matching may take forever. */
#ifndef TANDEM_BASE_PATTERN_H
#define TANDEM_BASE_PATTERN_H

#include <regex.h>

#include "src/base/error.h"

#define PATTERN_PARTS 4000 /* most characters, sets and groups once repetitions are written out */
#define PATTERN_DEPTH 32    /* most groups within groups */

/* ERR_USAGE with the pattern and what is wrong. For regexec without matches; regfree when done. */
bool pattern_open(regex_t *re, const char *text, struct error *err);

#endif
