/* --prefix-cache FILE|DIR: prompts that were read before are not read again, however many programs
 * later (src/engine/prefix_file.h). In a folder every model has its own file. */
#ifndef TANDEM_CLI_PREFIX_CACHE_H
#define TANDEM_CLI_PREFIX_CACHE_H

#include "src/cli/generate.h"
#include "src/cli/term.h"

struct prefix_file;

/* For prefix_file_restore: a line that is drawn when there is something to read. Ctrl-C stops. */
struct restore_progress {
    const char *label;
    struct progress progress;
    bool begun;
};
bool restore_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
void restore_progress_end(struct restore_progress *r);

/* Zeroed is closed. */
struct prefix_cache {
    struct prefix_file *file; /* NULL: closed, or given up after an error that was told */
    struct session *session;
};

/* ERR_FILE: it is something else, or of another model: refused, untouched. ERR_RUN. */
bool prefix_cache_open(struct prefix_cache *p, const char *path, const struct loaded *m,
                       struct error *err);
void prefix_cache_close(struct prefix_cache *p);

/* For struct generate_options; ctx is the prefix_cache. */
bool prefix_cache_before(void *ctx, const struct tokens *prompt, struct error *err);
void prefix_cache_after(void *ctx);

#endif
