/* frontend.c: frames, Hann window, FFT, mel bands, logarithm, rounding.
 *
 * A frame of n_fft real samples is taken as n_fft/2 complex ones (even samples
 * real, odd ones imaginary), so the FFT has half the length; a last pass
 * untangles the two. Its order is Stockham's: every pass reads one buffer and
 * writes the other in an order that leaves the result sorted, with no bit
 * reversal and with inner loops that compilers vectorize. */

#include "rounding.h"

#include "frontend.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "bytes.h"

/* Before a loop that writes several parts of one array: they do not overlap,
 * which compilers cannot see, and the loop may be vectorized. */
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpass-failed" /* nor need it be */
#define VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define VECTORIZE _Pragma("GCC ivdep")
#else
#define VECTORIZE
#endif

void bifsmn_frontend_place(struct frontend *f, const struct model *m,
                           struct arena *arena)
{
    f->window = arena_take(arena, m->win_length, sizeof *f->window);
    f->cosine = arena_take(arena, m->n_fft / 2, sizeof *f->cosine);
    f->twiddle = arena_take(arena, 6 * (m->n_fft / 8), sizeof *f->twiddle);
    f->first = arena_take(arena, m->mels + 2, sizeof *f->first);
    f->rise = arena_take(arena, m->n_fft / 2 + 1, sizeof *f->rise);
}

/* Every bin lies between two edges, so it feeds two bands: `rise` of its power
 * goes to the band that rises there, 1 - `rise` to the one that falls. */
static void fill_mels(struct frontend *f, const struct model *m)
{
    const uint8_t *edges = m->section[MELS].data;
    size_t bins = m->n_fft / 2 + 1, k = 0, i;

    for (i = 0; i < m->mels + 2; i++) {
        double above = (double)load_f32(edges + 4 * i);
        double below = i ? (double)load_f32(edges + 4 * (i - 1)) : 0;

        for (; k < bins; k++) {
            double hz = (double)k * (double)m->sample_rate / (double)m->n_fft;
            if (hz >= above)
                break;
            f->rise[k] = (float)((hz - below) / (above - below));
        }
        f->first[i] = (uint32_t)k;
    }
}

void bifsmn_frontend_fill(struct frontend *f, const struct model *m)
{
    const double turn = 6.283185307179586;
    size_t i, j;

    f->floor = load_f32(m->section[FRNT].data);
    f->offset = load_f32(m->section[FRNT].data + 4);
    f->gain = load_f32(m->section[FRNT].data + 8);
    for (i = 0; i < m->win_length; i++) {
        double hann = 0.5 - 0.5 * cos(turn * (double)i / (double)m->win_length);
        f->window[i] = (float)(hann / 32768);
    }
    for (i = 0; i < m->n_fft / 2; i++)
        f->cosine[i] = (float)cos(turn * (double)i / (double)m->n_fft);
    for (i = 0; i < m->n_fft / 8; i++)
        for (j = 0; j < 3; j++) {
            const double angle =
                turn * (double)(i * (j + 1)) / (double)(m->n_fft / 2);

            f->twiddle[2 * j * (m->n_fft / 8) + i] = (float)cos(angle);
            f->twiddle[(2 * j + 1) * (m->n_fft / 8) + i] = (float)sin(angle);
        }
    fill_mels(f, m);
}

/* A radix-4 butterfly on x[0], x[step], x[2 step], x[3 step], the imaginary
 * parts `half` further, to y[0], y[s], y[2 s], y[3 s]; the last three turned by
 * the twiddles, cosines c and sines s of an angle, its double and triple. */
