/* Conversations with tools: what V3.2 and V4 are shown, what is read from their replies, and that the
 * one undoes the other. */
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/text/chat_format.h"
#include "src/text/chat_reply.h"
#include "tests/byte_vocab.h"
#include "tests/check.h"

#define B BOS_TEXT
#define E EOS_TEXT
#define U "<｜User｜>"
#define A "<｜Assistant｜>"
#define D "｜DSML｜"

static struct chat_message tool_result(const char *id, const char *content)
{
    struct chat_message m = chat_text(ROLE_TOOL, str_of(content));
    m.call_id = str_of(id);
    return m;
}

static struct chat_message with_tools(struct chat_message m, const char *tools, const char *schema)
{
    m.tools = str_of(tools);
    m.schema = str_of(schema);
    return m;
}

static struct chat_message with_calls(struct chat_message m, const char *reasoning,
                                      const struct chat_call *calls, size_t n)
{
    m.reasoning = str_of(reasoning);
    m.calls = calls;
    m.n_calls = n;
    return m;
}

static struct chat_message with_task(struct chat_message m, const char *task)
{
    m.task = task;
    return m;
}

/* The text of a prompt, in a buffer of its own. */
static const char *render(const char *format, const struct chat_message *list, size_t n,
                          enum think_mode think, bool *in_thinking, struct error *err)
{
    static char text[16384];
    struct segments s = { 0 };
    size_t len = 0;
    bool ok = chat_segments(chat_format_find(format), list, n, think, true, &s, in_thinking, err);
    for (size_t i = 0; ok && i < s.n; i++) {
        memcpy(text + len, s.list[i].text.data, s.list[i].text.len);
        len += s.list[i].text.len;
    }
    text[len] = 0;
    segments_release(&s);
    return ok ? text : NULL;
}

static void expect(const char *format, const struct chat_message *list, size_t n,
                   enum think_mode think, bool in_thinking, const char *wanted)
{
    struct error err = { 0 };
    bool found = !in_thinking;
    const char *text = render(format, list, n, think, &found, &err);
    CHECK_MSG(text != NULL, "%s", err.text);
    if (text) {
        CHECK_STR(text, wanted);
        CHECK_INT(found, in_thinking);
    }
}

static const struct chat_argument where[] = { { { "location", 8 }, { "Beijing", 7 }, true } };
static const struct chat_argument mixed[] = {
    { { "n", 1 }, { "3", 1 }, false }, { { "s", 1 }, { "a\n<b>\"", 6 }, true },
    { { "o", 1 }, { "{\"k\": [1, null]}", 16 }, false },
};
static struct chat_call weather, clock_call, mixed_call;

static void set_calls(void)
{
    weather = (struct chat_call){ str_of("c1"), str_of("get_weather"), where, 1 };
    clock_call = (struct chat_call){ str_of("c2"), str_of("now"), NULL, 0 };
    mixed_call = (struct chat_call){ str_of("c3"), str_of("mixed"), mixed, ARRAY_LEN(mixed) };
}

#define CALL(block)                                                                               \
    "<" D block ">\n<" D "invoke name=\"get_weather\">\n"                                          \
    "<" D "parameter name=\"location\" string=\"true\">Beijing</" D "parameter>\n"                 \
    "</" D "invoke>\n"
#define CLOCK "<" D "invoke name=\"now\">\n\n</" D "invoke>\n"

