/* Conversations with tools, of V3.2 and V4: messages -> segments.
 *
 * A model calls functions in a block of tags at the end of its answer; what they gave back follows
 * as turns of the role "tool". The two generations differ in the names of the tags, in where results
 * stand, and in which thinking of earlier turns stays. Source: deepseek32_and_4 section 10 (the
 * encoders published with the models). Without tools both come to the format of V3.1. */
#include "src/base/util.h"
#include "src/text/chat_format.h"

#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"
#define TAG(name) "<" CALL_MARK name ">"
#define END_TAG(name) "</" CALL_MARK name ">"
#define SCHEMA "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"

/* A call and its parts, as models are told to write them. */
#define EXAMPLE(block, first, second)                                                              \
    TAG(block) "\n<" CALL_MARK "invoke name=\"" first "\">\n"                                        \
    "<" CALL_MARK "parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE"        \
    END_TAG("parameter") "\n...\n" END_TAG("invoke") "\n"                                            \
    "<" CALL_MARK "invoke name=\"" second "\">\n...\n" END_TAG("invoke") "\n" END_TAG(block) "\n"

const struct tool_dialect chat_tools_v32 = {
    .block = "function_calls",
    .before =
        "\n\n## Tools\n\n"
        "You have access to a set of tools you can use to answer the user's question.\n"
        "You can invoke functions by writing a \"" TAG("function_calls") "\" block like the "
        "following as part of your reply to the user:\n"
        EXAMPLE("function_calls", "$FUNCTION_NAME", "$FUNCTION_NAME2")
        "\nString and scalar parameters should be specified as is without any escaping or quotes, "
        "while lists and objects should use JSON format. The \"string\" attribute should be set to "
        "\"true\" for string type parameters and \"false\" for other types (numbers, booleans, "
        "arrays, objects).\n\n"
        "If the thinking_mode is enabled, then after function results you should strongly consider "
        "outputting a thinking block. Here is an example:\n\n"
        TAG("function_calls") "\n...\n" END_TAG("function_calls") "\n\n"
        "<function_results>\n...\n</function_results>\n\n"
        "<think>...thinking about results</think>\n\n"
        "Here are the functions available in JSONSchema format:\n<functions>\n",
    .after = "\n</functions>\n",
};

const struct tool_dialect chat_tools_v4 = {
    .is_v4 = true,
    .block = "tool_calls",
    .before =
        "\n\n## Tools\n\n"
        "You have access to a set of tools to help answer the user's question. You can invoke tools "
        "by writing a \"" TAG("tool_calls") "\" block like the following:\n\n"
        EXAMPLE("tool_calls", "$TOOL_NAME", "$TOOL_NAME2")
        "\nString parameters should be specified as is and set `string=\"true\"`. For all other "
        "types (numbers, booleans, arrays, objects), pass the value in JSON format and set "
        "`string=\"false\"`.\n\n"
        "If thinking_mode is enabled (triggered by <think>), you MUST output your complete "
        "reasoning inside <think>...</think> BEFORE any tool calls or final response.\n\n"
        "Otherwise, output directly after </think> with tool calls or final response.\n\n"
        "### Available Tool Schemas\n\n",
    .after = "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to "
             "invoke tool calls.\n",
};

/* The conversation while it is rendered. */
struct dialogue {
    const struct chat_format *f;
    const struct chat_message *list;
    size_t n;
    size_t last_user; /* index of the turn that is being answered; n: there is none */
    bool thinks;
    bool keeps;       /* V4 with tools: thinking of all turns stays */
    struct segments *out;
    struct error *err;
};

static bool add(struct dialogue *d, struct str text)
{
    return segments_add(d->out, SEGMENT_CONTENT, text, d->err);
}

static bool add_format(struct dialogue *d, const char *text)
{
    return segments_add_format(d->out, text, d->err);
}

/* ---- parts of messages ---- */

static bool add_attachments(struct dialogue *d, const struct chat_message *m)
{
    const struct tool_dialect *t = d->f->tools;
    return (m->tools.len == 0 ||
            (add_format(d, t->before) && add(d, m->tools) && add_format(d, t->after))) &&
           (m->schema.len == 0 || (add_format(d, SCHEMA) && add(d, m->schema)));
}

