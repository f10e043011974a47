/* Writing a model: what quantize and convert do once they know what to write.
 *
 * Checks of the place, a hidden file with a journal beside it, all tensors through transcode, then
 * the name. What is not finished can be taken up again with --resume, and goes only with --force. */
#ifndef TANDEM_TOOLS_OUTPUT_H
#define TANDEM_TOOLS_OUTPUT_H

#include <sys/stat.h>

#include "src/cli/options.h"
#include "tools/transcode.h"

/* How often what is done is noted, and in what pieces; 0: as transcode.h says. */
struct output_pace {
    double sync_s;
    int64_t chunk_elements;
};

struct output_job {
    const char *path;              /* as the user said it */
    const char *verb;              /* for the progress line: "quantizing" */
    const struct options *options; /* force, resume, split_max_bytes, verify, replace_nonfinite */
    int threads;                   /* 0: all cores */
    struct gguf_writer *writer;    /* everything is announced */
    struct transcode_tensor *tensors;
    size_t n_tensors;
    uint64_t bytes_before, bytes_after; /* of the tensors */
    double weights;                /* elements of all tensors */
    struct output_pace pace;
    bool canary;                   /* canary_reserve was called: fill it */
    bool reworks;                  /* the output is to be replaced: that is what was asked for */

    /* The inputs: is this file one of them, and are they still those that were opened? */
    bool (*is_input)(const void *ctx, dev_t device, ino_t inode);
    bool (*unchanged)(const void *ctx, struct error *err);
    const void *ctx;
};

/* May the output be written there? ERR_USAGE for a name that is taken (--force), an input or no
 * file; ERR_RUN where the space is not enough. */
bool output_check(const struct output_job *job, struct error *err);

/* Write it. `plan`: the job in words; an interrupted run is taken up only if they are equal. Work
 * that makes sense to go on with is kept after a failure, and ERR_USAGE where such work is found
 * and neither --resume nor --force says what shall become of it. */
bool output_run(const struct output_job *job, const char *plan, struct error *err);

#endif
