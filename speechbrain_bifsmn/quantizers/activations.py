"""Activation binarizers. Each folds to the thresholds of one or two planes."""

from collections import deque
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from speechbrain_bifsmn.quantizers import fused
from speechbrain_bifsmn.quantizers.base import (
    ActivationQuantizer,
    Planes,
    along_channels,
    polynomial_gradient,
    surrogate_sign,
)
from speechbrain_bifsmn.quantizers.schedules import EDE, FourierSign
from speechbrain_bifsmn.quantizers.weights import LPBSign


class SignActivation(ActivationQuantizer):
    """Plain sign, of BNN, XNOR-Net and BiFSMN.

    forward: sign(x), sign(0) = +1.
    gradient: that of clip(x, -1, 1).
    folds to: one bit plane, threshold 0.
    source: Courbariaux et al., "Binarized Neural Networks", 2016. XNOR-Net's
    scale for each position (Rastegari et al., eq. 11) cannot be factored out
    of a sum of bits, and is left out as the paper itself suggests.

    Example
    -------
    >>> SignActivation()(torch.tensor([-0.1, 0.0]))
    tensor([-1.,  1.])
    """

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        return surrogate_sign(x)


class DoReFaActivation(ActivationQuantizer):
    """0 or 1.

    forward: round(clip(x, 0, 1)), that is 1 where x >= 1/2.
    gradient: 1 where 0 <= x <= 1.
    folds to: one bit plane, threshold 1/2, value (b + 1)/2; the half goes into
    the scale of the layer, the offset into its bias.
    source: Zhou et al., "DoReFa-Net", 2016, eq. 5 and 10 with k = 1.

    Example
    -------
    >>> DoReFaActivation()(torch.tensor([0.4, 0.5, 3.0]))
    tensor([0., 1., 1.])
    """

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        # clip's gradient in units of x is that of sign's in units of 2x - 1.
        return (surrogate_sign(2 * x - 1) + 1) / 2

    def fold(self):
        """See ``ActivationQuantizer``."""
        return Planes((torch.tensor([0.5]),), step=0.5, offset=0.5)


class ApproxSignActivation(ActivationQuantizer):
    """Sign with a piecewise polynomial gradient, of Bi-Real Net and ReCU.

    forward: sign(x).
    gradient: max(0, 2 - 2|x|).
    folds to: one bit plane, threshold 0.
    source: Liu et al., "Bi-Real Net", ECCV 2018, eq. 7.
    """

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        return surrogate_sign(x, polynomial_gradient)


class EDEActivation(ActivationQuantizer):
    """Sign with a gradient that sharpens.

    forward: sign(x).
    gradient, schedule: those of ``EDE``.
    folds to: one bit plane, threshold 0.
    source: Qin et al., IR-Net, CVPR 2020, eq. 12 to 14.
    """

    def __init__(self, channels=1):
        super().__init__(channels)
        self.sign = EDE()

    def set_progress(self, fraction):
        """See ``ActivationQuantizer``."""
        self.sign.set_progress(fraction)

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        return self.sign(x)


class RSignActivation(ActivationQuantizer):
    """ReActNet's sign with a learned threshold for each channel.

    forward: sign(x - θ_c).
    gradient: to x that of ApproxSign at x - θ_c, to θ_c its negative.
    folds to: one bit plane, threshold θ_c in channel c.
    source: Liu et al., "ReActNet", ECCV 2020, eq. 5. Its networks have RPReLU.
    """

    rprelu = True

    def __init__(self, channels=1):
        super().__init__(channels)
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        if torch.is_grad_enabled():
            threshold = along_channels(self.threshold, x)
            return surrogate_sign(x - threshold, polynomial_gradient)
        # By x >= θ, which the difference of two floats may not tell.
        return self.fold().values(x)

    def fold(self):
        """See ``ActivationQuantizer``."""
        return Planes((self.threshold.detach(),))


