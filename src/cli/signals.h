/* What the user asks for by signal, as flags that the rest polls.
 *
 *   SIGINT           cancels what is running; a second one within two seconds asks to leave
 *   SIGTERM, SIGHUP, SIGQUIT   cancel and leave
 *   SIGTSTP          gives the terminal back in its first state, stops, takes it again on SIGCONT
 *   SIGWINCH         the prompt line is drawn again
 *   SIGPIPE          ignored: a failing write tells the same
 *
 * Handlers touch lock-free atomics and call async-signal-safe functions only; none restarts system
 * calls, so that a blocking read returns. */
#ifndef TANDEM_CLI_SIGNALS_H
#define TANDEM_CLI_SIGNALS_H

#include <signal.h>
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

/* Should the program leave, and with which exit code (130, 143, 129, 131; 0: no signal came)? */
bool signals_leave(void);
int signals_exit_code(void);

/* True once after the window changed its size, and after the program was stopped and continued. */
bool signals_resized(void);
bool signals_continued(void);

/* The signals above as a set: blocked between the check of a flag and a ppoll that unblocks them. */
void signals_set(sigset_t *set);

#endif
