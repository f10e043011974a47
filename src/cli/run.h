/* The parts of tandem run: one answer, or those of a file of prompts. */
#ifndef TANDEM_CLI_RUN_H
#define TANDEM_CLI_RUN_H

#include "src/cli/json.h"
#include "src/cli/load.h"
#include "src/cli/output_file.h"
#include "src/cli/prefix_cache.h"
#include "src/cli/run_session.h"

/* All borrowed. */
struct run_prompt {
    struct str text;
    const struct json *talk; /* messages, in place of those of --messages; NULL: none */
    const struct json *id;   /* of a batch; NULL: none */
};

struct run_target {
    struct output_file *file; /* NULL: stdout */
    bool in_lines;            /* one JSON object a line, whatever the options say */
};

/* Prompts that are counted instead of asked (--dry-run). */
struct run_count {
    int64_t n_prompts, n_tokens; /* of all of them together */
    int64_t longest;             /* tokens of one */
};

/* What outlives the run: closed where the options do not ask for it. */
struct run_kept {
    struct prefix_cache cache;
    struct store session;
    const char *model_path;
    struct output_file record; /* of --record */
    struct run_count *count; /* NULL: prompts are answered */
};

/* Write the answer as the options want it: text, one object (--json), or events (--jsonl), each line an
 * object whose "event" is text, thinking, token (with --logprobs) or done, the last with everything that
 * --json tells. */
bool run_answer(struct loaded *m, const struct options *o, const struct run_prompt *p,
                struct run_target *target, struct run_kept *kept, struct error *err);

/* --batch: each line of the file an object with "prompt" or "messages", perhaps "id" (else the number
 * of the line); one object a line comes out. With --output the file grows answer by answer, and
 * prompts whose id is in it already are not asked again. */
bool run_batch(struct loaded *m, const struct options *o, struct run_kept *kept,
               struct error *err);

/* Before the model is loaded: can its file be read, and --output be written? ERR_FILE, ERR_RUN. */
bool run_batch_check(const struct options *o, struct error *err);

/* --dry-run: count `prompt`, or those of --batch, and print what a plan says of them. Fails as the run
 * would: ERR_FIT with the ways out kept for the end, ERR_USAGE for a prompt longer than the context. */
bool run_dry(const struct options *o, const char *path, struct str prompt, struct error *err);

#endif
