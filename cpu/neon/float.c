/* Kernels on floats, two times four at a time. */
#include <math.h>

#include "cpu/neon/table.h"
#include "cpu/neon/vec.h"

#include "cpu/avx2/float_kernels.h"
