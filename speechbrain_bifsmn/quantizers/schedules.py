"""Surrogate gradients of sign that sharpen as training goes on."""

import math

import torch
from torch import nn

from speechbrain_bifsmn.quantizers.base import surrogate_sign


class EDE:
    """Error decay estimator: the gradient of k·tanh(t·x).

    t = T_min · 10^(progress · log10(T_max / T_min)), k = max(1/t, 1), with
    T_min = 0.1 and T_max = 10. Source: Qin et al., "Forward and Backward
    Information Retention for Accurate Binary Neural Networks" (IR-Net), CVPR
    2020, eq. 12 to 14.

    Example
    -------
    >>> ede = EDE()
    >>> ede.set_progress(0.5)
    >>> ede.t, ede.k
    (1.0, 1.0)
    """

    def __init__(self):
        self.set_progress(0.0)

    def set_progress(self, fraction):
        """How much of training is over, 0 to 1."""
        self.t = 0.1 * 100**fraction
        self.k = max(1 / self.t, 1.0)

    def __call__(self, x):
        """sign(x)."""
        return surrogate_sign(x, self.gradient)

    def gradient(self, grad, x):
        """grad · k·t·(1 - tanh²(t·x))."""
        return grad * (self.k * self.t * (1 - torch.tanh(self.t * x) ** 2))


class FourierSign(nn.Module):
    """Frequency domain approximation (FDA) of sign's gradient.

    The gradient is that of the Fourier series of a square wave, cut after n
    terms, 4ω/π · Σ_{i=0…n} cos((2i + 1)·ω·x), n growing from 9 to 18, and of
    α times a noise adaptation module ReLU(x·W1)·W2 + 0.1·sin(x), which learns
    what the cut leaves out; α falls from 1 to 0. Only gradients pass through
    that module. Source: Xu et al., "Learning Frequency Domain Approximation
    for Binary Neural Networks", NeurIPS 2021, eq. 10, 13 and 14, setting 3.
    The paper does not give ω nor the first α: ω = 0.1 as in public code.

    Arguments
    ---------
    size : int
        Length of the vectors that the module maps, the last axis.

    Example
    -------
    >>> FourierSign(3)(torch.tensor([[-2.0, 0.0, 0.5]])).detach()
    tensor([[-1.,  1.,  1.]])
    """

    omega = 0.1

    def __init__(self, size):
        super().__init__()
        hidden = max(1, size // 64)
        self.down = nn.Linear(size, hidden, bias=False)
        self.up = nn.Linear(hidden, size, bias=False)
        self.set_progress(0.0)

    def set_progress(self, fraction):
        """How much of training is over, 0 to 1."""
        self.terms = 9 + round(9 * fraction)
        self.alpha = 1 - fraction

    def forward(self, x):
        """sign(x)."""
        y = surrogate_sign(x, self.gradient)
        if not (self.training and torch.is_grad_enabled()):
            return y
        noise = self.up(torch.relu(self.down(x))) + 0.1 * torch.sin(x)
        return y + self.alpha * (noise - noise.detach())

    def gradient(self, grad, x):
        """grad times the derivative of the series."""
        # The sum of cosines is sin(2(n + 1)·ωx) / (2 sin ωx); where the
        # denominator is 0, its limit (n + 1)·cos(…) is ±(n + 1).
        angle = self.omega * x
        count = self.terms + 1
        below = 2 * torch.sin(angle)
        small = below.abs() < 1e-6
        ratio = torch.sin(2 * count * angle) / below.masked_fill(small, 1.0)
        limit = count * torch.cos((2 * count - 1) * angle)
        total = torch.where(small, limit, ratio)
        return grad * (4 * self.omega / math.pi * total)
