/* rounding.h: one rounding for each operation.
 *
 * GCC fuses a product and a sum into one operation where the machine can,
 * unless -std=c99 or -ffp-contract=off forbid it; then a sum near a threshold
 * may fall to its other side. Included first by all that compute with floats. */

#ifndef BIFSMN_ROUNDING_H
#define BIFSMN_ROUNDING_H

#if defined(__FAST_MATH__)
#error "compile without -ffast-math: it changes the order of sums"
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#endif
