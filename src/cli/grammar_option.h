/* What binds an answer to a form: --grammar FILE, or --json-schema FILE|JSON, of which one may be
 * given. */
#ifndef TANDEM_CLI_GRAMMAR_OPTION_H
#define TANDEM_CLI_GRAMMAR_OPTION_H

#include "src/base/error.h"

struct buf;
struct grammar;

/* The grammar that was asked for; none leaves *out NULL. The caller frees it.
 * ERR_FILE when a file cannot be read, ERR_USAGE for a mistake in it or when both are given. */
bool grammar_wanted(const char *grammar_file, const char *schema, struct grammar **out,
                    struct error *err);
/* The text of that, appended; nothing when there is none. */
bool grammar_text(const char *grammar_file, const char *schema, struct buf *text, struct error *err);

#endif