static bool add_call(struct dialogue *d, const struct chat_call *c)
{
    bool ok = add_format(d, "<" CALL_MARK "invoke name=\"") && add(d, c->name) &&
              add_format(d, c->n_arguments > 0 ? "\">\n" : "\">\n\n");
    for (size_t i = 0; ok && i < c->n_arguments; i++) {
        const struct chat_argument *a = &c->arguments[i];
        ok = add_format(d, "<" CALL_MARK "parameter name=\"") && add(d, a->name) &&
             add_format(d, a->is_text ? "\" string=\"true\">" : "\" string=\"false\">") &&
             add(d, a->value) && add_format(d, END_TAG("parameter") "\n");
    }
    return ok && add_format(d, END_TAG("invoke") "\n");
}

static bool add_calls(struct dialogue *d, const struct chat_message *m)
{
    const char *block = d->f->tools->block;
    bool ok = m->n_calls == 0 || (add_format(d, "\n\n<" CALL_MARK) && add_format(d, block) &&
                                  add_format(d, ">\n"));
    for (size_t i = 0; ok && i < m->n_calls; i++)
        ok = add_call(d, &m->calls[i]);
    return ok && (m->n_calls == 0 || (add_format(d, "</" CALL_MARK) && add_format(d, block) &&
                                      add_format(d, ">")));
}

/* What stands before the first </think> of a stored answer. */
static struct str thinking_part(const struct chat_message *m)
{
    static const char open[] = "<think>", close[] = "</think>";
    if (m->reasoning.len > 0)
        return m->reasoning;
    const char *end = m->content.len ? memmem(m->content.data, m->content.len, close,
                                              sizeof close - 1) : NULL;
    if (!end)
        return (struct str){ "", 0 };
    struct str s = { m->content.data, (size_t)(end - m->content.data) };
    if (s.len >= sizeof open - 1 && memcmp(s.data, open, sizeof open - 1) == 0)
        s = (struct str){ s.data + sizeof open - 1, s.len - (sizeof open - 1) };
    return s;
}

static bool add_assistant(struct dialogue *d, const struct chat_message *m, bool with_thinking)
{
    return (!with_thinking || (add(d, thinking_part(m)) && add_format(d, "</think>"))) &&
           add(d, chat_answer_part(d->f, m->content)) && add_calls(d, m) &&
           (m->is_open || add_format(d, EOS_TEXT));
}

static bool add_opening(struct dialogue *d, bool thinks)
{
    return add_format(d, thinks ? ASSISTANT "<think>" : ASSISTANT "</think>");
}

static const char *task_mark(const char *task)
{
    static const char *const tasks[][2] = {
        { "action", "<｜action｜>" }, { "query", "<｜query｜>" }, { "domain", "<｜domain｜>" },
        { "title", "<｜title｜>" }, { "read_url", "<｜read_url｜>" },
        { "authority", "<｜authority｜>" },
    };
    for (size_t i = 0; i < ARRAY_LEN(tasks); i++)
        if (strcmp(task, tasks[i][0]) == 0)
            return tasks[i][1];
    return NULL;
}

/* ---- what must hold ---- */

/* Index of the answer that the results around message i belong to; n: there is none. */
static size_t calls_before(const struct dialogue *d, size_t i)
{
    while (i > 0 && d->list[i].role != ROLE_ASSISTANT)
        i--;
    return d->list[i].role == ROLE_ASSISTANT ? i : d->n;
}

/* Which call of the answer a result is for; n_calls: it does not say. */
static size_t call_of(const struct dialogue *d, size_t i)
{
    size_t at = calls_before(d, i), k = 0;
    if (at == d->n)
        return 0;
    const struct chat_message *m = &d->list[at];
    struct str id = d->list[i].call_id;
    while (k < m->n_calls && (id.len == 0 || m->calls[k].id.len != id.len ||
                              memcmp(m->calls[k].id.data, id.data, id.len) != 0))
        k++;
    return k;
}

/* The messages from `first` on, which stands behind an answer, until the next answer. */
static bool check_results(const struct dialogue *d, size_t first)
{
    size_t n = 0, n_calls = d->list[first - 1].n_calls;
    for (size_t i = first; i < d->n && d->list[i].role != ROLE_ASSISTANT; i++) {
        if (d->list[i].role != ROLE_TOOL)
            continue;
        n++;
        if (d->list[i].call_id.len > 0 && call_of(d, i) >= n_calls)
            return fail(d->err, ERR_USAGE, "message %zu: a result for call \"%.*s\", which the "
                        "answer before it did not make", i + 1, (int)d->list[i].call_id.len,
                        d->list[i].call_id.data);
    }
    return n == n_calls || fail(d->err, ERR_USAGE, "message %zu: %zu results after %zu calls, "
                                "expected one for each", first + 1, n, n_calls);
}

