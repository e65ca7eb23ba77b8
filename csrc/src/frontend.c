/* frontend.c: frames, Hann window, FFT, mel bands, logarithm, rounding.
 *
 * A frame of n_fft real samples is taken as n_fft/2 complex ones (even samples
 * real, odd ones imaginary), so the FFT has half the length; a last pass
 * untangles the two. Its order is Stockham's: every pass reads one buffer and
 * writes the other in an order that leaves the result sorted, with no bit
 * reversal and with inner loops that compilers vectorize. */

#include "frontend.h"

#include <math.h>
#include <stddef.h>

#include "bytes.h"

void bifsmn_frontend_place(struct frontend *f, const struct model *m,
                           struct arena *arena)
{
    f->window = arena_take(arena, m->win_length, sizeof *f->window);
    f->cosine = arena_take(arena, m->n_fft, sizeof *f->cosine);
    f->first = arena_take(arena, m->mels + 2, sizeof *f->first);
    f->rise = arena_take(arena, m->n_fft / 2 + 1, sizeof *f->rise);
    f->buffer = arena_take(arena, 2 * m->n_fft, sizeof *f->buffer);
}

/* Every bin lies between two edges, so it feeds two bands: `rise` of its power
 * goes to the band that rises there, 1 - `rise` to the one that falls. */
static void fill_mels(struct frontend *f, const struct model *m)
{
    const uint8_t *edges = m->section[MELS].data;
    size_t bins = m->n_fft / 2 + 1, k = 0, i;

    for (i = 0; i < m->mels + 2; i++) {
        double above = load_f32(edges + 4 * i);
        double below = i ? load_f32(edges + 4 * (i - 1)) : 0;

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
    size_t i;

    f->floor = load_f32(m->section[FRNT].data);
    f->offset = load_f32(m->section[FRNT].data + 4);
    f->gain = load_f32(m->section[FRNT].data + 8);
    for (i = 0; i < m->win_length; i++) {
        double hann = 0.5 - 0.5 * cos(turn * (double)i / (double)m->win_length);
        f->window[i] = (float)(hann / 32768);
    }
    for (i = 0; i < m->n_fft; i++)
        f->cosine[i] = (float)cos(turn * (double)i / (double)m->n_fft);
    fill_mels(f, m);
}

/* One radix-4 pass: s interleaved transforms of length n become 4 s of n/4.
 * x and y hold `half` real parts, then `half` imaginary ones; the twiddles are
 * exp(-2 pi i p / n) and its square and cube. */
static void pass4(const float *cosine, size_t half, size_t n, size_t s,
                  const float *restrict x, float *restrict y)
{
    const size_t quarter = n / 4, n_fft = 2 * half;
    size_t p, q;

    for (p = 0; p < quarter; p++) {
        const float *xr = x + s * p, *xi = xr + half;
        float *yr = y + 4 * s * p, *yi = yr + half;
        const size_t step = s * quarter, turn = p * (n_fft / n);
        /* sin(a) = cos(a + 3/4 turn) */
        const float c1 = cosine[turn], c2 = cosine[2 * turn],
                    c3 = cosine[3 * turn];
        const float s1 = cosine[(turn + 3 * n_fft / 4) & (n_fft - 1)],
                    s2 = cosine[(2 * turn + 3 * n_fft / 4) & (n_fft - 1)],
                    s3 = cosine[(3 * turn + 3 * n_fft / 4) & (n_fft - 1)];

        for (q = 0; q < s; q++) {
            const float ar = xr[q], ai = xi[q];
            const float br = xr[q + step], bi = xi[q + step];
            const float cr = xr[q + 2 * step], ci = xi[q + 2 * step];
            const float dr = xr[q + 3 * step], di = xi[q + 3 * step];
            /* a + c, a - c, b + d, i (b - d) */
            const float er = ar + cr, ei = ai + ci;
            const float fr = ar - cr, fi = ai - ci;
            const float gr = br + dr, gi = bi + di;
            const float hr = di - bi, hi = br - dr;
            const float ur = fr - hr, ui = fi - hi;
            const float vr = er - gr, vi = ei - gi;
            const float wr = fr + hr, wi = fi + hi;

            yr[q] = er + gr;
            yi[q] = ei + gi;
            yr[q + s] = c1 * ur + s1 * ui;
            yi[q + s] = c1 * ui - s1 * ur;
            yr[q + 2 * s] = c2 * vr + s2 * vi;
            yi[q + 2 * s] = c2 * vi - s2 * vr;
            yr[q + 3 * s] = c3 * wr + s3 * wi;
            yi[q + 3 * s] = c3 * wi - s3 * wr;
        }
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
static float *fft(const float *cosine, size_t half, float *x, float *y,
                  float **spare)
{
    size_t n = half, s = 1;

    for (; n > 1; n /= 4, s *= 4) {
        if (n == 2)
            pass2(half, x, y);
        else
            pass4(cosine, half, n, s, x, y);
        *spare = x;
        x = y;
        y = *spare;
    }
    *spare = y;
    return x;
}

/* z [2][half], the FFT of even + i odd samples, to power [half + 1]. With E
 * and O the FFTs of the even and the odd samples, bin k of the whole is
 * E + exp(-2 pi i k / n_fft) O, and bin half - k the conjugate of E - ... */
static void power_spectrum(const float *cosine, size_t half,
                           const float *restrict z, float *restrict power)
{
    const float *zr = z, *zi = z + half;
    size_t k;

    power[0] = (zr[0] + zi[0]) * (zr[0] + zi[0]);
    power[half] = (zr[0] - zi[0]) * (zr[0] - zi[0]);
    for (k = 1; k <= half / 2; k++) {
        const float c = cosine[k], s = cosine[half / 2 - k];
        const float er = 0.5f * (zr[k] + zr[half - k]);
        const float ei = 0.5f * (zi[k] - zi[half - k]);
        const float pr = 0.5f * (zi[k] + zi[half - k]);
        const float pi = 0.5f * (zr[half - k] - zr[k]);
        const float tr = c * pr + s * pi, ti = c * pi - s * pr;

        power[k] = (er + tr) * (er + tr) + (ei + ti) * (ei + ti);
        power[half - k] = (er - tr) * (er - tr) + (ei - ti) * (ei - ti);
    }
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

void bifsmn_frontend_run(const struct frontend *f, const struct model *m,
                         const int16_t *pcm, int8_t *features)
{
    const size_t half = m->n_fft / 2;
    const ptrdiff_t samples = (ptrdiff_t)m->samples;
    const ptrdiff_t span =
        (ptrdiff_t)(m->win_length + (m->frames - 1) * m->hop_length);
    size_t t;

    for (t = 0; t < m->frames; t++) {
        float *x = f->buffer, *y = f->buffer + m->n_fft, *spare, *spectrum;
        const ptrdiff_t start = (ptrdiff_t)(t * m->hop_length) + samples - span;
        size_t i = 0;

        /* Zeros before the first sample and up to n_fft. */
        for (; i < m->win_length && start + (ptrdiff_t)i < 0; i++)
            y[i] = 0;
        for (; i < m->win_length; i++)
            y[i] = f->window[i] * (float)pcm[start + (ptrdiff_t)i];
        for (; i < m->n_fft; i++)
            y[i] = 0;
        for (i = 0; i < half; i++) {
            x[i] = y[2 * i];
            x[half + i] = y[2 * i + 1];
        }

        spectrum = fft(f->cosine, half, x, y, &spare);
        power_spectrum(f->cosine, half, spectrum, spare);
        mel_bands(f, m->mels, spare, features + t * m->mels);
    }
}
