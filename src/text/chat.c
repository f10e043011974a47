/* The formats as a table, and how the right row is found. */
#include "src/text/chat.h"

#include <math.h>

#include "src/base/util.h"
#include "src/text/chat_format.h"

#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"

/* Of every generation from V2-Chat-0628 on. */
#define DEEPSEEK_FRAMES                                                                           \
    .bos = BOS_TEXT, .user = { USER, NULL }, .assistant = { ASSISTANT, EOS_TEXT }

/* V3.1 and later: no thinking is an empty thought that was closed before it began. */
#define DEEPSEEK_TOGGLE                                                                           \
    DEEPSEEK_FRAMES, .stored = "</think>", .think = "<think>", .no_think = "</think>",            \
        .think_close = "</think>", .history = HISTORY_AFTER_FIRST

/* An empty thought written out makes models skip theirs that were not trained with a toggle. */
#define EMPTY_THOUGHT "<think>\n\n</think>\n\n"

#define KIMI_FRAMES                                                                               \
    .system = { "<|im_system|>system<|im_middle|>", "<|im_end|>" },                               \
    .user = { "<|im_user|>user<|im_middle|>", "<|im_end|>" },                                     \
    .assistant = { "<|im_assistant|>assistant<|im_middle|>", "<|im_end|>" }

#define CHATML_FRAMES                                                                             \
    .system = { "<|im_start|>system\n", "<|im_end|>\n" },                                         \
    .user = { "<|im_start|>user\n", "<|im_end|>\n" },                                             \
    .assistant = { "<|im_start|>assistant\n", "<|im_end|>\n" }

/* The tiers of V4, and what they begin the prompt with. */
#define EFFORT_MAX                                                                                \
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"                           \
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to "    \
    "resolve the root cause, rigorously stress-testing your logic against all potential paths, "  \
    "edge cases, and adversarial scenarios.\n"                                                    \
    "Explicitly write out your entire deliberation process, documenting every intermediate "      \
    "step, considered alternative, and rejected hypothesis to ensure absolutely no assumption "   \
    "is left unchecked.\n\n"
#define EFFORT_BEYOND                                                                             \
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"            \
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: "     \
    "exhaustively decompose the problem into its most fundamental components, trace every "       \
    "causal chain to its root, and resolve the underlying cause rather than any surface "         \
    "symptom.\n"                                                                                  \
    "Do not stop reasoning until you have independently verified the solution from multiple "     \
    "angles and are certain that no assumption remains unchecked and no error remains "           \
    "undiscovered.\n\n"

#define NO_ADVICE .temperature = -1, .top_p = -1

static const struct chat_format formats[] = {
    /* DeepSeek LLM, DeepSeekMoE, V2-Chat, Coder-V2: roles in plain text */
    { .name = "llm", .bos = BOS_TEXT, .system = { NULL, "\n\n" }, .user = { "User: ", "\n\n" },
      .assistant = { "Assistant:", EOS_TEXT }, .stored = " ", .temperature = 0.7f, .top_p = 0.9f },

    /* V2-Chat-0628, V2.5, V3, V3-0324 */
    { .name = "v3", DEEPSEEK_FRAMES, .system_join = "\n\n", .temperature = 0.7f, .top_p = -1 },

    /* R1 and its distills: the thought is opened for the model, which may skip it otherwise */
    { .name = "r1", DEEPSEEK_FRAMES, .system_join = "\n\n", .think = "<think>\n",
      .no_think = EMPTY_THOUGHT, .think_close = "</think>\n\n", .think_by_default = true,
      .history = HISTORY_AFTER_LAST, .temperature = 0.6f, .top_p = 0.95f },

    /* R1-0528 opens its thought itself */
    { .name = "r1-0528", DEEPSEEK_FRAMES, .system_join = "\n\n", .think = "",
      .no_think = EMPTY_THOUGHT, .think_close = "</think>\n\n", .think_by_default = true,
      .history = HISTORY_AFTER_LAST, .temperature = 0.6f, .top_p = 0.95f },

    { .name = "v3.1", DEEPSEEK_TOGGLE, .system_join = "\n\n", .temperature = 0.6f,
      .top_p = 0.95f },

    /* these know tools; without them they are V3.1, but for system messages, which stay where they
       are */
    { .name = "v3.2", DEEPSEEK_TOGGLE, .think_by_default = true, .tools = &chat_tools_v32,
      .temperature = 1, .top_p = 0.95f },
    { .name = "v4", DEEPSEEK_TOGGLE, .think_by_default = true, .tools = &chat_tools_v4,
      .max = EFFORT_MAX, .temperature = 1, .top_p = 1 },
    /* V4-Flash-0731 counts its tiers from below */
    { .name = "v4-0731", DEEPSEEK_TOGGLE, .think_by_default = true, .tools = &chat_tools_v4,
      .high = EFFORT_MAX, .max = EFFORT_BEYOND, .temperature = 1, .top_p = 1 },

    /* deepseek-coder v1 instruct */
    { .name = "coder", .bos = BOS_TEXT, .user = { "### Instruction:\n", "\n" },
      .assistant = { "### Response:\n", "\n<|EOT|>\n" },
      .system_default =
          "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by "
          "Deepseek Company, and you only answer questions related to computer science. For "
          "politically sensitive questions, security and privacy issues, and other non-computer "
          "science questions, you will refuse to answer\n",
      NO_ADVICE },

    { .name = "kimi", KIMI_FRAMES,
      .system_default = "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by "
                        "Moonshot AI.<|im_end|>\n", /* this line end is in the official one too */
      .temperature = 0.6f, .top_p = -1 },
    { .name = "kimi-0711", KIMI_FRAMES,
      .system_default = "<|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|>",
      .temperature = 0.6f, .top_p = -1 },

    { .name = "chatml", CHATML_FRAMES, NO_ADVICE },
    { .name = "qwen3", CHATML_FRAMES, .think = "", .no_think = EMPTY_THOUGHT,
      .think_close = "</think>\n\n", .think_by_default = true, .history = HISTORY_AFTER_LAST,
      .bare_answer = true, .temperature = 0.6f, .top_p = 0.95f },

    { .name = "llama3", .bos = "<|begin_of_text|>",
      .system = { "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>" },
      .user = { "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>" },
      .assistant = { "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>" },
      .trim = true, .temperature = 0.6f, .top_p = 0.9f },

    /* Base models: one text to go on with. */
    { .name = "plain", NO_ADVICE },
};

