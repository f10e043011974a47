/* Keys typed while nobody asks for a line: during an answer, or ahead of the prompt.
 *
 * They wait in a queue, from which a key that means something now can be taken out; the rest is what
 * the next line begins with. One queue per process; everything that reads the terminal reads here. */
#ifndef TANDEM_CLI_KEYS_H
#define TANDEM_CLI_KEYS_H

#include <stdbool.h>

/* Read what was typed, without waiting. Nothing where stdin is no terminal. */
void keys_poll(void);

/* Is one waiting? */
bool keys_waiting(void);

/* The next one, -1: none waits. */
int keys_next(void);

/* Take the first `key` out of the queue, wherever it stands. */
bool keys_take(char key);

/* A question is about to be asked: what was typed until now is no answer to it. */
void keys_ask(void);
/* Wait for a key typed since then, and take it; 0 when a signal came instead, -1 at the end of the
 * input. */
int keys_wait(void);

/* Read more from the terminal, waiting for it: false at its end. */
bool keys_fill(void);

void keys_release(void);

#endif
