/* A program in a terminal of its own: keys are typed, the screen is read. Every wait has a limit. */
#ifndef TANDEM_TESTS_PTY_H
#define TANDEM_TESTS_PTY_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "src/base/util.h"
#include "tests/check.h"

#define MODEL "models/demo.gguf"
/* Long waits cost nothing where all is well: a shared machine may stand still for many seconds, and
 * one that is busy has been seen to write 4 tokens a second. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PATIENCE_S 180
#else
#define PATIENCE_S 60
#endif
#define NO_PATIENCE_S 0.5

/* One program in a terminal of its own. */
struct pty {
    int master;
    pid_t pid;
    char text[1 << 20]; /* all that was written, escape sequences included */
    size_t len, seen;   /* `expect` searches behind `seen` */
    bool lost;          /* something expected did not come */
    struct termios before;
};

static char binary[512], home[64];

/* The window and the environment ("NAME=VALUE", or NAME to take it away, ended by NULL) that spawn
 * gives. */
static int window_columns = 100, window_rows = 40;
static const char *const *environment;

/* What the shell that runs the tests may have set. As bare as a container: UTF-8 must work all the same. */
static const char *const taken_away[] = {
    "LC_ALL", "LC_CTYPE", "LANG", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "INPUTRC",
    "NO_COLOR", "COLUMNS", "LINES", "PAGER", "VISUAL", "EDITOR", "TMUX", "XTERM_VERSION",
};

#define ARGUMENTS(...) (const char *const[]){ __VA_ARGS__, NULL }

static inline bool spawn(struct pty *s, const char *const *arguments)
{
    const char *argv[32] = { binary };
    int n = 1;
    while (*arguments && n < 31)
        argv[n++] = *arguments++;
    memset(s, 0, sizeof *s);
    s->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (s->master < 0 || grantpt(s->master) || unlockpt(s->master))
        return false;
    const char *name = ptsname(s->master);
    int slave = open(name, O_RDWR | O_NOCTTY);
    struct winsize size = { .ws_row = (unsigned short)window_rows,
                            .ws_col = (unsigned short)window_columns };
    if (slave < 0 || ioctl(slave, TIOCSWINSZ, &size) || tcgetattr(slave, &s->before))
        return false;
    s->pid = fork();
    if (s->pid == 0) {
        setsid();
        ioctl(slave, TIOCSCTTY, 0);
        dup2(slave, 0);
        dup2(slave, 1);
        dup2(slave, 2);
        close(slave);
        setenv("TERM", "xterm", 1);
        setenv("HOME", home, 1);
        for (size_t i = 0; i < ARRAY_LEN(taken_away); i++)
            unsetenv(taken_away[i]);
        for (int i = 0; environment && environment[i]; i++)
            putenv((char *)environment[i]);
        execv(binary, (char *const *)argv);
        _exit(127);
    }
    close(slave);
    return s->pid > 0;
}

static int n_lost; /* programs that something expected did not come from */

/* How long to wait: less behind a wait in vain, so that a broken program does not hold up others. */
static inline double patience(const struct pty *s)
{
    return s->lost ? NO_PATIENCE_S : n_lost < 2 ? PATIENCE_S : PATIENCE_S / 5;
}

static inline void give_up(struct pty *s)
{
    n_lost += !s->lost;
    s->lost = true;
}

/* Read what comes within the time; false when nothing did. */
static inline bool pump(struct pty *s, double seconds)
{
    struct pollfd in = { .fd = s->master, .events = POLLIN };
    if (poll(&in, 1, (int)(seconds * 1000)) <= 0)
        return false;
    ssize_t n = read(s->master, s->text + s->len, sizeof s->text - 1 - s->len);
    if (n <= 0)
        return false;
    s->len += (size_t)n;
    return true;
}

