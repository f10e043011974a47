/* Stop strings in a stream of bytes.
 *
 * Each string has a Knuth-Morris-Pratt automaton: its state is the length of its longest
 * prefix that ends at the last byte seen. The longest state over all strings is therefore
 * exactly what could still become a stop string, and that many bytes are held back. The text
 * ends with the first byte that completes any string; of strings completed by the same byte the
 * longest counts. */
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/text/sampler.h"

#define PIECE_BYTES 4096 /* room for one feed before the buffer has to grow */

struct pattern {
    char *text; /* owned */
    size_t len;
    size_t *shorter; /* [len] owned: longest proper prefix of text[0..i] that is also its suffix */
    size_t state;    /* bytes matched so far */
};

struct stop_matcher {
    struct pattern *patterns;
    int n;
    char *buffer; /* held bytes, then those just fed */
    size_t capacity;
    size_t n_shown;     /* bytes at the front that the last call handed out */
    size_t n_held;      /* bytes behind them */
    bool done;
};

static size_t advance(const struct pattern *p, size_t state, char byte)
{
    while (state > 0 && (state == p->len || p->text[state] != byte))
        state = p->shorter[state - 1];
    return p->text[state] == byte ? state + 1 : 0;
}

static bool pattern_open(struct pattern *p, const char *text, struct error *err)
{
    p->len = strlen(text);
    if (p->len == 0)
        return fail(err, ERR_USAGE, "a stop string is empty");
    p->text = mem_strndup(text, p->len, err);
    p->shorter = p->text ? mem_alloc(p->len, sizeof *p->shorter, "stop string", err) : NULL;
    if (!p->shorter)
        return false;
    for (size_t i = 1; i < p->len; i++)
        p->shorter[i] = advance(p, p->shorter[i - 1], text[i]);
    return true;
}

bool stop_open(struct stop_matcher **out, const char *const *strings, int n, struct error *err)
{
    *out = NULL;
    struct stop_matcher *m = mem_alloc(1, sizeof *m, "stop strings", err);
    if (!m)
        return false;
    m->patterns = mem_alloc((size_t)n, sizeof *m->patterns, "stop strings", err);
    bool ok = m->patterns != NULL;
    size_t longest = 0;
    for (; ok && m->n < n; m->n++) {
        ok = pattern_open(&m->patterns[m->n], strings[m->n], err);
        longest = max_of(longest, m->patterns[m->n].len);
    }
    if (ok) {
        m->capacity = longest + PIECE_BYTES;
        m->buffer = mem_alloc(m->capacity, 1, "stop strings", err);
    }
    if (!m->buffer) {
        stop_close(m);
        return false;
    }
    *out = m;
    return true;
}

void stop_close(struct stop_matcher *m)
{
    if (!m)
        return;
    for (int i = 0; i < m->n; i++) {
        mem_free(m->patterns[i].text);
        mem_free(m->patterns[i].shorter);
    }
    mem_free(m->patterns);
    mem_free(m->buffer);
    mem_free(m);
}

/* Advance every automaton by one byte; returns the longest state, or, with *complete set, the
 * length of the longest string that is whole now. */
static size_t step(struct stop_matcher *m, char byte, bool *complete)
{
    size_t held = 0, whole = 0;
    for (int i = 0; i < m->n; i++) {
        struct pattern *p = &m->patterns[i];
        p->state = advance(p, p->state, byte);
        held = max_of(held, p->state);
        if (p->state == p->len)
            whole = max_of(whole, p->len);
    }
    *complete = whole > 0;
    return whole ? whole : held;
}

/* Move the held bytes to the front and make room for `len` more. */
static bool make_room(struct stop_matcher *m, size_t len)
{
    if (m->n_held)
        memmove(m->buffer, m->buffer + m->n_shown, m->n_held);
    m->n_shown = 0;
    if (len <= m->capacity - m->n_held)
        return true;
    char *bigger = len <= SIZE_MAX - m->n_held
                       ? mem_resize(m->buffer, m->n_held + len, 1, "stop strings", NULL) : NULL;
    if (!bigger)
        return false;
    m->buffer = bigger;
    m->capacity = m->n_held + len;
    return true;
}

bool stop_feed(struct stop_matcher *m, const char *bytes, size_t len, const char **ready,
               size_t *n_ready)
{
    *ready = m->buffer;
    *n_ready = 0;
    if (m->done || !make_room(m, len)) {
        m->done = true;
        m->n_held = m->n_shown = 0;
        return true;
    }
    *ready = m->buffer; /* it may have moved */
    size_t held = m->n_held, end = m->n_held;
    bool complete = false;
    for (size_t i = 0; i < len && !complete; i++) {
        m->buffer[end++] = bytes[i];
        held = step(m, bytes[i], &complete);
    }
    m->done = complete;
    m->n_shown = *n_ready = end - held;
    m->n_held = complete ? 0 : held;
    return complete;
}

void stop_flush(struct stop_matcher *m, const char **ready, size_t *n_ready)
{
    *ready = m->buffer + m->n_shown;
    *n_ready = m->n_held;
    m->n_shown += m->n_held;
    m->n_held = 0;
    for (int i = 0; i < m->n; i++)
        m->patterns[i].state = 0;
}
