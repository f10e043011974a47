/* What this CPU can do, as one bitmask, plus the user's cap (--cpu-isa). */
#ifndef TANDEM_CPU_FEATURES_H
#define TANDEM_CPU_FEATURES_H

#include <stdbool.h>

enum isa {
    ISA_REF = 0,           /* plain C only */
    ISA_AVX2 = 1 << 0,     /* AVX2, FMA, F16C */
    ISA_AVXVNNI = 1 << 6,  /* VNNI on vectors of 256 bits, without AVX-512 */
    ISA_AVX512 = 1 << 1,   /* F, BW, DQ, VL and VNNI together */
    ISA_AVX512_BF16 = 1 << 2,
    ISA_VBMI = 1 << 5,     /* AVX-512 with VBMI and GFNI: look-ups and bit matrices of bytes */
    ISA_AMX = 1 << 3,      /* AMX-TILE, AMX-INT8 and AMX-BF16, usable by this process */
    ISA_NEON = 1 << 4,     /* with dot product and F16 arithmetic (ARMv8.2) */
};

/* Detected once (cpuid and what the operating system saves); cheap afterwards. */
unsigned cpu_isa(void);

/* From now on cpu_isa shows no more than `mask`: how a whole test run is held to a weaker machine. */
void cpu_isa_limit(unsigned mask);

/* The bits allowed by a cap "ref", "avx2", "avxvnni", "avx512", "amx", "neon"; false for any other
 * name. A cap includes the weaker sets. */
bool cpu_isa_cap(const char *name, unsigned *mask);

/* "avx512" for the strongest bit of a mask, "ref" for none. */
const char *cpu_isa_name(unsigned mask);

#endif