static void test_v32(void)
{
    check_case("V3.2: calls, results, thinking that goes on");
    struct chat_call two[] = { weather, clock_call };
    struct chat_message loop[] = {
        chat_text(ROLE_SYSTEM, str_of("Be terse.")), chat_text(ROLE_USER, str_of("Hi")),
        chat_text(ROLE_ASSISTANT, str_of("old thought</think>Hello!")),
        chat_text(ROLE_USER, str_of("Weather?")),
        with_calls(chat_text(ROLE_ASSISTANT, str_of("")), "Need it.", two, 2),
        tool_result("c1", "22"), tool_result("c2", "noon"),
    };
    expect("v3.2", loop, 7, THINK_ON, true,
           B "Be terse." U "Hi" A "</think>Hello!" E U "Weather?" A "<think>Need it.</think>\n\n"
           CALL("function_calls") CLOCK "</" D "function_calls>" E
           "\n\n<function_results>\n<result>22</result>\n<result>noon</result>\n"
           "</function_results>\n\n<think>");
    expect("v3.2", loop, 7, THINK_OFF, false,
           B "Be terse." U "Hi" A "</think>Hello!" E U "Weather?" A "</think>\n\n"
           CALL("function_calls") CLOCK "</" D "function_calls>" E
           "\n\n<function_results>\n<result>22</result>\n<result>noon</result>\n"
           "</function_results>\n\n</think>");

    check_case("V3.2: two rounds, then the next question: only the text of the answers stays");
    struct chat_message rounds[] = {
        chat_text(ROLE_USER, str_of("Weather?")),
        with_calls(chat_text(ROLE_ASSISTANT, str_of("")), "one", &weather, 1),
        tool_result("", "22"),
        with_calls(chat_text(ROLE_ASSISTANT, str_of("And the time.")), "two", &clock_call, 1),
        tool_result("", "noon"), chat_text(ROLE_ASSISTANT, str_of("three</think>Warm.")),
        chat_text(ROLE_USER, str_of("Thanks")),
    };
    expect("v3.2", rounds, 5, THINK_DEFAULT, true,
           B U "Weather?" A "<think>one</think>\n\n" CALL("function_calls")
           "</" D "function_calls>" E "\n\n<function_results>\n<result>22</result>\n"
           "</function_results>\n\n<think>two</think>And the time.\n\n<" D "function_calls>\n" CLOCK
           "</" D "function_calls>" E "\n\n<function_results>\n<result>noon</result>\n"
           "</function_results>\n\n<think>");
    expect("v3.2", rounds, 7, THINK_DEFAULT, true,
           B U "Weather?" A "</think>\n\n" CALL("function_calls")
           "</" D "function_calls>" E "\n\n<function_results>\n<result>22</result>\n"
           "</function_results>\n\n</think>And the time.\n\n<" D "function_calls>\n" CLOCK
           "</" D "function_calls>" E "\n\n<function_results>\n<result>noon</result>\n"
           "</function_results>\n\n</think>Warm." E U "Thanks" A "<think>");

    check_case("V3.2: tools and a schema behind the system's text, or a developer's");
    struct error err = { 0 };
    struct chat_message system[] = {
        with_tools(chat_text(ROLE_SYSTEM, str_of("")), "{\"name\": \"now\"}", "{}"),
        chat_text(ROLE_USER, str_of("Hi")),
    };
    const char *text = render("v3.2", system, 2, THINK_ON, NULL, &err);
    static const char head[] = B "\n\n## Tools\n\nYou have access to a set of tools you can use";
    static const char tail[] =
        "format:\n<functions>\n{\"name\": \"now\"}\n</functions>\n\n\n## Response Format:\n\nYou MUST "
        "strictly adhere to the following schema to reply:\n{}" U "Hi" A "<think>";
    CHECK(text && strncmp(text, head, sizeof head - 1) == 0);
    CHECK(text && strlen(text) > sizeof tail &&
          strcmp(text + strlen(text) - (sizeof tail - 1), tail) == 0);
    struct chat_message developer = chat_text(ROLE_DEVELOPER, str_of("Go."));
    expect("v3.2", &developer, 1, THINK_OFF, false,
           B U "\n\n# The user's message is: Go." A "</think>");
}

