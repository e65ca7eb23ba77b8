"""Proof that a network is 1-bit, or the name of the layer that is not."""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from speechbrain_bifsmn.export.fold import ExportError, binary_layers
from speechbrain_bifsmn.kernels import numba_kernels
from speechbrain_bifsmn.layers import (
    Conv2d,
    IntegerConv2d,
    IntegerLinear,
    Memory,
)
from speechbrain_bifsmn.model_file import pack_bits
from speechbrain_bifsmn.onebit import (
    NotOneBitError,
    check_activations,
    check_weight,
)


@torch.no_grad()
def check_one_bit(model, batch=8, seed=0):
    """Check weights, activations and sums of every layer but first and last.

    Random features are run through the network at all depths. For each layer
    every output channel must have weights of one magnitude, the input plane
    and its padding together two values, and the sums, in double precision,
    must be those that XOR and popcount give on the packed bits.

    Arguments
    ---------
    model : BiFSMN
        Trained network.
    batch : int
        Random clips to run.
    seed : int
        Of the random clips.

    Returns
    -------
    list of str
        Names of the layers that were proved binary.

    Raises
    ------
    ExportError
        Naming weights that are no numbers.
    NotOneBitError
        Naming the first layer that is not, and why.
    """
    for name, values in model.state_dict().items():
        if not values.isfinite().all():
            raise ExportError(
                f"{name} has values that are no numbers: its training has "
                "diverged, train again with a lower rate"
            )
    if not isinstance(getattr(model, "conv1", None), IntegerConv2d):
        raise NotOneBitError(
            "conv1 has real weights: export needs a BiFSMN, whose first "
            "layer has integer weights"
        )
    if not isinstance(getattr(model, "head", None), IntegerLinear):
        raise NotOneBitError("head has real weights: export needs a BiFSMN")
    # In double precision: long sums of floats are too far from whole numbers.
    model = copy.deepcopy(model).cpu().double().eval()
    layers = binary_layers(model)
    seen = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.register_forward_hook(
            lambda _, x, y, calls=seen[name]: calls.append((x[0], y))
        )
    generator = torch.Generator().manual_seed(seed)
    shape = batch, model.frames, model.n_mels
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    model(x, depth=model.depths)
    for name, layer in layers.items():
        if layer.weight_quantizer is None:
            raise NotOneBitError(f"{name} has real weights")
        if layer.activation_quantizer is None:
            raise NotOneBitError(f"{name} has real activations")
        check_weight(name, layer)
        for x, y in seen[name]:
            check_activations(name, layer, x)
            _check_sums(name, layer, x, y)
    return list(layers)


def _check_sums(name, layer, x, y):
    """Raise NotOneBitError if the outputs are not those of packed bits."""
    planes = layer.activation_quantizer.fold()
    sums = _packed(layer, planes.bits(x), planes)
    weight = layer.quantized_weight()
    scale = weight.abs().flatten(1)[:, 0].numpy()
    y = y.movedim(1, -1) if isinstance(layer, Conv2d) else y
    floats = y.numpy().reshape(-1, len(scale))
    size = weight[0].numel() * planes.span * scale.max()
    if not np.allclose(floats, sums * scale, rtol=0, atol=1e-9 * size):
        raise NotOneBitError(
            f"{name} is not 1-bit: its sums are not those of XOR and popcount"
        )


def _packed(layer, bits, planes):
    """Weighted sums by the packed kernel, [rows, outputs]."""
    signs, _ = layer.weight_quantizer.fold(layer.weight)
    inputs = signs[0].numel()
    ones = (2.0 * signs.double() - 1).flatten(1).sum(1).numpy()
    total = planes.offset * ones
    for gain, plane in zip(planes.gains, bits, strict=True):
        d = _differing(layer, plane, signs)
        total = total + planes.step * gain * (inputs - 2.0 * d)
    return total


def _differing(layer, plane, signs):
    """Differing places of one bit plane, [rows, outputs]."""
    if isinstance(layer, Memory):
        rows = [
            numba_kernels.differing_depthwise(
                clip.numpy(),
                signs.T.contiguous().numpy(),
                layer.left,
                layer.dilation,
            )
            for clip in plane
        ]
        return np.concatenate(rows)
    if isinstance(layer, Conv2d):
        kernel = signs.shape[-1]
        padded = F.pad(plane.float(), [kernel // 2] * 4, value=1.0)
        plane = F.unfold(padded, kernel, stride=layer.stride).mT > 0
    bits = plane.flatten(0, -2).numpy()
    weights = signs.flatten(1).numpy()
    return numba_kernels.differing(pack_bits(bits), pack_bits(weights))
