#include "src/cli/pager.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/cli/term.h"

#define NOT_FOUND 127 /* the shell's code for a program that it cannot start */

static const char *pager_command(void)
{
    const char *pager = getenv("PAGER");
    return pager ? pager : "less";
}

static bool scrolls_out(const struct buf *text)
{
    int rows = 0;
    for (size_t i = 0; i < text->len; i++)
        rows += text->data[i] == '\n';
    return rows >= term_rows();
}

/* The pager's side: it reads the page from `from`. less stays out of the way of short pages, keeps
 * colours and leaves the page on the screen, unless the user wants it otherwise. */
static void become_pager(int from)
{
    signal(SIGPIPE, SIG_DFL);
    dup2(from, STDIN_FILENO);
    setenv("LESS", "FRX", 0);
    execl("/bin/sh", "sh", "-c", pager_command(), (char *)NULL);
    _exit(NOT_FOUND);
}

/* False when no pager has shown the page; one that was left early has. */
static bool page(const struct buf *text)
{
    int ends[2], status = 0;
    if (pipe(ends) != 0)
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[1]);
        become_pager(ends[0]);
    }
    close(ends[0]);
    for (size_t at = 0; pid > 0 && at < text->len;) {
        ssize_t n = write(ends[1], text->data + at, text->len - at);
        if (n < 0 && errno != EINTR)
            break; /* EPIPE: it does not want more */
        at += n > 0 ? (size_t)n : 0;
    }
    close(ends[1]);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid > 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == NOT_FOUND);
}

bool pager_show(const struct buf *text, struct error *err)
{
    bool paged = term_draws(STDOUT_FILENO) && *pager_command() && scrolls_out(text) && page(text);
    return paged || out_write(text->data, text->len, err);
}
