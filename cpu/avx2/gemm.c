/* Matrix tiles, AVX2. */
#include "cpu/avx2/table.h"

#define ISA_NAME(name) name##_avx2
#define GEMM_ROWS gemm
#define VNNI 0
#include "cpu/avx2/tiles.h"
