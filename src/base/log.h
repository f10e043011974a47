/* Notes and warnings from below the command line.
 *
 * Libraries never print: they call log_note and friends, and src/cli installs the sink that writes
 * to stderr (or nowhere, with -q). One call is one line without the newline. */
#ifndef TANDEM_BASE_LOG_H
#define TANDEM_BASE_LOG_H

enum log_level { LOG_WARNING, LOG_NOTE, LOG_DETAIL };

typedef void log_sink(void *ctx, enum log_level level, const char *line);

/* Install the sink; NULL drops everything. Call before any thread is started. */
void log_set_sink(log_sink *sink, void *ctx);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_note(...) log_line(LOG_NOTE, __VA_ARGS__)
#define log_detail(...) log_line(LOG_DETAIL, __VA_ARGS__)

#endif
