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

    def bits(sums, inputs, threshold, direction):
        """Binary sums to +1 and -1."""
        differing = (inputs - sums) // 2
        return pm1((differing < np.int64(threshold)) ^ direction)

    def reals(sums, affine, slope):
        scale, bias = np.float32(affine)
        z = sums.astype(np.float32) * scale
        z = z + bias
        return np.where(z >= 0, z, z * np.float32(slope))

    # First convolution: integers.
    patches = pad_and_cut(np.int64(features), 0)
    weights = np.int64(a["C1.W"]).reshape(c.conv1_channels, -1)
    sums = patches @ weights.T
    x = pm1((sums >= np.int64(a["C1.T"][0])) ^ a["C1.D"][0])
    stages["conv1"] = x > 0

    # Second convolution: +1 outside.
    patches = pad_and_cut(x, 1)
    sums = patches @ pm1(a["C2.W"]).T
    x = bits(sums, patches.shape[-1], a["C2.T"][0], a["C2.D"][0])
    stages["conv2"] = x > 0

    x = x.reshape(c.frames_out, -1)
    stream = 0 + reals(x @ pm1(a["FC.W"]).T, a["FC.A"], a["FC.S"][0])
    stages["fc"] = stream

    for k, layer in enumerate(model.layers_of(depth)):
        # Memory: tap j of layer l is row l * taps + j.
        x = pm1(stream >= 0)
        taps = pm1(a["ME.W"]).reshape(c.layers, c.taps, c.channels)[layer]
        sums = np.zeros_like(x)
        for t in range(c.frames_out):
            for j in range(c.taps):
                frame = t + (j - c.left) * c.dilation
                inside = 0 <= frame < c.frames_out
                sums[t] += taps[j] * (x[frame] if inside else 1)
        s = model.set_of("memory", depth, k)
        stream = stream + reals(sums, a["ME.A"][s], a["ME.S"][s])
        stages[f"memory.{k}"] = stream

        # Pointwise layers.
        rows = slice(layer * c.expansion, (layer + 1) * c.expansion)
        s = model.set_of("pointwise1", depth, k)
        sums = pm1(stream >= 0) @ pm1(a["P1.W"][rows]).T
        x = bits(sums, c.channels, a["P1.T"][s][0], a["P1.D"][s])
        stages[f"pointwise1.{k}"] = x > 0

        rows = slice(layer * c.channels, (layer + 1) * c.channels)
        s = model.set_of("pointwise2", depth, k)
        sums = x @ pm1(a["P2.W"][rows]).T
        stream = stream + reals(sums, a["P2.A"][s], a["P2.S"][s])
        stages[f"pointwise2.{k}"] = stream

    scale, bias = np.float64(a["HD.A"])
    sums = np.float64(a["HD.W"]) @ np.float64(stream.reshape(-1))
    stages["scores"] = (scale * sums + bias).astype(np.float32)
    return stages


def pm1(bits):
    """True and False to +1 and -1."""
    return np.where(bits, 1, -1)
