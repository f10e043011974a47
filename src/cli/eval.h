/* Parts of tandem eval. */
#ifndef TANDEM_CLI_EVAL_H
#define TANDEM_CLI_EVAL_H

#include "src/cli/load.h"

/* Logits of given token ids to a file. */
bool eval_logits(const struct options *o, const char *path, struct error *err);

/* Perplexity of a text file; with --kl-base also a file of what the model expects (kl_file.h). */
bool eval_perplexity(const struct options *o, const char *path, struct error *err);

/* How far the model is from the one that wrote such a file. */
bool eval_kl(const struct options *o, const char *path, struct error *err);

/* Questions with answers that can be checked. */
bool eval_tasks(const struct options *o, const char *path, struct error *err);

/* How an answer is compared; false for a word that is none of these.
 *   exact        the trimmed answers are equal
 *   last_number  the last number in the answer equals the wanted one
 *   contains     the answer contains the wanted text
 *   no_think     nothing but white space was thought */
enum match { MATCH_EXACT, MATCH_LAST_NUMBER, MATCH_CONTAINS, MATCH_NO_THINK };
bool match_find(struct str name, enum match *match);
bool match_answer(enum match match, struct str wanted, struct str answer, struct str thinking);

/* Wilson's interval for `right` of `n` at 95 %. */
void wilson(int64_t right, int64_t n, double *low, double *high);

#endif
