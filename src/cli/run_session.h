/* run --save-session NAME: the answer begins a session, with which `chat --session NAME` goes on. */
#ifndef TANDEM_CLI_RUN_SESSION_H
#define TANDEM_CLI_RUN_SESSION_H

#include "src/cli/generate.h"
#include "src/cli/store.h"

/* Before anything is computed. ERR_USAGE: there is such a session, or options that no chat could go
 * on with; ERR_RUN. */
bool run_session_begin(struct store *s, const struct options *o, struct error *err);
/* Keep question, answer and cache; a run that failed (ok false) leaves no session. Returns ok, or
 * false with ERR_RUN. Nothing where none was begun. */
bool run_session_end(struct store *s, bool ok, const struct loaded *m, const struct options *o,
                     const char *model_path, struct str question, const struct generation *g,
                     struct error *err);

#endif
