/* Fuzz target: a file with hostile metadata, then a conversation with hostile contents.
 *
 * Names, template and marks of the vocabulary are the input's, and so are roles and contents, which
 * are made of marks, pieces of marks and bytes. What must hold: some format is found; every control
 * token of the prompt stands where the format put one, so contents smuggle nothing; BOS comes at
 * most once and in front; the ids spell the text; what is shown of an answer is its end.
 *
 *     F="-g -O1 -fsanitize=address,undefined"
 *     make CC=clang CFLAGS="$F -fsanitize=fuzzer-no-link" B=build-fuzz build-fuzz/libtandem.a
 *     clang $F -fsanitize=fuzzer -std=c11 -D_GNU_SOURCE -I. -o build-fuzz/chat \
 *         tests/fuzz_chat.c build-fuzz/libtandem.a -lpcre2-8 -lm -pthread
 *
 * test_chat_fuzz.c includes this file and feeds it random inputs. */
#include <stdlib.h>

#include "src/base/mem.h"
#include "src/text/chat_format.h"
#include "src/text/chat_reply.h"
#include "src/text/think.h"
#include "tests/byte_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_MESSAGES 6
#define MAX_CONTENT 400

static const char *const marks[] = {
    BOS_TEXT, EOS_TEXT, "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<|EOT|>",
    "<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_start|>",
    "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    CALL_MARK, "<｜action｜>", "<｜latest_reminder｜>",
};

/* What templates, names and contents are made of beside marks. */
static const char *const words[] = {
    "<", "｜", ">", "|", "</", "think", "User", "thinking", "'User: '", "'Assistant: '",
    "### Instruction:", "You are Kimi", "<think>\\n", "\n", "\n\n", " ", "a", "é", "你", "R1",
    "0528", "base", "[", "]", "</th", "<｜Us", "｜DS", "<" CALL_MARK "tool_calls>",
    "<" CALL_MARK "invoke name=\"a\">", "</" CALL_MARK "invoke>",
    "<" CALL_MARK "parameter name=\"b\" string=\"true\">", "</" CALL_MARK "parameter>",
};

struct input {
    const uint8_t *at;
    size_t left;
};

static unsigned take(struct input *in)
{
    return in->left > 0 ? (in->left--, *in->at++) : 0;
}

static void must(bool ok)
{
    if (!ok)
        abort();
}

/* Up to MAX_CONTENT bytes. `any` is set when bytes were taken as they come, valid UTF-8 or not. */
static struct str take_text(struct input *in, char out[MAX_CONTENT], bool *any)
{
    size_t n = 0;
    for (unsigned pieces = take(in) % 16; pieces > 0; pieces--) {
        unsigned r = take(in);
        char byte[2] = { (char)take(in) };
        const char *piece = r < 0x60 ? marks[r % ARRAY_LEN(marks)]
                            : r < 0xf0 ? words[r % ARRAY_LEN(words)] : byte;
        size_t len = r < 0xf0 ? strlen(piece) : 1;
        *any = *any || r >= 0xf0;
        if (n + len > MAX_CONTENT)
            break;
        memcpy(out + n, piece, len);
        n += len;
    }
    return (struct str){ out, n };
}

static void put_text(struct vocab_file *f, const char *key, struct input *in)
{
    char text[MAX_CONTENT];
    bool any = false;
    struct str s = take_text(in, text, &any);
    if (take(in) % 16 == 0) {
        vf_u32(f, key, 7); /* of a wrong type */
    } else {
        vf_key(f, key, GGUF_STRING);
        vf_text(f, s);
    }
}

