"""A model file, run stage by stage.

The network is written down once, here; a subclass supplies the arithmetic.
Every engine, and the C library, gives the same bits at every stage.
"""

import numpy as np

from speechbrain_bifsmn.kernels import frontend, numba_kernels
from speechbrain_bifsmn.model_file import Model, pack_bits


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

    def features_next(self, features, pcm, hops):
        """The same for a later window; here nothing is taken from another."""
        return self.features(pcm)

    def scores(self, features, depth):
        """int8 features to float32 logits, [classes]."""
        return self.trace(features, depth)["scores"]

    def scores_next(self, features, hops, depth):
        """The same for a later window; here nothing is kept of another."""
        return self.scores(features, depth)

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
            "scores" (float32, [classes]). Bits in two planes are [2, ...].

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
        # As of a binary layer, a bit is whether -S is below 1 - T.
        planes = _to_planes(-sums, 1 - a["C1.T"].astype(np.int64), a["C1.D"][0])
        out["conv1"] = _squeezed(planes)
        patches = [_patches(plane, c.kernel, c.stride) for plane in planes]
        time, mel, inputs = patches[0].shape
        rows = [patch.reshape(-1, inputs) for patch in patches]
        d = self.weighted(rows, a["C2.W"], 0)
        planes = _to_planes(d, a["C2.T"], a["C2.D"][0])
        planes = [plane.reshape(time, mel, -1) for plane in planes]
        out["conv2"] = _squeezed(planes)
        rows = [plane.reshape(time, -1) for plane in planes]
        d = self.weighted(rows, a["FC.W"], 1)
        total = a["FC.W"].shape[1] * self._gain(1)
        x = 0 + self.real(d, total, a["FC.A"], a["FC.S"][0])
        out["fc"] = x
        for k, layer in enumerate(m.layers_of(depth)):
            at = 2 + 3 * layer
            i = m.set_of("memory", depth, k)
            weights = a["ME.W"].reshape(c.layers, c.taps, -1)[layer]
            planes = self._stream_planes(x, "ME.X", depth, k)
            d = sum(
                int(gain) * self.differing_depthwise(plane, weights)
                for gain, plane in zip(self._gains(at), planes, strict=True)
            )
            total = c.taps * self._gain(at)
            x = x + self.real(d, total, a["ME.A"][i], a["ME.S"][i])
            out[f"memory.{k}"] = x

            i = m.set_of("pointwise1", depth, k)
            weights = a["P1.W"].reshape(c.layers, c.expansion, -1)[layer]
            planes = self._stream_planes(x, "P1.X", depth, k)
            d = self.weighted(planes, weights, at + 1)
            planes = _to_planes(d, a["P1.T"][i], a["P1.D"][i])
            out[f"pointwise1.{k}"] = _squeezed(planes)

            i = m.set_of("pointwise2", depth, k)
            weights = a["P2.W"].reshape(c.layers, c.channels, -1)[layer]
            d = self.weighted(planes, weights, at + 2)
            total = c.expansion * self._gain(at + 2)
            x = x + self.real(d, total, a["P2.A"][i], a["P2.S"][i])
            out[f"pointwise2.{k}"] = x
        scale, bias = a["HD.A"]
        if c.rprelu:
            bias = a["HD.B"][m.depths.index(depth)]
        sums = a["HD.W"].astype(np.float32) @ x.ravel()
        out["scores"] = sums * scale + bias
        return out

    def weighted(self, planes, weights, layer):
        """Differing places of every row and output, each plane by its gain."""
        return sum(
            int(gain) * self.differing(plane, weights)
            for gain, plane in zip(self._gains(layer), planes, strict=True)
        )

    def _gains(self, layer):
        """Of a layer's planes, in the order of GAIN."""
        if self.model.config.planes == 1:
            return (1,)
        return self.model.arrays["GAIN"][layer]

    def _gain(self, layer):
        """What one input counts for."""
        return int(sum(self._gains(layer)))

    def _stream_planes(self, x, tag, depth, k):
        """Bit planes of the stream."""
        m = self.model
        if not m.config.thresholds:
            return [x >= 0]
        cuts = m.arrays[tag][m.set_of("thresholds", depth, k)]
        return _planes([x >= cut.astype(np.float32) for cut in cuts])


def _planes(reached):
    """Bit planes from the thresholds, one or three, that were reached."""
    if len(reached) == 1:
        return reached
    low, middle, high = reached
    return [middle, low ^ middle ^ high]


def _to_planes(d, thresholds, direction):
    """Bit planes of weighted differences."""
    return _planes([(d < t.astype(np.int64)) ^ direction for t in thresholds])


def _squeezed(planes):
    """One plane as it is, two as [2, ...]."""
    return planes[0] if len(planes) == 1 else np.stack(planes)


class NumbaEngine(Engine):
    """XNOR and popcount in numba: the prototype, and the fallback."""

    kernels = "numba"
    workspace_bytes = None

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
        slope = np.full_like(scale, slope)
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
