"""Two-plane binarization on a CPU: one pass over memory instead of thirty.

``DualScaleActivation`` in plain PyTorch is half of the time of a training
step. This is the same, and ``LSQActivation``, forward and backward, as loops.
"""

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from speechbrain_bifsmn.jit import njit

# Sums may be reordered, so that they vectorize; inf and nan stay what they are.
_FAST = {"contract", "nsz", "reassoc"}


@njit(fastmath=_FAST)
def _rest(x, shift):
    total = shift[0] * 0
    for i in range(x.size):
        b1 = np.float32(1) if x[i] >= shift[0] else np.float32(-1)
        total += abs(x[i] - b1 - shift[1])
    return total


@njit(fastmath=_FAST)
def _forward(x, shift, gain, y):
    for i in range(x.size):
        b1 = np.float32(1) if x[i] >= shift[0] else np.float32(-1)
        b2 = gain if x[i] - b1 >= shift[1] else -gain
        y[i] = b1 + b2 - shift[2]


@njit(fastmath=_FAST)
def _backward(x, grad, shift, alpha, gain, x_grad, shift_grad, alpha_grad):
    zero = gain * 0
    shift0, shift1, shift2, alpha0, alpha1 = zero, zero, zero, zero, zero
    for i in range(x.size):
        first = x[i] - shift[0]
        b1 = np.float32(1) if x[i] >= shift[0] else np.float32(-1)
        rest = x[i] - b1 - shift[1]
        # Of clip(α·v, -1, 1), to α·v; the second sign, then the first.
        inner = grad[i] * gain if abs(alpha[1] * rest) <= 1 else zero
        alpha1 += inner * rest
        inner *= alpha[1]
        outer = grad[i] - inner if abs(alpha[0] * first) <= 1 else zero
        alpha0 += outer * first
        outer *= alpha[0]
        x_grad[i] = outer + inner
        shift0 -= outer
        shift1 -= inner
        shift2 -= grad[i]
    shift_grad[0], shift_grad[1], shift_grad[2] = shift0, shift1, shift2
    alpha_grad[0], alpha_grad[1] = alpha0, alpha1


@njit(fastmath=_FAST)
def _level(v, thresholds):
    level = np.float32(-1.5)
    for threshold in thresholds:
        level += np.float32(1) if v >= threshold else np.float32(0)
    return level


@njit(fastmath=_FAST)
def _levels_forward(x, thresholds, step, y):
    for i in range(x.size):
        y[i] = _level(x[i], thresholds) * step


@njit(fastmath=_FAST)
def _levels_backward(x, grad, thresholds, step, x_grad, sums):
    zero = step * 0
    to_shift, to_step = zero, zero
    for i in range(x.size):
        u = (x[i] - thresholds[1]) / step
        inside = abs(u) <= 2
        passed = grad[i] if inside else zero
        x_grad[i] = passed
        to_shift -= passed
        to_step += grad[i] * _level(x[i], thresholds)
        to_step -= passed * u if inside else zero
    sums[0], sums[1] = to_shift, to_step


def can_fuse(x):
    """Whether this module takes a tensor.

    Arguments
    ---------
    x : torch.Tensor

    Returns
    -------
    bool
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _like(x):
    channels_last = x.dim() == 4
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty_like(x, memory_format=order)


def _flat(x):
    # All elements in one order, whatever the strides; no copy of a _like.
    rows = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
    return rows.detach().contiguous().view(-1).numpy()


def mean_rest(x, shift):
    """mean|x - b1 - θ1|, see ``DualScaleActivation``.

    Arguments
    ---------
    x : torch.Tensor
        Any shape.
    shift : torch.Tensor, [3]
        θ0, θ1 and θ2.

    Returns
    -------
    float
    """
    return float(_rest(_flat(x), _flat(shift.to(x)))) / max(x.numel(), 1)


class DualScale(torch.autograd.Function):
    """b1 + σ·b2 - θ2, see ``DualScaleActivation``.

    Arguments of ``apply``
    ----------------------
    x : torch.Tensor
        Any shape, on a CPU.
    shift : torch.Tensor, [3]
        θ0, θ1 and θ2.
    alpha : torch.Tensor, [2]
        Those of the two signs.
    gain : float
        σ.
    """

    @staticmethod
    def forward(ctx, x, shift, alpha, gain):
        """See the class."""
        ctx.save_for_backward(x, shift, alpha)
        ctx.gain = gain
        y = _like(x)
        flat = _flat(x)
        _forward(flat, _flat(shift.to(x)), flat.dtype.type(gain), _flat(y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """See the class."""
        x, shift, alpha = ctx.saved_tensors
        x_grad = _like(x)
        shift_grad, alpha_grad = shift.new_empty(3), alpha.new_empty(2)
        flat = _flat(x)
        _backward(
            flat,
            _flat(grad),
            _flat(shift.to(x)),
            _flat(alpha.to(x)),
            flat.dtype.type(ctx.gain),
            _flat(x_grad),
            _flat(shift_grad),
            _flat(alpha_grad),
        )
        return x_grad, shift_grad, alpha_grad, None


class FourLevels(torch.autograd.Function):
    """s·q, see ``LSQActivation``.

    Arguments of ``apply``
    ----------------------
    x : torch.Tensor
        Any shape, on a CPU.
    shift, step : torch.Tensor
        θ and s, scalars.
    thresholds : tuple of float
        The three.
    """

    @staticmethod
    def forward(ctx, x, shift, step, thresholds):
        """See the class."""
        ctx.save_for_backward(x, shift, step)
        flat = _flat(x)
        ctx.thresholds = tuple(map(flat.dtype.type, thresholds))
        y = _like(x)
        step = flat.dtype.type(step)
        _levels_forward(flat, ctx.thresholds, step, _flat(y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """See the class."""
        x, shift, step = ctx.saved_tensors
        x_grad, sums = _like(x), np.empty(2)
        flat = _flat(x)
        _levels_backward(
            flat,
            _flat(grad),
            ctx.thresholds,
            flat.dtype.type(step),
            _flat(x_grad),
            sums,
        )
        return x_grad, shift.new_tensor(sums[0]), step.new_tensor(sums[1]), None
