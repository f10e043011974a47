#include "src/cli/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LEAVE_WITHIN_NS 2000000000ll

/* Sequentially consistent by default; all are read rarely. */
static atomic_int cancel, leave, exit_code, resized, continued, status, lent;
static atomic_llong last_interrupt_ns;

static int wake[2] = { -1, -1 }; /* a byte per signal, for signals_wait */

static struct termios first_state;
static bool have_terminal;

static void wake_up(void)
{
    int saved_errno = errno;
    if (write(wake[1], "", 1) < 0) {
        /* full: there is enough in it to wake up from */
    }
    errno = saved_errno;
}

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    if (lent)
        return;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    long long now = (long long)t.tv_sec * 1000000000 + t.tv_nsec;
    long long before = atomic_exchange(&last_interrupt_ns, now);
    cancel = 1;
    if (!exit_code)
        exit_code = 130;
    if (before && now - before < LEAVE_WITHIN_NS)
        leave = 1;
    wake_up();
}

static void on_terminate(int signal_number)
{
    if (lent && signal_number == SIGQUIT)
        return;
    cancel = 1;
    exit_code = 128 + signal_number;
    leave = 1;
    wake_up();
}

static void on_stop(int signal_number)
{
    (void)signal_number;
    int saved_errno = errno;
    struct termios now;
    bool changed = have_terminal && !lent && tcgetattr(STDIN_FILENO, &now) == 0;
    if (changed)
        tcsetattr(STDIN_FILENO, TCSANOW, &first_state);
    raise(SIGSTOP);
    /* Continued. In the background the terminal belongs to somebody else. */
    if (changed && tcgetpgrp(STDIN_FILENO) == getpgrp())
        tcsetattr(STDIN_FILENO, TCSANOW, &now);
    continued = 1;
    wake_up();
    errno = saved_errno;
}

static void on_window(int signal_number)
{
    (void)signal_number;
    resized = 1;
    wake_up();
}

static void on_status(int signal_number)
{
    (void)signal_number;
    status = 1;
    wake_up();
}

static const struct {
    int number;
    void (*handler)(int);
} table[] = {
    { SIGINT, on_interrupt },  { SIGTERM, on_terminate }, { SIGHUP, on_terminate },
    { SIGQUIT, on_terminate }, { SIGTSTP, on_stop },      { SIGWINCH, on_window },
    { SIGUSR1, on_status },
};

void signals_init(void)
{
    if (pipe2(wake, O_NONBLOCK | O_CLOEXEC) != 0)
        wake[0] = wake[1] = -1; /* then only the thread that waits can be woken */
    have_terminal = tcgetattr(STDIN_FILENO, &first_state) == 0;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct sigaction old, action;
        memset(&action, 0, sizeof action);
        sigemptyset(&action.sa_mask);
        action.sa_handler = table[i].handler;
        /* nohup and background jobs of a shell come with signals ignored: let them stay so. */
        if (sigaction(table[i].number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(table[i].number, &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a write beyond ulimit -f fails, and is told, like one on a full disk */
}

const atomic_int *signals_cancel_flag(void)
{
    return &cancel;
}

bool signals_cancelled(void)
{
    return cancel != 0;
}

void signals_rearm(void)
{
    int interrupted = 130;
    if (leave)
        return;
    atomic_compare_exchange_strong(&exit_code, &interrupted, 0);
    cancel = 0;
    if (leave) { /* asked for meanwhile, in the midst of this */
        cancel = 1;
        interrupted = 0;
        atomic_compare_exchange_strong(&exit_code, &interrupted, 130);
    }
}

void signals_new_input(void)
{
    last_interrupt_ns = 0;
}

void signals_lend(bool now)
{
    lent = now;
}

bool signals_leave(void)
{
    return leave != 0;
}

int signals_exit_code(void)
{
    return exit_code;
}

bool signals_resized(void)
{
    return atomic_exchange(&resized, 0) != 0;
}

bool signals_continued(void)
{
    return atomic_exchange(&continued, 0) != 0;
}

bool signals_status(void)
{
    return atomic_exchange(&status, 0) != 0;
}

bool signals_wait(int fd)
{
    struct pollfd in[2] = { { .fd = fd, .events = POLLIN }, { .fd = wake[0], .events = POLLIN } };
    char drained[64];
    if (poll(in, 2, -1) < 0 && errno == EINTR)
        in[0].revents = 0; /* the pipe tells below, or in the next call */
    bool came = false;
    while (read(wake[0], drained, sizeof drained) > 0)
        came = true;
    return !came && in[0].revents != 0;
}
