/* Pieces of the command line that need no model. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/eval.h"
#include "src/cli/option_table.h"
#include "src/cli/repair.h"
#include "src/cli/term.h"
#include "tests/check.h"

static bool parse(struct options *o, unsigned command, const char *const *words, struct error *err)
{
    int n = 0;
    while (words[n])
        n++;
    memset(err, 0, sizeof *err);
    return options_init(o, command, err) &&
           options_parse(o, command, n, (char **)(uintptr_t)words, err);
}

#define WORDS(...) (const char *const[]){ __VA_ARGS__, NULL }

static void test_options(void)
{
    struct options o;
    struct error err;

    check_case("options in every spelling and order");
    CHECK(parse(&o, CMD_RUN, WORDS("a.gguf", "--temp=0.5", "-c", "100", "--ubatch-size", "7",
                                   "hello", "--stop", "x", "--stop=y", "--think", "33", "-q", "-v",
                                   "-v"), &err));
    CHECK(o.n_positional == 2 && strcmp(o.positional[1], "hello") == 0);
    CHECK(o.temperature == 0.5 && o.ctx_size == 100 && o.batch == 7);
    CHECK(o.stop.n == 2 && strcmp(o.stop.items[1], "y") == 0);
    CHECK(o.think == THINK_ON && o.think_budget == 33 && o.quiet == 1 && o.verbose == 2);
    CHECK(isnan(o.top_p) && o.seed == -1 && o.n_predict == -1);
    options_release(&o);

    CHECK(parse(&o, CMD_RUN, WORDS("--logit-bias", "5-inf", "--logit-bias", "7+1.5", "-sys", "-5",
                                   "--", "-x"), &err));
    CHECK(o.n_bias == 2 && o.bias[0].id == 5 && isinf(o.bias[0].bias) && o.bias[1].bias == 1.5f);
    CHECK_STR(o.system, "-5");
    CHECK_STR(o.positional[0], "-x");
    options_release(&o);

    CHECK(parse(&o, CMD_BENCH, WORDS("-p", "1,2,30", "-n", "0", "--no-mmap", "-o", "json"), &err));
    CHECK(o.n_prompt.n == 3 && o.n_prompt.items[2] == 30 && o.n_generate.items[0] == 0);
    CHECK(o.load == LOAD_COPY && o.format == TABLE_JSON);
    options_release(&o);

    check_case("optional arguments take the next word unless it is an option or a file");
    CHECK(parse(&o, CMD_INSPECT, WORDS("--tensors", "blk", "--metadata", "--json"), &err));
    CHECK(o.tensors && o.metadata && o.json && !o.metadata_key);
    CHECK_STR(o.tensors_pattern, "blk");
    options_release(&o);
    CHECK(parse(&o, CMD_INSPECT, WORDS("--tensors", "Makefile"), &err));
    CHECK(!o.tensors_pattern && o.n_positional == 1);
    options_release(&o);

    check_case("each row has a distinct spelling in each command, and a working default");
    for (int i = 0; i < n_option_rows; i++) {
        const struct option *a = &option_rows[i];
        CHECK_MSG(a->commands && (a->argument != NULL) == (a->kind > OPT_CONST),
                  "--%s: argument and kind disagree", a->name);
        for (int j = 0; j < i; j++) {
            const struct option *b = &option_rows[j];
            if (!(a->commands & b->commands))
                continue;
            CHECK_MSG(strcmp(a->name, b->name) != 0, "--%s twice", a->name);
            CHECK_MSG(!a->brief || !b->brief || strcmp(a->brief, b->brief) != 0, "%s twice",
                      a->brief);
        }
        for (int j = 0; a->brief && j < n_foreign_options; j++)
            CHECK_MSG(strcmp(a->brief, foreign_options[j].name) != 0, "%s is foreign too",
                      a->brief);
    }

    check_case("random words never crash the parser");
    for (int round = 0; round < 3000; round++) {
        char text[6][24];
        const char *words[7] = { NULL };
        int n = (int)(check_random() % 7);
        for (int i = 0; i < n; i++) {
            const struct option *row = &option_rows[check_random() % (uint64_t)n_option_rows];
            size_t len = check_random() % 20;
            if (check_random() % 2) {
                const char *dashes = check_random() % 4 ? "--" : "-";
                snprintf(text[i], sizeof text[i], "%s%s%s", dashes, row->name,
                         check_random() % 3 ? "" : "=");
            } else {
                for (size_t k = 0; k < len; k++)
                    text[i][k] = (char)(1 + check_random() % 255);
                text[i][len] = 0;
            }
            words[i] = text[i];
        }
        if (parse(&o, 1u << check_random() % 5, words, &err))
            CHECK_INT(err.code, 0);
        else
            CHECK_INT(err.code, ERR_USAGE);
        options_release(&o);
    }
}

static void test_nearest(void)
{
    static const char *const names[] = { "--threads", "--temp", "--top-k", "--ctx-size" };
    check_case("nearest names");
    CHECK_STR(nearest_name("--thread", names, 4), "--threads");
    CHECK_STR(nearest_name("--tmep", names, 4), "--temp");
    CHECK_STR(nearest_name("--topk", names, 4), "--top-k");
    CHECK_STR(nearest_name("--ctx-sizes", names, 4), "--ctx-size");
    CHECK(!nearest_name("--entirely-else", names, 4));
    CHECK(!nearest_name("", names, 4));
}

static void test_text(void)
{
    char out[64];
    struct buf b = { 0 };
    check_case("control bytes are shown, text is not touched");
    static const char text[] = "a\033[31m\tb\n\177\302\205\303\244\r";
    size_t n = term_escape(out, text, sizeof text - 1);
    out[n] = 0;
    CHECK_STR(out, "a\\x1b[31m\tb\n\\x7f\\x85\303\244\\x0d");

    check_case("malformed UTF-8 is replaced, the rest kept");
    static const char bad[] = "a\377b\303\244\355\240\200c\340\200\200d\360\237\230\200\360\237";
    buf_add_repaired(&b, (struct str){ bad, sizeof bad - 1 });
    CHECK_STR(buf_str(&b).data, "a\357\277\275b\303\244\357\277\275c\357\277\275d\360\237\230\200"
                                "\357\277\275");
    CHECK_INT(utf8_count(str_of("a\303\244\360\237\230\200")), 3);

    check_case("a buffer without memory says so once, at the end");
    buf_release(&b);
    struct error err = { 0 };
    mem_fail_after(0);
    buf_puts(&b, "text");
    buf_printf(&b, "%d", 5);
    mem_fail_never();
    buf_puts(&b, "more");
    CHECK(!buf_ok(&b, &err) && err.code == ERR_FIT && b.len == 0);
    buf_release(&b);

    check_case("sizes for people");
    char size[32];
    CHECK_STR(human_bytes(17, size, sizeof size), "17 B");
    CHECK_STR(human_bytes(1536, size, sizeof size), "1.5 KiB");
    CHECK_STR(human_bytes(404e9, size, sizeof size), "376 GiB");
}

static bool matches(enum match match, const char *wanted, const char *answer, const char *thinking)
{
    return match_answer(match, str_of(wanted), str_of(answer), str_of(thinking));
}

static void test_match(void)
{
    enum match match;
    double low, high;
    check_case("how answers are compared");
    CHECK(match_find(str_of("last_number"), &match) && match == MATCH_LAST_NUMBER);
    CHECK(!match_find(str_of("LAST"), &match));
    CHECK(matches(MATCH_EXACT, "42", " 42\n", ""));
    CHECK(!matches(MATCH_EXACT, "42", "42.", ""));
    CHECK(matches(MATCH_LAST_NUMBER, "42", "6 times 7 is 42.", ""));
    CHECK(matches(MATCH_LAST_NUMBER, "1234", "so it is 1,234", ""));
    CHECK(matches(MATCH_LAST_NUMBER, "-3", "the result: -3", ""));
    CHECK(matches(MATCH_LAST_NUMBER, "3", "from 7-3", ""));
    CHECK(matches(MATCH_LAST_NUMBER, "2.5", "2.50!", ""));
    CHECK(!matches(MATCH_LAST_NUMBER, "42", "none", ""));
    CHECK(!matches(MATCH_LAST_NUMBER, "42", "42 or 43", ""));
    CHECK(matches(MATCH_CONTAINS, "Paris", "It is Paris, of course", ""));
    CHECK(!matches(MATCH_CONTAINS, "Paris", "Rome", ""));
    CHECK(matches(MATCH_NO_THINK, "", "anything", " \n"));
    CHECK(!matches(MATCH_NO_THINK, "", "anything", "hm"));

    /* R: binom::binom.confint(8, 10, methods = "wilson") and (0, 20). */
    check_case("Wilson intervals");
    wilson(8, 10, &low, &high);
    CHECK_MSG(fabs(low - 0.4901625) < 1e-6 && fabs(high - 0.9433178) < 1e-6, "%f %f", low, high);
    wilson(0, 20, &low, &high);
    CHECK_MSG(low == 0 && fabs(high - 0.1611252) < 1e-6, "%f %f", low, high);
    wilson(0, 0, &low, &high);
    CHECK(low == 0 && high == 1);
}

int main(void)
{
    /* No configuration and no TANDEM_ settings of whoever runs this. */
    setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
    unsetenv("TANDEM_CPU_ISA");
    unsetenv("TANDEM_SEED");
    term_init(COLOUR_NEVER, QUIET);
    test_options();
    test_nearest();
    test_text();
    test_match();
    return check_finish();
}
