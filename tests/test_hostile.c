/* Texts that strangers may hand over: patterns, records of run --record, journals, settings. Each is
 * damaged in many ways; whatever comes is read or refused with a message, and nothing else. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/crc32c.h"
#include "src/base/pattern.h"
#include "src/cli/recording.h"
#include "tests/check.h"
#include "tools/journal.h"
#include "tools/recipe.h"

static char folder[256];

static bool put_file(const char *name, const void *bytes, size_t n, char path[300])
{
    snprintf(path, 300, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    bool ok = fd >= 0 && write(fd, bytes, n) == (ssize_t)n;
    if (fd >= 0)
        close(fd);
    return CHECK_MSG(ok, "%s cannot be written", path);
}

static size_t pick(size_t n)
{
    return (size_t)(check_random() >> 33) % n;
}

/* One damage: a byte changed, a stretch left out, doubled, or the end cut off. */
static size_t damage(char *text, size_t n, size_t room, const char *letters)
{
    size_t at = pick(n), len = 1 + pick(min_of((size_t)20, n - at));
    switch (pick(4)) {
    case 0:
        text[at] = letters[pick(strlen(letters) + 1)]; /* the 0 behind them, too */
        return n;
    case 1:
        memmove(text + at, text + at + len, n - at - len);
        return max_of(n - len, (size_t)1);
    case 2:
        if (n + len > room)
            return n;
        memmove(text + at + len, text + at, n - at);
        return n + len;
    default:
        return pick(8) ? n : max_of(at, (size_t)1);
    }
}

/* ---- patterns ---- */

static void test_patterns(void)
{
    static const struct {
        const char *text;
        const char *says; /* NULL: fine */
    } rows[] = {
        { "blk\\.[0-9]+\\.ffn_(gate|up|down)_exps\\.weight", NULL },
        { "[]{+(]{2}[^])]{0,3}[[:alpha:])]*$", NULL },
        { "(a{1,3}b?c+|d{2,}){4}", NULL },
        { "a{250}(b+)*", NULL },
        { "a{9000}", "too large" },
        { "((a{60}){60}){60}", "too large" },
        { "(((a+b+)+c+)+d+){200}", "too large" },
        { "(x{99}[)]y{99}){99}", "too large" },
        { "a++++++++++++++++++++++++++++++++++++", "too large" },
        { "(a*)*\\1", "back-references" },
        { "(a", "no regular expression" },
        { "a\\", "no regular expression" },
    };
    check_case("patterns, small and large");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct error err = { 0 };
        regex_t re;
        bool ok = pattern_open(&re, rows[i].text, &err);
        CHECK_MSG(ok == !rows[i].says, "%s: %s", rows[i].text, err.text);
        CHECK_MSG(ok || (err.code == ERR_USAGE && strstr(err.text, rows[i].says)), "%s", err.text);
        if (ok)
            regfree(&re);
    }
    char deep[300];
    memset(deep, '(', sizeof deep);
    deep[sizeof deep - 1] = 0;
    struct error err = { 0 };
    regex_t re;
    CHECK(!pattern_open(&re, deep, &err));

    check_case("random patterns");
    for (int i = 0; i < 3000; i++) {
        static const char letters[] = "ab.+*?{}[](|)^$\\,0123";
        char text[60];
        size_t n = pick(sizeof text - 1);
        for (size_t k = 0; k < n; k++)
            text[k] = letters[pick(sizeof letters - 1)];
        text[n] = 0;
        error_clear(&err);
        bool ok = pattern_open(&re, text, &err);
        CHECK_MSG(ok == (err.code == ERR_NONE), "%s", text);
        if (ok) {
            regexec(&re, "ab0123,ab+{1}ab0123,ab+{1}", 0, NULL, 0);
            regfree(&re);
        }
    }
}

/* ---- recipes ---- */

