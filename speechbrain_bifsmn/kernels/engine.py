"""A model file, run stage by stage.

The network is written down once, here; a subclass supplies the arithmetic.
Every engine, and the C library, gives the same bits at every stage.
"""

import numpy as np

from speechbrain_bifsmn.export.file import Model, pack_bits
from speechbrain_bifsmn.kernels import frontend, numba_kernels


class Engine:
    """Runs a model file; the base of the Python engines.

    Arguments
    ---------
    data : bytes
        A whole model file.
    """

    def __init__(self, data):
        self.model = Model.from_bytes(data)

    def features(self, pcm):
        """int16 PCM of one decision to int8 [frames, n_mels]."""
        return frontend.features(self.model, pcm)

    def scores(self, features, depth):
        """int8 features to float32 logits, [classes]."""
        return self.trace(features, depth)["scores"]

    def scores_pcm(self, pcm, depth):
        """int16 PCM of one decision to float32 logits, [classes]."""
        return self.scores(self.features(pcm), depth)

    def trace(self, features, depth):
        """Run and keep what every stage gives.

        Arguments
        ---------
        features : np.ndarray of int8, [frames, n_mels]
            Log-mel steps.
        depth : int
            One of the file's depths.

        Returns
        -------
        dict of str to np.ndarray
            "conv1", "conv2" (bits, [time, mel, channel]), "fc" (float32,
            [frames', channels]); for the k-th executed layer "memory.k"
            (float32), "pointwise1.k" (bits) and "pointwise2.k" (float32);
            "scores" (float32, [classes]).

        Raises
        ------
        ValueError
            If the file has no such depth or the features another shape.
        """
        m, c = self.model, self.model.config
        a = m.arrays
        if depth not in m.depths:
            raise ValueError(
                f"no depth {depth}: this model runs at depth "
                + ", ".join(map(str, m.depths))
            )
        features = np.asarray(features)
        if features.shape != (c.frames, c.n_mels) or features.dtype != np.int8:
            raise ValueError(
                f"expected int8 features [{c.frames}, {c.n_mels}], got "
                f"{features.dtype} {list(features.shape)}"
            )
        out = {}
        sums = self.convolve(features, a["C1.W"], c.stride)
        bits = (sums >= a["C1.T"]) != a["C1.D"][0]
        out["conv1"] = bits
        patches = _patches(bits, c.kernel, c.stride)
        time, mel, inputs = patches.shape
        d = self.differing(patches.reshape(-1, inputs), a["C2.W"])
        bits = (d < a["C2.T"].astype(np.int32)) != a["C2.D"][0]
        out["conv2"] = bits.reshape(time, mel, -1)
        d = self.differing(bits.reshape(time, -1), a["FC.W"])
        x = 0 + self.real(d, a["FC.W"].shape[1], a["FC.A"], a["FC.S"][0])
        out["fc"] = x
        for k, layer in enumerate(m.layers_of(depth)):
            i = m.set_of("memory", depth, k)
            weights = a["ME.W"].reshape(c.layers, c.taps, -1)[layer]
            d = self.differing_depthwise(x >= 0, weights)
            x = x + self.real(d, c.taps, a["ME.A"][i], a["ME.S"][i])
            out[f"memory.{k}"] = x

            i = m.set_of("pointwise1", depth, k)
            weights = a["P1.W"].reshape(c.layers, c.expansion, -1)[layer]
            d = self.differing(x >= 0, weights)
            bits = (d < a["P1.T"][i].astype(np.int32)) != a["P1.D"][i]
            out[f"pointwise1.{k}"] = bits

            i = m.set_of("pointwise2", depth, k)
            weights = a["P2.W"].reshape(c.layers, c.channels, -1)[layer]
            d = self.differing(bits, weights)
            x = x + self.real(d, c.expansion, a["P2.A"][i], a["P2.S"][i])
            out[f"pointwise2.{k}"] = x
        scale, bias = a["HD.A"]
        sums = a["HD.W"].astype(np.float32) @ x.ravel()
        out["scores"] = sums * scale + bias
        return out


class NumbaEngine(Engine):
    """XNOR and popcount in numba: the prototype, and the fallback."""

    kernels = "numba"

    def convolve(self, features, weights, stride):
        """Integer sums of the first convolution, [time, mel, channels]."""
        kernel = weights.shape[1]
        patches = _patches(features[..., None], kernel, stride, outside=0)
        flat = weights.reshape(len(weights), -1).astype(np.int32)
        return patches.astype(np.int32) @ flat.T

    def differing(self, bits, weights):
        """Differing places of every row and output, int32."""
        return numba_kernels.differing(pack_bits(bits), pack_bits(weights))

    def differing_depthwise(self, bits, weights):
        """Differing taps of every frame and channel, int32."""
        c = self.model.config
        return numba_kernels.differing_depthwise(
            bits, weights, c.left, c.dilation
        )

    def real(self, d, inputs, affine, slope):
        """Real output, float32."""
        scale, bias = affine.astype(np.float32)
        return numba_kernels.to_real(d, inputs, scale, bias, slope)


def _patches(x, kernel, stride, outside=1):
    """[time, mel, channels] to rows [time', mel', kernel² · channels]."""
    side = kernel // 2
    padded = np.pad(
        x, [(side, side), (side, side), (0, 0)], constant_values=outside
    )
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (kernel, kernel), axis=(0, 1)
    )[::stride, ::stride]
    windows = windows.transpose(0, 1, 3, 4, 2)
    return windows.reshape(*windows.shape[:2], -1)
