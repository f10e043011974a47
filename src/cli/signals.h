/* What the user asks for by signal, as flags that the rest polls.
 *
 *   SIGINT           cancels what is running; a second one within two seconds asks to leave
 *   SIGTERM, SIGHUP, SIGQUIT   cancel and leave
 *   SIGTSTP          gives the terminal back in its first state, stops, takes it again on SIGCONT
 *   SIGWINCH         the prompt line is drawn again
 *   SIGUSR1          one line on stderr says how far things are
 *   SIGPIPE          ignored: a failing write tells the same
 *
 * Handlers touch lock-free atomics and call async-signal-safe functions only. */
#ifndef TANDEM_CLI_SIGNALS_H
#define TANDEM_CLI_SIGNALS_H

#include <stdatomic.h>
#include <stdbool.h>

/* Install the handlers and remember the terminal's state. */
void signals_init(void);

/* Non-zero when what is running should stop: hand it to session_open. */
const atomic_int *signals_cancel_flag(void);
bool signals_cancelled(void);

/* Before the next piece of work: forget a Ctrl-C that was dealt with. Requests to leave stay. */
void signals_rearm(void);

/* The user typed something: the next Ctrl-C is a first one again. */
void signals_new_input(void);

/* An editor has the terminal: what its keys send (SIGINT, SIGQUIT) is meant for it, and when all are
 * stopped it brings its own terminal back. */
void signals_lend(bool lent);

/* Should the program leave, and with which exit code (130, 143, 129, 131; 0: no signal came)? */
bool signals_leave(void);
int signals_exit_code(void);

/* True once after the window changed its size, and after the program was stopped and continued. */
bool signals_resized(void);
bool signals_continued(void);
/* True once after SIGUSR1. */
bool signals_status(void);

/* Wait until `fd` can be read (true) or a signal came (false). No signal is missed, whichever
 * thread the system chose to handle it and whenever it came: handlers also write into a pipe. */
bool signals_wait(int fd);

#endif
