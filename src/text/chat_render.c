/* Messages -> segments -> tokens and text. */
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/text/chat_format.h"

/* Texts that are one token each where the vocabulary has them, plain text where it has not. */
static const char *const marks[] = {
    BOS_TEXT, EOS_TEXT, "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<|EOT|>",
    "<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_start|>",
    "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    CALL_MARK, "<｜latest_reminder｜>", "<｜action｜>", "<｜query｜>", "<｜authority｜>", "<｜domain｜>",
    "<｜title｜>", "<｜read_url｜>",
};

struct str chat_mark_at(struct str text)
{
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        size_t len = strlen(marks[i]);
        if (text.len >= len && memcmp(text.data, marks[i], len) == 0)
            return (struct str){ text.data, len };
    }
    return (struct str){ text.data, 0 };
}

/* --- stage one: segments ---------------------------------------------------------------------- */

bool segments_add(struct segments *s, enum segment_kind kind, struct str text, struct error *err)
{
    if (text.len == 0)
        return true;
    if (s->n == s->capacity) {
        size_t capacity = s->capacity ? 2 * s->capacity : 16;
        struct segment *list = mem_resize(s->list, capacity, sizeof *list, "prompt", err);
        if (!list)
            return false;
        s->list = list;
        s->capacity = capacity;
    }
    s->list[s->n++] = (struct segment){ kind, text };
    return true;
}

void segments_release(struct segments *s)
{
    mem_free(s->list);
    *s = (struct segments){ 0 };
}

/* Text of the format, cut at its marks. */
bool segments_add_format(struct segments *s, const char *text, struct error *err)
{
    struct str rest = text ? str_of(text) : (struct str){ "", 0 };
    size_t plain = 0;
    while (plain < rest.len) {
        struct str mark = chat_mark_at((struct str){ rest.data + plain, rest.len - plain });
        if (mark.len == 0) {
            plain++;
            continue;
        }
        enum segment_kind kind = str_is(mark, EOS_TEXT) ? SEGMENT_EOS : SEGMENT_MARK;
        if (!segments_add(s, SEGMENT_FORMAT, (struct str){ rest.data, plain }, err) ||
            !segments_add(s, kind, mark, err))
            return false;
        rest.data += plain + mark.len;
        rest.len -= plain + mark.len;
        plain = 0;
    }
    return segments_add(s, SEGMENT_FORMAT, rest, err);
}

static struct str trimmed(const struct chat_format *f, struct str text)
{
    static const char white[] = " \t\n\v\f\r";
    size_t n_white = sizeof white - 1; /* without the 0 */
    while (f->trim && text.len > 0 && memchr(white, text.data[0], n_white))
        text.data++, text.len--;
    while (f->trim && text.len > 0 && memchr(white, text.data[text.len - 1], n_white))
        text.len--;
    return text;
}

struct str chat_answer_part(const struct chat_format *f, struct str content)
{
    static const char open[] = "<think>", close[] = "</think>";
    size_t n_open = sizeof open - 1, n_close = sizeof close - 1, start = 0;
    if (f->history == HISTORY_AS_IS)
        return content;
    for (size_t i = 0; i + n_close <= content.len; i++) {
        if (memcmp(content.data + i, close, n_close) != 0)
            continue;
        start = i + n_close;
        if (f->history == HISTORY_AFTER_FIRST)
            break;
    }
    /* A thought that was never finished has no answer. */
    if (start == 0 && content.len >= n_open && memcmp(content.data, open, n_open) == 0)
        start = content.len;
    while (f->bare_answer && start < content.len && content.data[start] == '\n')
        start++;
    return (struct str){ content.data + start, content.len - start };
}

/* An earlier answer. Models write the space after "Assistant:" and the line end before <|EOT|>
 * themselves, so an answer as generated may have them already; they are not doubled. */
static bool add_answer(struct segments *s, const struct chat_format *f, struct str content,
                       struct error *err)
{
    struct str answer = trimmed(f, chat_answer_part(f, content));
    const char *stored = f->stored, *after = f->assistant.after;
    if (stored && *stored == ' ' && answer.len > 0 && answer.data[0] == ' ')
        stored = NULL;
    if (after && *after == '\n' && answer.len > 0 && answer.data[answer.len - 1] == '\n')
        answer.len--;
    return segments_add_format(s, f->assistant.before, err) &&
           segments_add_format(s, stored, err) &&
           segments_add(s, SEGMENT_CONTENT, answer, err) && segments_add_format(s, after, err);
}

