/* tandem eval --tasks: questions of a JSONL file, one object per line:
 *   {"skill": "add", "messages": [{"role": "user", "content": "2+2?"}], "think": null,
 *    "answer": "4", "match": "exact"} */
#include <math.h>
#include <stdio.h>

#include "src/cli/command.h"
#include "src/cli/eval.h"
#include "src/cli/generate.h"
#include "src/cli/json.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"

#define MAX_SKILLS 256
#define MAX_MESSAGES 64
#define DEFAULT_PREDICT 512 /* tokens per answer: a model that never ends must not stop the count */

struct skill {
    char name[48];
    int64_t n, right, n_tokens;
};

/* One line of the file; texts are views into `json`. */
struct task {
    struct json *json;
    struct str skill, wanted;
    struct chat_message messages[MAX_MESSAGES + 1]; /* room for a system prompt */
    size_t n_messages;
    enum think_mode think;
    enum match match;
};

static bool read_messages(struct task *t, struct error *err)
{
    const struct json *list = js_get(t->json, "messages"), *message;
    while ((message = js_at(list, t->n_messages)) != NULL) {
        struct str role, content;
        if (t->n_messages == MAX_MESSAGES)
            return fail(err, ERR_FILE, "more than %d messages", MAX_MESSAGES);
        if (!js_as_text(js_get(message, "role"), &role) ||
            !js_as_text(js_get(message, "content"), &content))
            return fail(err, ERR_FILE, "a message wants \"role\" and \"content\"");
        enum chat_role r = str_is(role, "system") ? ROLE_SYSTEM
                         : str_is(role, "user")   ? ROLE_USER : ROLE_ASSISTANT;
        if (r == ROLE_ASSISTANT && !str_is(role, "assistant"))
            return fail(err, ERR_FILE, "unknown role \"%.*s\"", (int)min_of(role.len, 40),
                        role.data);
        t->messages[t->n_messages++] = chat_text(r, content);
    }
    return t->n_messages > 0 || fail(err, ERR_FILE, "no \"messages\"");
}

static bool read_task(struct task *t, struct str line, struct error *err)
{
    struct str match = str_of("exact");
    bool think;
    memset(t, 0, sizeof *t);
    t->json = js_parse(line, err);
    if (!t->json)
        return false;
    t->skill = str_of("all");
    t->wanted = str_of("");
    js_as_text(js_get(t->json, "skill"), &t->skill);
    js_as_text(js_get(t->json, "match"), &match);
    if (js_as_bool(js_get(t->json, "think"), &think))
        t->think = think ? THINK_ON : THINK_OFF;
    if (!match_find(match, &t->match))
        return fail(err, ERR_FILE, "unknown match \"%.*s\"", (int)min_of(match.len, 40),
                    match.data);
    if (!js_as_text(js_get(t->json, "answer"), &t->wanted) && t->match != MATCH_NO_THINK)
        return fail(err, ERR_FILE, "no \"answer\"");
    return read_messages(t, err);
}

/* The system prompt of the options, where the task has none of its own. */
static void put_system(struct task *t, struct str system)
{
    if (!system.len || t->messages[0].role == ROLE_SYSTEM)
        return;
    memmove(t->messages + 1, t->messages, t->n_messages++ * sizeof *t->messages);
    t->messages[0] = chat_text(ROLE_SYSTEM, system);
}

static struct skill *find_skill(struct skill *skills, int *n, struct str name, struct error *err)
{
    char short_name[sizeof skills->name] = "";
    memcpy(short_name, name.data, min_of(name.len, sizeof short_name - 1));
    for (int i = 0; i < *n; i++)
        if (strcmp(skills[i].name, short_name) == 0)
            return &skills[i];
    if (*n == MAX_SKILLS) {
        fail(err, ERR_FILE, "more than %d skills", MAX_SKILLS);
        return NULL;
    }
    struct skill *s = &skills[(*n)++];
    memset(s, 0, sizeof *s);
    memcpy(s->name, short_name, sizeof s->name);
    return s;
}

static bool answer_task(struct loaded *m, const struct options *o, const struct task *t,
                        struct skill *skill, struct error *err)
{
    struct tokens ids = { 0 };
    struct generation g = { 0 };
    struct generate_options go = {
        .n_predict = o->n_predict >= 0 ? o->n_predict : DEFAULT_PREDICT,
        .think_budget = o->think_budget == UNSET ? -1 : o->think_budget,
        .stop = o->stop.items,
        .n_stop = o->stop.n,
    };
    enum think_mode think = t->think != THINK_DEFAULT ? t->think : m->think;
    bool ok = chat_render(m->format, m->tokenizer, t->messages, t->n_messages, think, &ids, NULL,
                          &go.in_thinking, err) &&
              generate(m, &ids, &go, &g, err);
    if (ok && g.finish == FINISH_INTERRUPTED)
        ok = fail(err, ERR_INTERRUPTED, "interrupted");
    if (ok) {
        bool right = match_answer(t->match, t->wanted, buf_str(&g.answer), buf_str(&g.thinking));
        skill->n++;
        skill->right += right;
        skill->n_tokens += g.n_generated;
        if (!right && o->verbose)
            note("%s: wanted \"%.*s\", got \"%s\"", skill->name, (int)t->wanted.len, t->wanted.data,
                 buf_str(&g.answer).data);
    }
    tokens_release(&ids);
    generation_release(&g);
    return ok;
}

