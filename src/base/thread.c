#include "src/base/thread.h"

#include <signal.h>
#include <sys/resource.h>

/* A thread's stack is by default as large as `ulimit -s` says, perhaps a few kilobytes. */
#define STACK_BYTES ((size_t)4 << 20)

void thread_give_room(pthread_attr_t *attr)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur < STACK_BYTES)
        pthread_attr_setstacksize(attr, STACK_BYTES);
}

bool thread_start(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    sigset_t blocked, before;
    pthread_attr_t own;
    if (pthread_attr_init(&own) != 0)
        return false;
    thread_give_room(&own);
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    pthread_sigmask(SIG_SETMASK, &blocked, &before); /* inherited by the new thread */
    bool ok = pthread_create(thread, attr ? attr : &own, run, arg) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&own);
    return ok;
}
