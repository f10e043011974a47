/* The integers of an interval as an expression of a grammar (src/text/grammar.h), which knows
 * texts and no numbers: 8 .. 123 is [8-9] | [1-9] [0-9] | "1" ([0-1] [0-9] | "2" [0-3]). */
#ifndef TANDEM_CLI_JSON_RANGE_H
#define TANDEM_CLI_JSON_RANGE_H

#include <stdint.h>

#define INTEGER_MAX 9999999999999999 /* 16 digits: every reader keeps them */

/* Append a group that matches low .. high as JSON writes them: no plus, no leading zeros, no -0.
 * -INTEGER_MAX <= low <= high <= INTEGER_MAX. */
struct buf;
void integers_between(struct buf *out, int64_t low, int64_t high);

#endif