class RADActivation(SignActivation):
    """Sign, with a loss on the distribution of its input.

    forward, gradient, folds to: as ``SignActivation``.
    auxiliary loss: λ times the mean over channels of max(0, |μ| - σ)²
    (degeneration) + max(0, σ/4 - 1)² (saturation) + max(0, 1 - |μ| - σ/4)²
    (gradient mismatch), μ and σ those of the channel in the batch; averaged
    over the calls of a step, the last eight of them if there are more. λ = 0.1
    for each layer, which for twenty layers is the paper's 2 for their mean.
    source: Ding et al., "Regularizing Activation Distribution for Training
    Binarized Deep Networks", CVPR 2019, eq. 6 to 9.
    """

    weight = 0.1
    # Calls of a step, one for each depth; where nobody asks for the loss, the
    # graphs of older ones are let go.
    most_calls = 8

    def __init__(self, channels=1):
        super().__init__(channels)
        self.channels = channels
        self._losses = deque(maxlen=self.most_calls)
        self._calls = 0

    def __getstate__(self):
        """All but graphs, which can neither be copied nor pickled."""
        return {**self.__dict__, "_losses": deque(maxlen=self.most_calls)}

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        # A single value of a channel has no deviation.
        several = x.numel() > self.channels
        if self.training and torch.is_grad_enabled() and several:
            self._calls += 1
            self._losses.append((self._calls, self.distribution_loss(x)))
            if x.requires_grad:
                x.register_hook(partial(self._forget, self._calls))
        return surrogate_sign(x)

    def _forget(self, call, grad):
        # Who went backward without the loss of a call has freed its graph.
        kept = [entry for entry in self._losses if entry[0] != call]
        self._losses = deque(kept, self.most_calls)

    def distribution_loss(self, x):
        """The loss of one call, without λ, a scalar."""
        rows = x.movedim(1, -1) if x.dim() == 4 else x
        std, mean = torch.std_mean(rows.reshape(-1, self.channels), 0)
        mean = mean.abs()
        return (
            torch.relu(mean - std).square()
            + torch.relu(std / 4 - 1).square()
            + torch.relu(1 - mean - std / 4).square()
        ).mean()

    def auxiliary_loss(self):
        """See ``ActivationQuantizer``. Forgets the calls it sums."""
        losses = [loss for _, loss in self._losses]
        self._losses.clear()
        if not losses:
            return 0.0
        return self.weight * sum(losses) / len(losses)


class FDAActivation(ActivationQuantizer):
    """Sign with the gradient of a Fourier series.

    forward: sign(x).
    gradient, schedule: those of ``FourierSign``, whose noise adaptation module
    maps the channels of each position.
    folds to: one bit plane, threshold 0.
    source: Xu et al., FDA-BNN, NeurIPS 2021.
    """

    def __init__(self, channels=1):
        super().__init__(channels)
        self.channels = channels
        self.sign = FourierSign(channels)

    def set_progress(self, fraction):
        """See ``ActivationQuantizer``."""
        self.sign.set_progress(fraction)

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        if x.dim() == 4:
            return self.sign(x.movedim(1, -1)).movedim(-1, 1)
        return self.sign(x.unflatten(-1, (-1, self.channels))).flatten(-2)


class LPBActivation(ActivationQuantizer):
    """Learned propagation binarizer.

    forward: sign(α·x), α > 0 learned, one for the layer.
    gradient: to x α·1[|α·x| <= 1], to α x·1[|α·x| <= 1].
    folds to: one bit plane, threshold 0; α is gone.
    source: Qin et al., "BiFSMNv2", 2022 (arXiv 2211.06987).
    """

    lr_factor = 0.1

    def __init__(self, channels=1):
        super().__init__(channels)
        self.sign = LPBSign()

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        return self.sign(x)