static bool add_framed(struct segments *s, const struct chat_format *f, const struct frame *frame,
                       struct str content, struct error *err)
{
    return segments_add_format(s, frame->before, err) &&
           segments_add(s, SEGMENT_CONTENT, trimmed(f, content), err) &&
           segments_add_format(s, frame->after, err);
}

/* What comes before the first turn: the default, or all system messages where they are joined. */
static bool add_system(struct segments *s, const struct chat_format *f,
                       const struct chat_message *messages, size_t n_messages, struct error *err)
{
    bool any = false, ok = true;
    for (size_t i = 0; ok && i < n_messages; i++) {
        if (messages[i].role != ROLE_SYSTEM)
            continue;
        if (f->system_join)
            ok = segments_add_format(s, any ? f->system_join : NULL, err) &&
                 segments_add(s, SEGMENT_CONTENT, trimmed(f, messages[i].content), err);
        any = true;
    }
    return ok && (any || segments_add_format(s, f->system_default, err));
}

/* Formats without tools have no place for what only those know. */
static bool is_plain(const struct chat_format *f, const struct chat_message *m, struct error *err)
{
    bool plain = m->role <= ROLE_ASSISTANT && m->n_calls == 0 && m->tools.len == 0 &&
                 m->schema.len == 0 && !m->task && !m->is_open;
    return plain || fail(err, ERR_USAGE, "the chat format \"%s\" knows no tools, results or tasks "
                         "(v3.2 and v4 do)", f->name);
}

static bool plain_segments(const struct chat_format *f, const struct chat_message *messages,
                           size_t n_messages, bool thinks, struct segments *out, struct error *err)
{
    bool ok = add_system(out, f, messages, n_messages, err);
    for (size_t i = 0; ok && i < n_messages; i++) {
        const struct chat_message *m = &messages[i];
        if (!is_plain(f, m, err))
            return false;
        if (m->role == ROLE_ASSISTANT)
            ok = add_answer(out, f, m->content, err);
        else if (m->role == ROLE_USER)
            ok = add_framed(out, f, &f->user, m->content, err);
        else if (!f->system_join)
            ok = add_framed(out, f, &f->system, m->content, err);
    }
    return ok && segments_add_format(out, f->assistant.before, err) &&
           segments_add_format(out, thinks ? f->think : f->no_think, err);
}

bool chat_segments(const struct chat_format *f, const struct chat_message *messages,
                   size_t n_messages, enum think_mode think, bool bos, struct segments *out,
                   bool *in_thinking, struct error *err)
{
    bool thinks = chat_format_thinks(f) &&
                  (think >= THINK_ON || (think == THINK_DEFAULT && f->think_by_default));
    bool ignored;
    in_thinking = in_thinking ? in_thinking : &ignored;
    *in_thinking = thinks && strncmp(f->think, "<think>", 7) == 0;
    if (bos && !segments_add(out, SEGMENT_BOS, str_of(f->bos ? f->bos : BOS_TEXT), err))
        return false;
    if (f->tools)
        return chat_tool_segments(f, messages, n_messages, think, thinks, out, in_thinking, err);
    return plain_segments(f, messages, n_messages, thinks, out, err);
}

/* --- stage two: tokens ------------------------------------------------------------------------ */

struct bytes {
    char *data; /* owned */
    size_t len, capacity;
};

static bool append(struct bytes *b, struct str text, struct error *err)
{
    if (text.len >= SIZE_MAX / 4 - b->len)
        return fail(err, ERR_FIT, "prompt of %zu bytes", text.len);
    if (b->len + text.len + 1 > b->capacity) {
        size_t capacity = max_of(2 * b->capacity, b->len + text.len + 1);
        char *data = mem_resize(b->data, capacity, 1, "prompt", err);
        if (!data)
            return false;
        b->data = data;
        b->capacity = capacity;
    }
    if (text.len > 0)
        memcpy(b->data + b->len, text.data, text.len);
    b->len += text.len;
    b->data[b->len] = 0;
    return true;
}

static bool is_user_defined(const struct tokenizer *t, const char *text)
{
    int32_t id = tokenizer_find(t, text);
    return id >= 0 && tokenizer_type(t, id) == TOKEN_USER_DEFINED;
}

/* Files often type <think> or even the role marks as "user-defined", and those are matched in any
 * text. Length of such a look-alike at the start of `text`, 0 if there is none. */
