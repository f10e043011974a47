/* Chats of the demo model in a terminal of their own (pty.h), and what their tests share. What the
 * model says is forced by grammars and biases where the screen is compared. */
#ifndef TANDEM_TESTS_CHAT_PTY_H
#define TANDEM_TESTS_CHAT_PTY_H

#include "src/cli/json.h"
#include "src/text/tokenizer.h"
#include "tests/pty.h"
#include "tests/screen.h"

static char never_end[32], never_close[32]; /* biases: no end of the answer, none of the thinking */

static struct pty s;

/* Type, see it answered, and the prompt behind it. */
static inline bool say(const char *keys, const char *wanted)
{
    type(&s, keys);
    return CHECK_MSG(expect(&s, wanted) && expect_prompt(&s), "%s does not show \"%s\"", keys, wanted);
}

/* Leave at the prompt and see that everything is as before. */
static inline void leave(void)
{
    type(&s, "\004");
    CHECK_INT(finish(&s), 0);
    CHECK(terminal_restored(&s));
    close(s.master);
}

/* A file below the test's home. */
static inline const char *write_file(const char *name, const char *text)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", home, name);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
    return path;
}

/* What the screen shows in the end; *wrapped: a line was wider than the window. The caller frees it. */
static inline char *shown_wrapped(int columns, int rows, bool *wrapped)
{
    struct screen *screen = screen_open(columns, rows);
    screen_write(screen, (struct str){ s.text, s.len }, true);
    char *text = screen_text(screen);
    *wrapped = screen->wrapped;
    free(screen);
    return text;
}

static inline char *shown(int columns, int rows)
{
    bool wrapped;
    return shown_wrapped(columns, rows, &wrapped);
}

/* Wait until this stands on the screen, however it was drawn. */
static inline bool expect_shown(const char *wanted)
{
    bool found = false, more = true;
    for (double end = now_s() + patience(&s); !found && more;) {
        char *text = shown(window_columns, window_rows);
        found = strstr(text, wanted) != NULL;
        more = found || pump_until(&s, end);
        if (!more)
            printf("\"%s\" is not on the screen:\n%s", wanted, text);
        free(text);
    }
    if (!found)
        give_up(&s);
    return found;
}

/* A home, the program's name, the biases. False: there is nothing to test, which is told. */
static inline bool chat_tests_open(const char *about)
{
    const char *build = getenv("B");
    struct gguf g = { 0 };
    struct tokenizer *t = NULL;
    snprintf(binary, sizeof binary, "%s/tandem", build && *build ? build : "build");
    snprintf(home, sizeof home, "/tmp/tandem-test-XXXXXX");
    width_use_utf8();
    check_case("%s", about);
    if (access(MODEL, R_OK) != 0 || access(binary, X_OK) != 0 || !js_available(NULL)) {
        check_skip("%s, %s or the libraries for text are not there", MODEL, binary);
        return false;
    }
    bool ok = CHECK(mkdtemp(home) && gguf_open(&g, MODEL, NULL) && tokenizer_open(&t, &g, NULL) && t);
    if (ok) {
        snprintf(never_end, sizeof never_end, "%d-inf", tokenizer_eos(t));
        snprintf(never_close, sizeof never_close, "%d-inf", tokenizer_find(t, "</think>"));
    }
    tokenizer_close(t);
    gguf_close(&g);
    return ok;
}

static inline int chat_tests_close(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    if (system(command) != 0)
        printf("%s stays behind\n", home);
    return check_finish();
}

#endif
