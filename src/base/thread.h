/* Threads of our own. */
#ifndef TANDEM_BASE_THREAD_H
#define TANDEM_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* Start run(arg), with attr unless NULL (thread_give_room is for those). Signals such as SIGINT must
 * find a thread of the program, not this one, so they are blocked there; faults stay where they
 * happen. False: the system gives no more threads. */
bool thread_start(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg);

/* A stack that is large enough, also where the limit of stacks is small. */
void thread_give_room(pthread_attr_t *attr);

#endif