static inline void butterfly(size_t half, size_t step, size_t s,
                             const float *x, float *y, float c1, float s1,
                             float c2, float s2, float c3, float s3)
{
    const float ar = x[0], ai = x[half];
    const float br = x[step], bi = x[half + step];
    const float cr = x[2 * step], ci = x[half + 2 * step];
    const float dr = x[3 * step], di = x[half + 3 * step];
    /* a + c, a - c, b + d, i (b - d) */
    const float er = ar + cr, ei = ai + ci;
    const float fr = ar - cr, fi = ai - ci;
    const float gr = br + dr, gi = bi + di;
    const float hr = di - bi, hi = br - dr;
    const float ur = fr - hr, ui = fi - hi;
    const float vr = er - gr, vi = ei - gi;
    const float wr = fr + hr, wi = fi + hi;

    y[0] = er + gr;
    y[half] = ei + gi;
    y[s] = c1 * ur + s1 * ui;
    y[half + s] = c1 * ui - s1 * ur;
    y[2 * s] = c2 * vr + s2 * vi;
    y[half + 2 * s] = c2 * vi - s2 * vr;
    y[3 * s] = c3 * wr + s3 * wi;
    y[half + 3 * s] = c3 * wi - s3 * wr;
}

/* The first radix-4 pass: one transform of length `half` becomes four. Its
 * inner loop goes over the twiddles, [6][half / 4]. */
static void pass4_first(const float *restrict twiddle, size_t half,
                        const float *restrict x, float *restrict y)
{
    const size_t n = half / 4;
    const float *c1 = twiddle, *s1 = c1 + n, *c2 = s1 + n, *s2 = c2 + n;
    const float *c3 = s2 + n, *s3 = c3 + n;
    size_t p;

    VECTORIZE
    for (p = 0; p < n; p++)
        butterfly(half, n, 1, x + p, y + 4 * p, c1[p], s1[p], c2[p], s2[p],
                  c3[p], s3[p]);
}

/* A later one: s interleaved transforms become 4 s. x and y hold `half` real
 * parts, then `half` imaginary ones. */
static void pass4(const float *twiddle, size_t half, size_t s,
                  const float *restrict x, float *restrict y)
{
    const size_t n = half / 4;
    size_t p, q;

    for (p = 0; p < n; p += s) { /* every s-th twiddle */
        const float c1 = twiddle[p], s1 = twiddle[n + p];
        const float c2 = twiddle[2 * n + p], s2 = twiddle[3 * n + p];
        const float c3 = twiddle[4 * n + p], s3 = twiddle[5 * n + p];

        VECTORIZE
        for (q = 0; q < s; q++)
            butterfly(half, n, s, x + p + q, y + 4 * p + q, c1, s1, c2, s2, c3,
                      s3);
    }
}

/* The last pass, where the length is not a power of four. */
static void pass2(size_t half, const float *restrict x, float *restrict y)
{
    size_t part, q, s = half / 2;

    for (part = 0; part < 2; part++, x += half, y += half)
        for (q = 0; q < s; q++) {
            y[q] = x[q] + x[q + s];
            y[q + s] = x[q] - x[q + s];
        }
}

/* Complex FFT of x [2][half]; y is as large. Returns the one with the result,
 * and the other in *spare. */
static float *fft(const float *twiddle, size_t half, float *x, float *y,
                  float **spare)
{
    size_t n = half, s = 1;

    for (; n > 1; n /= 4, s *= 4) {
        if (n == 2)
            pass2(half, x, y);
        else if (s == 1)
            pass4_first(twiddle, half, x, y);
        else
            pass4(twiddle, half, s, x, y);
        *spare = x;
        x = y;
        y = *spare;
    }
    *spare = y;
    return x;
}

/* For power_spectrum: its bins k up to the middle to low[k], bins half - k to
 * high, which begins at the middle, so that compilers see two arrays. */
static void power_bins(const float *restrict cosine, size_t half,
                       const float *restrict z, float *restrict low,
                       float *restrict high)
{
    const float *zr = z, *zi = z + half;
    size_t k;

    for (k = 1; k < half / 2; k++) {
        const float c = cosine[k], s = cosine[half / 2 - k];
        const float er = 0.5f * (zr[k] + zr[half - k]);
        const float ei = 0.5f * (zi[k] - zi[half - k]);
        const float pr = 0.5f * (zi[k] + zi[half - k]);
        const float pi = 0.5f * (zr[half - k] - zr[k]);
        const float tr = c * pr + s * pi, ti = c * pi - s * pr;

        low[k] = (er + tr) * (er + tr) + (ei + ti) * (ei + ti);
        high[half / 2 - k] = (er - tr) * (er - tr) + (ei - ti) * (ei - ti);
    }
}

