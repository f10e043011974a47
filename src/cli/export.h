/* A kept conversation for people and programs. */
#ifndef TANDEM_CLI_EXPORT_H
#define TANDEM_CLI_EXPORT_H

#include "src/cli/json.h"
#include "src/cli/store.h"

/* The branch as Markdown, appended: model, system prompt, then questions and answers. Thinking is
 * left out. */
void export_markdown(struct buf *out, const struct store *s, const struct branch *b);

/* Everything: "name", "model", "system", "branch" (the current one), its "messages", and "branches",
 * each with its own. A message has "role", "content", "time", an answer "thinking" and "tokens",
 * too. */
struct json *export_json(const struct store *s);

/* Write the current branch (FILE.json: everything as JSON) to a new file. ERR_USAGE: it exists
 * already; ERR_RUN. */
bool export_file(const struct store *s, const char *path, struct error *err);

/* "2026-11-23 18:54" */
void export_time(char text[32], int64_t time_s);

/* A session's title for a row of a list, from `column` on: as much as a terminal's window takes. */
struct str export_title(const char *title, int column, bool on_terminal);

#endif
