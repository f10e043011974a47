/* Matrix tiles, VNNI on vectors of 256 bits. */
#include "cpu/avxvnni/table.h"

#define ISA_NAME(name) name##_avxvnni
#define GEMM_ROWS gemm
#define VNNI 1
#include "cpu/avx2/tiles.h"
