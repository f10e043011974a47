/* Running tandem as a user does. */
#ifndef TANDEM_TESTS_COMMAND_H
#define TANDEM_TESTS_COMMAND_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

/* Exit code of a command line for the tandem of this build ($B, else build), -1 without one; what it
 * said on both outputs is in said [size], cut to fit. */
static inline int run_tandem(const char *arguments, char *said, size_t size)
{
    char line[2000];
    const char *b = getenv("B");
    snprintf(line, sizeof line, "%s/tandem %s 2>&1 </dev/null", b ? b : "build", arguments);
    FILE *f = popen(line, "r");
    if (!f)
        return -1;
    size_t n = fread(said, 1, size - 1, f);
    said[n] = 0;
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#endif