static void test_v4(void)
{
    check_case("V4: the worked example");
    struct chat_message loop[] = {
        with_tools(chat_text(ROLE_SYSTEM, str_of("You are helpful.")), "{\"name\": \"x\"}", ""),
        chat_text(ROLE_USER, str_of("Weather?")),
        with_calls(chat_text(ROLE_ASSISTANT, str_of("")), "Need the tool.", &weather, 1),
        tool_result("c1", "{\"temperature\": 22}"),
    };
    struct error err = { 0 };
    const char *text = render("v4", loop, 4, THINK_ON, NULL, &err);
    static const char head[] = B "You are helpful.\n\n## Tools\n\nYou have access";
    static const char tail[] =
        "### Available Tool Schemas\n\n{\"name\": \"x\"}\n\nYou MUST strictly follow the above "
        "defined tool name and parameter schemas to invoke tool calls.\n" U "Weather?" A
        "<think>Need the tool.</think>\n\n" CALL("tool_calls") "</" D "tool_calls>" E U
        "<tool_result>{\"temperature\": 22}</tool_result>" A "<think>";
    CHECK_MSG(text != NULL, "%s", err.text);
    CHECK(text && strncmp(text, head, sizeof head - 1) == 0);
    CHECK(text && strlen(text) > sizeof tail &&
          strcmp(text + strlen(text) - (sizeof tail - 1), tail) == 0);

    check_case("V4: results in the order of the calls, one turn with what the user adds");
    struct chat_call two[] = { weather, clock_call };
    struct chat_message merged[] = {
        chat_text(ROLE_USER, str_of("a")), chat_text(ROLE_USER, str_of("b")),
        with_calls(chat_text(ROLE_ASSISTANT, str_of("x")), "why", two, 2),
        tool_result("c2", "noon"), chat_text(ROLE_USER, str_of("quick")), tool_result("c1", "22"),
    };
    expect("v4", merged, 6, THINK_OFF, false,
           B U "a\n\nb" A "</think>x\n\n" CALL("tool_calls") CLOCK "</" D "tool_calls>" E U
           "<tool_result>22</tool_result>\n\nquick\n\n<tool_result>noon</tool_result>" A "</think>");
    expect("v4", merged, 6, THINK_ON, true, /* no tools: earlier thinking goes, with results too */
           B U "a\n\nb" A "</think>x\n\n" CALL("tool_calls") CLOCK "</" D "tool_calls>" E U
           "<tool_result>22</tool_result>\n\nquick\n\n<tool_result>noon</tool_result>" A "<think>");

    check_case("V4: with tools every earlier thought stays, an empty one too");
    struct chat_message keeps[] = {
        with_tools(chat_text(ROLE_SYSTEM, str_of("")), "{}", ""),
        chat_text(ROLE_USER, str_of("Hi")), chat_text(ROLE_ASSISTANT, str_of("t</think>Hello")),
        chat_text(ROLE_USER, str_of("Ho")), chat_text(ROLE_ASSISTANT, str_of("Yes")),
        chat_text(ROLE_USER, str_of("So")),
    };
    text = render("v4", keeps, 6, THINK_ON, NULL, &err);
    CHECK(text && strstr(text, U "Hi" A "<think>t</think>Hello" E U "Ho" A "<think></think>Yes" E
                               U "So" A "<think>"));

    check_case("V4: developers, reminders, tasks");
    struct chat_message others[] = {
        chat_text(ROLE_DEVELOPER, str_of("Rules.")), chat_text(ROLE_USER, str_of("Hi")),
        chat_text(ROLE_ASSISTANT, str_of("Hello")), chat_text(ROLE_REMINDER, str_of("Monday")),
        with_task(chat_text(ROLE_USER, str_of("Search")), "action"),
        chat_text(ROLE_ASSISTANT, str_of("found")),
        with_task(chat_text(ROLE_USER, str_of("Name it")), "title"),
        chat_text(ROLE_USER, str_of("please")),
    };
    expect("v4", others, 5, THINK_OFF, false,
           B U "Rules." U "Hi" A "</think>Hello" E "<｜latest_reminder｜>Monday" U "Search" A
           "</think><｜action｜>");
    expect("v4", others, 7, THINK_ON, false,
           B U "Hi" A "</think>Hello" E "<｜latest_reminder｜>Monday" U "Search" A
           "</think><｜action｜>found" E U "Name it<｜title｜>");
    expect("v4", others + 6, 2, THINK_ON, true, B U "Name it" U "please" A "<think>");

    check_case("V4: tiers of thinking");
    struct chat_message hi = chat_text(ROLE_USER, str_of("Hi"));
    expect("v4", &hi, 1, THINK_HIGH, true, B U "Hi" A "<think>");
    text = render("v4", &hi, 1, THINK_MAX, NULL, &err);
    CHECK(text && strncmp(text, B "Reasoning Effort: Absolute", strlen(B) + 26) == 0);
    CHECK(text && strstr(text, "left unchecked.\n\n" U "Hi" A "<think>"));
    text = render("v4-0731", &hi, 1, THINK_HIGH, NULL, &err);
    CHECK(text && strstr(text, "Absolute maximum"));
    text = render("v4-0731", &hi, 1, THINK_MAX, NULL, &err);
    CHECK(text && strstr(text, "Beyond maximum") && strstr(text, "undiscovered.\n\n" U "Hi"));

    check_case("an answer to go on with");
    struct chat_message open[] = { hi, chat_text(ROLE_ASSISTANT, str_of("Once")) };
    open[1].is_open = true;
    expect("v4", open, 2, THINK_OFF, false, B U "Hi" A "</think>Once");
    expect("v3.2", open, 2, THINK_OFF, false, B U "Hi" A "</think>Once");
}

