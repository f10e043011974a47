#include "src/cli/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "src/cli/buf.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"

static struct buf queue;
static size_t first;    /* bytes before it were given out */
static size_t n_before; /* keys that waited when a question was asked */

bool keys_waiting(void)
{
    return first < queue.len;
}

/* The terminal, opened once more so that a read of it never waits: Ctrl-C makes the driver throw
 * away what poll() has just announced, and its signal has then come before the read. O_NONBLOCK on
 * stdin itself would stay behind in the shell. Where it cannot be opened, stdin. */
static int terminal(void)
{
    static int fd = -1;
    if (fd < 0)
        fd = open("/proc/self/fd/0", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    return fd < 0 ? STDIN_FILENO : fd;
}

bool keys_fill(void)
{
    char bytes[4096];
    ssize_t n = read(terminal(), bytes, sizeof bytes);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return true;
    if (n <= 0)
        return false;
    if (!keys_waiting()) {
        buf_clear(&queue);
        first = 0;
    }
    buf_add(&queue, bytes, (size_t)n);
    return !queue.out_of_memory;
}

void keys_poll(void)
{
    struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
    if (term_stdin() && poll(&in, 1, 0) > 0 && (in.revents & POLLIN))
        keys_fill();
}

int keys_next(void)
{
    return keys_waiting() ? (unsigned char)queue.data[first++] : -1;
}

bool keys_take(char key)
{
    char *at = keys_waiting() ? memchr(queue.data + first, key, queue.len - first) : NULL;
    if (!at)
        return false;
    memmove(at, at + 1, (size_t)(queue.data + queue.len - at)); /* the 0 behind the bytes too */
    queue.len--;
    return true;
}

void keys_ask(void)
{
    keys_poll();
    n_before = queue.len - first;
}

int keys_wait(void)
{
    if (queue.len - first <= n_before) {
        if (!signals_wait(STDIN_FILENO))
            return 0;
        if (!keys_fill())
            return -1;
    }
    if (queue.len - first <= n_before)
        return 0;
    char *at = queue.data + first + n_before;
    int key = (unsigned char)*at;
    memmove(at, at + 1, (size_t)(queue.data + queue.len - at));
    queue.len--;
    return key;
}

void keys_release(void)
{
    buf_release(&queue);
    first = 0;
}