/* All lines of the file. */
static bool answer_all(struct loaded *m, const struct options *o, struct buf *text,
                       struct str system, struct skill *skills, int *n_skills, struct error *err)
{
    struct progress progress;
    struct str all = buf_str(text);
    bool ok = true;
    int number = 1;
    progress_begin(&progress, "answering", NULL);
    for (size_t at = 0; ok && at < all.len; number++) {
        const char *newline = memchr(all.data + at, '\n', all.len - at);
        size_t end = newline ? (size_t)(newline - all.data) : all.len;
        struct str line = { all.data + at, end - at };
        struct task t = { 0 };
        at += line.len + 1;
        if (line.len == 0 || (line.len == 1 && line.data[0] == '\r'))
            continue;
        ok = read_task(&t, line, err) || error_prefix(err, "%s:%d", o->tasks, number);
        if (ok)
            put_system(&t, system);
        struct skill *s = ok ? find_skill(skills, n_skills, t.skill, err) : NULL;
        ok = s && answer_task(m, o, &t, s, err);
        js_free(t.json);
        progress_update(&progress, (double)at, (double)all.len);
    }
    progress_end(&progress);
    return ok && (*n_skills > 0 || fail(err, ERR_FILE, "%s: no tasks", o->tasks));
}

static struct json *skill_json(const struct skill *s)
{
    struct json *j = js_object();
    double low, high;
    wilson(s->right, s->n, &low, &high);
    js_set(j, "skill", js_text(str_of(s->name)));
    js_set(j, "n", js_int(s->n));
    js_set(j, "right", js_int(s->right));
    js_set(j, "rate", js_real(s->n ? (double)s->right / (double)s->n : NAN));
    js_set(j, "low", js_real(low));
    js_set(j, "high", js_real(high));
    js_set(j, "tokens", js_int(s->n_tokens));
    return j;
}

static bool print_skills(const struct options *o, const struct loaded *m,
                         const struct skill *skills, int n, struct error *err)
{
    struct skill total = { .name = "all" };
    struct buf out = { 0 };
    struct json *list = o->json ? js_array() : NULL;
    buf_puts(&out, "| skill                    | right      | rate    | 95 % interval     |\n"
                   "|--------------------------|-----------:|--------:|------------------:|\n");
    for (int i = 0; i <= n; i++) {
        const struct skill *s = i < n ? &skills[i] : &total;
        double low, high;
        char count[32];
        if (i < n) {
            total.n += s->n;
            total.right += s->right;
            total.n_tokens += s->n_tokens;
            if (list)
                js_push(list, skill_json(s));
        }
        wilson(s->right, s->n, &low, &high);
        snprintf(count, sizeof count, "%lld/%lld", (long long)s->right, (long long)s->n);
        buf_printf(&out, "| %-24s | %10s | %5.1f %% | %5.1f … %5.1f %%   |\n", s->name, count,
                   s->n ? 100.0 * (double)s->right / (double)s->n : 0, 100 * low, 100 * high);
    }
    bool ok;
    if (o->json) {
        struct json *j = js_object();
        js_set(j, "model", js_text(str_of(m->description)));
        js_set(j, "temperature", js_real((double)m->sampling.temperature));
        js_set(j, "skills", list);
        js_set(j, "total", skill_json(&total));
        ok = js_print(j, 1, err);
    } else {
        ok = buf_ok(&out, err) && out_write(buf_str(&out).data, out.len, err);
    }
    buf_release(&out);
    return ok;
}

bool eval_tasks(const struct options *o, const char *path, struct error *err)
{
    struct loaded m = { 0 };
    struct buf text = { 0 }, system = { 0 };
    struct options greedy = *o;
    static struct skill skills[MAX_SKILLS];
    int n_skills = 0;
    if (isnan(o->temperature))
        greedy.temperature = 0; /* measuring, not talking */
    bool ok = js_available(err) && buf_read_file(&text, o->tasks, err) && buf_ok(&text, err) &&
              load_system(o, &system, err) &&
              loaded_open(&m, &greedy, path, WANT_TEXT, UNSET, err) &&
              answer_all(&m, &greedy, &text, buf_str(&system), skills, &n_skills, err);
    /* Ctrl-C still shows what was counted. */
    if (ok || (n_skills > 0 && err->code == ERR_INTERRUPTED))
        ok = print_skills(o, &m, skills, n_skills, ok ? err : NULL) && ok;
    buf_release(&text);
    buf_release(&system);
    loaded_close(&m);
    return ok;
}