/* z [2][half], the FFT of even + i odd samples, to power [half + 1]. With E
 * and O the FFTs of the even and the odd samples, bin k of the whole is
 * E + exp(-2 pi i k / n_fft) O, and bin half - k the conjugate of E - ... */
static void power_spectrum(const float *cosine, size_t half, const float *z,
                           float *power)
{
    const float zr = z[0], zi = z[half], mr = z[half / 2],
                mi = z[half + half / 2];

    power[0] = (zr + zi) * (zr + zi);
    power[half / 2] = mr * mr + mi * mi;
    power[half] = (zr - zi) * (zr - zi);
    power_bins(cosine, half, z, power, power + half / 2);
}

static int8_t quantize(const struct frontend *f, float energy)
{
    float decibel = 10.0f * log10f(energy > f->floor ? energy : f->floor);
    float level = rintf((decibel + f->offset) * f->gain); /* ties to even */

    return (int8_t)(level < -128 ? -128 : level > 127 ? 127 : level);
}

/* power [n_fft/2 + 1] to features [M0]. */
static void mel_bands(const struct frontend *f, size_t mels,
                      const float *power, int8_t *features)
{
    float rising = 0; /* what band i - 1 got below its peak */
    size_t i, k;

    for (i = 0; i <= mels; i++) {
        float up = 0, down = 0;

        for (k = f->first[i]; k < f->first[i + 1]; k++) {
            up += f->rise[k] * power[k];
            down += (1.0f - f->rise[k]) * power[k];
        }
        if (i)
            features[i - 1] = quantize(f, rising + down);
        rising = up;
    }
}

/* pcm [n] times window [n]; a function for its restrict. */
static void apply_window(const float *restrict window,
                         const int16_t *restrict pcm, size_t n,
                         float *restrict y)
{
    size_t i;

    for (i = 0; i < n; i++)
        y[i] = window[i] * (float)pcm[i];
}

/* y [2 half] to x [2][half]: even values, then odd ones. */
static void deinterleave(const float *restrict y, size_t half,
                         float *restrict x)
{
    float *restrict odd = x + half;
    size_t i;

    VECTORIZE
    for (i = 0; i < half; i++) {
        x[i] = y[2 * i];
        odd[i] = y[2 * i + 1];
    }
}

/* The frame that begins at pcm[start] to features [M0]. */
static void frame(const struct frontend *f, const struct model *m,
                  const int16_t *pcm, ptrdiff_t start, int8_t *features)
{
    float *x = f->buffer, *y = f->buffer + m->n_fft, *spare, *spectrum;
    const size_t half = m->n_fft / 2;
    size_t i = 0;

    /* Zeros before the first sample and up to n_fft. */
    for (; i < m->win_length && start + (ptrdiff_t)i < 0; i++)
        y[i] = 0;
    if (i < m->win_length)
        apply_window(f->window + i, pcm + (start + (ptrdiff_t)i),
                     m->win_length - i, y + i);
    for (i = m->win_length; i < m->n_fft; i++)
        y[i] = 0;
    deinterleave(y, half, x);

    spectrum = fft(f->twiddle, half, x, y, &spare);
    power_spectrum(f->cosine, half, spectrum, spare);
    mel_bands(f, m->mels, spare, features);
}

void bifsmn_frontend_run(const struct frontend *f, const struct model *m,
                         const int16_t *pcm, size_t hops, int8_t *features)
{
    const ptrdiff_t hop = (ptrdiff_t)m->hop_length;
    const ptrdiff_t first = (ptrdiff_t)m->samples - (ptrdiff_t)m->win_length -
                            (ptrdiff_t)(m->frames - 1) * hop;
    const size_t old = hops < m->frames ? m->frames - hops : 0;
    size_t t;

    for (t = 0; t < m->frames; t++) {
        const ptrdiff_t start = first + (ptrdiff_t)t * hop;
        int8_t *row = features + t * m->mels;

        /* A frame that both windows hold whole. Those that begin before this
         * one are another here: zeros stand for what came before. */
        if (t < old && start >= 0)
            memmove(row, row + hops * m->mels, m->mels);
        else
            frame(f, m, pcm, start, row);
    }
}
