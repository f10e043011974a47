/* Vocabularies as tiktoken keeps them (Kimi-K2): lines of
 *
 *     base64 of the token's bytes | space | rank
 *
 * in tiktoken.model, where the rank is the id and also says which of two possible merges comes
 * first. There is no list of merges: the one that makes a token is the last step of encoding the
 * token's own bytes with all tokens of lower rank. The pre-tokenizer stands in a Python file.
 * Source: openai/tiktoken, tiktoken/load.py and tiktoken/_educational.py. */
#ifndef TANDEM_TOOLS_HF_TIKTOKEN_H
#define TANDEM_TOOLS_HF_TIKTOKEN_H

#include "src/base/arena.h"
#include "src/base/util.h"

struct tiktoken {
    struct str *tokens; /* [n_tokens] by rank, in the byte alphabet of BPE vocabularies; NULL data:
                           no token has this rank */
    int64_t n_tokens;   /* highest rank + 1 */
    struct str *merges; /* [n_merges] "left right" */
    size_t n_merges;
};

/* Read `text`; everything lives in the arena. At most `limit` ranks. ERR_FILE naming the line. */
bool tiktoken_read(struct tiktoken *t, struct str text, int64_t limit, struct arena *arena,
                   struct error *err);

/* The name of the pre-tokenizer whose expression `python` (tokenization_kimi.py) assigns to
 * pat_str; NULL: none that this program has. */
const char *tiktoken_pre(struct str python);

#endif
