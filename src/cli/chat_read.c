/* /read, and what a long message will cost. */
#include <stdio.h>
#include <stdlib.h>

#include "src/cli/chat_actions.h"
#include "src/cli/keys.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"

#define MAX_FILE (64u << 20)
#define WORTH_COUNTING 2000 /* bytes; less is read at once */
#define WORTH_ASKING_S 10.0
#define WORTH_MEASURING 256 /* tokens; the rate of fewer says little */

static int64_t count_tokens(const struct chat *c, struct str text)
{
    struct tokens ids = { 0 };
    bool ok = tokenizer_encode(c->m.tokenizer, text, false, &ids, NULL);
    int64_t n = ok ? (int64_t)ids.n : -1;
    tokens_release(&ids);
    return n;
}

/* "1234 tokens, about 3 s to read, context 40 % with it". */
static void describe(const struct chat *c, int64_t n, struct buf *out, double *seconds)
{
    int64_t n_ctx = session_n_ctx(c->m.session), used = chat_n_tokens(c);
    bool measured = c->answered && c->last.n_prompt - c->last.n_reused >= WORTH_MEASURING;
    double rate = measured ? generation_prefill_rate(&c->last) : chat_expected_prefill(c);
    *seconds = rate > 0 ? (double)n / rate : 0;
    buf_printf(out, "%lld token%s", (long long)n, n == 1 ? "" : "s");
    if (*seconds >= 1)
        buf_printf(out, ", about %.0f s to read", *seconds);
    int64_t larger = used + n < n_ctx ? 0 : chat_larger_context(c, used + n);
    if (used + n < n_ctx)
        buf_printf(out, ", context %lld %% with it", (long long)(100 * (used + n) / n_ctx));
    else
        buf_printf(out, ", too much for the context of %lld", (long long)n_ctx);
    if (larger)
        buf_printf(out, " (/ctx %lld makes it larger)", (long long)larger);
}

void chat_file_name(const char *argument, char *path, size_t size)
{
    const char *home = getenv("HOME");
    size_t len = strlen(argument);
    while (len > 0 && strchr(" \t\n", argument[len - 1]))
        len--;
    if (len > 1 && strchr("\"'", argument[0]) && argument[len - 1] == argument[0]) {
        argument++;
        len -= 2;
    }
    bool below_home = home && len > 1 && argument[0] == '~' && argument[1] == '/';
    snprintf(path, size, "%s%.*s", below_home ? home : "", (int)(len - below_home),
             argument + below_home);
}

static bool drop_attached(struct chat *c)
{
    note(c->attached.len ? "nothing goes with the next message" : "nothing was read");
    buf_clear(&c->attached);
    return true;
}

bool chat_do_read(struct chat *c, const char *argument, struct error *err)
{
    char path[4096];
    struct buf text = { 0 }, line = { 0 };
    struct error why = { 0 };
    double seconds;
    if (!*argument) {
        note("/read FILE puts a file behind the next message; /read - takes it back");
        return true;
    }
    chat_file_name(argument, path, sizeof path);
    if (strcmp(path, "-") == 0)
        return drop_attached(c);
    if (!buf_read_file(&text, path, &why)) {
        note("%s", why.text);
    } else if (text.len > MAX_FILE || memchr(buf_str(&text).data, 0, text.len)) {
        note("%s %s", path, text.len > MAX_FILE ? "is too long" : "is not a text file");
    } else {
        describe(c, count_tokens(c, buf_str(&text)), &line, &seconds);
        buf_puts(&c->attached, c->attached.len ? "\n\n" : "");
        buf_add(&c->attached, buf_str(&text).data, text.len);
        while (c->attached.len && c->attached.data[c->attached.len - 1] == '\n')
            c->attached.data[--c->attached.len] = 0;
        note("%s: %s; it goes with the next message (/read - takes it back)", path,
             buf_str(&line).data);
    }
    buf_release(&text);
    buf_release(&line);
    return buf_ok(&c->attached, err);
}

bool chat_attach(struct chat *c, struct str message, struct buf *full, struct error *err)
{
    buf_add(full, message.data, message.len);
    if (c->attached.len) {
        buf_puts(full, "\n\n");
        buf_add(full, c->attached.data, c->attached.len);
        buf_clear(&c->attached);
    }
    return buf_ok(full, err);
}

/* Enter: true. Ctrl-C or any other key: false. */
static bool wait_for_enter(void)
{
    int key = 0;
    while (key == 0 && !signals_cancelled() && !signals_leave())
        key = keys_wait();
    return key == '\r' || key == '\n';
}

bool chat_confirm(struct chat *c, struct str message)
{
    struct buf line = { 0 };
    double seconds;
    if (!term_stdin() || !term_stderr() || message.len < WORTH_COUNTING)
        return true;
    int64_t n = count_tokens(c, message), n_ctx = session_n_ctx(c->m.session);
    describe(c, n, &line, &seconds);
    bool fits = n >= 0 && chat_n_tokens(c) + n < n_ctx; /* else the refusal says what to do */
    bool ask = fits && (seconds > WORTH_ASKING_S || 4 * n > n_ctx);
    bool yes = true;
    if (ask) {
        keys_ask();
        note("%s. Enter sends it, any other key does not", buf_str(&line).data);
        yes = wait_for_enter();
    }
    if (!yes) {
        note("not sent");
        line_again(message);
        signals_rearm();
    }
    buf_release(&line);
    return yes;
}