static bool check(const struct dialogue *d)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct chat_message *m = &d->list[i];
        bool is_v4 = d->f->tools->is_v4, follows = i > 0 && d->list[i - 1].role == ROLE_ASSISTANT;
        if (!is_v4 && (m->role == ROLE_REMINDER || m->task))
            return fail(d->err, ERR_USAGE, "message %zu: reminders and tasks belong to the chat "
                        "format v4, this is \"%s\"", i + 1, d->f->name);
        if (m->task && !task_mark(m->task))
            return fail(d->err, ERR_USAGE, "message %zu: unknown task \"%s\", expected action, "
                        "query, authority, domain, title or read_url", i + 1, m->task);
        if (m->is_open && i + 1 < d->n)
            return fail(d->err, ERR_USAGE, "message %zu: only the last answer can be gone on with",
                        i + 1);
        if (m->role == ROLE_TOOL && (i == 0 || calls_before(d, i) == d->n))
            return fail(d->err, ERR_USAGE, "message %zu: a result without a call", i + 1);
        if (m->role == ROLE_TOOL && !follows && d->list[i - 1].role != ROLE_TOOL &&
            !(is_v4 && d->list[i - 1].role == ROLE_USER))
            return fail(d->err, ERR_USAGE, "message %zu: a result that does not follow its call",
                        i + 1);
        if (follows && !check_results(d, i))
            return false;
    }
    return true;
}

/* ---- V3.2 ---- */

static bool add_result_v32(struct dialogue *d, size_t i, bool thinks)
{
    bool first = d->list[i - 1].role != ROLE_TOOL;
    bool last = i + 1 == d->n || d->list[i + 1].role != ROLE_TOOL;
    return (!first || add_format(d, "\n\n<function_results>")) && add_format(d, "\n<result>") &&
           add(d, d->list[i].content) && add_format(d, "</result>") &&
           (!last || add_format(d, thinks ? "\n</function_results>\n\n<think>"
                                          : "\n</function_results>\n\n</think>"));
}

static bool add_v32(struct dialogue *d, size_t i)
{
    const struct chat_message *m = &d->list[i];
    bool answered = d->last_user < d->n && i > d->last_user;
    switch (m->role) {
    case ROLE_USER:
        return add_format(d, USER) && add(d, m->content) &&
               add_opening(d, d->thinks && i == d->last_user);
    case ROLE_DEVELOPER:
        return add_format(d, USER) && add_attachments(d, m) &&
               add_format(d, "\n\n# The user's message is: ") && add(d, m->content) &&
               add_opening(d, d->thinks && i == d->last_user);
    case ROLE_ASSISTANT:
        return add_assistant(d, m, d->thinks && answered);
    case ROLE_TOOL:
        return add_result_v32(d, i, d->thinks && answered);
    default:
        return add(d, m->content) && add_attachments(d, m);
    }
}

/* ---- V4 ---- */

/* Earlier instructions of developers go where earlier thinking goes. */
static bool is_dropped(const struct dialogue *d, size_t i)
{
    return d->thinks && !d->keeps && d->list[i].role == ROLE_DEVELOPER && i < d->last_user;
}

static size_t next_kept(const struct dialogue *d, size_t i)
{
    for (i++; i < d->n && is_dropped(d, i); i++)
        continue;
    return i;
}

/* Users' messages and results in a row are one turn, but nothing joins a turn with a task. */
static size_t turn_end(const struct dialogue *d, size_t first)
{
    const char *task = d->list[first].task;
    size_t i = first + 1;
    for (; i < d->n && (d->list[i].role == ROLE_TOOL || d->list[i].role == ROLE_USER); i++) {
        if (task && d->list[i].role == ROLE_USER)
            break;
        task = task ? task : d->list[i].task;
    }
    return i;
}

static const char *task_of(const struct dialogue *d, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++)
        if (d->list[i].task)
            return d->list[i].task;
    return NULL;
}

/* The result at place k of its turn when results stand in the order of their calls. */
static size_t result_at(const struct dialogue *d, size_t first, size_t end, size_t k)
{
    for (size_t i = first; i < end; i++) {
        if (d->list[i].role != ROLE_TOOL)
            continue;
        size_t before = 0, rank = call_of(d, i);
        for (size_t j = first; j < end; j++) {
            size_t other = d->list[j].role == ROLE_TOOL ? call_of(d, j) : SIZE_MAX;
            before += other < rank || (other == rank && j < i);
        }
        if (before == k)
            return i;
    }
    return end;
}

