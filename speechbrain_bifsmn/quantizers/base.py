"""What every binarizer is: the two interfaces, sign, and its gradients."""

from dataclasses import dataclass

import torch
from torch import nn


def sign(x):
    """Sign with sign(0) = +1, without a gradient.

    Arguments
    ---------
    x : torch.Tensor
        Any shape.

    Returns
    -------
    torch.Tensor
        The same shape and type, values -1 and +1.

    Example
    -------
    >>> sign(torch.tensor([-0.5, 0.0, 2.0]))
    tensor([-1.,  1.,  1.])
    """
    # Adding zero turns -0 into +0. Ten times faster than `where` on a CPU.
    return torch.ones_like(x).copysign(x + 0.0)


def clip_gradient(grad, x):
    """grad where |x| <= 1, else 0, as a new tensor.

    The gradient of clip(x, -1, 1), the straight-through estimator. Source:
    Courbariaux et al., "Binarized Neural Networks", 2016, eq. 4.

    Arguments
    ---------
    grad, x : torch.Tensor
        Of one shape.

    Returns
    -------
    torch.Tensor
    """
    # The fused gradient of hardtanh excludes its limits, hence the next float.
    limit = 1.0 + torch.finfo(x.dtype).eps
    return torch.ops.aten.hardtanh_backward(grad, x, -limit, limit)


def polynomial_gradient(grad, x):
    """grad · max(0, 2 - 2|x|), of the piecewise polynomial ApproxSign.

    Source: Liu et al., "Bi-Real Net", ECCV 2018, eq. 7.

    Arguments
    ---------
    grad, x : torch.Tensor
        Of one shape.

    Returns
    -------
    torch.Tensor
    """
    return grad * (2 - 2 * x.abs()).clamp(min=0)


def plain():
    """Whether to compute without own gradients, by PyTorch's operations alone.

    Then torch.export and torch.jit.trace understand what is done.

    Returns
    -------
    bool
    """
    return not torch.is_grad_enabled() or torch.jit.is_tracing()


class _SurrogateSign(torch.autograd.Function):
    """sign(x) forward, backward(grad, x) back."""

    @staticmethod
    def forward(ctx, x, backward):
        ctx.save_for_backward(x)
        ctx.surrogate = backward
        return sign(x)

    @staticmethod
    def backward(ctx, grad):
        return ctx.surrogate(grad, *ctx.saved_tensors), None


def surrogate_sign(x, backward=clip_gradient):
    """Sign with a gradient of one's choice.

    Arguments
    ---------
    x : torch.Tensor
        Any shape.
    backward : callable
        Takes the gradient of the output and x; returns the gradient of x.

    Returns
    -------
    torch.Tensor
        -1 and +1.

    Example
    -------
    >>> x = torch.tensor([-2.0, 0.5], requires_grad=True)
    >>> surrogate_sign(x).sum().backward()
    >>> x.grad
    tensor([0., 1.])
    """
    return sign(x) if plain() else _SurrogateSign.apply(x, backward)


class _Scale(torch.autograd.Function):
    """x · scale forward, the gradient unscaled back."""

    @staticmethod
    def forward(ctx, x, scale):
        return x * scale

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def scale_forward(x, scale):
    """x · scale, where the scale is no part of the gradient.

    Arguments
    ---------
    x, scale : torch.Tensor
        Of shapes that broadcast to that of x.

    Returns
    -------
    torch.Tensor
    """
    return x * scale if plain() else _Scale.apply(x, scale)


def per_channel(weight, statistic):
    """A statistic of all weights of each output channel.

    Arguments
    ---------
    weight : torch.Tensor, [out, ...]
        Weights.
    statistic : callable
        Takes [out, inputs]; returns [out].

    Returns
    -------
    torch.Tensor, [out, 1, ...]
    """
    return statistic(weight.flatten(1)).view(-1, *[1] * (weight.dim() - 1))


def mean_magnitude(weight):
    """mean|w| of each output channel, without a gradient, [out, 1, ...]."""
    return per_channel(weight.detach().abs(), lambda rows: rows.mean(1))


