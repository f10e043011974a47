/* The options of all commands: one row each, from which the parser, the environment, the
 * configuration file, --help and the nearest-name hints are made.
 *
 * Order of strength: command line, then TANDEM_NAME in the environment, then the files of settings
 * (src/cli/paths.h: the folder's, the user's, the system's), then the default. Texts are borrowed from argv, the environment, or the options' own
 * arena. */
#ifndef TANDEM_CLI_OPTIONS_H
#define TANDEM_CLI_OPTIONS_H

#include "src/base/arena.h"
#include "src/base/error.h"
#include "src/cli/buf.h"
#include "src/device.h"
#include "src/model/params.h"
#include "src/text/chat.h"
#include "src/text/sampler.h"

/* One bit per command, so that a row can say where it belongs. */
enum command_bit {
    CMD_CHAT = 1 << 0,
    CMD_RUN = 1 << 1,
    CMD_INSPECT = 1 << 2,
    CMD_EVAL = 1 << 3,
    CMD_BENCH = 1 << 4,
    CMD_QUANTIZE = 1 << 5,
    CMD_CONVERT = 1 << 6,
    CMD_PLAN = 1 << 7,
    CMD_SESSIONS = 1 << 8,
    CMD_CONFIG = 1 << 9,
    CMD_DOCTOR = 1 << 10,
    CMD_REPLAY = 1 << 11,
};

#define UNSET INT64_MIN
#define MAX_LIST 64
#define MAX_SIZES 16
#define MAX_POSITIONALS 64

struct text_list {
    const char *items[MAX_LIST];
    int n;
};

/* A list of counts such as -p 128,512. */
struct size_list {
    int64_t items[MAX_SIZES];
    int n;
};

/* A line of the section [models] in the configuration file. */
struct named_model {
    const char *name, *path;
};

/* A value that stands in the configuration file or the environment, and where. */
struct setting {
    const char *name, *value, *origin;
};

enum show_thinking {
    THINKING_AUTO, THINKING_FULL, THINKING_FOLD, THINKING_HIDDEN, THINKING_STDOUT
};
enum markdown_use { MARKDOWN_AUTO, MARKDOWN_OFF };
enum table_format { TABLE_MD, TABLE_CSV, TABLE_JSON, TABLE_JSONL };
enum bench_limits { LIMITS_MEASURE, LIMITS_KEPT };
enum bench_fill { FILL_PREFILL, FILL_REPEAT };

struct options {
    struct arena arena;
    const char *positional[MAX_POSITIONALS];
    int n_positional;

    bool help, help_all, version;
    int quiet, verbose, colour;
    bool json, stats;
    const char *heat;    /* --heat */
    const char *log;     /* --log: src/cli/record.h */

    struct named_model models[MAX_LIST];
    int n_models;
    struct setting settings[MAX_LIST]; /* of this command, the stronger behind the weaker */
    int n_settings;

    /* model and machine */
    const char *model;
    bool model_given; /* on the command line */
    int64_t ctx_size;  /* UNSET: choose; 0: as trained */
    int64_t threads, batch;
    int load;          /* enum load_mode */
    int gpu;           /* enum gpu_use */
    int64_t gpu_layers, gpu_index;
    int handoff;       /* enum handoff_way */
    bool mlock;
    int numa;          /* memory nodes; 0: as the machine has, 1: off */
    unsigned isa;
    bool isa_given;
    int numerics;      /* enum numerics */
    int draft;         /* a place in "auto|off|1|2|3": draft_wish */
    const char *draft_model;
    bool act_f32;
    bool deterministic; /* has set batch, draft and gpu_experts */

    /* placement */
    int64_t cpu_moe;              /* UNSET: choose; INT32_MAX: all */
    int64_t gpu_experts;          /* per layer; UNSET: choose */
    int64_t gpu_experts_bytes;    /* 0: not said */
    double gpu_experts_share;     /* NAN: not said */
    struct text_list overrides;   /* RE=cpu|gpu, each perhaps several behind commas */
    int64_t vram_bytes;           /* UNSET: what is free */
    int64_t vram_margin;          /* left free when vram_bytes is not said */
    int64_t ram_bytes;            /* UNSET: what is free */
    int cache_type;               /* 0: F16, 1: F32 */

