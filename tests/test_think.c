/* Thinking and answer of a reply, told apart token by token. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/text/think.h"
#include "tests/byte_vocab.h"
#include "tests/check.h"

enum { OPEN = N_BYTE_TOKENS, CLOSE, NOTHING };

static const char *const specials[] = { "<think>", "</think>", "<nothing>" };

static void open_vocabulary(struct byte_vocab *v, const char *const *texts, size_t n, int32_t type)
{
    vf_start(&v->file);
    vf_str(&v->file, "general.architecture", "deepseek2");
    vf_byte_tokens(&v->file, "deepseek-v3", texts, (int32_t[]){ type, type, type }, n);
    struct error err = { 0 };
    CHECK_MSG(byte_vocab_open(v, &err), "%s", err.text);
}

static struct think started(const struct byte_vocab *v, bool in_thinking, const char *close_text,
                            int64_t budget)
{
    struct think k;
    struct error err = { 0 };
    bool ok = think_start(&k, v->t, in_thinking, close_text, budget, &err);
    CHECK_MSG(ok, "%s", err.text);
    return k;
}

/* Feed a reply, '(' for <think> and ')' for </think>; collect what a reader sees of each part.
 * Where an injection is due it comes first; `injected` counts its tokens. */
static void reply(const struct byte_vocab *v, struct think *k, const char *text, char *thought,
                  char *answer, int *injected)
{
    *thought = *answer = 0;
    *injected = 0;
    while (*text || think_due(k)) {
        bool due = think_due(k);
        int32_t id = due ? think_inject(k)
                     : *text == '(' ? OPEN : *text == ')' ? CLOSE : (unsigned char)*text;
        text += !due;
        *injected += due;
        enum think_part part = think_token(k, id);
        CHECK((part == PART_MARK) == (id == OPEN || id == CLOSE));
        if (part == PART_MARK)
            continue;
        struct str shown = think_show(k, tokenizer_bytes(v->t, id, false));
        strncat(part == PART_THINK ? thought : answer, shown.data, shown.len);
    }
}

static void test_parts(const struct byte_vocab *v, const char *kind)
{
    static const struct {
        const char *text;
        bool in_thinking;
        int64_t budget;
        const char *thought, *answer;
        int injected;
        int64_t n_thinking;
    } rows[] = {
        { "hello", false, -1, "", "hello", 0, 0 },
        { "hmm)\n\nyes\n\nno", true, -1, "hmm", "yes\n\nno", 0, 3 },
        { "(\nhmm\n)\n\nyes", false, -1, "hmm\n", "yes", 0, 5 },
        { "(\n\n)\n\nyes", false, -1, "", "yes", 0, 2 },
        { "never ends", true, -1, "never ends", "", 0, 10 },
        { "a)b(c)d", true, -1, "ac", "bd", 0, 2 },
        { "(a(b)c)\nd", false, -1, "ab", "c\nd", 0, 2 },
        { ")x", true, -1, "", "x", 0, 0 },
        { ")x", false, -1, "", "x", 0, 0 },
        { "", true, -1, "", "", 0, 0 },
        /* with a budget */
        { "abcdef", true, 3, "abc", "def", 3, 3 },
        { "abc)def", true, 3, "abc", "def", 3, 3 }, /* due before the model's own mark */
        { "ab)def", true, 3, "ab", "def", 0, 2 },
        { "xyz", true, 0, "", "xyz", 3, 0 },
        { "xyz", false, 0, "", "xyz", 0, 0 },
        { "(xyz", false, 1, "x", "yz", 3, 1 },
        { "ab(cd", true, 1, "a", "bcd", 6, 1 }, /* a model that thinks again is stopped again */
    };
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        check_case("thinking and answer, %s marks, row %zu", kind, r);
        char thought[64], answer[64];
        int injected;
        struct think k = started(v, rows[r].in_thinking, NULL, rows[r].budget);
        reply(v, &k, rows[r].text, thought, answer, &injected);
        CHECK_STR(thought, rows[r].thought);
        CHECK_STR(answer, rows[r].answer);
        CHECK_INT(injected, rows[r].injected);
        CHECK_INT(k.n_thinking, rows[r].n_thinking);
        CHECK_INT(think_inject(&k), -1); /* nothing is due */
    }

    check_case("what is injected, %s marks", kind);
    struct think k = started(v, true, "</think>", 0);
    CHECK(think_due(&k));
    CHECK_INT(think_inject(&k), CLOSE);
    CHECK_INT(think_token(&k, CLOSE), PART_MARK);
    CHECK(!think_due(&k));
    k = started(v, true, NULL, -1);
    CHECK(!think_due(&k));
    think_stop(&k);
    static const int32_t wanted[] = { CLOSE, '\n', '\n' };
    for (int i = 0; i < 3; i++) {
        CHECK(think_due(&k));
        int32_t id = think_inject(&k);
        CHECK_INT(id, wanted[i]);
        CHECK_INT(think_token(&k, id), i ? PART_ANSWER : PART_MARK);
    }
    CHECK(!think_due(&k));
    CHECK_INT(think_token(&k, NOTHING), PART_ANSWER);
    CHECK_INT(think_token(&k, -1), PART_ANSWER);
}

int main(void)
{
    struct byte_vocab v;
    check_case("vocabularies");
    open_vocabulary(&v, specials, 3, TOKEN_CONTROL);
    if (!can_encode(v.t)) {
        check_skip("no pre-tokenizer in this build");
        byte_vocab_close(&v);
        return check_finish();
    }
    if (v.t) {
        test_parts(&v, "control");
        check_case("a failed allocation is reported");
        uint64_t n = 0;
        for (bool ok = false; !ok && n < 20; n++) {
            struct think k;
            struct error err = { 0 };
            mem_fail_after(n);
            ok = think_start(&k, v.t, true, NULL, -1, &err);
            mem_fail_never();
            CHECK_INT(err.code, ok ? ERR_NONE : ERR_FIT);
        }
        CHECK(n > 1 && n < 20);
    }
    byte_vocab_close(&v);

    open_vocabulary(&v, specials, 3, TOKEN_USER_DEFINED);
    if (v.t)
        test_parts(&v, "user-defined");
    byte_vocab_close(&v);

    open_vocabulary(&v, specials, 3, TOKEN_NORMAL);
    if (v.t)
        test_parts(&v, "normal");
    byte_vocab_close(&v);

    check_case("a vocabulary without the marks gives one answer");
    open_vocabulary(&v, specials + 2, 1, TOKEN_CONTROL);
    if (v.t) {
        struct think k = started(&v, true, NULL, 0);
        CHECK(!think_due(&k));
        CHECK_INT(think_token(&k, 'a'), PART_ANSWER);
        think_stop(&k);
        CHECK(!think_due(&k));
        CHECK_INT(think_token(&k, N_BYTE_TOKENS), PART_ANSWER);
    }
    byte_vocab_close(&v);
    return check_finish();
}