static size_t look_alike(const struct tokenizer *t, struct str text)
{
    static const char *const starts[] = { "<|", "<｜", "<think>", "</think>", "<s>", "</s>", "[" };
    size_t n_call = strlen(CALL_MARK);
    if (text.len >= n_call && memcmp(text.data, CALL_MARK, n_call) == 0)
        return is_user_defined(t, CALL_MARK) ? n_call : 0;
    char copy[72];
    bool begins = false;
    for (size_t i = 0; i < ARRAY_LEN(starts) && !begins; i++)
        begins = text.len >= strlen(starts[i]) &&
                 memcmp(text.data, starts[i], strlen(starts[i])) == 0;
    if (!begins)
        return 0;
    size_t len = 0;
    char last = text.data[0] == '[' ? ']' : '>';
    while (len < text.len && len < sizeof copy - 1 && text.data[len] != last)
        copy[len] = text.data[len], len++;
    if (len == text.len || len == sizeof copy - 1)
        return 0;
    copy[len++] = last;
    copy[len] = 0;
    return is_user_defined(t, copy) ? len : 0;
}

/* A run of plain text. Look-alikes of marks are cut after their first character, so that they are
 * spelled out instead of becoming a token. */
static bool encode_plain(const struct tokenizer *t, struct str run, struct tokens *tokens,
                         struct error *err)
{
    size_t start = 0;
    for (size_t i = 0; i < run.len; i++) {
        bool may_begin = run.data[i] == '<' || run.data[i] == '[' || run.data[i] == CALL_MARK[0];
        if (!may_begin || look_alike(t, (struct str){ run.data + i, run.len - i }) == 0)
            continue;
        size_t end = i + (run.data[i] == CALL_MARK[0] ? strlen("｜") : 1);
        struct str piece = { run.data + start, end - start };
        if (!tokenizer_encode(t, piece, false, tokens, err))
            return false;
        start = end;
    }
    struct str rest = { run.data + start, run.len - start };
    return rest.len == 0 || tokenizer_encode(t, rest, false, tokens, err);
}

/* The control token a segment stands for; -1: none, the segment is text. */
static int32_t mark_id(const struct tokenizer *t, const struct segment *s)
{
    if (s->kind == SEGMENT_FORMAT || s->kind == SEGMENT_CONTENT)
        return -1;
    if (s->kind == SEGMENT_BOS)
        return tokenizer_bos(t);
    char text[64];
    size_t len = min_of(s->text.len, sizeof text - 1);
    memcpy(text, s->text.data, len);
    text[len] = 0;
    int32_t id = tokenizer_find(t, text);
    return id < 0 && s->kind == SEGMENT_EOS ? tokenizer_eos(t) : id;
}

static bool encode(const struct tokenizer *t, const struct segments *segments, struct bytes *run,
                   struct bytes *text, struct tokens *tokens, struct error *err)
{
    bool ok = true;
    for (size_t i = 0; ok && i < segments->n; i++) {
        const struct segment *s = &segments->list[i];
        int32_t id = mark_id(t, s);
        if (id < 0) {
            ok = append(run, s->text, err) && append(text, s->text, err);
            continue;
        }
        ok = encode_plain(t, (struct str){ run->data, run->len }, tokens, err) &&
             tokens_push(tokens, id, err) && append(text, tokenizer_bytes(t, id, true), err);
        run->len = 0;
    }
    return ok && encode_plain(t, (struct str){ run->data, run->len }, tokens, err);
}

bool chat_render(const struct chat_format *f, const struct tokenizer *t,
                 const struct chat_message *messages, size_t n_messages, enum think_mode think,
                 struct tokens *tokens, char **text, bool *in_thinking, struct error *err)
{
    struct segments segments = { 0 };
    struct bytes run = { 0 }, rendered = { 0 };
    bool bos = tokenizer_bos(t) >= 0 && (f->bos || tokenizer_add_bos(t));
    bool ok = chat_segments(f, messages, n_messages, think, bos, &segments, in_thinking, err) &&
              append(&rendered, (struct str){ "", 0 }, err) &&
              encode(t, &segments, &run, &rendered, tokens, err);
    segments_release(&segments);
    mem_free(run.data);
    if (!ok || !text)
        mem_free(rendered.data);
    if (text)
        *text = ok ? rendered.data : NULL;
    return ok;
}