static inline bool has_ended(const struct pty *s)
{
    siginfo_t info = { 0 };
    return waitid(P_PID, (id_t)s->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
}

/* The window changes its size. */
static inline void resize(struct pty *s, int to_columns, int to_rows)
{
    struct winsize size = { .ws_row = (unsigned short)to_rows, .ws_col = (unsigned short)to_columns };
    CHECK(ioctl(s->master, TIOCSWINSZ, &size) == 0);
}

/* Let an answer grow, so that there is something to interrupt. */
static inline void watch_grow(struct pty *s, size_t bytes)
{
    size_t from = s->len;
    double end = now_s() + patience(s);
    while (s->len < from + bytes && now_s() < end && !has_ended(s))
        pump(s, 0.1);
}

/* Wait for more to read. False: nothing came, and nothing will or it is too late. What is there counts
 * even then: whoever had to wait may have been this test, not the program. */
static inline bool pump_until(struct pty *s, double end)
{
    for (;;) {
        bool last = now_s() > end || has_ended(s); /* asked before, or the last words were missed */
        if (pump(s, last ? 0 : 0.2))
            return true;
        if (last)
            return false;
    }
}

/* Wait until `wanted` appears behind what was expected before. */
static inline bool expect(struct pty *s, const char *wanted)
{
    double end = now_s() + patience(s);
    for (;;) {
        char *found = memmem(s->text + s->seen, s->len - s->seen, wanted, strlen(wanted));
        if (found) {
            s->seen = (size_t)(found - s->text) + strlen(wanted);
            return true;
        }
        if (!pump_until(s, end))
            break;
    }
    give_up(s);
    size_t from = s->len > 600 ? s->len - 600 : 0;
    printf("waited for \"%s\", the screen ends with:\n%.*s\n", wanted, (int)(s->len - from),
           s->text + from);
    return false;
}

static inline void type(struct pty *s, const char *keys)
{
    size_t len = strlen(keys);
    double end = now_s() + patience(s); /* nobody may be reading */
    while (len > 0 && now_s() < end) {
        ssize_t n = write(s->master, keys, len);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return;
        pump(s, n <= 0 ? 0.01 : 0);
        n = n < 0 ? 0 : n;
        keys += n;
        len -= (size_t)n;
    }
    if (len > 0)
        give_up(s);
}

/* The program stops where it is, and all that it wrote is read. False: it has ended. */
static inline bool halt(struct pty *s)
{
    siginfo_t info = { 0 };
    kill(s->pid, SIGSTOP);
    if (waitid(P_PID, (id_t)s->pid, &info, WEXITED | WSTOPPED | WNOWAIT) != 0)
        return false;
    while (pump(s, 0))
        ;
    return info.si_code == CLD_STOPPED;
}

/* Wait until the program has read all keys. Behind Ctrl-C there is no need to have: the system drops
 * those that it still holds. */
static inline bool expect_read(struct pty *s)
{
    struct pollfd keys = { .fd = open(ptsname(s->master), O_RDWR | O_NOCTTY), .events = POLLIN };
    if (keys.fd < 0)
        return false;
    double end = now_s() + patience(s);
    bool waiting;
    while ((waiting = poll(&keys, 1, 0) != 0) && now_s() < end && !has_ended(s))
        pump(s, 0.01);
    close(keys.fd);
    if (waiting)
        give_up(s);
    return !waiting;
}

/* The prompt stands there and waits: sent text arrives at readline, not at the terminal. */
static inline bool expect_prompt(struct pty *s)
{
    return expect(s, "> ");
}

/* Let the program end and return its exit code, -1 when it does not. */
static inline int finish(struct pty *s)
{
    int status;
    double end = now_s() + (s->lost ? 2 : patience(s));
    pid_t got;
    while ((got = waitpid(s->pid, &status, WNOHANG)) == 0 && now_s() < end)
        pump(s, 0.05);
    if (got != s->pid) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, &status, 0);
        return -1;
    }
    for (end = now_s() + 2; pump(s, 0.05) && now_s() < end;)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static inline bool terminal_restored(struct pty *s)
{
    struct termios now;
    return tcgetattr(s->master, &now) == 0 && now.c_lflag == s->before.c_lflag &&
           now.c_iflag == s->before.c_iflag && now.c_oflag == s->before.c_oflag &&
           now.c_cflag == s->before.c_cflag &&
           memcmp(now.c_cc, s->before.c_cc, sizeof now.c_cc) == 0;
}

#endif