static void forge(struct vocab_file *f, struct input *in)
{
    static const char *const architectures[] = { "deepseek2", "deepseek", "llama", "deepseek32",
                                                 "deepseek4", "qwen3" };
    int32_t types[ARRAY_LEN(marks)];
    unsigned has = take(in), one_type = take(in);
    vf_start(f);
    vf_str(f, "general.architecture", architectures[take(in) % ARRAY_LEN(architectures)]);
    put_text(f, "general.name", in);
    if (has & 1)
        put_text(f, "tokenizer.chat_template", in);
    if (has & 2)
        vf_bool(f, "tandem.think_default", has & 4);
    if (has & 8) {
        float temperature;
        uint32_t bits = take(in) << 24 | take(in) << 16 | take(in);
        memcpy(&temperature, &bits, 4);
        vf_key(f, "general.sampling.temp", GGUF_F32);
        vf_bytes(f, &temperature, 4);
    }
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        unsigned r = one_type & 1 ? one_type >> 1 : take(in);
        types[i] = r % 4 == 0 ? TOKEN_USER_DEFINED : r % 16 == 1 ? TOKEN_NORMAL : TOKEN_CONTROL;
    }
    unsigned n_marks = has & 16 ? take(in) % (ARRAY_LEN(marks) + 1) : ARRAY_LEN(marks);
    vf_byte_tokens(f, has & 32 ? "deepseek-v3" : "deepseek-llm", marks, types, n_marks);
    if (n_marks > 1) {
        vf_u32(f, "tokenizer.ggml.bos_token_id", N_BYTE_TOKENS + take(in) % n_marks);
        vf_u32(f, "tokenizer.ggml.eos_token_id", N_BYTE_TOKENS + take(in) % n_marks);
    }
    vf_bool(f, "tokenizer.ggml.add_bos_token", has & 64);
}

static void check_advice(const struct chat_format *f, const struct gguf *g)
{
    must(f && chat_format_find(chat_format_name(f)) == f);
    must(chat_format_thinks(f) || !chat_format_think_default(f, g));
    must(strncmp(chat_format_think_close(f), "</think>", 8) == 0);
    struct chat_sampling s = chat_format_sampling(f, g);
    must(s.temperature == -1 || (s.temperature >= 0 && s.temperature <= 1000));
    must(s.top_p == -1 || (s.top_p >= 0 && s.top_p <= 1));
}

/* The ids are the bytes of plain text and, in their order, exactly the marks of the format that the
 * vocabulary has. */
static void check_marks(const struct tokenizer *t, const struct segments *segments,
                        const struct tokens *ids)
{
    size_t at = 0;
    for (size_t i = 0; i < segments->n; i++) {
        const struct segment *s = &segments->list[i];
        char text[64] = "";
        if (s->kind == SEGMENT_FORMAT || s->kind == SEGMENT_CONTENT)
            continue;
        memcpy(text, s->text.data, min_of(s->text.len, sizeof text - 1));
        int32_t id = s->kind == SEGMENT_BOS ? tokenizer_bos(t) : tokenizer_find(t, text);
        if (id < 0 && s->kind == SEGMENT_EOS)
            id = tokenizer_eos(t);
        if (id < 0)
            continue;
        while (at < ids->n && ids->ids[at] < N_BYTE_TOKENS)
            at++;
        must(at < ids->n && ids->ids[at] == id);
        must(s->kind != SEGMENT_BOS || at == 0);
        at++;
    }
    while (at < ids->n && ids->ids[at] < N_BYTE_TOKENS)
        at++;
    must(at == ids->n);
}

static void check_spelling(const struct tokenizer *t, const struct tokens *ids, const char *text)
{
    for (size_t i = 0; i < ids->n; i++) {
        struct str bytes = tokenizer_bytes(t, ids->ids[i], true);
        must(strncmp(text, bytes.data, bytes.len) == 0);
        text += bytes.len;
    }
    must(*text == 0);
}

/* The prompt as if it were a reply. */
static void check_thinking(const struct chat_format *f, const struct tokenizer *t, bool in_thinking,
                           const struct tokens *ids, int64_t budget)
{
    struct think k;
    must(think_start(&k, t, in_thinking, chat_format_think_close(f), budget, NULL));
    size_t injected = 0;
    for (size_t i = 0; i < ids->n;) {
        int32_t id = think_due(&k) ? think_inject(&k) : ids->ids[i++];
        must(++injected <= 20 * (ids->n + 1));
        if (think_token(&k, id) != PART_MARK) {
            struct str all = tokenizer_bytes(t, id, false), shown = think_show(&k, all);
            must(shown.len <= all.len);
        }
    }
    must(budget < 0 || k.close_id < 0 || k.n_thinking <= budget || budget == 0);
}

