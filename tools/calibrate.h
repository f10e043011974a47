/* tandem quantize --collect-imatrix -m MODEL -f TEXT -o FILE: run texts through a model and write
 * down how much each input column of its weights matters. */
#ifndef TANDEM_TOOLS_CALIBRATE_H
#define TANDEM_TOOLS_CALIBRATE_H

#include "src/cli/options.h"

/* The texts are cut into windows (-c, 512 tokens; --chunks: the first so many), each with BOS in
 * place of its first token where the model wants one. With --imatrix FILE what that one holds is
 * added.
 * Prints how well the experts are covered. */
bool calibrate(struct options *o, struct error *err);

#endif