/* Marks that tell a template's generation; the first row of which all are found wins. */
static const struct {
    const char *marks[3];
    const char *format;
    const char *why;
} template_rows[] = {
    /* first, because some copies of it speak of "enable_thinking" too */
    { { USER, "</think>", ASSISTANT "<think>\\n" }, "r1", "chat template of R1 (forced thinking)" },
    { { USER, "</think>", "thinking" }, "v3.1", "chat template of V3.1 (thinking toggle)" },
    { { USER, "</think>" }, "r1", "chat template of R1" },
    { { USER, ASSISTANT }, "v3", "chat template of V2.5 or V3" },
    { { "'User: '", "'Assistant: '" }, "llm", "chat template of DeepSeek LLM or V2" },
    { { "### Instruction:", "<|EOT|>" }, "coder", "chat template of DeepSeek Coder" },
    { { "<|im_user|>", "You are a helpful assistant" }, "kimi-0711",
      "chat template of the first Kimi-K2" },
    { { "<|im_user|>" }, "kimi", "chat template of Kimi-K2" },
    { { "<|im_start|>", "</think>" }, "qwen3", "ChatML template with thinking" },
    { { "<|im_start|>" }, "chatml", "ChatML template" },
    { { "<|start_header_id|>" }, "llama3", "chat template of Llama 3" },
};

/* Without a template that says something. NULL matches anything; first row wins. */
static const struct {
    const char *architecture, *pre, *name;
    const char *format;
    const char *why;
} fallback_rows[] = {
    { NULL, NULL, "base", "plain", "base model by its name" },
    { NULL, NULL, "R1", "r1", "R1 by its name" },
    { "deepseek2", "deepseek-v3", "V3.1", "v3.1", "V3.1 by its name" },
    { "deepseek2", "deepseek-v3", NULL, "v3", "deepseek2 with the V3 vocabulary" },
    { "deepseek2", "deepseek-llm", NULL, "llm", "deepseek2 with the V2 vocabulary" },
    { NULL, "kimi-k2", NULL, "kimi", "Kimi-K2 vocabulary" },
    { NULL, "deepseek-llm", "chat", "llm", "DeepSeek chat model by its name" },
    { NULL, "deepseek-coder", "instruct", "coder", "DeepSeek Coder by its name" },
};

/* --- the table -------------------------------------------------------------------------------- */

const struct chat_format *chat_format_at(int index)
{
    return index >= 0 && (size_t)index < ARRAY_LEN(formats) ? &formats[index] : NULL;
}

const struct chat_format *chat_format_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

const char *chat_format_name(const struct chat_format *f)
{
    return f ? f->name : NULL;
}

bool chat_format_has_tools(const struct chat_format *f)
{
    return f->tools != NULL;
}

bool chat_format_thinks(const struct chat_format *f)
{
    return f->think != NULL;
}

bool chat_format_think_default(const struct chat_format *f, const struct gguf *g)
{
    bool think = f->think_by_default;
    bool ok = !g || gguf_get_bool(g, "tandem.think_default", &think, NULL);
    return chat_format_thinks(f) && (ok ? think : f->think_by_default);
}