static bool add_blocks(struct dialogue *d, size_t first, size_t end)
{
    bool ok = add_format(d, USER);
    for (size_t i = first, k = 0; ok && i < end; i++) {
        bool is_result = d->list[i].role == ROLE_TOOL;
        size_t from = is_result ? result_at(d, first, end, k++) : i;
        ok = (i == first || add_format(d, "\n\n")) &&
             (!is_result || add_format(d, "<tool_result>")) && add(d, d->list[from].content) &&
             (!is_result || add_format(d, "</tool_result>"));
    }
    return ok;
}

/* The answer's opening behind a turn, where an answer comes next. */
static bool add_transition(struct dialogue *d, size_t end, const char *task)
{
    size_t next = next_kept(d, end - 1);
    if (next < d->n && d->list[next].role != ROLE_ASSISTANT && d->list[next].role != ROLE_REMINDER)
        return true;
    bool thinks = d->thinks && (d->keeps || end > d->last_user);
    return ((task && strcmp(task, "action") != 0) || add_opening(d, thinks)) &&
           (!task || add_format(d, task_mark(task)));
}

/* Message i and what is one with it; returns the index behind, 0 on failure. */
static size_t add_v4(struct dialogue *d, size_t i, const char **task)
{
    const struct chat_message *m = &d->list[i];
    const char *before = *task;
    size_t end = i + 1;
    bool ok;
    *task = NULL;
    switch (m->role) {
    case ROLE_USER:
    case ROLE_TOOL:
        end = turn_end(d, i);
        *task = task_of(d, i, end);
        ok = add_blocks(d, i, end) && add_transition(d, end, *task);
        break;
    case ROLE_DEVELOPER:
        *task = m->task;
        ok = is_dropped(d, i) || (add_format(d, USER) && add(d, m->content) &&
                                  add_attachments(d, m) && add_transition(d, end, m->task));
        break;
    case ROLE_ASSISTANT:
        ok = add_assistant(d, m, d->thinks && (d->keeps || i > d->last_user) && !before);
        break;
    case ROLE_REMINDER:
        ok = add_format(d, "<｜latest_reminder｜>") && add(d, m->content);
        break;
    default:
        ok = add(d, m->content) && add_attachments(d, m);
    }
    return ok ? end : 0;
}

/* ---- all ---- */

/* The turn that is being answered: the last of a user or developer; in V4 results are users' too. */
static size_t find_last_user(const struct dialogue *d)
{
    for (size_t i = d->n; i-- > 0;) {
        enum chat_role role = d->list[i].role;
        bool is_user = role == ROLE_USER || role == ROLE_DEVELOPER ||
                       (role == ROLE_TOOL && d->f->tools->is_v4);
        if (!is_user)
            continue;
        while (d->f->tools->is_v4 && role != ROLE_DEVELOPER && i > 0 &&
               (d->list[i - 1].role == ROLE_TOOL || d->list[i - 1].role == ROLE_USER) &&
               turn_end(d, i - 1) > i)
            i--;
        return i;
    }
    return d->n;
}

/* Does the text end where an answer begins or goes on? */
static bool is_opened(const struct dialogue *d)
{
    const struct chat_message *last = d->n > 0 ? &d->list[d->n - 1] : NULL;
    return last && last->role != ROLE_SYSTEM && (last->role != ROLE_ASSISTANT || last->is_open);
}

bool chat_tool_segments(const struct chat_format *f, const struct chat_message *messages,
                        size_t n_messages, enum think_mode think, bool thinks,
                        struct segments *out, bool *in_thinking, struct error *err)
{
    struct dialogue d = { .f = f, .list = messages, .n = n_messages, .thinks = thinks, .out = out,
                          .err = err };
    const char *effort = think == THINK_HIGH ? f->high : think == THINK_MAX ? f->max : NULL;
    const char *task = NULL;
    if (!check(&d))
        return false;
    d.last_user = find_last_user(&d);
    for (size_t i = 0; i < n_messages; i++)
        d.keeps = d.keeps || (f->tools->is_v4 && messages[i].tools.len > 0);

    bool ok = !thinks || add_format(&d, effort);
    for (size_t i = 0; ok && i < n_messages;) {
        size_t end = f->tools->is_v4 ? add_v4(&d, i, &task) : add_v32(&d, i) ? i + 1 : 0;
        ok = end > 0;
        i = end;
    }
    bool is_answer = n_messages > 0 && messages[n_messages - 1].role == ROLE_ASSISTANT;
    *in_thinking = thinks && !task && !(is_answer && messages[n_messages - 1].is_open);
    return ok && (is_opened(&d) || add_opening(&d, thinks));
}
