#include "src/cli/option_table.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "cpu/features.h"
#include "src/base/cpus.h"
#include "src/engine/engine.h"

#define TALK (CMD_CHAT | CMD_RUN)
#define ANSWERS (CMD_CHAT | CMD_RUN | CMD_EVAL)
#define RUNS (CMD_CHAT | CMD_RUN | CMD_EVAL | CMD_BENCH)
#define COMPUTES (CMD_CHAT | CMD_RUN | CMD_EVAL | CMD_BENCH | CMD_PLAN)
#define RENDERS (CMD_CHAT | CMD_RUN | CMD_INSPECT | CMD_EVAL)
#define READS (COMPUTES | CMD_INSPECT)
#define WRITES (CMD_QUANTIZE | CMD_CONVERT)
#define ALL (READS | WRITES | CMD_SESSIONS | CMD_CONFIG | CMD_DOCTOR | CMD_REPLAY)

static bool read_think(struct options *o, const char *value, struct error *err)
{
    char *end;
    if (strcmp(value, "on") == 0 || strcmp(value, "off") == 0) {
        o->think = strcmp(value, "on") == 0 ? THINK_ON : THINK_OFF;
        o->think_budget = UNSET;
        return true;
    }
    if (strcmp(value, "high") == 0 || strcmp(value, "max") == 0) {
        o->think = strcmp(value, "max") == 0 ? THINK_MAX : THINK_HIGH;
        o->think_budget = UNSET;
        return true;
    }
    if (strcmp(value, "auto") == 0) {
        o->think = THINK_DEFAULT;
        o->think_budget = UNSET;
        return true;
    }
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (end == value || *end || errno || n < 0 || n > 1000000000)
        return fail(err, ERR_USAGE, "wants on, off, high, max or a number of tokens, got \"%s\"", value);
    o->think = n > 0 ? THINK_ON : THINK_OFF;
    o->think_budget = n > 0 ? n : UNSET;
    return true;
}

static bool read_isa(struct options *o, const char *value, struct error *err)
{
    o->isa_given = true;
    return cpu_isa_cap(value, &o->isa) ||
           fail(err, ERR_USAGE, "wants ref, avx2, avxvnni, avx512, amx or neon, got \"%s\"", value);
}

static bool read_numa(struct options *o, const char *value, struct error *err)
{
    char *end;
    if (strcmp(value, "auto") == 0 || strcmp(value, "off") == 0) {
        o->numa = strcmp(value, "off") == 0;
        return true;
    }
    errno = 0;
    long n = strtol(value, &end, 10);
    if (end == value || *end || errno || n < 1 || n > NODES_MAX)
        return fail(err, ERR_USAGE, "wants auto, off or a number of nodes up to %d, got \"%s\"",
                    NODES_MAX, value);
    o->numa = (int)n;
    return true;
}

static bool read_ngl(struct options *o, const char *value, struct error *err)
{
    static const struct {
        const char *word;
        enum gpu_use use;
    } words[] = { { "auto", GPU_AUTO }, { "all", GPU_MUST }, { "on", GPU_MUST }, { "off", GPU_NEVER } };
    o->gpu_layers = 0;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(value, words[i].word) == 0) {
            o->gpu = words[i].use;
            return true;
        }
    }
    char *end;
    long n = strtol(value, &end, 10);
    if (end == value || *end || n < 0 || n > 100000)
        return fail(err, ERR_USAGE, "wants auto, all or a number of layers, got \"%s\"", value);
    o->gpu = n > 0 ? GPU_MUST : GPU_NEVER;
    o->gpu_layers = n;
    return true;
}

static bool read_act(struct options *o, const char *value, struct error *err)
{
    o->act_f32 = strcmp(value, "f32") == 0;
    return o->act_f32 || strcmp(value, "fast") == 0 ||
           fail(err, ERR_USAGE, "wants fast or f32, got \"%s\"", value);
}

/* "128+1.5", "128-inf": token id, then the bias with its sign. */
static bool read_bias(struct options *o, const char *value, struct error *err)
{
    char *end;
    errno = 0;
    long long id = strtoll(value, &end, 10);
    if (end == value || errno || id < 0 || id > INT32_MAX || (*end != '+' && *end != '-'))
        return fail(err, ERR_USAGE, "wants ID+F or ID-F such as 128-inf, got \"%s\"", value);
    const char *text = end;
    double bias = strtod(text, &end);
    bool infinite = isinf(bias) && bias < 0; /* forbids the token */
    if (end == text || *end || isnan(bias) || (!infinite && (errno || fabs(bias) > 1e9)))
        return fail(err, ERR_USAGE, "wants ID+F or ID-F such as 128-inf, got \"%s\"", value);
    if (o->n_bias == MAX_LIST)
        return fail(err, ERR_USAGE, "is given more than %d times", MAX_LIST);
    o->bias[o->n_bias++] = (struct logit_bias){ (int32_t)id, (float)bias };
    return true;
}

/* "3%" or "3": a share of 0 to 100 per cent. */
static bool read_loss(struct options *o, const char *value, struct error *err)
{
    char *end;
    double x = strtod(value, &end);
    if (end == value || (*end && strcmp(end, "%") != 0) || !(x >= 0 && x <= 100))
        return fail(err, ERR_USAGE, "wants a percentage such as 3%%, got \"%s\"", value);
    o->max_loss = x / 100;
    return true;
}

