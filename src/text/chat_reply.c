#include "src/text/chat_reply.h"

#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/text/chat_format.h"

#define INVOKE "<" CALL_MARK "invoke"
#define INVOKE_END "</" CALL_MARK "invoke>"
#define PARAMETER "<" CALL_MARK "parameter"
#define PARAMETER_END "</" CALL_MARK "parameter>"

static const char *const openings[] = { "<" CALL_MARK "tool_calls>", "<" CALL_MARK "function_calls>" };
static const char *const endings[] = { "</" CALL_MARK "tool_calls>", "</" CALL_MARK "function_calls>" };

/* ---- where the block begins ---- */

/* Length of `mark` when `text` begins with it, else 0. */
static size_t begins(struct str text, const char *mark)
{
    size_t n = strlen(mark);
    return text.len >= n && memcmp(text.data, mark, n) == 0 ? n : 0;
}

static struct str from(struct str text, size_t at)
{
    return (struct str){ text.data + at, text.len - at };
}

/* Position of the opening tag, text.len when there is none; *n its length. */
static size_t find_block(struct str text, size_t *n)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] != '<')
            continue;
        for (size_t k = 0; k < ARRAY_LEN(openings); k++)
            if ((*n = begins(from(text, i), openings[k])) > 0)
                return i;
    }
    *n = 0;
    return text.len;
}

/* The empty line in front belongs to the block. */
static size_t content_end(struct str text, size_t block)
{
    bool separated = block >= 2 && text.data[block - 1] == '\n' && text.data[block - 2] == '\n';
    return separated ? block - 2 : block;
}

/* Can `text` be the beginning of an empty line and an opening tag? */
static bool may_open(struct str text)
{
    size_t lines = 0;
    while (lines < text.len && lines < 2 && text.data[lines] == '\n')
        lines++;
    struct str tag = from(text, lines);
    bool may = false;
    for (size_t k = 0; k < ARRAY_LEN(openings); k++)
        may = may || (tag.len <= strlen(openings[k]) &&
                      memcmp(tag.data, openings[k], tag.len) == 0);
    return may;
}

size_t chat_reply_ready(struct str text)
{
    size_t n, block = find_block(text, &n);
    if (block < text.len)
        return content_end(text, block);
    size_t longest = strlen(openings[1]) + 2;
    for (size_t i = text.len > longest ? text.len - longest : 0; i < text.len; i++)
        if (may_open(from(text, i)))
            return i;
    return text.len;
}

/* ---- what is in it ---- */

struct parser {
    struct str text;
    size_t at;
    struct chat_argument *arguments; /* of the call that is being read */
    size_t n_arguments, capacity, call_capacity;
    struct error *err;
};

static bool damaged(struct parser *p, const char *expected)
{
    size_t n = min_of(p->text.len - p->at, (size_t)24);
    while (n > 0 && p->at + n < p->text.len && (p->text.data[p->at + n] & 0xc0) == 0x80)
        n--; /* whole characters */
    return fail(p->err, ERR_RUN, "byte %zu of the reply: \"%.*s\", expected %s", p->at, (int)n,
                p->text.data + p->at, expected);
}

static void skip_space(struct parser *p)
{
    while (p->at < p->text.len && memchr(" \t\r\n", p->text.data[p->at], 4))
        p->at++;
}

static bool accept(struct parser *p, const char *mark)
{
    size_t n = begins(from(p->text, p->at), mark);
    p->at += n;
    return n > 0;
}

/* Everything up to `end`, which is skipped. */
static bool until(struct parser *p, const char *end, struct str *out)
{
    struct str rest = from(p->text, p->at);
    const char *found = rest.len ? memmem(rest.data, rest.len, end, strlen(end)) : NULL;
    if (!found)
        return damaged(p, end);
    *out = (struct str){ rest.data, (size_t)(found - rest.data) };
    p->at += out->len + strlen(end);
    return true;
}