static void test_refusals(void)
{
    struct chat_message user = chat_text(ROLE_USER, str_of("Hi"));
    struct chat_message call = with_calls(chat_text(ROLE_ASSISTANT, str_of("")), "", &weather, 1);
    struct chat_message first_open[] = { chat_text(ROLE_ASSISTANT, str_of("")), user };
    first_open[0].is_open = true;
    const struct {
        const char *format, *message;
        struct chat_message list[4];
        size_t n;
    } rows[] = {
        { "v4", "a result without a call", { tool_result("", "1") }, 1 },
        { "v4", "a result without a call", { user, tool_result("", "1") }, 2 },
        { "v4", "1 results after 0 calls",
          { user, chat_text(ROLE_ASSISTANT, str_of("x")), tool_result("", "1") }, 3 },
        { "v3.2", "0 results after 1 calls", { user, call, user }, 3 },
        { "v3.2", "2 results after 1 calls",
          { user, call, tool_result("", "1"), tool_result("", "2") }, 4 },
        { "v4", "did not make", { user, call, tool_result("c9", "1") }, 3 },
        { "v3.2", "belong to the chat format v4", { chat_text(ROLE_REMINDER, str_of("x")) }, 1 },
        { "v3.2", "belong to the chat format v4", { with_task(user, "action") }, 1 },
        { "v4", "unknown task", { with_task(user, "dance") }, 1 },
        { "v4", "only the last answer", { first_open[0], first_open[1] }, 2 },
        { "v3.1", "knows no tools", { user, call, tool_result("c1", "1") }, 3 },
        { "r1", "knows no tools", { with_tools(user, "{}", "") }, 1 },
        { "plain", "knows no tools", { chat_text(ROLE_DEVELOPER, str_of("x")) }, 1 },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        check_case("refusal %zu: %s", i, rows[i].message);
        struct error err = { 0 };
        CHECK(!render(rows[i].format, rows[i].list, rows[i].n, THINK_ON, NULL, &err));
        CHECK_INT(err.code, ERR_USAGE);
        CHECK_MSG(strstr(err.text, rows[i].message) != NULL, "%s", err.text);
    }
}

/* ---- replies ---- */

static void check_same(const struct chat_call *found, const struct chat_call *wanted)
{
    CHECK(found->name.len == wanted->name.len &&
          memcmp(found->name.data, wanted->name.data, found->name.len) == 0);
    CHECK_INT(found->n_arguments, wanted->n_arguments);
    for (size_t i = 0; i < min_of(found->n_arguments, wanted->n_arguments); i++) {
        const struct chat_argument *a = &found->arguments[i], *b = &wanted->arguments[i];
        CHECK(a->name.len == b->name.len && memcmp(a->name.data, b->name.data, a->name.len) == 0);
        CHECK(a->value.len == b->value.len &&
              memcmp(a->value.data, b->value.data, a->value.len) == 0);
        CHECK_INT(a->is_text, b->is_text);
    }
}

