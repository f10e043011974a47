/* Pre-tokenizers: how each model family cuts a text into pieces before byte-pair merging.
 *
 * A pre-tokenizer is a short list of regular expressions, applied one after the other: each splits
 * every fragment left by the ones before into its matches and the gaps between them. What is left
 * after the last expression are the pieces. Expressions see one fragment only: "end of text" is the
 * end of the fragment.
 *
 * The expressions need PCRE2; presplit_none.c is the build without it, where the names and the
 * table are known but no text can be split. Thread-safe once open. */
#ifndef TANDEM_TEXT_PRESPLIT_H
#define TANDEM_TEXT_PRESPLIT_H

#include "src/base/error.h"
#include "src/base/util.h"

struct presplit;

/* The name of the list that `pre` (tokenizer.ggml.pre, aliases included) selects: "deepseek-llm",
 * "deepseek-coder", "deepseek-v3", "qwen2", "llama-bpe" or "kimi-k2". NULL when unknown. */
const char *presplit_name(struct str pre);

/* The name of the list that a tokenizer.json describes: its expressions in order, as written there.
 * Compared letter by letter, but for the spelling of characters; NULL when there is none. */
const char *presplit_match(const struct str *expressions, int n);

/* `name` as presplit_name returned it. presplit_close(NULL) is fine. */
bool presplit_open(struct presplit **out, const char *name, struct error *err);
void presplit_close(struct presplit *p);

/* Called for each piece in order, none empty; `text` lies inside the text given. */
typedef bool presplit_piece(void *ctx, struct str piece, struct error *err);

/* Split `text`: UTF-8 without surrogates or overlong forms (utf8_repair's subject). Every byte
 * lands in exactly one piece. Fails when `emit` does, without memory, or in a build without PCRE2. */
bool presplit_run(const struct presplit *p, struct str text, presplit_piece *emit, void *ctx,
                  struct error *err);

#endif
