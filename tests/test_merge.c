/* Merging against the rule itself, written down naively: random vocabularies, random texts, and
 * both tokenizers must find what a search over all pairs finds. */
#include <stdio.h>
#include <string.h>

#include "src/text/tokenizer.h"
#include "tests/check.h"
#include "tests/vocab_file.h"

#define N_RANDOM 60

struct random_vocabulary {
    char texts[N_RANDOM][24];
    const char *pointers[N_RANDOM];
    char merges[N_RANDOM][48];
    float scores[N_RANDOM];
    int32_t types[N_RANDOM];
    int n_letters, n;
};

/* Letters first; each further token joins two earlier ones. */
static void invent(struct random_vocabulary *v, const char *const *letters, int n_letters)
{
    *v = (struct random_vocabulary){ .n_letters = n_letters, .n = n_letters };
    for (int i = 0; i < n_letters; i++)
        strcpy(v->texts[i], letters[i]);
    while (v->n < N_RANDOM) {
        char left[24], right[24];
        strcpy(left, v->texts[check_random() % (uint64_t)v->n]);
        strcpy(right, v->texts[check_random() % (uint64_t)v->n]);
        if (strlen(left) + strlen(right) > 20)
            continue;
        sprintf(v->merges[v->n - n_letters], "%s %s", left, right);
        sprintf(v->texts[v->n++], "%s%s", left, right);
    }
    for (int i = 0; i < N_RANDOM; i++) {
        v->pointers[i] = v->texts[i];
        v->scores[i] = (float)(check_random() % 12) - 6;
        v->types[i] = TOKEN_NORMAL;
    }
}

/* How good is it to merge these two? Smaller is better, INT32_MAX: not at all. */
typedef int32_t naive_rank(const struct random_vocabulary *v, struct str left, struct str right);

static int32_t find_text(const struct random_vocabulary *v, struct str s)
{
    for (int i = 0; i < v->n; i++)
        if (str_is(s, v->texts[i]))
            return i;
    return -1;
}

static int32_t rank_of_merge(const struct random_vocabulary *v, struct str left, struct str right)
{
    for (int i = 0; i < v->n - v->n_letters; i++) {
        size_t space = strcspn(v->merges[i], " ");
        if (space == left.len && memcmp(v->merges[i], left.data, left.len) == 0 &&
            str_is(right, v->merges[i] + space + 1))
            return i;
    }
    return INT32_MAX;
}

static int32_t rank_of_score(const struct random_vocabulary *v, struct str left, struct str right)
{
    int32_t id = find_text(v, (struct str){ left.data, left.len + right.len });
    return id < 0 ? INT32_MAX : -(int32_t)v->scores[id];
}

static size_t merge_naively(const struct random_vocabulary *v, struct str *parts, size_t n,
                            naive_rank *rank)
{
    for (;;) {
        int32_t best = INT32_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            int32_t r = rank(v, parts[i], parts[i + 1]);
            if (r < best) {
                best = r;
                at = i;
            }
        }
        if (best == INT32_MAX)
            return n;
        parts[at].len += parts[at + 1].len;
        memmove(parts + at + 1, parts + at + 2, (n - at - 2) * sizeof *parts);
        n--;
    }
}

static void check_merging(struct opened *o, const struct random_vocabulary *v, size_t longest,
                          naive_rank *rank)
{
    char text[4 * 300];
    struct str parts[300];
    size_t n = 1 + check_random() % longest, len = 0;
    for (size_t i = 0; i < n; i++) {
        const char *letter = v->texts[check_random() % (uint64_t)v->n_letters];
        parts[i] = (struct str){ text + len, strlen(letter) };
        memcpy(text + len, letter, parts[i].len);
        len += parts[i].len;
    }
    char wanted[2048] = "", *at = wanted;
    size_t n_parts = merge_naively(v, parts, n, rank);
    for (size_t i = 0; i < n_parts; i++)
        at += sprintf(at, i ? " %d" : "%d", find_text(v, parts[i]));
    check_encode(o, (struct str){ text, len }, false, wanted);
}

static void check_random_merges(const char *model, const char *const *letters, int n_letters,
                                naive_rank *rank)
{
    for (int round = 0; round < 12; round++) {
        check_case("%s: random vocabulary %d against the rule itself", model, round);
        struct random_vocabulary v;
        struct opened o;
        invent(&v, letters, n_letters);
        vf_start(&o.file);
        vf_str(&o.file, "tokenizer.ggml.model", model);
        vf_str(&o.file, "tokenizer.ggml.pre", "deepseek-v3");
        vf_strs(&o.file, "tokenizer.ggml.tokens", v.pointers, N_RANDOM);
        vf_f32s(&o.file, "tokenizer.ggml.scores", v.scores, N_RANDOM);
        vf_i32s(&o.file, "tokenizer.ggml.token_type", v.types, N_RANDOM);
        vf_array(&o.file, "tokenizer.ggml.merges", GGUF_STRING, (uint64_t)(v.n - v.n_letters));
        for (int i = 0; i < v.n - v.n_letters; i++)
            vf_text(&o.file, str_of(v.merges[i]));
        vf_bool(&o.file, "tokenizer.ggml.add_space_prefix", false);
        CHECK_MSG(open_file(&o), "%s", o.err.text);
        for (int i = 0; i < 40; i++)
            check_merging(&o, &v, i < 30 ? 20 : 300, rank);
        close_file(&o);
    }
}

int main(void)
{
    static const char *const bpe_letters[] = { "a", "b", "c", "d" };
    static const char *const spm_letters[] = { "a", "b", "c", "\xE2\x96\x81" }; /* U+2581 */
    check_random_merges("gpt2", bpe_letters, 4, rank_of_merge);
    check_random_merges("llama", spm_letters, 3, rank_of_score); /* words apart */
    check_random_merges("llama", spm_letters, 4, rank_of_score); /* spaces anywhere */
    return check_finish();
}