/* name="..." behind a tag's name. */
static bool read_name(struct parser *p, struct str *name)
{
    skip_space(p);
    return accept(p, "name=\"") ? until(p, "\"", name) : damaged(p, "name=\"...\"");
}

static bool read_argument(struct parser *p)
{
    struct chat_argument a = { 0 };
    if (!read_name(p, &a.name))
        return false;
    skip_space(p);
    a.is_text = accept(p, "string=\"true\"");
    if (!a.is_text && !accept(p, "string=\"false\""))
        return damaged(p, "string=\"true\" or string=\"false\"");
    skip_space(p);
    if (!accept(p, ">"))
        return damaged(p, ">");
    if (!until(p, PARAMETER_END, &a.value))
        return false;
    for (size_t i = 0; i < p->n_arguments; i++)
        if (p->arguments[i].name.len == a.name.len &&
            memcmp(p->arguments[i].name.data, a.name.data, a.name.len) == 0)
            return fail(p->err, ERR_RUN, "the call names \"%.*s\" twice", (int)a.name.len,
                        a.name.data);
    if (p->n_arguments == p->capacity) {
        size_t capacity = max_of(2 * p->capacity, (size_t)8);
        struct chat_argument *list = mem_resize(p->arguments, capacity, sizeof *list, "call",
                                                p->err);
        if (!list)
            return false;
        p->arguments = list;
        p->capacity = capacity;
    }
    p->arguments[p->n_arguments++] = a;
    return true;
}

static bool read_call(struct parser *p, struct chat_call *call)
{
    if (!read_name(p, &call->name))
        return false;
    skip_space(p);
    if (!accept(p, ">"))
        return damaged(p, ">");
    for (;;) {
        skip_space(p);
        if (accept(p, INVOKE_END))
            return true;
        if (!accept(p, PARAMETER))
            return damaged(p, PARAMETER " or " INVOKE_END);
        if (!read_argument(p))
            return false;
    }
}

static bool push_call(struct parser *p, struct chat_reply *out, struct chat_call call)
{
    if (out->n_calls == p->call_capacity) {
        size_t capacity = max_of(2 * p->call_capacity, (size_t)4);
        struct chat_call *list = mem_resize(out->calls, capacity, sizeof *list, "calls", p->err);
        if (!list)
            return false;
        out->calls = list;
        p->call_capacity = capacity;
    }
    call.arguments = p->arguments;
    call.n_arguments = p->n_arguments;
    p->arguments = NULL;
    p->n_arguments = p->capacity = 0;
    out->calls[out->n_calls++] = call;
    return true;
}

static bool read_calls(struct parser *p, struct chat_reply *out)
{
    for (;;) {
        struct chat_call call = { 0 };
        skip_space(p);
        bool at_end = p->at == p->text.len;
        for (size_t k = 0; k < ARRAY_LEN(endings); k++)
            at_end = at_end || accept(p, endings[k]);
        if (at_end)
            return out->n_calls > 0 || damaged(p, INVOKE);
        if (!accept(p, INVOKE))
            return damaged(p, INVOKE);
        if (!read_call(p, &call) || !push_call(p, out, call))
            return false;
    }
}

bool chat_reply_parse(struct str text, struct chat_reply *out, struct error *err)
{
    size_t n, block = find_block(text, &n);
    struct parser p = { .text = text, .at = block + n, .err = err };
    *out = (struct chat_reply){ .content = text };
    if (n == 0)
        return true;
    bool ok = read_calls(&p, out);
    mem_free(p.arguments);
    if (ok)
        out->content.len = content_end(text, block);
    else
        chat_reply_release(out);
    if (!ok)
        out->content = text;
    return ok;
}

void chat_reply_release(struct chat_reply *r)
{
    for (size_t i = 0; i < r->n_calls; i++)
        mem_free((void *)(uintptr_t)r->calls[i].arguments);
    mem_free(r->calls);
    *r = (struct chat_reply){ 0 };
}
