/* Kernels on floats, eight at a time. */
#include <math.h>

#include "cpu/avx2/table.h"
#include "cpu/avx2/vec.h"

#include "cpu/avx2/float_kernels.h"
#include "cpu/avx2/float_tiles.h"