enum think_mode chat_format_think_mode(const struct chat_format *f, const struct gguf *g,
                                       enum think_mode asked)
{
    bool think = chat_format_think_default(f, g);
    if (asked != THINK_DEFAULT || think == chat_format_think_default(f, NULL))
        return asked;
    return think ? THINK_ON : THINK_OFF;
}

const char *chat_format_think_close(const struct chat_format *f)
{
    return f->think_close ? f->think_close : "</think>\n\n";
}

/* --- detection -------------------------------------------------------------------------------- */

static bool contains(struct str text, const char *mark)
{
    return text.len > 0 && memmem(text.data, text.len, mark, strlen(mark)) != NULL;
}

/* ASCII letters of either case; names are written in many ways. */
static bool contains_name(struct str text, const char *word)
{
    size_t len = strlen(word);
    for (size_t i = 0; i + len <= text.len; i++) {
        size_t k = 0;
        while (k < len && (text.data[i + k] | 32) == (word[k] | 32))
            k++;
        if (k == len)
            return true;
    }
    return false;
}

/* A key of another type counts as missing: this is advice, not the model. */
static struct str text_of(const struct gguf *g, const char *key)
{
    struct str s = { "", 0 };
    return g && gguf_get_str(g, key, &s, NULL) ? s : (struct str){ "", 0 };
}

static const struct chat_format *by_generation(const char *format, struct str model_name)
{
    bool self_opening = strcmp(format, "r1") == 0 && contains_name(model_name, "0528");
    return chat_format_find(self_opening ? "r1-0528" : format);
}

/* Nothing but its template and its name tells the later one. */
static const struct chat_format *v4_of(struct str template_text, struct str model_name)
{
    if (contains(template_text, "Beyond maximum") || contains_name(model_name, "0731"))
        return chat_format_find("v4-0731");
    return chat_format_find("v4");
}

static const struct chat_format *by_template(struct str text, struct str model_name,
                                             const char **why)
{
    for (size_t i = 0; i < ARRAY_LEN(template_rows); i++) {
        bool all = true;
        for (int k = 0; k < 3 && template_rows[i].marks[k]; k++)
            all = all && contains(text, template_rows[i].marks[k]);
        if (all) {
            *why = template_rows[i].why;
            return by_generation(template_rows[i].format, model_name);
        }
    }
    return NULL;
}

const struct chat_format *chat_format_of_template(struct str template_text, struct str model_name)
{
    const char *why;
    return by_template(template_text, model_name, &why);
}

const struct chat_format *chat_format_detect(const struct gguf *g, const char **why)
{
    const char *ignored;
    why = why ? why : &ignored;
    struct str arch = text_of(g, "general.architecture"), name = text_of(g, "general.name");
    struct str pre = text_of(g, "tokenizer.ggml.pre");

    /* These ship no template; what files embed was written by converters. */
    *why = "architecture";
    if (str_is(arch, "deepseek32"))
        return chat_format_find("v3.2");
    if (str_is(arch, "deepseek4"))
        return v4_of(text_of(g, "tokenizer.chat_template"), name);

    const struct chat_format *f = by_template(text_of(g, "tokenizer.chat_template"), name, why);
    for (size_t i = 0; !f && i < ARRAY_LEN(fallback_rows); i++) {
        if ((!fallback_rows[i].architecture || str_is(arch, fallback_rows[i].architecture)) &&
            (!fallback_rows[i].pre || str_is(pre, fallback_rows[i].pre)) &&
            (!fallback_rows[i].name || contains_name(name, fallback_rows[i].name))) {
            *why = fallback_rows[i].why;
            f = by_generation(fallback_rows[i].format, name);
        }
    }
    if (f)
        return f;
    *why = gguf_has(g, "tokenizer.chat_template") ? "unknown chat template: plain text"
                                                  : "no chat template: plain text";
    return chat_format_find("plain");
}

/* --- advice ----------------------------------------------------------------------------------- */

static float advice(const struct gguf *g, const char *key, float low, float high, float otherwise)
{
    double value = NAN;
    bool ok = gguf_get_f64(g, key, &value, NULL) && value >= (double)low && value <= (double)high;
    return ok ? (float)value : otherwise;
}

struct chat_sampling chat_format_sampling(const struct chat_format *f, const struct gguf *g)
{
    struct chat_sampling s = { f->temperature, f->top_p };
    if (!g)
        return s;
    struct str name = text_of(g, "general.name"), pre = text_of(g, "tokenizer.ggml.pre");
    bool v2 = str_is(pre, "deepseek-llm") &&
              str_is(text_of(g, "general.architecture"), "deepseek2");
    if (v2 || (strcmp(f->name, "v3") == 0 && contains_name(name, "0324")))
        s = (struct chat_sampling){ 0.3f, -1 };
    s.temperature = advice(g, "general.sampling.temp", 0, 1000, s.temperature);
    s.top_p = advice(g, "general.sampling.top_p", 0, 1, s.top_p);
    return s;
}
