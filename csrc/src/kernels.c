/* kernels.c: which kernels does this machine run? */

#include "kernels.h"

#if defined(BIFSMN_NEON) && defined(__linux__)
#include <sys/auxv.h>
#endif

#ifdef BIFSMN_X86
/* These ask the processor and the operating system, which must save the wide
 * registers. AVX-512 as from Ice Lake and Zen 4. */
static int runs_avx512(void)
{
    return __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vpopcntdq");
}

static int runs_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}
#endif

#ifdef BIFSMN_NEON
static int runs_neon_dot(void)
{
#if defined(__linux__)
    enum { DOT_PRODUCTS = 1 << 20 }; /* HWCAP_ASIMDDP */

    return (getauxval(AT_HWCAP) & DOT_PRODUCTS) != 0;
#elif defined(__ARM_FEATURE_DOTPROD)
    return 1;
#else
    return 0;
#endif
}
#endif

static int runs_always(void)
{
    return 1;
}

const struct bifsmn_kernels *bifsmn_kernels_at(size_t i)
{
    static const struct {
        const struct bifsmn_kernels *kernels;
        int (*runs)(void);
    } tables[] = {
#ifdef BIFSMN_X86
        {&bifsmn_kernels_avx512, runs_avx512},
        {&bifsmn_kernels_avx2, runs_avx2},
#endif
#ifdef BIFSMN_NEON
        {&bifsmn_kernels_neon_dot, runs_neon_dot},
        {&bifsmn_kernels_neon, runs_always},
#endif
        {&bifsmn_kernels_scalar, runs_always},
    };
    size_t t;

    for (t = 0; t < sizeof tables / sizeof tables[0]; t++)
        if (tables[t].runs() && i-- == 0)
            return tables[t].kernels;
    return NULL;
}