static void test_recipes(void)
{
    static const char sample[] = "base = Q4_K_M\n# experts\nffn_.*_exps = q3_k\nattn_(q|k){1,2} = Q8_0\n";
    check_case("damaged recipes");
    for (int i = 0; i < 500; i++) {
        char text[400], path[300];
        size_t n = sizeof sample - 1;
        memcpy(text, sample, n);
        for (size_t k = 1 + pick(4); k > 0; k--)
            n = damage(text, n, sizeof text, "+*{}()=\n#9\\");
        struct recipe r = { 0 };
        struct error err = { 0 };
        if (!put_file("recipe", text, n, path))
            return;
        CHECK(recipe_read(&r, path, &err) == (err.code == ERR_NONE));
        recipe_release(&r);
    }
}

/* ---- records ---- */

static const char record[] =
    "{\"record\":1,\"version\":\"0.1\",\"commit\":\"x\",\"time\":1,\"cpu_isa\":\"ref\",\"gpu\":null,"
    "\"gpu_layers\":0,\"n_cpu_moe\":0,\"overrides\":[\"a=cpu\"],\"model\":\"m\","
    "\"model_hash\":\"0123456789abcdef\",\"numerics\":\"@\",\"act\":\"fast\",\"cache_type\":\"f16\","
    "\"ctx_size\":8,\"temp\":0.5,\"top_k\":1,\"top_p\":1,\"min_p\":0,\"repeat_penalty\":1,"
    "\"presence_penalty\":0,\"frequency_penalty\":0,\"seed\":1,\"logit_bias\":[[1,null],[2,1.5]],"
    "\"predict\":3,\"think\":\"auto\",\"think_budget\":-1,\"template\":\"@\",\"raw\":false,"
    "\"stop\":[\"x\"],\"grammar\":null,\"in_thinking\":false,\"calls\":false,\"prompt\":[1,2],"
    "\"answer\":[3],\"logits\":[\"0123456789abcdef\"],\"finish_reason\":\"stop\"}";

static void test_records(void)
{
    char text[2 * sizeof record], path[300], whole[2 * sizeof record];
    const char *at = strchr(record, '@'), *last = strrchr(record, '@');
    size_t n = (size_t)snprintf(whole, sizeof whole, "%.*s%s%.*s%s%s", (int)(at - record), record,
                                numerics_name((enum numerics)0), (int)(last - at - 1), at + 1,
                                chat_format_name(chat_format_at(0)), last + 1);
    check_case("a record, whole");
    struct recording r;
    struct options o = { 0 };
    struct error err = { 0 };
    if (!js_available(NULL)) {
        check_skip("built without jansson");
        return;
    }
    put_file("record", whole, n, path);
    CHECK_MSG(recording_read(&r, path, &o, &err), "%s", err.text);
    CHECK(r.prompt.n == 2 && r.answer.n == 1 && r.n_bias == 2);
    recording_release(&r);

    check_case("damaged records");
    for (int i = 0; i < 3000; i++) {
        size_t len = n;
        memcpy(text, whole, n);
        for (size_t k = 1 + pick(3); k > 0; k--)
            len = damage(text, len, sizeof text, "{}[]\":,-.0123456789eEntfa\\");
        o = (struct options){ 0 };
        error_clear(&err);
        if (!put_file("record", text, len, path))
            return;
        bool ok = recording_read(&r, path, &o, &err);
        CHECK(ok == (err.code == ERR_NONE));
        if (ok) {
            CHECK(r.prompt.n > 0 && (int64_t)r.prompt.n < o.ctx_size && r.n_bias <= MAX_LIST);
            CHECK(o.temperature >= 0 && o.temperature <= 1000 && o.top_p >= 0 && o.top_p <= 1);
        }
        recording_release(&r);
    }
}

/* ---- journals ---- */

