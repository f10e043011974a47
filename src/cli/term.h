/* Where text goes: answers to stdout, everything else to stderr, and what a terminal may be shown.
 *
 * Animation, colour and escaped control bytes exist only where the stream is a terminal; the three
 * standard streams are tested one by one. One process-wide state, set up by term_init. */
#ifndef TANDEM_CLI_TERM_H
#define TANDEM_CLI_TERM_H

#include "src/cli/buf.h"

enum colour_mode { COLOUR_AUTO, COLOUR_ALWAYS, COLOUR_NEVER };
enum verbosity { QUIET = -1, NORMAL = 0, VERBOSE = 1 };

/* Open /dev/null on standard descriptors that are closed, so that no file of ours lands there. */
bool term_claim_descriptors(void);
void term_init(enum colour_mode colour, int verbosity);

bool term_stdin(void); /* is it a terminal? */
bool term_stdout(void);
bool term_stderr(void);
bool term_colour(int fd); /* may escape sequences for colour be written there? */
bool term_draws(int fd);  /* a terminal on which the cursor can be moved? */
bool term_animates(void); /* may a line on stderr be drawn over? */
bool term_ascii(void);    /* is nothing but ASCII understood there? What we draw is changed on its way */
bool term_reflows(void);  /* does a terminal break its lines anew when its window changes its width, and
                           * tell so at once? */
int term_columns(void);
int term_rows(void);

/* Write all of it to stdout at once. A reader that went away is remembered (out_broken) and returns
 * false without an error: the program leaves quietly with 141. Other failures are ERR_RUN. */
bool out_write(const char *bytes, size_t len, struct error *err);
bool out_puts(const char *text, struct error *err);
bool out_broken(void);

/* One line to stderr, newline added, control bytes escaped; notes fall silent with -q. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void note_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Call this before a line is noted, so that what is being drawn can make room for it; NULL: nobody. */
void note_before(void (*make_room)(void *ctx), void *ctx);
/* Keep lines that belong behind the error which ends the program. */
void note_later(const struct buf *lines);
/* That error, these lines, and for a mistake of ours (ERR_INTERNAL) the wish to hear of it. */
void note_failure(const struct error *err);
/* Bytes to stderr as they are. */
void err_write(const char *bytes, size_t len);

/* A conversation begins or ends: from now on notes and err_lines break at words where they are wider
 * than the window. Not elsewhere: a command in an error message should stay one line. */
void term_wrap(bool on);
/* Lines to stderr, without control bytes. */
void err_lines(struct str text);

/* The terminal during a chat, so that no key is lost whenever it is typed:
 *   hold      keys wait unechoed, one by one (no line discipline that would eat a Ctrl-D)
 *   offer     the same with echo, as readline wants to find it
 *   release   as it was before
 * All three do nothing where stdin is no terminal. */
void term_hold(void);
void term_offer(void);
void term_release(void);

/* Copy text for a terminal: control bytes (C0 but newline and tab, DEL, C1) become visible \xNN, so
 * that no model and no file name drives the terminal. Returns the bytes put into `out`, which has
 * room for 4 * len. */
size_t term_escape(char *out, const char *text, size_t len);
/* The same behind what `out` holds; false without memory. */
bool term_escape_to(struct buf *out, const char *text, size_t len);

/* One line on stderr that shows how far a long job is: a bar with rate and time left, redrawn ten
 * times a second, removed when done. On a terminal where nothing can be drawn over, one plain line once
 * it takes long. Silent where stderr is no terminal, and with -q. */
struct progress {
    const char *label; /* "loading" */
    const char *unit;  /* "tok", or NULL for bytes */
    double start_s, drawn_s;
    bool shown, told;
};
/* The line itself, for a window of `columns`: what does not fit goes, the bar first. */
void progress_line(char *line, size_t size, const struct progress *p, double done, double total,
                   double elapsed_s, int columns);
void progress_begin(struct progress *p, const char *label, const char *unit);
void progress_update(struct progress *p, double done, double total);
void progress_end(struct progress *p);

/* "1.9 GiB", "17 KiB". */
const char *human_bytes(double bytes, char *text, size_t size);
/* "8 s", "3 min 20 s", "2 h 5 min"; never less than a second. */
const char *human_time(double seconds, char *text, size_t size);

#endif