/* What the format writes of an answer is read back. */
static void test_round_trip(void)
{
    static const char *const formats[] = { "v3.2", "v4" };
    for (size_t f = 0; f < ARRAY_LEN(formats); f++) {
        check_case("calls as %s writes them are read back", formats[f]);
        struct chat_call calls[] = { mixed_call, clock_call, weather };
        struct chat_message list[] = {
            chat_text(ROLE_USER, str_of("?")),
            with_calls(chat_text(ROLE_ASSISTANT, str_of("Let me see.\n")), "", calls, 3),
        };
        struct error err = { 0 };
        const char *text = render(formats[f], list, 2, THINK_OFF, NULL, &err);
        const char *reply = text ? strstr(text, "Let me") : NULL;
        const char *end = reply ? strstr(reply, E) : NULL;
        CHECK(end != NULL);
        if (!end)
            continue;
        struct str whole = { reply, (size_t)(end - reply) };
        struct chat_reply r = { 0 };
        CHECK_MSG(chat_reply_parse(whole, &r, &err), "%s", err.text);
        CHECK_MSG(str_is(r.content, "Let me see.\n"), "%.*s", (int)r.content.len, r.content.data);
        CHECK_INT(r.n_calls, 3);
        for (size_t i = 0; i < min_of(r.n_calls, (size_t)3); i++)
            check_same(&r.calls[i], &calls[i]);
        chat_reply_release(&r);

        /* as it streams, exactly the content is shown, and no byte of it is held for ever */
        size_t shown = 0;
        for (size_t n = 0; n <= whole.len; n++) {
            size_t ready = chat_reply_ready((struct str){ whole.data, n });
            CHECK_MSG(ready >= shown && ready <= n, "%zu of %zu bytes", ready, n);
            shown = ready;
        }
        CHECK_INT(shown, strlen("Let me see.\n"));

        /* cut anywhere it is read, refused, or all content; nothing is read beyond its end */
        for (size_t n = 0; n < whole.len; n++) {
            char *cut = malloc(n + 1);
            memcpy(cut, whole.data, n);
            struct str part = { cut, n };
            error_clear(&err);
            bool ok = chat_reply_parse(part, &r, &err);
            CHECK(ok == (err.code == ERR_NONE) && (ok || r.content.len == n) && r.n_calls <= 3);
            chat_reply_release(&r);
            free(cut);
        }
    }
}

