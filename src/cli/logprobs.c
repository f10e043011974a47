#include "src/cli/logprobs.h"

#include <math.h>

#include "src/base/mem.h"
#include "src/base/util.h"

bool logprobs_observe(struct logprobs *l, const float *logits, int n_vocab, struct error *err)
{
    if (!l->logits && !(l->logits = mem_alloc((size_t)n_vocab, sizeof *l->logits, "logits", err)))
        return false;
    l->n_vocab = n_vocab;
    memcpy(l->logits, logits, (size_t)n_vocab * sizeof *logits);
    return true;
}

static double log_sum(const float *logits, int n)
{
    double highest = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        highest = max_of(highest, (double)logits[i]);
    for (int i = 0; i < n; i++)
        sum += exp((double)logits[i] - highest);
    return highest + log(sum);
}

/* The n_top best, equal ones in the order of their ids. */
static void find_top(const struct logprobs *l, struct token_logprobs *t, double sum)
{
    int n = 0, most = min_of(l->n_top, l->n_vocab);
    for (int i = 0; i < l->n_vocab; i++) {
        float x = l->logits[i];
        if (n == most && !(x > t->top[n - 1]))
            continue;
        int at = n < most ? n++ : n - 1;
        for (; at > 0 && x > t->top[at - 1]; at--) {
            t->top[at] = t->top[at - 1];
            t->top_ids[at] = t->top_ids[at - 1];
        }
        t->top[at] = x;
        t->top_ids[at] = i;
    }
    for (int i = 0; i < n; i++)
        t->top[i] = (float)((double)t->top[i] - sum);
}

bool logprobs_take(struct logprobs *l, int32_t id, struct error *err)
{
    if (l->n == l->capacity) {
        size_t capacity = max_of(2 * l->capacity, (size_t)64);
        struct token_logprobs *list = mem_resize(l->list, capacity, sizeof *list, "logprobs", err);
        if (!list)
            return false;
        l->list = list;
        l->capacity = capacity;
    }
    struct token_logprobs *t = &l->list[l->n++];
    double sum = log_sum(l->logits, l->n_vocab);
    *t = (struct token_logprobs){ .id = id };
    t->logprob = id < l->n_vocab ? (float)((double)l->logits[id] - sum) : -INFINITY;
    find_top(l, t, sum);
    return !l->sink || l->sink(l->ctx, t, err);
}

void logprobs_release(struct logprobs *l)
{
    mem_free(l->list);
    mem_free(l->logits);
    *l = (struct logprobs){ 0 };
}

static void put(struct json *j, const struct tokenizer *tokenizer, int32_t id, float logprob)
{
    js_set(j, "token", js_text(tokenizer_bytes(tokenizer, id, true)));
    js_set(j, "id", js_int(id));
    js_set(j, "logprob", js_real((double)logprob));
}

struct json *logprobs_json(const struct logprobs *l, const struct token_logprobs *t,
                           const struct tokenizer *tokenizer)
{
    struct json *j = js_object(), *top = js_array();
    put(j, tokenizer, t->id, t->logprob);
    for (int i = 0; i < min_of(l->n_top, l->n_vocab); i++) {
        struct json *other = js_object();
        put(other, tokenizer, t->top_ids[i], t->top[i]);
        js_push(top, other);
    }
    js_set(j, "top", top);
    return j;
}