    /* plan */
    const char *what_if;
    bool compare_types, explain, emit;
    double min_tok_s, max_joules; /* 0: no such wish */

    /* prompt */
    const char *prompt;
    struct text_list files;
    const char *system;
    const char *system_file;
    const char *template_name;
    bool raw;
    const char *messages, *tools; /* JSON files: src/cli/dialogue.h */
    const char *batch_file;       /* of prompts: src/cli/run.h */
    bool jsonl;
    int64_t logprobs;             /* 0: none */
    int think;            /* enum think_mode */
    int64_t think_budget; /* UNSET: none */
    int show_thinking;    /* enum show_thinking */

    /* answer */
    int64_t n_predict; /* -1: until the end mark or a full context */
    struct text_list stop;
    const char *grammar, *json_schema; /* a file; a file or the schema itself */
    double temperature, top_p, min_p;                 /* NAN: from the file or the model card */
    int64_t top_k;                                    /* UNSET: likewise */
    double repeat_penalty, presence_penalty, frequency_penalty;
    int64_t seed;                                     /* -1: random */
    struct logit_bias bias[MAX_LIST];
    int n_bias;
    bool no_history;
    const char *session, *save_session, *prefix_cache;
    const char *record; /* --record: src/cli/recording.h; sets deterministic */
    bool go_on, no_save; /* --continue */
    int markdown; /* enum markdown_use */
    bool live;

    /* inspect */
    bool tensors, metadata;
    const char *tensors_pattern, *metadata_key;
    const char *tokens;
    bool no_special;
    bool hash;
    const char *diff; /* the other file */

    /* eval */
    const char *ids, *logits, *ppl, *tasks, *kl_base, *kl;
    int64_t chunks;
    double max_ppl, max_kl;

    /* bench */
    bool probe, probe_gpu, sweep, card;
    struct size_list n_prompt, n_generate, depth; /* none: the defaults of bench.c */
    struct size_list thread_list, batch_list;     /* in place of threads and batch */
    int64_t repetitions; /* UNSET: 3, of a sweep 1 */
    int format;          /* enum table_format */
    int limits;          /* enum bench_limits */
    int fill;            /* enum bench_fill */
    const char *svg, *compare;
    double max_loss;     /* 0.03 = 3 % */

    /* quantize, convert */
    struct text_list tensor_types; /* RE=TYPE */
    const char *recipe, *imatrix, *only;
    bool collect_imatrix;
    int canary_off;            /* 0: a canary is kept in the file, 1: none */
    int64_t fit_ram, fit_vram; /* bytes; 0: not said */
    bool pure, strict_mixture, allow_requantize, replace_nonfinite;
    bool force, resume, dry_run, keep_kv_b;
    bool verify; /* also of inspect */
    int64_t split_max_bytes; /* 0: one file */

    /* convert */
    const char *output, *pre, *name;
    const char *convert_type; /* NULL: native */
    bool no_mtp;
};

/* Defaults, then configuration file, then environment. ERR_USAGE naming file and line or
 * variable. */
bool options_init(struct options *o, unsigned command, struct error *err);

/* Read argv[0 .. argc-1], command name left out. ERR_USAGE with the nearest option. Options
 * accepted only for habit print their note. */
bool options_parse(struct options *o, unsigned command, int argc, char **argv, struct error *err);
void options_release(struct options *o);

/* The rows of a command by group. all: every row and its default; else the common ones. */
void options_help(struct buf *out, unsigned command, bool all);

/* A model called NAME in the section [models] of the configuration file, or NULL. Borrowed. */
const char *options_configured_model(const struct options *o, const char *name);

/* Options that a running command lets change: single values of the groups Answer and Sampling. Their
 * names, at most `size`; returns how many. */
int options_settable(unsigned command, const char **names, int size);
/* One line each: name, values, help. */
void options_show_settable(struct buf *out, const struct options *o, unsigned command);
/* Change one, or `think`; a flag takes on, off or nothing. ERR_USAGE, then nothing has changed. */
bool options_set(struct options *o, unsigned command, const char *name, const char *value,
                 struct error *err);

/* The candidate nearest to `word`, or NULL when none is near. Used for commands and options. */
const char *nearest_name(const char *word, const char *const *names, int n);

#endif
