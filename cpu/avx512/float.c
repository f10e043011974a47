/* Kernels on floats, sixteen at a time. */
#include <math.h>

#include "cpu/avx512/table.h"
#include "cpu/avx512/vec.h"

#include "cpu/avx2/float_kernels.h"
#include "cpu/avx2/float_tiles.h"
