#include "src/text/think.h"

bool think_start(struct think *k, const struct tokenizer *t, bool in_thinking,
                 const char *close_text, int64_t budget, struct error *err)
{
    *k = (struct think){ .at_start = true, .budget = budget };
    k->open_id = tokenizer_find(t, "<think>");
    k->close_id = tokenizer_find(t, "</think>");
    if (k->close_id < 0)
        return true; /* nobody could ever leave the thinking: all is answer */
    k->thinking = in_thinking;

    /* The mark by its id: some files type it as a normal token, which encoding need not find. */
    const char *rest = "\n\n";
    if (close_text)
        rest = strncmp(close_text, "</think>", 8) == 0 ? close_text + 8 : close_text;
    struct tokens close = { 0 };
    bool ok = tokens_push(&close, k->close_id, err) &&
              tokenizer_encode(t, str_of(rest), false, &close, err);
    k->n_close = (int)min_of(close.n, (size_t)THINK_MAX_CLOSE);
    if (ok && k->n_close > 0)
        memcpy(k->close, close.ids, (size_t)k->n_close * sizeof *close.ids);
    tokens_release(&close);
    return ok;
}

enum think_part think_token(struct think *k, int32_t id)
{
    bool opens = id >= 0 && id == k->open_id && k->close_id >= 0;
    bool closes = id >= 0 && id == k->close_id;
    if (opens || closes) {
        k->at_start = k->at_start || k->thinking != opens;
        k->thinking = opens;
        return PART_MARK;
    }
    k->n_thinking += k->thinking;
    return k->thinking ? PART_THINK : PART_ANSWER;
}

struct str think_show(struct think *k, struct str bytes)
{
    while (k->at_start && bytes.len > 0 && (bytes.data[0] == '\n' || bytes.data[0] == '\r')) {
        bytes.data++;
        bytes.len--;
    }
    if (bytes.len > 0)
        k->at_start = false;
    return bytes;
}

bool think_due(const struct think *k)
{
    bool spent = k->thinking && k->budget >= 0 && k->n_thinking >= k->budget;
    return k->n_close > 0 && (spent || k->n_injected > 0);
}

int32_t think_inject(struct think *k)
{
    if (!think_due(k))
        return -1;
    int32_t id = k->close[k->n_injected++];
    if (k->n_injected == k->n_close)
        k->n_injected = 0; /* a model that thinks again is stopped again */
    return id;
}

void think_stop(struct think *k)
{
    if (k->thinking)
        k->budget = 0;
}