static void test_journals(void)
{
    static const char plan[] = "in a\nout b";
    struct journal j;
    struct journal_record records[5];
    struct error err = { 0 };
    char output[300], path[300];
    snprintf(output, sizeof output, "%s/o", folder);
    snprintf(path, sizeof path, "%s/.o.journal", folder);
    check_case("a journal of five chunks");
    for (size_t i = 0; i < ARRAY_LEN(records); i++)
        records[i] = (struct journal_record){ i, (uint32_t)(77 * i) };
    CHECK(journal_create(&j, output, plan, &err) && journal_append(&j, records, 5, &err));
    journal_close(&j);
    size_t size = 0;
    char *bytes = check_read_file(path, &size);
    size_t head = size - 5 * 16;
    if (!CHECK(bytes && size == 20 + strlen(plan) + 80))
        return;

    check_case("cut anywhere, or with any bit flipped: no record that was not written");
    for (size_t i = 0; i < size + 8 * size; i++) {
        size_t n = i < size ? i : size, bit = i - size;
        bool found = false;
        if (i >= size)
            bytes[bit / 8] ^= (char)(1 << bit % 8);
        put_file(".o.journal", bytes, n, path);
        error_clear(&err);
        bool ok = journal_resume(&j, output, plan, &found, &err);
        CHECK(ok == (err.code == ERR_NONE));
        if (ok && found) {
            size_t wanted = i < size ? (n - head) / 16 : (bit / 8 - head) / 16;
            CHECK_INT(j.n_records, wanted);
            for (size_t k = 0; k < j.n_records; k++)
                CHECK(j.records[k].chunk == records[k].chunk && j.records[k].crc == records[k].crc);
        }
        CHECK(ok ? found == (i < size ? n >= head : bit / 8 >= head) : i >= size);
        journal_close(&j);
        if (i >= size)
            bytes[bit / 8] ^= (char)(1 << bit % 8);
    }
    free(bytes);
}

/* ---- settings ---- */

static void check_setting(const char *text, size_t n, const char *says)
{
    struct options o;
    struct error err = { 0 };
    char path[300];
    if (!put_file("tandem/config", text, n, path))
        return;
    bool ok = options_init(&o, CMD_BENCH, &err);
    CHECK_MSG(ok == !says, "%s", err.text);
    CHECK_MSG(ok || strstr(err.text, says), "%s", err.text);
    options_release(&o);
}

static void test_settings(void)
{
    static const char zero[] = "threads = 1\n\0nonsense\n";
    struct buf text = { 0 };
    char path[300];
    check_case("settings that end early");
    snprintf(path, sizeof path, "%s/tandem", folder);
    CHECK(mkdir(path, 0700) == 0);
    char *whole = realpath(folder, NULL);
    if (!CHECK(whole))
        return;
    setenv("XDG_CONFIG_HOME", whole, 1);
    free(whole);
    check_setting(zero, 12, NULL);
    check_setting(zero, sizeof zero - 1, "zero byte");
    buf_puts(&text, "[models]\n");
    for (int i = 0; i < MAX_LIST; i++)
        buf_printf(&text, "m%d = /m\n", i);
    check_setting(text.data, text.len, NULL);
    buf_puts(&text, "more = /m\n");
    check_setting(text.data, text.len, "more than");
    buf_release(&text);

    check_case("numbers with something behind them");
    char *wrong[] = { "-p", "00000000000000000000512x" }, *right[] = { "-p", "0512,7" };
    struct options o;
    struct error err = { 0 };
    check_setting("", 0, NULL);
    CHECK(options_init(&o, CMD_BENCH, &err) && !options_parse(&o, CMD_BENCH, 2, wrong, &err));
    CHECK_INT(err.code, ERR_USAGE);
    options_release(&o);
    error_clear(&err);
    CHECK(options_init(&o, CMD_BENCH, &err) && options_parse(&o, CMD_BENCH, 2, right, &err));
    CHECK(o.n_prompt.n == 2 && o.n_prompt.items[0] == 512);
    options_release(&o);
}

int main(void)
{
    char command[300];
    const char *b = getenv("B");
    snprintf(folder, sizeof folder, "%s/tests/hostile.%d", b ? b : "build", (int)getpid());
    check_case("a folder");
    if (CHECK(mkdir(folder, 0700) == 0)) {
        test_patterns();
        test_recipes();
        test_records();
        test_journals();
        test_settings();
        snprintf(command, sizeof command, "rm -rf '%s'", folder);
        CHECK(system(command) == 0);
    }
    return check_finish();
}
