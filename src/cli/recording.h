/* The file of run --record, from which tandem replay computes an answer again: one JSON object.
 *
 *     record              1: the version of this form
 *     version, commit     which build wrote it, and when: time (seconds since 1970)
 *     cpu_isa, gpu        strongest instruction set; the card, or null
 *     gpu_layers, n_cpu_moe, overrides   what the card had, as the options of these names
 *     model, model_hash   where the file was; file_fingerprint, hexadecimal
 *     numerics, act, cache_type, ctx_size
 *     temp, top_k, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty, seed,
 *     logit_bias          [[id, bias or null: forbidden]]
 *     predict, think, think_budget (-1: none), template, raw, stop, grammar (its text, or null)
 *     in_thinking, calls  the prompt opened a thinking block; the model was given tools
 *     prompt              token ids
 *     answer, logits      token ids, the end mark too; the hash of the logits each was taken from
 *     finish_reason
 *
 * The prompt's words are in it, as ids: mode 0600. */
#ifndef TANDEM_CLI_RECORDING_H
#define TANDEM_CLI_RECORDING_H

#include "src/cli/generate.h"
#include "src/cli/json.h"
#include "src/cli/output_file.h"

/* Texts are borrowed from json. */
struct recording {
    struct json *json; /* owned */
    const char *version, *commit, *isa, *model, *finish;
    const char *gpu;     /* NULL: none */
    const char *grammar; /* NULL: none */
    int64_t time_s, gpu_layers, cpu_moe;
    struct text_list overrides;
    uint64_t model_hash;
    struct logit_bias bias[MAX_LIST];
    int n_bias;
    bool in_thinking, calls;
    struct tokens prompt;
    struct trace answer;
};

/* What `go` made of the prompt; its trace is the answer. ERR_RUN, ERR_FIT. */
bool recording_write(struct output_file *file, const struct loaded *m, const struct options *o,
                     const char *model_path, const struct tokens *prompt,
                     const struct generate_options *go, const struct generation *g,
                     struct error *err);

/* Options that decide tokens and bits go to *o, but the biases, whose ids the vocabulary limits. ERR_FILE
 * where something is missing or out of its range; release in any case. */
bool recording_read(struct recording *r, const char *path, struct options *o, struct error *err);
void recording_release(struct recording *r);

#endif
