/* --log FILE: what a command did, for the day when somebody asks. One line per event,
 *
 *     2026-03-01T09:14:02.117Z 4711 run: answer: 24 tokens of prompt, 0 of them kept before, ...
 *
 * time in UTC, process, command: the version; the model and how it was placed; how answers are
 * sampled; every note and warning from below the command line, also those that only -v shows; each
 * answer in figures; the error; the exit code. Never a word of the conversation: no prompt, no answer,
 * no system prompt, and no text of an error about usage, which quotes what was typed.
 *
 * Lines are appended, each by one write: a program that is killed leaves all it said, and several may
 * share a file. A new file is private (mode 0600). One per process. */
#ifndef TANDEM_CLI_RECORD_H
#define TANDEM_CLI_RECORD_H

#include "src/base/error.h"
#include "src/cli/generate.h"

/* ERR_RUN when the file cannot be written. `command` is borrowed. */
bool record_open(const char *path, const char *command, struct error *err);

/* Nothing while no file is open. The first line that cannot be written is said on stderr, and ends
 * the record: an answer is worth more. */
void record_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A model that is ready, with the options as they came out. */
void record_loaded(const struct loaded *m, const struct options *o, const char *path);
void record_answer(const struct loaded *m, const struct generation *g);

/* The last lines: what went wrong (NULL: nothing) and the exit code. */
void record_close(const struct error *err, int code);

#endif