bool option_size(const char *value, int64_t least, int64_t *bytes)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    double n = strtod(value, &end);
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (end != value && unit) {
        n = ldexp(n, 10 * (int)(unit - units + 1));
        end += strcmp(end + 1, "iB") == 0 ? 3 : 1;
    }
    if (end == value || *end || errno || !(n >= (double)least && n <= 1e18))
        return false;
    *bytes = (int64_t)n;
    return true;
}

static bool read_cpu_moe(struct options *o, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    o->cpu_moe = INT32_MAX;
    return true;
}

/* "auto", a number of experts per layer, a size with its unit, or a share of all experts. */
static bool read_gpu_experts(struct options *o, const char *value, struct error *err)
{
    char *end;
    errno = 0;
    double n = strtod(value, &end);
    bool number = end != value && !errno && n >= 0;
    o->gpu_experts = UNSET;
    o->gpu_experts_bytes = 0;
    o->gpu_experts_share = NAN;
    if (strcmp(value, "auto") == 0)
        return true;
    if (number && strcmp(end, "%") == 0 && n <= 100)
        o->gpu_experts_share = n / 100;
    else if (number && !*end && n <= 1024 && n == floor(n))
        o->gpu_experts = (int64_t)n;
    else if (!number || !*end || !option_size(value, 1, &o->gpu_experts_bytes))
        return fail(err, ERR_USAGE, "wants auto, experts per layer, a size such as 8G or a share "
                    "such as 10%%, got \"%s\"", value);
    return true;
}

/* Mebibytes, as another program has it. */
static bool read_fit_margin(struct options *o, const char *value, struct error *err)
{
    int64_t mib;
    if (!option_size(value, 0, &mib) || mib > 1 << 24)
        return fail(err, ERR_USAGE, "wants a number of MiB, got \"%s\"", value);
    o->vram_margin = mib << 20;
    return true;
}

#define AT(field) offsetof(struct options, field)
#define FLAG(field) .kind = OPT_FLAG, .offset = AT(field)
#define COUNT(field) .kind = OPT_COUNT, .offset = AT(field)
#define CONST(field, value) .kind = OPT_CONST, .offset = AT(field), .low = (value)
#define INT(field, from, to) .kind = OPT_INT, .offset = AT(field), .low = (from), .high = (to)
#define REAL(field, from, to) .kind = OPT_REAL, .offset = AT(field), .low = (from), .high = (to)
#define TEXT(field) .kind = OPT_TEXT, .offset = AT(field)
#define LIST(field) .kind = OPT_LIST, .offset = AT(field)
#define SIZES(field, to) .kind = OPT_SIZES, .offset = AT(field), .low = 0, .high = (to)
#define CHOICE(field, words) .kind = OPT_CHOICE, .offset = AT(field), .choices = (words)
#define CUSTOM(reader) .kind = OPT_CUSTOM, .read = (reader)
#define SIZE(field, least) .kind = OPT_SIZE, .offset = AT(field), .low = (least)
#define MAYBE(flag, text) .kind = OPT_MAYBE, .offset = AT(flag), .offset2 = AT(text)

