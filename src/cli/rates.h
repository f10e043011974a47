/* The rates that a plan is made with: those of this machine, or of another one. */
#ifndef TANDEM_CLI_RATES_H
#define TANDEM_CLI_RATES_H

#include "src/base/energy.h"
#include "src/cli/options.h"
#include "src/engine/engine.h"
#include "src/model/rates.h"

/* What this machine and its card have free, and their rates: from the machine's profile, else measured
 * (about a second, once). measure false: from the profile or not at all. Without a usable card
 * r->vram_bytes is 0; --vram then stands for one. ERR_FIT, ERR_INTERRUPTED. */
bool rates_here(struct rates *r, const struct options *o, bool measure, struct error *err);

/* After an answer by the CPU alone: is the machine's profile too low? Decoding of `steps_per_s` steps, so
 * many positions in the cache, is compared with the best that the profile allows. Models that fit into
 * the caches say nothing. The profile is then doubted, and measured again when it is needed next. */
void rates_check(const struct engine *e, double steps_per_s, int64_t depth);

/* The judgement: faster than a forecast from these rates by more than a tenth, and too large a model for
 * `cache_bytes`. */
bool rates_too_low(const struct rates *r, const struct model *m, const struct placement *p,
                   double cache_bytes, double steps_per_s, int64_t depth);

/* Keep in the profile of this machine what its energy counters said while decoding, and what they say
 * now that nothing happens. with_gpu: the card computed, and its power is part. When something that
 * took power was not counted, or without a profile: nothing. */
void rates_keep_watts(const struct energy *meter, bool with_gpu, double busy_w);

/* "ram=512G,bw=460": replace what the machine has. A memory bandwidth that is stated replaces the
 * rates measured here: kernels are taken to keep up with it, scaled by `cores` where that is given.
 * ERR_USAGE names the word that is wrong. */
bool rates_what_if(struct rates *r, const char *text, struct error *err);

#endif
