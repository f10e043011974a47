/* /copy: the last answer into the clipboard, by a sequence that terminals pass on (OSC 52), also
 * over ssh. */
#include "src/cli/chat_actions.h"
#include "src/cli/term.h"

#define TERMINALS_TAKE 74994 /* bytes of base64 that the strictest common terminal accepts */

static void add_base64(struct buf *out, struct str s)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < s.len; i += 3) {
        unsigned v = 0;
        char four[4];
        for (size_t j = 0; j < 3; j++)
            v = v << 8 | (i + j < s.len ? (unsigned char)s.data[i + j] : 0);
        for (int j = 0; j < 4; j++)
            four[j] = i + (size_t)j <= s.len ? digits[v >> (18 - 6 * j) & 63] : '=';
        buf_add(out, four, 4);
    }
}

bool chat_do_copy(struct chat *c, const char *argument, struct error *err)
{
    struct buf sequence = { 0 };
    struct str text = buf_str(&c->last.answer);
    (void)argument;
    if (!c->answered || text.len == 0) {
        note("no answer to copy");
        return true;
    }
    if (!term_draws(2) && !term_draws(1)) {
        note("there is no terminal to copy through");
        return true;
    }
    buf_puts(&sequence, "\033]52;c;");
    add_base64(&sequence, text);
    buf_puts(&sequence, "\a");
    bool ok = buf_ok(&sequence, err);
    if (ok && term_draws(2))
        err_write(sequence.data, sequence.len);
    else if (ok)
        ok = out_write(sequence.data, sequence.len, err);
    if (ok)
        note(sequence.len > TERMINALS_TAKE ? "sent %zu bytes to the terminal's clipboard; some take "
                                             "no more than 56 KB"
                                           : "sent %zu bytes to the terminal's clipboard", text.len);
    buf_release(&sequence);
    return ok;
}
