"""PyTorch with the exported constants: what every kernel is tested against."""

import numpy as np
import torch
import torch.nn.functional as F

from speechbrain_bifsmn.kernels.engine import Engine


class TorchEngine(Engine):
    """Float convolutions and matrix products of ±1, exact in fp32."""

    def convolve(self, features, weights, stride):
        """Integer sums of the first convolution, [time, mel, channels]."""
        x = torch.from_numpy(features).float()[None, None]
        w = torch.from_numpy(weights).float()[:, None]
        side = weights.shape[1] // 2
        sums = F.conv2d(x, w, stride=stride, padding=side)
        return sums[0].permute(1, 2, 0).numpy()

    def differing(self, bits, weights):
        """Differing places of every row and output."""
        sums = F.linear(_signs(bits), _signs(weights))
        return ((weights.shape[1] - sums) / 2).int().numpy()

    def differing_depthwise(self, bits, weights):
        """Differing taps of every frame and channel."""
        c = self.model.config
        sides = [c.left * c.dilation, c.right * c.dilation]
        x = F.pad(_signs(bits).T[None], sides, value=1.0)
        w = _signs(weights).T[:, None]
        sums = F.conv1d(x, w, dilation=c.dilation, groups=len(w))
        return ((c.taps - sums[0].T) / 2).int().numpy()

    def real(self, d, inputs, affine, slope):
        """Real output, float32."""
        scale, bias = torch.from_numpy(affine.astype(np.float32))
        slope = torch.from_numpy(np.full_like(affine[0], slope, np.float32))
        z = (inputs - 2 * torch.from_numpy(d)) * scale + bias
        return torch.where(z >= 0, z, z * slope).numpy()


def _signs(bits):
    return torch.from_numpy(np.where(bits, 1, -1).astype(np.float32))
