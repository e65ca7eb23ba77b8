"""Weight binarizers. Each folds to sign bits and a scale for each channel."""

import math

import torch
from torch import nn

from speechbrain_bifsmn.quantizers.base import (
    WeightQuantizer,
    clip_gradient,
    mean_magnitude,
    per_channel,
    scale_forward,
    surrogate_sign,
)
from speechbrain_bifsmn.quantizers.schedules import EDE, FourierSign


def _identity(grad, x):
    return grad


class BNNWeight(WeightQuantizer):
    """Plain sign.

    forward: sign(w).
    gradient: that of clip(w, -1, 1).
    folds to: the sign bits; scale 1.
    source: Courbariaux et al., "Binarized Neural Networks", 2016; and Ding et
    al. (RAD), whose loss is on the activations.

    Example
    -------
    >>> BNNWeight()(torch.tensor([[-0.3, 0.0, 0.9]]))
    tensor([[-1.,  1.,  1.]])
    """

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        return surrogate_sign(weight)


class XNORWeight(WeightQuantizer):
    """Sign with one scale for each output channel, learned through.

    forward: sign(w)·s, s = mean|w| of the channel.
    gradient: 1/n + s·1[|w| <= 1], n inputs of the channel.
    folds to: the sign bits; scale s.
    source: Rastegari et al., "XNOR-Net", ECCV 2016, eq. 6 and section 3.1.

    Example
    -------
    >>> XNORWeight()(torch.tensor([[-0.5, 0.25, 0.75]]))
    tensor([[-0.5000,  0.5000,  0.5000]])
    """

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        scale = mean_magnitude(weight)
        inputs = weight[0].numel()
        nonzero = scale.clamp(min=torch.finfo(scale.dtype).tiny)

        def gradient(grad, x):
            # surrogate_sign's output is scaled after, and so is its gradient.
            return clip_gradient(grad, x) + grad / (inputs * nonzero)

        return surrogate_sign(weight, gradient) * scale


class DoReFaWeight(WeightQuantizer):
    """Sign with one scale for the layer.

    forward: sign(w)·s, s = mean|w| over the whole tensor.
    gradient: the identity.
    folds to: the sign bits; scale s in every channel.
    source: Zhou et al., "DoReFa-Net", 2016, eq. 7 and 8 (1-bit weights).

    Example
    -------
    >>> DoReFaWeight()(torch.tensor([[-0.5], [1.5]]))
    tensor([[-1.],
            [ 1.]])
    """

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        scale = weight.detach().abs().mean()
        return scale_forward(surrogate_sign(weight, _identity), scale)


class BiRealWeight(WeightQuantizer):
    """Magnitude-aware sign.

    forward: sign(w)·s, s = mean|w| of the output channel.
    gradient: s·1[|w| <= 1].
    folds to: the sign bits; scale s.
    source: Liu et al., "Bi-Real Net", ECCV 2018, eq. 9 and 10.
    """

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        return surrogate_sign(weight) * mean_magnitude(weight)


class ReActNetWeight(WeightQuantizer):
    """Sign with one scale for each output channel.

    forward: sign(w)·s, s = mean|w| of the channel.
    gradient: that of clip(w, -1, 1), not multiplied by s.
    folds to: the sign bits; scale s.
    source: Liu et al., "ReActNet", ECCV 2020, eq. 2.
    """

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        return scale_forward(surrogate_sign(weight), mean_magnitude(weight))


class IRNetWeight(WeightQuantizer):
    """Balanced, standardised sign with a power of two for a scale.

    forward: sign(v)·2^s, v = (w - mean)/std of each output channel,
    s = round(log2(mean|v|)).
    gradient: ``EDE`` times 2^s, and through the standardisation.
    schedule: that of EDE.
    folds to: the sign bits of v; scale 2^s.
    source: Qin et al., IR-Net, CVPR 2020, eq. 7 to 10.
    """

    def __init__(self, shape=(), kind="conv"):
        super().__init__(shape, kind)
        check_spread("irnet", shape)
        self.ede = EDE()

    def set_progress(self, fraction):
        """See ``WeightQuantizer``."""
        self.ede.set_progress(fraction)

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        v = standardise(weight)
        scale = 2 ** mean_magnitude(v).log2().round()
        return self.ede(v) * scale


def check_spread(method, shape):
    """Refuse a channel of one weight, which has no standard deviation."""
    if math.prod(shape[1:]) < 2 and len(shape) > 1:
        raise ValueError(
            f"{method} standardises the weights of each channel, and here a "
            f"channel has one, shape {list(shape)}: more taps or another method"
        )


def standardise(weight):
    """(w - mean)/std of each output channel.

    Arguments
    ---------
    weight : torch.Tensor, [out, ...]

    Returns
    -------
    torch.Tensor, [out, ...]
    """
    v = weight - per_channel(weight, lambda rows: rows.mean(1))
    std = per_channel(v, lambda rows: rows.std(1))
    # A channel of equal weights stays zero, and its signs +1.
    return v / torch.where(std > 0, std, 1)


