#include "src/cli/editor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/cli/signals.h"
#include "src/cli/term.h"

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static const char *editor_command(void)
{
    const char *visual = variable("VISUAL"), *editor = variable("EDITOR");
    return visual ? visual : editor ? editor : "vi";
}

/* Run the editor through the shell, as its name may come with arguments. The shell makes way for it
 * where that is all it says: a Ctrl-C that the editor lives through would end the shell. */
static bool run(const char *path, struct error *err)
{
    char script[1024];
    int status = 0;
    bool simple = !strpbrk(editor_command(), "=;|&<>()`\n");
    snprintf(script, sizeof script, "%s%s \"$1\"", simple ? "exec " : "", editor_command());
    signals_lend(true);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        if (!term_stdout())
            dup2(STDERR_FILENO, STDOUT_FILENO);
        execl("/bin/sh", "sh", "-c", script, "tandem", path, (char *)NULL);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    signals_lend(false);
    if (pid < 0)
        return fail(err, ERR_RUN, "cannot start an editor: %s", strerror(errno));
    return (WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
           fail(err, ERR_RUN, "the editor \"%s\" failed: the text stays as it was ($VISUAL or $EDITOR "
                "names another one)", editor_command());
}

static bool write_all(int fd, struct str text)
{
    while (text.len > 0) {
        ssize_t n = write(fd, text.data, text.len);
        if (n < 0 && errno != EINTR)
            return false;
        n = n < 0 ? 0 : n;
        text = (struct str){ text.data + n, text.len - (size_t)n };
    }
    return true;
}

bool editor_edit(struct buf *text, struct error *err)
{
    char path[512];
    struct buf edited = { 0 };
    const char *folder = variable("TMPDIR");
    snprintf(path, sizeof path, "%s/tandem-XXXXXX.md", folder ? folder : "/tmp");
    int fd = mkstemps(path, 3); /* mode 0600 */
    if (fd < 0)
        return fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
    bool ok = write_all(fd, buf_str(text));
    ok = close(fd) == 0 && ok;
    if (!ok)
        fail(err, ERR_RUN, "%s: cannot write: %s", path, strerror(errno));
    ok = ok && run(path, err) && buf_read_file(&edited, path, err);
    unlink(path);
    if (ok) {
        while (edited.len && edited.data[edited.len - 1] == '\n')
            edited.data[--edited.len] = 0;
        buf_clear(text);
        buf_add(text, buf_str(&edited).data, edited.len);
        ok = buf_ok(text, err);
    }
    buf_release(&edited);
    return ok;
}
