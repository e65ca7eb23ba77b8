"""What a layer must be to be 1-bit, or the name of the one that is not."""

import torch


class NotOneBitError(ValueError):
    """A layer called binary is not; the message names it."""


def check_weight(name, layer):
    """Check that an output channel's weights have one magnitude.

    Arguments
    ---------
    name : str
        For the message.
    layer : nn.Module
        Binary layer of ``layers``, with a weight quantizer.

    Raises
    ------
    NotOneBitError
        Naming the layer and the channel.
    """
    magnitudes = layer.quantized_weight().abs().flatten(1)
    spread = (magnitudes != magnitudes[:, :1]).any(1)
    if spread.any():
        channel = int(spread.nonzero()[0])
        count = len(magnitudes[channel].unique())
        raise NotOneBitError(
            f"{name} is not 1-bit: channel {channel} has weights of {count} "
            "magnitudes, a device stores one"
        )


def check_activations(name, layer, x):
    """Check that activations and padding are those of the folded bit planes.

    As evaluation computes them; training may, by the same thresholds, in
    another way (``quantizers.fused``).

    Arguments
    ---------
    name : str
        For the message.
    layer : nn.Module
        Binary layer of ``layers``, with an activation quantizer.
    x : torch.Tensor
        Input of the layer.

    Raises
    ------
    NotOneBitError
        Naming the layer.
    """
    planes = layer.activation_quantizer.fold()
    values, proved = layer.quantized_input(x), planes.values(x)
    tolerance = 1e-6 * planes.span
    if not torch.allclose(values, proved, atol=tolerance, rtol=0):
        count = len(torch.cat([values.flatten(), proved.flatten()]).unique())
        raise NotOneBitError(
            f"{name} is not 1-bit: its activations have {count} values and "
            f"are not those of {len(planes.gains)} bit planes"
        )
    if abs(layer.padding_value - planes.padding) > tolerance:
        raise NotOneBitError(
            f"{name} is not 1-bit: it is padded with {layer.padding_value:g}, "
            "which is not one of the values of its activations"
        )
