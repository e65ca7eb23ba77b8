"""docs/format.md once more, in plain numpy: slow, obvious, nothing packed.

Bits are the numbers +1 and -1 here, sums are integers, and every line of float
arithmetic is one float32 operation.
"""

import numpy as np


def features(model, pcm):
    """Front end in float64, before rounding: [frames, mels] in steps."""
    c = model.config
    floor, offset, gain = np.float64(model.arrays["FRNT"])
    edges = np.float64(model.arrays["MELS"])
    hertz = np.arange(c.n_fft // 2 + 1) * c.sample_rate / c.n_fft
    n = np.arange(c.win_length)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / c.win_length)
    out = np.zeros((c.frames, c.n_mels))
    for f in range(c.frames):
        frame = np.zeros(c.win_length)
        for i in range(c.win_length):
            at = f * c.hop_length - c.front_padding + i
            if at >= 0:
                frame[i] = pcm[at] / 32768
        power = np.abs(np.fft.rfft(frame * window, c.n_fft)) ** 2
        for m in range(c.n_mels):
            low, peak, high = edges[m : m + 3]
            rising = (hertz - low) / (peak - low)
            falling = (high - hertz) / (high - peak)
            weight = np.maximum(0, np.minimum(rising, falling))
            energy = max((power * weight).sum(), floor)
            out[f, m] = (10 * np.log10(energy) + offset) * gain
    return out


def trace(model, features, depth):
    """Network, stage by stage, as ``NativeEngine.trace``."""
    c, a = model.config, model.arrays
    half = (c.kernel - 1) // 2
    stages = {}

    def pad_and_cut(x, fill):
        """[frames, mels, ...] to [T, M, kernel, kernel, ...]."""
        frames, mels = (c.after_stride(n, 1) for n in x.shape[:2])
        shape = frames, mels, c.kernel, c.kernel, *x.shape[2:]
        out = np.full(shape, fill, np.int64)
        for t in range(frames):
            for m in range(mels):
                for i in range(c.kernel):
                    for j in range(c.kernel):
                        frame = t * c.stride + i - half
                        mel = m * c.stride + j - half
                        if 0 <= frame < x.shape[0] and 0 <= mel < x.shape[1]:
                            out[t, m, i, j] = x[frame, mel]
        return out.reshape(frames, mels, -1)

    def gains(layer):
        return np.int64(a["GAIN"][layer]) if c.planes > 1 else np.ones(1, int)

    def planes_of(reached):
        """Bits of one threshold, or of three, to planes of +1 and -1."""
        if len(reached) == 1:
            return [pm1(reached[0])]
        return [pm1(reached[1]), pm1(reached[0] ^ reached[1] ^ reached[2])]

    def bits(sums, most, thresholds, direction):
        """Binary sums to planes of +1 and -1."""
        differing = (most - sums) // 2
        return planes_of(
            [(differing < np.int64(t)) ^ direction for t in thresholds]
        )

    def stream_bits(stream, tag, depth, k):
        if not c.thresholds:
            return [pm1(stream >= 0)]
        cuts = a[tag][model.set_of("thresholds", depth, k)]
        return planes_of([stream >= np.float32(cut) for cut in cuts])

    def kept(planes):
        return planes[0] > 0 if len(planes) == 1 else np.stack(planes) > 0

    def reals(sums, affine, slope):
        scale, bias = np.float32(affine)
        z = sums.astype(np.float32) * scale
        z = z + bias
        return np.where(z >= 0, z, z * np.float32(slope))

    # First convolution: integers.
    patches = pad_and_cut(np.int64(features), 0)
    weights = np.int64(a["C1.W"]).reshape(c.conv1_channels, -1)
    sums = patches @ weights.T
    x = planes_of([(sums >= np.int64(t)) ^ a["C1.D"][0] for t in a["C1.T"]])
    stages["conv1"] = kept(x)

    # Second convolution: +1 outside.
    patches = [pad_and_cut(plane, 1) for plane in x]
    inputs = patches[0].shape[-1]
    sums = sum(
        g * (p @ pm1(a["C2.W"]).T)
        for g, p in zip(gains(0), patches, strict=True)
    )
    x = bits(sums, inputs * gains(0).sum(), a["C2.T"], a["C2.D"][0])
    stages["conv2"] = kept(x)

    sums = sum(
        g * (p.reshape(c.frames_out, -1) @ pm1(a["FC.W"]).T)
        for g, p in zip(gains(1), x, strict=True)
    )
    stream = 0 + reals(sums, a["FC.A"], a["FC.S"][0])
    stages["fc"] = stream

    for k, layer in enumerate(model.layers_of(depth)):
        # Memory: tap j of layer l is row l * taps + j.
        x = stream_bits(stream, "ME.X", depth, k)
        taps = pm1(a["ME.W"]).reshape(c.layers, c.taps, c.channels)[layer]
        sums = np.zeros_like(x[0])
        for g, plane in zip(gains(2 + 3 * layer), x, strict=True):
            for t in range(c.frames_out):
                for j in range(c.taps):
                    frame = t + (j - c.left) * c.dilation
                    inside = 0 <= frame < c.frames_out
                    sums[t] += g * taps[j] * (plane[frame] if inside else 1)
        s = model.set_of("memory", depth, k)
        stream = stream + reals(sums, a["ME.A"][s], a["ME.S"][s])
        stages[f"memory.{k}"] = stream

        # Pointwise layers.
        rows = slice(layer * c.expansion, (layer + 1) * c.expansion)
        s = model.set_of("pointwise1", depth, k)
        g = gains(3 + 3 * layer)
        sums = sum(
            gain * (plane @ pm1(a["P1.W"][rows]).T)
            for gain, plane in zip(
                g, stream_bits(stream, "P1.X", depth, k), strict=True
            )
        )
        x = bits(sums, c.channels * g.sum(), a["P1.T"][s], a["P1.D"][s])
        stages[f"pointwise1.{k}"] = kept(x)

        rows = slice(layer * c.channels, (layer + 1) * c.channels)
        s = model.set_of("pointwise2", depth, k)
        sums = sum(
            gain * (plane @ pm1(a["P2.W"][rows]).T)
            for gain, plane in zip(gains(4 + 3 * layer), x, strict=True)
        )
        stream = stream + reals(sums, a["P2.A"][s], a["P2.S"][s])
        stages[f"pointwise2.{k}"] = stream

    scale, bias = np.float64(a["HD.A"])
    if c.rprelu:
        bias = np.float64(a["HD.B"][model.depths.index(depth)])
    sums = np.float64(a["HD.W"]) @ np.float64(stream.reshape(-1))
    stages["scores"] = (scale * sums + bias).astype(np.float32)
    return stages


def pm1(bits):
    """True and False to +1 and -1."""
    return np.where(bits, 1, -1)