class ReCUWeight(WeightQuantizer):
    """Sign after a rectified clamp that revives weights far out.

    forward: sign(v)·a, v = (w - mean)/std of each output channel, a learned
    for each channel, at first 1.
    gradient: the identity where |v| <= Q(τ), 0 beyond, through the
    standardisation, times a; with Q(τ) = -b·ln(2 - 2τ), b = mean|v|, the
    quantile of a Laplace distribution.
    schedule: τ = A·e^progress + B, from 0.85 to 0.99.
    folds to: the sign bits of v·a; scale |a|.
    source: Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural
    Networks", ICCV 2021, eq. 6, 13 and 17.
    """

    def __init__(self, shape=(), kind="conv"):
        super().__init__(shape, kind)
        check_spread("recu", shape)
        self.scale = nn.Parameter(torch.ones(shape[:1]))
        self.set_progress(0.0)

    def set_progress(self, fraction):
        """See ``WeightQuantizer``."""
        slope = (0.99 - 0.85) / (math.e - 1)
        self.tau = slope * math.exp(fraction) + 0.85 - slope

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        v = standardise(weight)
        limit = -mean_magnitude(v) * math.log(2 - 2 * self.tau)
        v = torch.minimum(torch.maximum(v, -limit), limit)
        signs = surrogate_sign(v, _identity)
        return signs * self.scale.view(-1, *[1] * (weight.dim() - 1))


class FDAWeight(WeightQuantizer):
    """Sign with the gradient of a Fourier series.

    forward: sign(w)·s, s = mean|w| over the whole tensor, as DoReFa.
    gradient, schedule: those of ``FourierSign``, not multiplied by s.
    folds to: the sign bits; scale s in every channel.
    source: Xu et al., FDA-BNN, NeurIPS 2021.
    """

    def __init__(self, shape=(), kind="conv"):
        super().__init__(shape, kind)
        self.sign = FourierSign(math.prod(shape[1:]))

    def set_progress(self, fraction):
        """See ``WeightQuantizer``."""
        self.sign.set_progress(fraction)

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        scale = weight.detach().abs().mean()
        signs = self.sign(weight.flatten(1)).view_as(weight)
        return scale_forward(signs, scale)


class BiFSMNWeight(WeightQuantizer):
    """Centred sign with one scale for each output channel.

    forward: sign(v) · mean|v| over all inputs and taps of the channel, with
    v = w - mean(w), the mean of the whole tensor, in convolutions; v = w in
    linear layers.
    gradient: to v, that of clip(v, -1, 1), not multiplied by the scale.
    folds to: the sign bits of v; scale mean|v|.
    source: Qin et al., "BiFSMN: Binary Neural Network for Keyword Spotting",
    IJCAI 2022. The authors' code takes the mean over the kernel axis alone,
    which for kernel 1 leaves the weights real; here it is over everything.

    Example
    -------
    >>> BiFSMNWeight(kind="linear")(torch.tensor([[-0.5, 0.25, 0.75]]))
    tensor([[-0.5000,  0.5000,  0.5000]])
    """

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        v = weight if self.kind == "linear" else weight - weight.mean()
        return scale_forward(surrogate_sign(v), mean_magnitude(v))


class LPBWeight(WeightQuantizer):
    """Learned propagation binarizer.

    forward: sign(α·w)·s, s = mean|w| of each output channel, α > 0 learned,
    one for the layer.
    gradient: to w α·1[|α·w| <= 1], to α w·1[|α·w| <= 1], not multiplied by s.
    folds to: the sign bits; scale s. α is gone.
    source: Qin et al., "BiFSMNv2", 2022 (arXiv 2211.06987).

    Example
    -------
    >>> LPBWeight()(torch.tensor([[-0.5, 0.25, 0.75]])).detach()
    tensor([[-0.5000,  0.5000,  0.5000]])
    """

    lr_factor = 0.1

    def __init__(self, *shape, **options):
        super().__init__(*shape, **options)
        self.sign = LPBSign()

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        return scale_forward(self.sign(weight), mean_magnitude(weight))


class LPBSign(nn.Module):
    """sign(α·x) with the gradients of clip(α·x, -1, 1), α learned.

    Kept positive: a negative α would flip every sign.

    Example
    -------
    >>> LPBSign()(torch.tensor([-0.5, 0.0])).detach()
    tensor([-1.,  1.])
    """

    smallest = 0.01

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(1.0))

    def slope(self):
        """α, kept positive, a scalar."""
        return self.alpha.clamp(min=self.smallest)

    def forward(self, x):
        """See the class."""
        return surrogate_sign(self.slope() * x)


class AsReleasedWeight(WeightQuantizer):
    """Baseline that is not 1-bit, and that export refuses by name.

    forward: sign(v)·mean|v| as ``BiFSMNWeight``, but in convolutions over time
    the mean is over the kernel axis alone, so that pointwise maps, of kernel
    1, have a scale for each weight: they are v itself.
    gradient: that of clip(v, -1, 1), not multiplied by the scale.
    folds to: nothing.
    source: rebuilt from what the authors of BiFSMN released; 91 % of its
    weights are real numbers.

    Example
    -------
    >>> AsReleasedWeight(kind="pointwise")(torch.tensor([[-0.5, 0.0, 0.75]]))
    tensor([[-0.5833, -0.0833,  0.6667]])
    """

    def forward(self, weight):
        """See ``WeightQuantizer``."""
        v = weight if self.kind == "linear" else weight - weight.mean()
        real = self.kind == "pointwise"
        scale = v.detach().abs() if real else mean_magnitude(v)
        return scale_forward(surrogate_sign(v), scale)