@dataclass(frozen=True)
class Planes:
    """What binary activations are on a device.

    value = step · Σ_p gains[p] · b_p + offset, with one or two bit planes
    b_p = ±1. One plane has one threshold, and is +1 where x reaches it. Two
    planes have three, rising: the first is +1 where x reaches the second of
    them, the second where x reaches an odd number.

    Arguments
    ---------
    thresholds : tuple of torch.Tensor
        One or three, each [1] or [channels].
    gains : tuple of int
        One for each plane, from 1 to 255.
    step, offset : float
        Of the value. Scalar tensors do as well for ``values``.
    """

    thresholds: tuple
    gains: tuple = (1,)
    step: float = 1.0
    offset: float = 0.0

    def bits(self, x):
        """Bit planes of x.

        Arguments
        ---------
        x : torch.Tensor
            Channels are the second of four axes, else the last.

        Returns
        -------
        list of torch.Tensor of bool
            Each of the shape of x.
        """
        reached = [x >= along_channels(t.to(x), x) for t in self.thresholds]
        if len(reached) == 1:
            return reached
        low, middle, high = reached
        return [middle, low ^ middle ^ high]

    @property
    def padding(self):
        """Value outside the input, where every bit is +1."""
        return self.step * sum(self.gains) + self.offset

    @property
    def span(self):
        """Bound of the magnitude of a value."""
        return self.step * sum(self.gains) + abs(self.offset)

    def values(self, x):
        """What a device makes of x, from its bits.

        Arguments
        ---------
        x : torch.Tensor
            Channels are the second of four axes, else the last.

        Returns
        -------
        torch.Tensor
            The same shape.

        Example
        -------
        >>> planes = Planes((torch.tensor([0.5]),), step=0.5, offset=0.5)
        >>> planes.values(torch.tensor([0.4, 0.6]))
        tensor([0., 1.])
        """
        total = self.offset
        for gain, bits in zip(self.gains, self.bits(x), strict=True):
            total = total + self.step * gain * (2 * bits.to(x) - 1)
        return total


def along_channels(vector, x):
    """A vector, [1] or [channels], in a shape that broadcasts to x.

    Channels are the second of four axes, else the last, where they may repeat:
    a frame of [mel, channels] that was flattened.

    Arguments
    ---------
    vector : torch.Tensor, [1] or [channels]
    x : torch.Tensor

    Returns
    -------
    torch.Tensor
    """
    if len(vector) == 1:
        return vector
    if x.dim() == 4:
        return vector.view(-1, 1, 1)
    return vector.repeat(x.shape[-1] // len(vector))


class _Quantizer(nn.Module):
    """What weights' and activations' binarizers share."""

    # Of the learning rate, for parameters of the binarizer itself.
    lr_factor = 1.0

    def set_progress(self, fraction):
        """Told before each epoch how much of training is over, 0 to 1."""

    def auxiliary_loss(self):
        """A term to add to the training loss, or 0."""
        return 0.0


class WeightQuantizer(_Quantizer):
    """Interface of a weight binarizer. Output channels are the first axis.

    Arguments
    ---------
    shape : tuple of int
        Shape of the weights.
    kind : str
        Of their layer, which some methods treat differently: "conv",
        "pointwise" (a convolution of kernel 1 over time) or "linear".
    """

    def __init__(self, shape=(), kind="conv"):
        super().__init__()
        self.kind = kind

    def forward(self, weight):
        """Binarize for training.

        Arguments
        ---------
        weight : torch.Tensor, [out, ...]
            Real weights.

        Returns
        -------
        torch.Tensor, [out, ...]
            Values -scale and +scale, one scale for each output channel.
        """
        raise TypeError(f"{type(self).__name__} must define forward")

    def fold(self, weight):
        """What a device stores.

        Arguments
        ---------
        weight : torch.Tensor, [out, ...]
            Real weights.

        Returns
        -------
        signs : torch.Tensor of bool, [out, ...]
            True for +1.
        scale : torch.Tensor, [out]
            Magnitude of each output channel.
        """
        with torch.no_grad():
            binary = self.forward(weight)
        return binary >= 0, binary.flatten(1).abs().amax(1)


class ActivationQuantizer(_Quantizer):
    """Interface of an activation binarizer.

    Arguments
    ---------
    channels : int
        Channels of the input: the second of four axes, else the last, where
        they may repeat.
    """

    # Whether the method's networks have RPReLU for PReLU.
    rprelu = False

    def __init__(self, channels=1):
        super().__init__()

    def forward(self, x):
        """Binarize for training.

        Arguments
        ---------
        x : torch.Tensor
            Real activations.

        Returns
        -------
        torch.Tensor
            The same shape; the values of ``fold``.
        """
        raise TypeError(f"{type(self).__name__} must define forward")

    def fold(self):
        """What a device computes.

        Returns
        -------
        Planes
        """
        return Planes((torch.zeros(1),))

    @property
    def padding(self):
        """Value of places outside the input, one that the input can have.

        A number; or a scalar tensor, which gets a gradient.
        """
        return 1.0
