/* The vocabulary of a Hugging Face checkpoint: tokenizer.json (or, without it, tiktoken.model) and
 * its companions -> tokenizer.* keys.
 *
 * Byte-level BPE (DeepSeek V1 to V4, Qwen, Llama 3, Kimi), or SentencePiece spelled as BPE with byte
 * fallback (Llama 2). The pre-tokenizer of the first is recognised by its regular expressions,
 * compared with those this program implements: a near miss would give fluent but degraded text, so
 * nothing is guessed. Checked: every id has one text, every byte has a token,
 * the parts and the result of every merge are tokens, special ids lie inside the vocabulary. */
#ifndef TANDEM_TOOLS_HF_VOCAB_H
#define TANDEM_TOOLS_HF_VOCAB_H

#include "src/format/gguf_write.h"
#include "tools/safetensors.h"

/* Write them. `config` is config.json; n_vocab the rows of the embedding: ids without a token are
 * filled. `pre`: name of the pre-tokenizer to use instead of recognising it, or NULL. */
bool hf_vocab_write(const struct checkpoint *c, const struct json *config, int64_t n_vocab,
                    const char *pre, struct gguf_writer *w, struct error *err);

#endif