/* Whatever a reply holds, what is shown of it as it streams is its content's beginning. */
static void check_reply(struct str text)
{
    struct chat_reply r = { 0 };
    struct error err = { 0 };
    bool ok = chat_reply_parse(text, &r, &err);
    must(ok == (err.code == ERR_NONE) && r.content.data == text.data && r.content.len <= text.len);
    must(ok || (r.n_calls == 0 && r.content.len == text.len));
    must(chat_reply_ready(text) <= r.content.len);
    chat_reply_release(&r);
}

/* What only formats with tools know, as the input wants it. */
static void attach(struct chat_message *m, struct input *in, struct chat_call *call,
                   struct str other, bool is_last)
{
    unsigned r = take(in);
    *call = (struct chat_call){ .id = { "1", 1 }, .name = other };
    if (m->role == ROLE_ASSISTANT && r & 1)
        m->calls = call, m->n_calls = 1;
    m->is_open = m->role == ROLE_ASSISTANT && is_last && r & 2;
    m->call_id = (struct str){ "1", m->role == ROLE_TOOL && r & 2 };
    m->task = m->role == ROLE_USER && (r & 15) == 15 ? "action" : NULL;
    if (m->role == ROLE_SYSTEM || m->role == ROLE_DEVELOPER)
        m->tools = r & 1 ? other : (struct str){ "", 0 };
}

static void converse(const struct byte_vocab *v, struct input *in)
{
    static char contents[MAX_MESSAGES][MAX_CONTENT];
    struct chat_message messages[MAX_MESSAGES];
    struct chat_call call;
    unsigned which = take(in);
    const struct chat_format *f = chat_format_at((int)(which % 16));
    f = f && which < 0xc0 ? f : chat_format_detect(&v->g, NULL);
    check_advice(f, &v->g);

    enum think_mode think = (enum think_mode)(take(in) % 5);
    size_t n = take(in) % (MAX_MESSAGES + 1);
    bool any = false, in_thinking, same;
    for (size_t i = 0; i < n; i++) {
        enum chat_role role = (enum chat_role)(take(in) % (chat_format_has_tools(f) ? 6 : 3));
        messages[i] = chat_text(role, take_text(in, contents[i], &any));
        struct str all = messages[i].content, answer = chat_answer_part(f, all);
        must(answer.len <= all.len && answer.data + answer.len == all.data + all.len);
        check_reply(all);
        if (chat_format_has_tools(f))
            attach(&messages[i], in, &call, i > 0 ? messages[i - 1].content : all, i + 1 == n);
    }
    struct tokens ids = { 0 };
    char *text = NULL;
    struct error err = { 0 };
    bool ok = chat_render(f, v->t, messages, n, think, &ids, &text, &in_thinking, &err);
    must(ok || (chat_format_has_tools(f) && err.code == ERR_USAGE));
    struct segments segments = { 0 };
    bool bos = tokenizer_bos(v->t) >= 0 && (f->bos || tokenizer_add_bos(v->t));
    must(chat_segments(f, messages, n, think, bos, &segments, &same, NULL) == ok);
    if (ok) {
        must(in_thinking == same);
        check_marks(v->t, &segments, &ids);
        if (!any)
            check_spelling(v->t, &ids, text);
        check_thinking(f, v->t, in_thinking, &ids, (int64_t)take(in) - 1);
    }
    segments_release(&segments);
    tokens_release(&ids);
    mem_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = { data, size };
    struct byte_vocab v;
    forge(&v.file, &in);
    bool ok = byte_vocab_open(&v, NULL) && can_encode(v.t);
    if (v.g.n_kv > 0)
        check_advice(chat_format_detect(&v.g, NULL), &v.g);
    if (ok)
        converse(&v, &in);
    byte_vocab_close(&v);
    return 0;
}
