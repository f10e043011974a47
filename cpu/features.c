#include "cpu/features.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define UP_TO_AVX512 (ISA_AVX2 | ISA_AVXVNNI | ISA_AVX512 | ISA_AVX512_BF16 | ISA_VBMI)

/* The weaker sets that a cap lets through as well. */
static const struct {
    const char *name;
    unsigned mask, bit;
} caps[] = {
    { "ref", ISA_REF, ISA_REF },
    { "avx2", ISA_AVX2, ISA_AVX2 },
    { "avxvnni", ISA_AVX2 | ISA_AVXVNNI, ISA_AVXVNNI },
    { "avx512", UP_TO_AVX512, ISA_AVX512 },
    { "amx", UP_TO_AVX512 | ISA_AMX, ISA_AMX },
    { "neon", ISA_NEON, ISA_NEON },
};

#if defined(__x86_64__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define XCR0_YMM 0x06ull    /* SSE and AVX registers */
#define XCR0_ZMM 0xe6ull    /* and opmask, upper halves, ZMM16-31 */
#define XCR0_TILE 0x60000ull
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_TILEDATA 18

/* Which register sets the operating system saves on a task switch (needs OSXSAVE). */
static uint64_t saved_by_os(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Linux hands out the 8 KiB of tile registers only to processes that ask. */
static bool tiles_permitted(void)
{
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILEDATA) == 0;
}

static unsigned detect(void)
{
    uint32_t a, b, c, d, b7, c7, d7, a71;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return ISA_REF;
    bool fma = c & bit_FMA, f16c = c & bit_F16C;
    uint64_t saved = saved_by_os();
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return ISA_REF;
    if (!__get_cpuid_count(7, 1, &a71, &b, &c, &d))
        a71 = 0;

    unsigned isa = ISA_REF;
    if ((saved & XCR0_YMM) != XCR0_YMM || !(b7 & bit_AVX2) || !fma || !f16c)
        return isa;
    isa |= ISA_AVX2;
    if (a71 & bit_AVXVNNI)
        isa |= ISA_AVXVNNI;
    uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((saved & XCR0_ZMM) != XCR0_ZMM || (b7 & avx512) != avx512 || !(c7 & bit_AVX512VNNI))
        return isa;
    isa |= ISA_AVX512;
    if (a71 & bit_AVX512BF16)
        isa |= ISA_AVX512_BF16;
    if ((c7 & bit_AVX512VBMI) && (c7 & bit_GFNI))
        isa |= ISA_VBMI;
    uint32_t amx = 1u << 22 | 1u << 24 | 1u << 25; /* AMX-BF16, AMX-TILE, AMX-INT8 */
    bool tiles = (d7 & amx) == amx;
    if (tiles && (saved & XCR0_TILE) == XCR0_TILE && tiles_permitted())
        isa |= ISA_AMX;
    return isa;
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

/* Bits of the Linux kernel's asm/hwcap.h, which spells them HWCAP_ASIMDHP and HWCAP_ASIMDDP. */
#define HWCAP_VECTOR_F16 (1ul << 10)
#define HWCAP_DOT_PRODUCT (1ul << 20)

static unsigned detect(void)
{
    unsigned long wanted = HWCAP_VECTOR_F16 | HWCAP_DOT_PRODUCT;
    return (getauxval(AT_HWCAP) & wanted) == wanted ? ISA_NEON : ISA_REF;
}

#else

static unsigned detect(void)
{
    return ISA_REF;
}

#endif

static atomic_uint limit = ~0u;

void cpu_isa_limit(unsigned mask)
{
    atomic_store(&limit, mask);
}

unsigned cpu_isa(void)
{
    /* Two threads may both detect: they find the same. */
    static atomic_uint found;
    static atomic_bool known;
    if (!atomic_load(&known)) {
        atomic_store(&found, detect());
        atomic_store(&known, true);
    }
    return atomic_load(&found) & atomic_load(&limit);
}

bool cpu_isa_cap(const char *name, unsigned *mask)
{
    for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++) {
        if (strcmp(name, caps[i].name) == 0) {
            *mask = caps[i].mask;
            return true;
        }
    }
    return false;
}

const char *cpu_isa_name(unsigned mask)
{
    const char *name = caps[0].name;
    for (size_t i = 1; i < sizeof caps / sizeof caps[0]; i++) {
        if (mask & caps[i].bit)
            name = caps[i].name;
    }
    return name;
}
