/* Parts of tandem inspect. */
#ifndef TANDEM_CLI_INSPECT_H
#define TANDEM_CLI_INSPECT_H

#include <regex.h>

#include "src/cli/json.h"
#include "src/cli/options.h"
#include "src/model/model.h"

/* Everything a header holds as one JSON object: files, architecture, hyper-parameters (of `m`, when
 * it is a model known here), metadata (long arrays by type and count), what it is made of by type,
 * tokenizer and chat format, tensors (those that `pattern` matches; NULL: all) with type, shape,
 * offset. */
bool inspect_json(const struct gguf *g, const struct model *m, const regex_t *pattern,
                  struct error *err);

/* How the bytes of a file are spread over types, indexed by enum tensor_type. */
struct type_share {
    uint64_t n, bytes;
};
void inspect_types(const struct gguf *g, struct type_share of[N_TENSOR_TYPES]);

/* Read every tensor (--verify, --hash): is each block and value finite, what are the extremes, what
 * is its CRC-32C. ERR_CHECK when a tensor is damaged, after all of them have been told. */
bool inspect_verify(const struct options *o, const struct gguf *g, const char *path,
                    struct error *err);

/* What is different in the file of --diff. Equal files print nothing and return true; else ERR_RUN,
 * which is 1, as scripts know it from cmp and diff. */
bool inspect_diff(const struct options *o, const struct gguf *g, const char *path,
                  struct error *err);

/* Text of a file, made safe where it goes to a terminal. */
void inspect_add_shown(struct buf *out, const char *text, size_t len);
/* At most `limit` elements, and as many bytes of a string; 0: all. */
void inspect_add_value(struct buf *out, const struct gguf_kv *kv, uint64_t limit);

#endif