const struct option option_rows[] = {
    /* prompt */
    { "prompt", "-p", NULL, "TEXT", CMD_RUN, GROUP_PROMPT, TEXT(prompt), .common = true,
      .help = "the prompt" },
    { "prompt", "-p", NULL, "TEXT", CMD_CHAT, GROUP_PROMPT, TEXT(prompt), .common = true,
      .help = "the first message" },
    { "prompt", "-p", NULL, "TEXT", CMD_INSPECT, GROUP_PROMPT, TEXT(prompt), .common = true,
      .help = "print this rendered as a chat prompt, then its ids" },
    { "file", "-f", NULL, "FILE", CMD_RUN, GROUP_PROMPT, LIST(files), .common = true,
      .help = "add a file to the prompt; -: standard input" },
    { "system-prompt", "-sys", "--system", "TEXT", RENDERS, GROUP_PROMPT, TEXT(system),
      .common = true, .help = "system prompt", .fallback = "none" },
    { "system-prompt-file", "-sysf", NULL, "FILE", RENDERS, GROUP_PROMPT, TEXT(system_file),
      .help = "system prompt from a file" },
    { "think", NULL, "--reasoning --reasoning-budget", "MODE", RENDERS, GROUP_PROMPT,
      CUSTOM(read_think), .common = true,
      .help = "think: on, off, high, max, or N tokens at most", .fallback = "as the model is" },
    { "no-think", NULL, NULL, NULL, RENDERS, GROUP_PROMPT, CONST(think, THINK_OFF),
      .help = "the same as --think off" },
    { "template", NULL, "--chat-format --chat-template", "NAME|FILE", RENDERS, GROUP_PROMPT,
      TEXT(template_name), .help = "chat format instead of the one found in the file" },
    { "messages", NULL, NULL, "FILE", CMD_RUN | CMD_INSPECT, GROUP_PROMPT, TEXT(messages),
      .help = "a conversation in JSON, which the prompt goes on with" },
    { "tools", NULL, NULL, "FILE", CMD_RUN | CMD_INSPECT, GROUP_PROMPT, TEXT(tools),
      .help = "functions in JSON that the model may call (V3.2, V4); its calls are printed as JSON" },
    { "batch", NULL, NULL, "FILE", CMD_RUN, GROUP_PROMPT, TEXT(batch_file),
      .help = "a file of prompts, one JSON object a line; what --output has already is not asked "
              "again" },
    { "dry-run", NULL, NULL, NULL, CMD_RUN, GROUP_PROMPT, FLAG(dry_run), .common = true,
      .help = "count the tokens of the prompt, tell whether it fits and how long it will take; loads "
              "no weights, writes nothing" },
    { "raw", NULL, "--raw-prompt", NULL, CMD_RUN, GROUP_PROMPT, FLAG(raw),
      .help = "feed the prompt as written, without chat format; special tokens are parsed" },

    /* answer */
    { "predict", "-n", "--n-predict", "N", CMD_RUN | CMD_CHAT | CMD_EVAL, GROUP_ANSWER,
      INT(n_predict, -1, 1e9), .common = true, .help = "at most N tokens per answer",
      .fallback = "-1: until it ends" },
    { "stop", NULL, "--reverse-prompt", "TEXT", ANSWERS, GROUP_ANSWER, LIST(stop),
      .help = "end the answer before this text; repeatable" },
    { "grammar", NULL, "--grammar-file", "FILE", TALK, GROUP_ANSWER, TEXT(grammar),
      .help = "the answer follows this grammar (GBNF)" },
    { "json-schema", "-j", NULL, "FILE|JSON", TALK, GROUP_ANSWER, TEXT(json_schema),
      .help = "the answer is JSON that this schema describes" },
    { "show-thinking", NULL, NULL, "full|fold|off", CMD_CHAT, GROUP_ANSWER,
      CHOICE(show_thinking, "auto|full|fold|off|stdout"),
      .help = "thinking in grey, as one line, or not at all", .fallback = "full" },
    { "show-thinking", NULL, NULL, "full|off|stdout", CMD_RUN, GROUP_ANSWER,
      CHOICE(show_thinking, "auto|full|fold|off|stdout"),
      .help = "thinking to stderr, nowhere, or to stdout",
      .fallback = "full on a terminal, off in a pipe" },
    { "output", "-o", NULL, "FILE", CMD_RUN, GROUP_ANSWER, TEXT(output),
      .help = "write the answer there instead of to stdout; the file appears when it is complete",
      .fallback = "stdout" },
    { "jsonl", NULL, NULL, NULL, CMD_RUN, GROUP_OUTPUT, FLAG(jsonl),
      .help = "the answer as it comes, one JSON object a line" },
    { "logprobs", NULL, NULL, "K", CMD_RUN, GROUP_OUTPUT, INT(logprobs, 1, 64),
      .help = "with JSON: the logarithm of each token's probability, and the K likeliest" },
    { "markdown", NULL, NULL, "auto|off", CMD_CHAT, GROUP_ANSWER, CHOICE(markdown, "auto|off"),
      .help = "lay out Markdown on a terminal", .fallback = "auto: where stdout is one" },
    { "live", NULL, NULL, NULL, CMD_CHAT, GROUP_ANSWER, FLAG(live),
      .help = "a line of figures below the answer while it comes" },
    { "prefix-cache", NULL, "--prompt-cache", "FILE|DIR", CMD_RUN, GROUP_TASK, TEXT(prefix_cache),
      .help = "keep there what was computed for prompts; what begins alike is not read twice" },
    { "save-session", NULL, NULL, "NAME", CMD_RUN, GROUP_TASK, TEXT(save_session),
      .help = "begin a session with this answer, for tandem chat --session NAME" },
    { "record", NULL, NULL, "FILE", CMD_RUN, GROUP_TASK, TEXT(record),
      .help = "write down what was computed, so that tandem replay can prove it: prompt, options, seed, "
              "tokens, a hash of their logits; implies --deterministic" },
    { "session", NULL, NULL, "NAME", CMD_CHAT, GROUP_TASK, TEXT(session), .common = true,
      .help = "go on with this session, or begin it" },
    { "continue", NULL, NULL, NULL, CMD_CHAT, GROUP_TASK, FLAG(go_on), .common = true,
      .help = "go on with the latest session" },
    { "no-save", NULL, NULL, NULL, CMD_CHAT, GROUP_TASK, FLAG(no_save),
      .help = "leave nothing of this chat on disk (on a terminal every chat is a session)" },
    { "no-history", NULL, NULL, NULL, CMD_CHAT, GROUP_ANSWER, FLAG(no_history),
      .help = "do not read or keep the history of typed lines" },

    /* sampling */
    { "temp", NULL, "--temperature", "F", ANSWERS, GROUP_SAMPLING, REAL(temperature, 0, 100),
      .common = true, .help = "temperature; 0: always the likeliest token",
      .fallback = "the file's, else the model card's" },
    { "top-k", NULL, NULL, "N", ANSWERS, GROUP_SAMPLING, INT(top_k, 0, INT32_MAX),
      .help = "only the N likeliest tokens; 0: all", .fallback = "the file's, else 0" },
    { "top-p", NULL, NULL, "F", ANSWERS, GROUP_SAMPLING, REAL(top_p, 0, 1),
      .help = "only the likeliest tokens that make up F together",
      .fallback = "the file's, else the model card's" },
    { "min-p", NULL, NULL, "F", ANSWERS, GROUP_SAMPLING, REAL(min_p, 0, 1),
      .help = "only tokens at least F times as likely as the best",
      .fallback = "the file's, else 0" },
    { "seed", "-s", NULL, "N", ANSWERS, GROUP_SAMPLING, INT(seed, -1, 9.2233720368547748e18),
      .common = true, .help = "same seed, same answer", .fallback = "-1: random, reported" },
    { "repeat-penalty", NULL, NULL, "F", ANSWERS, GROUP_SAMPLING, REAL(repeat_penalty, 0.001, 1000),
      .help = "against repetition, over the last 64 tokens", .fallback = "1: off" },
    { "presence-penalty", NULL, NULL, "F", ANSWERS, GROUP_SAMPLING,
      REAL(presence_penalty, -1000, 1000), .help = "subtracted once per token seen",
      .fallback = "0" },
    { "frequency-penalty", NULL, NULL, "F", ANSWERS, GROUP_SAMPLING,
      REAL(frequency_penalty, -1000, 1000), .help = "subtracted per occurrence", .fallback = "0" },
    { "logit-bias", NULL, NULL, "ID±F", ANSWERS, GROUP_SAMPLING, CUSTOM(read_bias),
      .help = "make a token likelier (15+2) or forbid it (15-inf); repeatable" },

    /* model and machine */
    { "model", "-m", NULL, "FILE", READS, GROUP_MODEL, TEXT(model), .common = true,
      .help = "a GGUF file, a part of a split one, its folder",
      .fallback = "the demo model" },
    { "model", "-m", NULL, "FILE", CMD_REPLAY, GROUP_MODEL, TEXT(model), .common = true,
      .help = "where the model is now", .fallback = "where it was" },
    { "ctx-size", "-c", "--context", "N", COMPUTES, GROUP_MODEL, INT(ctx_size, 0, 1 << 30),
      .common = true, .help = "context in tokens; 0: as trained",
      .fallback = "what fits, at most 32768" },
    { "threads", "-t", "--threads-batch -tb", "N", ANSWERS | WRITES | CMD_PLAN | CMD_REPLAY,
      GROUP_MODEL,
      INT(threads, 0, 4096),
      .common = true, .help = "worker threads", .fallback = "the cores this process may use" },
    { "threads", "-t", "--threads-batch -tb", "N,…", CMD_BENCH, GROUP_MODEL, SIZES(thread_list, 4096),
      .common = true, .help = "worker threads, one table row for each number",
      .fallback = "the cores this process may use" },
    { "batch-size", "-b", "--ubatch-size -ub", "N", ANSWERS | CMD_PLAN, GROUP_MODEL,
      INT(batch, 1, 65536),
      .help = "tokens per step while reading a prompt",
      .fallback = "512; up to 2048 with many experts" },
    { "batch-size", "-b", "--ubatch-size -ub", "N,…", CMD_BENCH, GROUP_MODEL, SIZES(batch_list, 65536),
      .help = "tokens per step while reading a prompt",
      .fallback = "512; up to 2048 with many experts" },
    { "gpu-layers", "-ngl", "--n-gpu-layers --gpu", "auto|all|0|N", COMPUTES, GROUP_MODEL,
      CUSTOM(read_ngl),
      .help = "layers whose attention and shared experts a GPU computes, the last N; 0: the CPU alone",
      .fallback = "auto: as many as fit" },
    { "gpu-layers", "-ngl", "--n-gpu-layers --gpu", "auto|all|0|N", CMD_REPLAY, GROUP_MODEL,
      CUSTOM(read_ngl), .help = "layers that a GPU computes; other ones may give other bits",
      .fallback = "as recorded" },
    { "device", NULL, "--main-gpu -mg", "N", COMPUTES, GROUP_MODEL, INT(gpu_index, 0, 63),
      .help = "which GPU", .fallback = "0" },
    { "handoff", NULL, NULL, "auto|stop|callback|flags", RUNS, GROUP_MODEL,
      CHOICE(handoff, "auto|stop|callback|flags"),
      .help = "how a GPU hands experts to the CPU: the program stops for each layer, or the GPU's "
              "queue calls it, or both poll words in memory",
      .fallback = "auto: the fastest, by a short probe" },
    { "load", NULL, NULL, "auto|mmap|copy|direct", COMPUTES | CMD_REPLAY, GROUP_MODEL,
      CHOICE(load, "auto|mmap|copy|direct"),
      .help = "use the weights where the file is mapped, or copy them into memory; direct: past "
              "the page cache", .fallback = "auto: copy what fits" },
    { "no-mmap", NULL, NULL, NULL, COMPUTES, GROUP_MODEL, CONST(load, LOAD_COPY) },
    { "mmap", NULL, NULL, NULL, COMPUTES, GROUP_MODEL, CONST(load, LOAD_MMAP) },
    { "numa", NULL, NULL, "auto|off|N", RUNS, GROUP_MODEL, CUSTOM(read_numa),
      .help = "share the experts out to memory nodes (of a copy)", .fallback = "auto" },
    { "mlock", NULL, NULL, NULL, RUNS, GROUP_MODEL, FLAG(mlock),
      .help = "keep the weights from being paged out" },
    { "cpu-isa", NULL, NULL, "NAME", COMPUTES, GROUP_MODEL, CUSTOM(read_isa),
      .help = "strongest instruction set to use: ref, avx2, avxvnni, avx512, amx, neon",
      .fallback = "the best this CPU has" },
    { "cpu-isa", NULL, NULL, "NAME", CMD_REPLAY, GROUP_MODEL, CUSTOM(read_isa),
      .help = "strongest instruction set to use; another one may give other bits",
      .fallback = "as recorded" },
    { "numerics", NULL, "--compat", "NAME", COMPUTES | CMD_INSPECT, GROUP_MODEL,
      CHOICE(numerics, "official|gguf|llamacpp"),
      .help = "where the two differ, compute as the model's authors or as llama.cpp",
      .fallback = "official" },
    { "draft", NULL, NULL, "auto|off|1|2|3", ANSWERS | CMD_PLAN, GROUP_MODEL,
      CHOICE(draft, "auto|off|1|2|3"),
      .help = "guess tokens ahead where the model can: as many as pay, none, or always so many",
      .fallback = "auto" },
    { "deterministic", NULL, NULL, NULL, COMPUTES, GROUP_MODEL, FLAG(deterministic),
      .help = "the same bits whatever was computed before and however much at once: prompts are read "
              "token by token, as slowly as answers are written; no guesses, no moving experts" },
    { "draft-model", "-md", "--model-draft", "FILE", ANSWERS | CMD_PLAN, GROUP_MODEL,
      TEXT(draft_model),
      .help = "the block that --draft guesses with, where it has a file of its own (mtp-*.gguf)" },
    { "act", NULL, NULL, "fast|f32", COMPUTES, GROUP_MODEL, CUSTOM(read_act),
      .help = "f32: reference path, activations and cache unrounded", .fallback = "fast" },

    /* placement */
    { "n-cpu-moe", "-ncmoe", NULL, "N", COMPUTES, GROUP_PLACEMENT, INT(cpu_moe, 0, 512),
      .help = "routed experts of the first N layers stay with the CPU, the others are on the GPU",
      .fallback = "0 where everything fits, else all" },
    { "cpu-moe", "-cmoe", NULL, NULL, COMPUTES, GROUP_PLACEMENT, .kind = OPT_ACTION,
      .read = read_cpu_moe, .help = "all routed experts stay with the CPU" },
    { "gpu-experts", NULL, NULL, "auto|N|SIZE|P%", COMPUTES, GROUP_PLACEMENT,
      CUSTOM(read_gpu_experts),
      .help = "VRAM for routed experts that are used often: N per layer, a size, a share; 0: none",
      .fallback = "auto: what is left" },
    { "override-tensor", "-ot", NULL, "RE=cpu|gpu", COMPUTES, GROUP_PLACEMENT, LIST(overrides),
      .help = "tensors whose name matches go there; repeatable, the first that matches wins" },
    { "vram", NULL, NULL, "SIZE", COMPUTES, GROUP_PLACEMENT, SIZE(vram_bytes, 0),
      .help = "VRAM to use at most, such as 20G", .fallback = "what is free, less the margin" },
    { "vram-margin", NULL, NULL, "SIZE", COMPUTES, GROUP_PLACEMENT, SIZE(vram_margin, 0),
      .help = "VRAM to leave free", .fallback = "768M" },
    { "fit-target", "-fitt", NULL, "MIB", COMPUTES, GROUP_PLACEMENT, CUSTOM(read_fit_margin) },
    { "ram", NULL, NULL, "SIZE", COMPUTES, GROUP_PLACEMENT, SIZE(ram_bytes, 1),
      .help = "main memory to use at most", .fallback = "what is free" },
    { "cache-type", "-ctk", "--cache-type-k", "f16|f32", COMPUTES, GROUP_PLACEMENT,
      CHOICE(cache_type, "f16|f32"), .help = "number format of the cache", .fallback = "f16" },
    { "min-tps", NULL, NULL, "F", CMD_QUANTIZE, GROUP_TASK, REAL(min_tok_s, 0, 1e6),
      .help = "in place of TYPE: the best types that decode F tokens per second here" },
    { "fit-ram", NULL, NULL, "SIZE", CMD_QUANTIZE, GROUP_TASK, SIZE(fit_ram, 1), .common = true,
      .help = "in place of TYPE: the best types for so much RAM; 370G, say, with the cache for -c tokens "
              "and all else", .fallback = "what is free" },
    { "fit-vram", NULL, NULL, "SIZE", CMD_QUANTIZE, GROUP_TASK, SIZE(fit_vram, 1), .common = true,
      .help = "likewise for so much VRAM; everything but the routed experts goes there",
      .fallback = "none" },
    { "min-tps", NULL, NULL, "F", CMD_PLAN, GROUP_PLACEMENT, REAL(min_tok_s, 0, 1e6),
      .help = "the largest context that still decodes F tokens per second when it is full" },
    { "max-joules", NULL, NULL, "F", CMD_PLAN, GROUP_PLACEMENT, REAL(max_joules, 0, 1e6),
      .help = "likewise with at most F joules per token" },

    /* plan */
    { "what-if", NULL, NULL, "KEY=V,…", CMD_PLAN, GROUP_TASK, TEXT(what_if), .common = true,
      .help = "another machine: ram=512G, bw=460 (memory, GB/s), vram=24G, vbw=1000, pcie=25, "
              "cores=32, disk=3, gpu=NAME" },
    { "compare", NULL, NULL, NULL, CMD_PLAN, GROUP_TASK, FLAG(compare_types), .common = true,
      .help = "a table: smaller types and longer contexts" },
    { "explain", NULL, NULL, NULL, CMD_PLAN, GROUP_TASK, FLAG(explain), .common = true,
      .help = "where the time of a token goes, each rate, and the table of every layer" },
    { "emit", NULL, NULL, NULL, CMD_PLAN, GROUP_TASK, FLAG(emit), .common = true,
      .help = "one line: the flags that make this placement" },

    /* inspect */
    { "tokens", NULL, NULL, "TEXT", CMD_INSPECT, GROUP_TASK, TEXT(tokens), .common = true,
      .help = "token ids of a text; -: standard input" },
    { "no-special", NULL, NULL, NULL, CMD_INSPECT, GROUP_TASK, FLAG(no_special), .common = true,
      .help = "with --tokens: special tokens are plain text" },
    { "tensors", NULL, NULL, "[RE]", CMD_INSPECT, GROUP_TASK, MAYBE(tensors, tensors_pattern),
      .common = true, .help = "list the tensors, or those that match" },
    { "metadata", NULL, NULL, "[KEY]", CMD_INSPECT, GROUP_TASK, MAYBE(metadata, metadata_key),
      .common = true, .help = "list the metadata, or one value in full" },
    { "verify", NULL, "--check", NULL, CMD_INSPECT, GROUP_TASK, FLAG(verify), .common = true,
      .help = "read all of it: code 6 when a value is not finite or the canary differs; -v: all" },
    { "hash", NULL, NULL, NULL, CMD_INSPECT, GROUP_TASK, FLAG(hash), .common = true,
      .help = "CRC-32C of each tensor, and one of all" },
    { "diff", NULL, NULL, "FILE", CMD_INSPECT, GROUP_TASK, TEXT(diff), .common = true,
      .help = "what is different in FILE; code 0: nothing, 1: something" },

    /* eval */
    { "ids", NULL, NULL, "FILE", CMD_EVAL, GROUP_TASK, TEXT(ids), .common = true,
      .help = "token ids in a text file; --logits FILE: write theirs" },
    { "logits", NULL, NULL, "FILE", CMD_EVAL, GROUP_TASK, TEXT(logits),
      .help = "write them: float32 [n_tokens, vocabulary]" },
    { "ppl", NULL, "--perplexity", "FILE", CMD_EVAL, GROUP_TASK, TEXT(ppl), .common = true,
      .help = "perplexity of a text file" },
    { "tasks", NULL, NULL, "FILE", CMD_EVAL, GROUP_TASK, TEXT(tasks), .common = true,
      .help = "count right answers to a JSONL file of questions" },
    { "kl-base", NULL, NULL, "FILE", CMD_EVAL, GROUP_TASK, TEXT(kl_base),
      .help = "with --ppl: keep what this model expects of the text, for --kl" },
    { "kl", NULL, NULL, "FILE", CMD_EVAL, GROUP_TASK, TEXT(kl), .common = true,
      .help = "KL divergence from the model that wrote FILE, same top token" },
    { "chunks", NULL, NULL, "N", CMD_EVAL, GROUP_TASK, INT(chunks, 1, 1e9),
      .help = "with --ppl, --kl: only the first N windows", .fallback = "all" },
    { "max-ppl", NULL, NULL, "F", CMD_EVAL, GROUP_TASK, REAL(max_ppl, 1, 1e30),
      .help = "with --ppl: end with code 6 above this", .fallback = "no limit" },
    { "max-kl", NULL, NULL, "F", CMD_EVAL, GROUP_TASK, REAL(max_kl, 0, 1e30),
      .help = "with --kl: end with code 6 when the mean is above this", .fallback = "no limit" },

    /* bench */
    { "n-prompt", "-p", NULL, "N,…", CMD_BENCH, GROUP_TASK, SIZES(n_prompt, 1e7), .common = true,
      .help = "tokens of the prompts to read; 0: none", .fallback = "512" },
    { "n-gen", "-n", NULL, "N,…", CMD_BENCH, GROUP_TASK, SIZES(n_generate, 1e7), .common = true,
      .help = "tokens to generate; 0: none", .fallback = "128" },
    { "n-depth", "-d", "--depth", "N,…", CMD_BENCH, GROUP_TASK, SIZES(depth, 1e7), .common = true,
      .help = "tokens already in the context", .fallback = "0" },
    { "fill", NULL, NULL, "prefill|repeat", CMD_BENCH, GROUP_TASK, CHOICE(fill, "prefill|repeat"),
      .help = "fill that context by reading it, or read 512 tokens and repeat their rows of the cache",
      .fallback = "prefill" },
    { "repetitions", "-r", NULL, "N", CMD_BENCH, GROUP_TASK, INT(repetitions, 1, 1000),
      .common = true, .help = "times each test runs", .fallback = "3; of a sweep 1" },
    { "probe", NULL, NULL, NULL, CMD_BENCH, GROUP_TASK, FLAG(probe), .common = true,
      .help = "the machine alone: memory, kernels, arithmetic" },
    { "probe-gpu", NULL, NULL, NULL, CMD_BENCH, GROUP_TASK, FLAG(probe_gpu), .common = true,
      .help = "measure the GPU alone: memory, bus, every kernel" },
    { "sweep", NULL, NULL, NULL, CMD_BENCH, GROUP_TASK, FLAG(sweep), .common = true,
      .help = "speed over context, up to the largest -d",
      .fallback = "off; up to 4096 tokens" },
    { "svg", NULL, NULL, "FILE", CMD_BENCH, GROUP_TASK, TEXT(svg),
      .help = "draw the sweep into this file too" },
    { "card", NULL, NULL, NULL, CMD_BENCH, GROUP_TASK, FLAG(card), .common = true,
      .help = "a few lines for posting instead of the table" },
    { "compare", NULL, NULL, "FILE", CMD_BENCH, GROUP_TASK, TEXT(compare), .common = true,
      .help = "code 6 when slower than in an older JSON file" },
    { "max-loss", NULL, NULL, "P%", CMD_BENCH, GROUP_TASK, CUSTOM(read_loss),
      .help = "with --compare: how much slower is still fine", .fallback = "3%" },
    { "limits", NULL, NULL, "measure|kept", CMD_BENCH, GROUP_TASK,
      CHOICE(limits, "measure|kept"),
      .help = "grade by a fresh probe, or by the profile of an earlier one",
      .fallback = "measure" },
    { "output", "-o", NULL, "FORM", CMD_BENCH, GROUP_TASK, CHOICE(format, "md|csv|json|jsonl"),
      .common = true, .help = "md: a table; csv, json, jsonl: for programs", .fallback = "md" },

    /* quantize */
    { "imatrix", NULL, NULL, "FILE", WRITES, GROUP_TASK, TEXT(imatrix), .common = true,
      .help = "importance of the columns, from a calibration run" },
    { "collect-imatrix", NULL, NULL, NULL, CMD_QUANTIZE, GROUP_TASK, FLAG(collect_imatrix),
      .common = true,
      .help = "make such a file, -o, from the texts of -f; the model -m reads them; --imatrix FILE: add "
              "to that one" },
    { "model", "-m", NULL, "FILE", CMD_QUANTIZE, GROUP_TASK, TEXT(model),
      .help = "with --collect-imatrix: the model", .fallback = "the demo model" },
    { "file", "-f", NULL, "FILE", CMD_QUANTIZE, GROUP_TASK, LIST(files),
      .help = "with --collect-imatrix: a text; repeatable" },
    { "output", "-o", NULL, "FILE", CMD_QUANTIZE, GROUP_TASK, TEXT(output),
      .help = "with --collect-imatrix: the file to write" },
    { "ctx-size", "-c", "--context", "N", CMD_QUANTIZE, GROUP_TASK, INT(ctx_size, 2, 1 << 20),
      .help = "with --collect-imatrix: tokens per window; with --fit-ram and the like: tokens of "
              "context to leave room for", .fallback = "512; 8192" },
    { "chunks", NULL, NULL, "N", CMD_QUANTIZE, GROUP_TASK, INT(chunks, 1, 1e9),
      .help = "with --collect-imatrix: only the first N windows", .fallback = "all" },
    { "tensor-type", NULL, NULL, "RE=TYPE", WRITES, GROUP_TASK, LIST(tensor_types),
      .common = true, .help = "tensors whose name matches get this type; repeatable, first wins" },
    { "recipe", NULL, NULL, "FILE", WRITES, GROUP_TASK, TEXT(recipe), .common = true,
      .help = "such rules, one per line; a line without = is the type of the rest" },
    { "only", NULL, NULL, "RE", CMD_QUANTIZE, GROUP_TASK, TEXT(only), .common = true,
      .help = "make only the tensors whose name matches; take the others from OUT as it is, or "
              "without one from IN" },
    { "dry-run", NULL, NULL, NULL, WRITES, GROUP_TASK, FLAG(dry_run), .common = true,
      .help = "show types and sizes, write nothing; -v: every tensor" },
    { "resume", NULL, NULL, NULL, WRITES, GROUP_TASK, FLAG(resume), .common = true,
      .help = "go on with what an interrupted run has finished; it is kept unless --force is given" },
    { "verify", NULL, NULL, NULL, WRITES, GROUP_TASK, FLAG(verify), .common = true,
      .help = "read the file back from the disk and compare; only then it gets its name" },
    { "force", NULL, NULL, NULL, WRITES, GROUP_TASK, FLAG(force), .common = true,
      .help = "replace the output when it exists (the old one stays until the new one is complete); "
              "without --resume also what an interrupted run has finished" },
    { "force", NULL, NULL, NULL, COMPUTES | CMD_REPLAY, GROUP_PLACEMENT, FLAG(force),
      .help = "accept that weights which do not fit into memory come from the disk, each time" },
    { "split-max-size", NULL, NULL, "SIZE", WRITES, GROUP_TASK, SIZE(split_max_bytes, 1),
      .common = true, .help = "parts of at most this size, such as 48G; called OUT-00001-of-N",
      .fallback = "one file" },
    { "canary", NULL, NULL, "on|off", WRITES, GROUP_TASK, CHOICE(canary_off, "on|off"),
      .help = "run the new model on a few tokens and keep its answer in the file, for inspect --verify",
      .fallback = "on" },
    { "no-canary", NULL, NULL, NULL, WRITES, GROUP_TASK, CONST(canary_off, 1),
      .help = "the same as --canary off" },
    { "pure", NULL, NULL, NULL, WRITES, GROUP_TASK, FLAG(pure),
      .help = "the same type everywhere, as far as protection and shapes allow" },
    { "strict-mixture", NULL, NULL, NULL, WRITES, GROUP_TASK, FLAG(strict_mixture),
      .help = "exactly the types llama-quantize would choose: without raising the small tensors that "
              "matter most" },
    { "allow-requantize", NULL, NULL, NULL, WRITES, GROUP_TASK, FLAG(allow_requantize),
      .help = "also from types below 8 bits, which adds up the losses" },
    { "keep-kv-b", NULL, NULL, NULL, CMD_QUANTIZE, GROUP_TASK, FLAG(keep_kv_b),
      .help = "leave attn_kv_b of older files as it is instead of writing attn_k_b and attn_v_b" },
    { "replace-nonfinite", NULL, NULL, NULL, WRITES, GROUP_TASK, FLAG(replace_nonfinite),
      .help = "NaN becomes 0, an infinity the largest value of its row" },

    /* convert */
    { "output", "-o", "--outfile", "FILE", CMD_CONVERT, GROUP_TASK, TEXT(output), .common = true,
      .help = "the file to write; it appears when it is complete" },
    { "type", NULL, "--outtype", "TYPE", CMD_CONVERT, GROUP_TASK,
      TEXT(convert_type), .common = true,
      .help = "native, bf16, q8_0, q4_k_m and every other name that quantize knows; norms, biases "
              "and routers are always F32",
      .fallback = "native: as stored, FP8 as Q8_0, FP4 as MXFP4" },
    { "no-mtp", NULL, NULL, NULL, CMD_CONVERT, GROUP_TASK, FLAG(no_mtp), .common = true,
      .help = "leave out the blocks for multi-token prediction" },
    { "pre", NULL, NULL, "NAME", CMD_CONVERT, GROUP_TASK, TEXT(pre),
      .help = "name of the pre-tokenizer", .fallback = "recognised by its expressions" },
    { "name", NULL, "--model-name", "TEXT", CMD_CONVERT, GROUP_TASK, TEXT(name),
      .help = "name of the model, as kept in the file", .fallback = "that of the folder" },

    /* output */
    { "output", "-o", NULL, "FILE", CMD_SESSIONS, GROUP_TASK, TEXT(output), .common = true,
      .help = "with export: a new file, FILE.json for JSON", .fallback = "stdout" },
    { "json", NULL, NULL, NULL,
      CMD_RUN | CMD_INSPECT | CMD_EVAL | CMD_BENCH | CMD_PLAN | CMD_SESSIONS | CMD_CONFIG |
          CMD_DOCTOR | CMD_REPLAY,
      GROUP_OUTPUT, FLAG(json), .common = true,
      .help = "one JSON value on stdout instead of text" },
    { "stats", NULL, NULL, NULL, TALK, GROUP_OUTPUT, FLAG(stats),
      .help = "the line with speed and seed on stderr, also off a terminal" },
    { "heat", NULL, NULL, "FILE", TALK | CMD_BENCH, GROUP_OUTPUT, TEXT(heat),
      .help = "how often each expert was picked: a table, or FILE.svg" },
    { "log", NULL, "--log-file", "FILE", RUNS | CMD_REPLAY, GROUP_OUTPUT, TEXT(log),
      .help = "add what happens to this file, a line each: figures and warnings, no conversation" },
    { "color", NULL, "--colour", "auto|always|never", ALL, GROUP_OUTPUT,
      CHOICE(colour, "auto|always|never"), .help = "colour", .fallback = "auto" },
    { "quiet", "-q", NULL, NULL, ALL, GROUP_OUTPUT, COUNT(quiet),
      .help = "only answers and errors" },
    { "verbose", "-v", NULL, NULL, ALL, GROUP_OUTPUT, COUNT(verbose),
      .help = "say more on stderr; repeatable" },
    { "help", "-h", NULL, NULL, ALL, GROUP_OUTPUT, FLAG(help), .common = true,
      .help = "-h: this page; --help: all options" },
    { "version", "-V", NULL, NULL, ALL, GROUP_OUTPUT, FLAG(version),
      .help = "version, compiler and instruction sets" },
};
const int n_option_rows = ARRAY_LEN(option_rows);

