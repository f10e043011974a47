/* One line, or one pasted block, typed by a person; or the next line of a pipe.
 *
 * line.c edits with GNU readline: keys of ~/.inputrc, history with Ctrl-R, Tab, and of our own
 *     Alt-Enter                a new line inside the message
 *     Ctrl-X Ctrl-E, Ctrl-G    the message in an editor
 *     a paste                  stays one message; a long one is shown as a mark (paste.h)
 * line_none.c reads plainly. No key and no Ctrl-C is lost, whenever it comes (keys.h). */
#ifndef TANDEM_CLI_LINE_H
#define TANDEM_CLI_LINE_H

#include "src/cli/buf.h"

enum line_result {
    LINE_TEXT,    /* *text holds it, without the newline that ended it */
    LINE_CLEARED, /* Ctrl-C: what was typed is gone; *text tells whether there was anything */
    LINE_END,     /* Ctrl-D on an empty line, or the end of the input */
    LINE_LEAVE,   /* a signal asks to leave */
    LINE_FAILED,  /* err is set */
};

/* What Tab offers for the word that begins at byte `from` of `line`. */
struct line_offer {
    const char *const *words; /* ended by NULL, valid until the next call; NULL: none */
    bool files;               /* names of files */
};

/* What the reader asks back. Any may be NULL. */
struct line_hooks {
    void (*offer)(void *ctx, const char *line, int from, struct line_offer *offer); /* Tab */
    void (*more)(void *ctx);   /* Ctrl-T: print something above the line */
    void (*status)(void *ctx); /* SIGUSR1: likewise */
    void *ctx;
};

void line_open(const struct line_hooks *hooks);
void line_close(void);

/* Show `prompt` and read. `text` is cleared first. */
enum line_result line_read(const char *prompt, struct buf *text, struct error *err);

/* The next line begins with this text, for the user to change. */
void line_again(struct str text);

/* History: entries may span lines. The file keeps one escaped entry per line, no two alike, the
 * latest 1000, none above 16 KiB, mode 0600, written as a whole; entries of a chat that ran beside
 * this one are kept. Without line editing these do nothing. */
void line_history_load(const char *path);
void line_history_add(const char *text);
void line_history_save(const char *path);

/* "GNU readline 8.2", or "plain". */
const char *line_library(void);

/* Read the next line of standard input without editing: for pipes, and for line_none.c. */
enum line_result line_plain(const char *prompt, struct buf *text, struct error *err);

#endif
