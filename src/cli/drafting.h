/* What drafting has done and why it does what it does, for people and for programs. */
#ifndef TANDEM_CLI_DRAFTING_H
#define TANDEM_CLI_DRAFTING_H

#include "src/cli/buf.h"
#include "src/cli/json.h"
#include "src/engine/engine.h"

/* The place in "auto|off|1|2|3" of --draft. */
enum draft_use draft_wish(int choice);

/* One line: how often guesses were right, tokens per step, the length in use and why; nothing for
 * a session that cannot draft. */
void drafting_line(struct buf *out, const struct draft_report *r);
/* The same; NULL for such a session. */
struct json *drafting_json(const struct draft_report *r);

#endif
