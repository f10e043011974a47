/* Rows of a checkpoint as floats: a source for transcode over the tensors of safetensors files.
 *
 * One tensor of the file may come from many of the checkpoint, one behind the other: experts are
 * stacked so. Stored forms:
 *
 *   F32, F16, BF16
 *   FP8      E4M3 codes, and a scale for every 128 x 128 of them:
 *            value[r][c] = e4m3(code[r][c]) * scale[r / 128][c / 128]
 *   FP4      two E2M1 codes to a byte (column 2j in the low half), and a scale 2^(e - 127) for every
 *            32 columns. That is MXFP4 with the codes of a block in another order, so it can be
 *            taken over bit for bit.
 *   I64, I32 tables of expert numbers, written as I32
 *
 * A code or product that is no number is ERR_FILE naming the tensor of the checkpoint, row and
 * column; what plain floats hold is checked by transcode.
 * Source of the FP8 and FP4 forms: deepseek-ai/DeepSeek-V3 README_WEIGHTS.md; OCP Microscaling
 * formats 1.0, section 5. */
#ifndef TANDEM_TOOLS_CONVERT_SOURCE_H
#define TANDEM_TOOLS_CONVERT_SOURCE_H

#include "tools/safetensors.h"
#include "tools/transcode.h"

#define FP8_BLOCK 128 /* rows and columns that share one scale */
#define FP4_BLOCK 32  /* columns that share one scale */

struct convert_source {
    const struct checkpoint *checkpoint;
    const struct st_tensor *const *tensors; /* [n] of equal shape, borrowed */
    const struct st_tensor *const *scales;  /* [n]; NULL entries: none */
    int64_t rows, cols;                     /* of one of them */
    bool beside;       /* two tensors, whose rows follow each other: cols is of one of them */
    int64_t head_rows; /* not 0: rows of a head go from split halves to interleaved pairs */
    int64_t limit;     /* integers: 0 .. limit - 1 */
};

/* Borrows *s. The tensors may have different types, but for integers. */
struct transcode_source convert_rows(const struct convert_source *s, size_t n);

/* Does this tensor hold FP4 codes? (Then its rows have half as many bytes as columns.) */
bool is_fp4(const struct st_tensor *t);

/* Call once before any rows are read. */
void convert_source_init(void);

#endif