class DualScaleActivation(ActivationQuantizer):
    """BiFSMNv2's two bit planes.

    forward: b1 + σ·b2 - θ2, with b1 = sign(x - θ0), b2 = sign(x - b1 - θ1);
    σ = mean|x - b1 - θ1| as a running mean over training, a multiple of 1/64.
    gradient: each sign that of ``LPBSign``, α of its own; also to θ0, θ1 and,
    but for padding, θ2.
    folds to: two bit planes; b2 has three thresholds, θ1 - 1, θ0 and θ1 + 1.
    source: Qin et al., "BiFSMNv2", 2022 (arXiv 2211.06987). The authors take σ
    over time for each clip, which looks ahead and cannot be factored out of a
    sum of bits: here it is one static scale for the layer.

    Example
    -------
    >>> quantizer = DualScaleActivation().eval()
    >>> quantizer(torch.tensor([-3.0, -0.5, 0.5, 3.0])).unique().numel()
    4
    """

    lr_factor = 0.1
    units = 64
    momentum = 0.1

    def __init__(self, channels=1):
        super().__init__(channels)
        self.first, self.second = LPBSign(), LPBSign()
        self.shift = nn.Parameter(1e-3 * torch.rand(3))
        # Of a standard normal x, to begin with.
        self.register_buffer("scale", torch.tensor(0.6))

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        if not torch.is_grad_enabled():
            # By the thresholds, which the differences of floats may not tell.
            return self._planes().values(x)
        if fused.can_fuse(x):
            if self.training:
                rest = fused.mean_rest(x, self.shift)
                self.scale.lerp_(self.scale.new_tensor(rest), self.momentum)
            alpha = torch.stack([self.first.slope(), self.second.slope()])
            gain = self.gain().item()
            return fused.DualScale.apply(x, self.shift, alpha, gain)
        b1 = self.first(x - self.shift[0])
        rest = x - b1 - self.shift[1]
        if self.training:
            with torch.no_grad():
                self.scale.lerp_(
                    rest.abs().mean().to(self.scale), self.momentum
                )
        b2 = self.second(rest)
        return b1 + self.gain() * b2 - self.shift[2]

    def gain(self):
        """σ, as the device has it, a scalar."""
        return self._units() / self.units

    def _units(self):
        return (self.scale * self.units).round().clamp(1, 255)

    def fold(self):
        """See ``ActivationQuantizer``."""
        planes = self._planes()
        return replace(
            planes,
            gains=tuple(map(int, planes.gains)),
            offset=planes.offset.item(),
        )

    def _planes(self):
        """What ``fold`` gives, in tensors, as tracers must have it."""
        shift = self.shift.detach().double()
        middle = shift[:1]
        # Where θ0 is not between the other two, one of them has no effect.
        low = torch.minimum(shift[1:2] - 1, middle)
        high = torch.maximum(shift[1:2] + 1, middle)
        return Planes(
            (low, middle, high),
            gains=(self.units, self._units()),
            step=1 / self.units,
            offset=-shift[2],
        )

    @property
    def padding(self):
        """See ``ActivationQuantizer``."""
        return 1 + self.gain() - self.shift[2].detach().double()


class LSQActivation(ActivationQuantizer):
    """Four equidistant levels, of LSQ with 2 bits, as two bit planes.

    forward: s·q, q = -3/2, -1/2, 1/2 or 3/2, the nearest to (x - θ)/s; s > 0
    and θ learned, one each for the layer, s as its logarithm.
    gradient: to x 1 where |x - θ| <= 2s, to θ its negative; to s q, less
    (x - θ)/s where |x - θ| <= 2s.
    folds to: two bit planes; thresholds θ - s, θ and θ + s.
    source: Esser et al., "Learned Step Size Quantization", ICLR 2020, eq. 1 to
    3, its levels moved by half a step so that they are sums of two signs, and
    gradients passed half a step beyond the outer ones. There is no scaling of
    the gradient to s: Adam undoes it.

    Example
    -------
    >>> quantizer = LSQActivation().eval()
    >>> quantizer(torch.tensor([-3.0, -0.5, 0.0, 3.0])).tolist()
    [-1.5, -0.5, 0.5, 1.5]
    """

    def __init__(self, channels=1):
        super().__init__(channels)
        self.shift = nn.Parameter(torch.tensor(0.0))
        # Best for a standard normal x is a step of 0.996.
        self.log_step = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        """See ``ActivationQuantizer``."""
        planes = self._planes()
        if not torch.is_grad_enabled():
            return planes.values(x)
        step = self.log_step.exp()
        if fused.can_fuse(x):
            thresholds = tuple(t.item() for t in planes.thresholds)
            return fused.FourLevels.apply(x, self.shift, step, thresholds)
        through = step.detach() * ((x - self.shift) / step).clamp(-2, 2)
        levels = replace(planes, step=0.5).values(x)
        return levels * step + (through - through.detach())

    def fold(self):
        """See ``ActivationQuantizer``."""
        planes = self._planes()
        return replace(planes, step=planes.step.item())

    def _planes(self):
        """What ``fold`` gives, in tensors, as tracers must have it."""
        shift = self.shift.detach().double().view(1)
        step = self.log_step.detach().double().exp()
        return Planes(
            (shift - step, shift, shift + step),
            gains=(2, 1),
            step=step / 2,
        )

    @property
    def padding(self):
        """See ``ActivationQuantizer``; with a gradient to s."""
        wide = torch.promote_types(self.log_step.dtype, torch.float32)
        return 1.5 * self.log_step.to(wide).exp()


class AsReleasedActivation(SignActivation):
    """Baseline that is not 1-bit: sign, padded with zeros, a third value.

    forward, gradient: as ``SignActivation``.
    folds to: nothing; export refuses it by name.
    source: rebuilt from what the authors of BiFSMN released.
    """

    padding = 0.0
