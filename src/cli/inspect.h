/* Parts of tandem inspect. */
#ifndef TANDEM_CLI_INSPECT_H
#define TANDEM_CLI_INSPECT_H

#include "src/cli/json.h"
#include "src/model/model.h"

/* Everything a header holds as one JSON object: files, architecture, hyper-parameters (of `m`, when
 * it is a model known here), metadata (long arrays by type and count), tensors with type, shape,
 * offset. */
bool inspect_json(const struct gguf *g, const struct model *m, struct error *err);

#endif