#define ONE_GPU "one GPU is used; leave it out"

const struct foreign_option foreign_options[] = {
    { "-fa", SWITCH_VALUE, true, "attention is always computed in one pass" },
    { "--flash-attn", SWITCH_VALUE, true, "attention is always computed in one pass" },
    { "--jinja", ALONE, true, "chat formats are built in" },
    { "-fit", SWITCH_VALUE, true, "what fits is always worked out" },
    { "--conversation", ALONE, true, "use the command chat" },
    { "-cnv", ALONE, true, "use the command chat" },
    { "--no-warmup", ALONE, true, "loading reads the weights once, nothing else warms up" },
    { "-fmoe", SWITCH_VALUE, true, "experts are always computed fused" },
    { "-rtr", ALONE, true, "weights are never repacked at run time" },
    { "-mla", ONE_VALUE, true, "the form of latent attention is chosen per step" },
    { "-ctv", ONE_VALUE, true, "latent attention has one cache" },
    { "-hf", ONE_VALUE, false, "nothing is downloaded; give the path of a GGUF file with -m" },
    { "-hfr", ONE_VALUE, false, "nothing is downloaded; give the path of a GGUF file with -m" },
    { "-sm", ONE_VALUE, false, ONE_GPU },
    { "-ts", ONE_VALUE, false, ONE_GPU },
    { "--rpc", ONE_VALUE, false, "one machine only; there is no replacement" },
    { "-amb", ONE_VALUE, false, "working memory is sized before loading; -b N makes it smaller" },
    { "-ser", ONE_VALUE, false, "experts are never dropped; there is no replacement" },
    { "-i", ALONE, false, "use the command chat" },
};
const int n_foreign_options = ARRAY_LEN(foreign_options);

const char *option_group_title(enum option_group group)
{
    static const char *const titles[N_GROUPS] = {
        "Prompt", "Answer", "Sampling", "Model and machine", "Placement", "What to do", "Output",
    };
    return titles[group];
}