static void test_replies(void)
{
    static const struct {
        const char *text, *content, *message; /* message NULL: it can be read */
        size_t n_calls, ready;
    } rows[] = {
        { "Hello.", "Hello.", NULL, 0, 6 },
        { "a\n\n", "a\n\n", NULL, 0, 1 },
        { "a\n\n<", "a\n\n<", NULL, 0, 1 },
        { "a < b", "a < b", NULL, 0, 5 },
        { "about " D ".", "about " D ".", NULL, 0, 6 + 10 + 1 },
        { "<" D "tool_calls>" CLOCK, "", NULL, 1, 0 },
        { "x\n<" D "function_calls>\n\n " CLOCK " " CLOCK "\n</" D "function_calls>\nlater", "x\n",
          NULL, 2, 2 },
        { "x\n\n<" D "tool_calls>\n</" D "tool_calls>", NULL, "invoke", 0, 1 },
        { "<" D "tool_calls>now", NULL, "invoke", 0, 0 },
        { "<" D "tool_calls><" D "invoke>", NULL, "name=", 0, 0 },
        { "<" D "tool_calls><" D "invoke name=\"a", NULL, "expected \"", 0, 0 },
        { "<" D "tool_calls><" D "invoke name=\"a\"><" D "parameter name=\"b\">", NULL, "string=",
          0, 0 },
        { "<" D "tool_calls><" D "invoke name=\"a\">"
          "<" D "parameter name=\"b\" string=\"true\">1</" D "parameter>"
          "<" D "parameter name=\"b\" string=\"true\">2</" D "parameter></" D "invoke>", NULL,
          "\"b\" twice", 0, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        check_case("reply %zu", i);
        struct chat_reply r = { 0 };
        struct error err = { 0 };
        bool ok = chat_reply_parse(str_of(rows[i].text), &r, &err);
        CHECK_INT(ok, rows[i].message == NULL);
        CHECK_MSG(ok || strstr(err.text, rows[i].message), "%s", err.text);
        const char *content = rows[i].content ? rows[i].content : rows[i].text;
        CHECK_MSG(str_is(r.content, content), "%.*s", (int)r.content.len, r.content.data);
        CHECK_INT(r.n_calls, rows[i].n_calls);
        CHECK_INT(chat_reply_ready(str_of(rows[i].text)), rows[i].ready);
        chat_reply_release(&r);
    }

    check_case("every failed allocation is reported and nothing leaks");
    static const char text[] = "<" D "tool_calls><" D "invoke name=\"a\">"
        "<" D "parameter name=\"b\" string=\"true\">1</" D "parameter></" D "invoke>";
    uint64_t n = 0;
    for (bool ok = false; !ok && n < 10; n++) {
        struct chat_reply r = { 0 };
        struct error err = { 0 };
        mem_fail_after(n);
        ok = chat_reply_parse(str_of(text), &r, &err);
        mem_fail_never();
        CHECK_INT(err.code, ok ? ERR_NONE : ERR_FIT);
        chat_reply_release(&r);
    }
    CHECK(n > 2 && n < 10);
}

/* ---- tokens ---- */

/* The mark of a call is the format's alone, however the vocabulary types it. */
static void test_injection(void)
{
    for (int variant = 0; variant < 2; variant++) {
        check_case("a call in contents is text, variant %d", variant);
        static const char *const specials[] = { BOS_TEXT, EOS_TEXT, D, "<think>", "</think>" };
        int32_t types[ARRAY_LEN(specials)];
        for (size_t i = 0; i < ARRAY_LEN(specials); i++)
            types[i] = variant ? TOKEN_USER_DEFINED : TOKEN_CONTROL;
        struct byte_vocab v;
        vf_start(&v.file);
        vf_str(&v.file, "general.architecture", "deepseek2");
        vf_byte_tokens(&v.file, "deepseek-v3", specials, types, ARRAY_LEN(specials));
        vf_u32(&v.file, "tokenizer.ggml.bos_token_id", N_BYTE_TOKENS);
        vf_u32(&v.file, "tokenizer.ggml.eos_token_id", N_BYTE_TOKENS + 1);
        CHECK(byte_vocab_open(&v, NULL));
        if (!can_encode(v.t)) {
            check_skip("no pre-tokenizer in this build");
            byte_vocab_close(&v);
            return;
        }
        struct chat_message list[] = {
            chat_text(ROLE_USER, str_of("x" D "y<" D "invoke>" D D)),
            with_calls(chat_text(ROLE_ASSISTANT, str_of("z")), "", &weather, 1),
            tool_result("c1", D),
        };
        struct tokens ids = { 0 };
        char *text = NULL;
        struct error err = { 0 };
        bool ok = chat_render(chat_format_find("v4"), v.t, list, 3, THINK_OFF, &ids, &text, NULL,
                              &err);
        CHECK_MSG(ok, "%s", err.text);
        size_t n_marks = 0, len = 0;
        for (size_t i = 0; i < ids.n; i++) {
            struct str bytes = tokenizer_bytes(v.t, ids.ids[i], true);
            CHECK(strncmp(text + len, bytes.data, bytes.len) == 0); /* the ids spell the text */
            len += bytes.len;
            n_marks += ids.ids[i] == N_BYTE_TOKENS + 2;
        }
        CHECK_INT(n_marks, 6); /* two tags each of block, call and argument */
        tokens_release(&ids);
        mem_free(text);
        byte_vocab_close(&v);
    }
}

int main(void)
{
    set_calls();
    test_v32();
    test_v4();
    test_refusals();
    test_round_trip();
    test_replies();
    test_injection();
    return check_finish();
}
