/* Rows woven together: a second layout of quantized matrices, for kernels whose lanes are rows.
 *
 * Sixteen rows are one group, as long as the rows were: 16 * row_bytes, so group g begins where row
 * 16 g did. Block b of all its rows stands together, field by field of the block, each field cut
 * into units of 1, 2 or 4 bytes, unit u of row 0 .. 15 side by side:
 *
 *     group   block 0 of 16 rows | block 1 of 16 rows | ...
 *     block   field | field | ...          scales first, whatever their place in plain blocks is
 *     field   unit 0 of row 0 | unit 0 of row 1 | ... | unit 0 of row 15 | unit 1 of row 0 | ...
 *
 * Units are 4 bytes where elements are, 2 for f16 scales, 1 for packed scales: one load brings four
 * columns, or one scale, of sixteen rows. One field changes its bits too: qh of Q5_0 and Q5_1,
 * where bit u of byte k becomes the fifth bit of element 4 u + k.
 *
 * Who weaves: model_weave, in the copy of the weights. Who reads it: the kernels `woven` of
 * cpu/kernels.h; nothing else sees such a matrix. */
#ifndef TANDEM_FORMAT_WEAVE_H
#define TANDEM_FORMAT_WEAVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/format/tensor.h"

#define WEAVE_ROWS 16
#define WEAVE_MAX_COLS 32768 /* kernels keep the activations of a row on their stack */

/* Can rows of this type be woven? */
bool weave_known(enum tensor_type type);

/* Weave 16 rows of `cols` elements that lie one behind the other into `out`, or back again; the
 * ranges must not overlap. weave_known(type), cols a whole number of blocks. */
void weave_rows(enum tensor_type type, int64_t cols, const void *rows, void *out);
void unweave_rows(enum tensor_type type, int64_t cols, const void *woven, void *out);

#endif
