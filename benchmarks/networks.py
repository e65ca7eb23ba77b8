"""The networks that are timed: ours, and the fp32 network for the others.

The fp32 DFSMN is given to the other runtimes as they like it best: batch norms
folded into the weights, each PReLU, which has one slope, a leaky ReLU, and one
depth alone, without the switches of the trainable network. Of two layouts each
runtime gets the faster one.
"""

from collections import OrderedDict

import torch
from torch import nn

from speechbrain_bifsmn.layers import NormPReLU


def lived_in(model):
    """The model with random norms and statistics of random features.

    Arguments
    ---------
    model : DFSMN
        Its norms are changed.

    Returns
    -------
    DFSMN
        The same, in eval mode and without gradients.
    """
    for module in model.modules():
        if isinstance(module, NormPReLU):
            nn.init.normal_(module.norm.weight, 1.0, 0.2)
            nn.init.normal_(module.norm.bias, 0.0, 0.3)
            if module.slope is not None:
                nn.init.uniform_(module.slope, 0.05, 0.4)
    model.train()
    for _ in range(20):
        x = torch.randn(64, model.frames, model.n_mels)
        model(x, depth=model.depths)
    return model.eval().requires_grad_(False)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x):
        """Keep the shape."""
        return x + self.body(x)


class Negate(nn.Module):
    """The least that a call can do."""

    def forward(self, x):
        """Keep the shape."""
        return -x


class Frames(nn.Module):
    """[batch, channel, time, mel] to [batch, time, mel · channel]."""

    def forward(self, x):
        """Move the channels last."""
        return x.permute(0, 2, 3, 1).flatten(2)


class Transpose(nn.Module):
    """Time and channels change places."""

    def forward(self, x):
        """[batch, a, b] to [batch, b, a]."""
        return x.transpose(1, 2)


def deployed(model, depth, layout):
    """One depth of an fp32 DFSMN with everything folded.

    Arguments
    ---------
    model : DFSMN
        In eval mode.
    depth : int
        One of its depths.
    layout : str
        "frames": [batch, time, channel], pointwise maps are linear layers;
        "maps": [batch, channel, time, 1], everything is a 2-d convolution.

    Returns
    -------
    nn.Sequential
        Stages by name: "conv1", "conv2", "fc", "layer0" …, "head". A layer is
        a sequence of "memory" and "pointwise", and the body of the latter of
        "pointwise1" and "pointwise2".
    """
    maps = layout == "maps"

    def convolution(layer, norm):
        side = layer.weight.shape[-1] // 2
        return _convolution(layer, norm, layer.weight, padding=side)

    def pointwise(layer, norm):
        if maps:
            return _convolution(layer, norm, layer.weight[:, :, None, None])
        scale, bias, slope, _ = norm.fold()
        linear = nn.Linear(*layer.weight.T.shape)
        _fill(linear, layer.weight, scale, bias)
        return nn.Sequential(linear, nn.LeakyReLU(slope[0].item()))

    def memory(layer, norm):
        weight = layer.weight[:, None, :]
        options = {"groups": len(weight), "dilation": layer.dilation}
        before = layer.left * layer.dilation
        after = layer.right * layer.dilation
        if before != after:
            raise ValueError("the fp32 baseline needs as many taps either side")
        if maps:
            weight = weight[..., None]
            options |= {"padding": (before, 0), "dilation": (layer.dilation, 1)}
            return Residual(_convolution(layer, norm, weight, **options))
        body = _convolution(layer, norm, weight, padding=before, **options)
        return Residual(Transpose(), body, Transpose())

    channels = model.fc.weight.shape[0]
    head = nn.Linear(model.head.in_features, model.head.out_features)
    head.load_state_dict(model.head.state_dict())
    if maps:
        # The input of fc is [mel][channel], that of the head [time][channel].
        weight = model.fc.weight.unflatten(1, (-1, len(model.conv2.weight)))
        weight = weight.transpose(1, 2)[:, :, None]
        fc = _convolution(model.fc, model.norm_fc, weight)
        order = head.weight.data.unflatten(1, (-1, channels)).transpose(1, 2)
        head.weight.data = order.flatten(1).contiguous()
    else:
        fc = nn.Sequential(Frames(), pointwise(model.fc, model.norm_fc))

    stages = OrderedDict(
        conv1=nn.Sequential(
            nn.Unflatten(1, (1, -1)), convolution(model.conv1, model.norm1)
        ),
        conv2=convolution(model.conv2, model.norm2),
        fc=fc,
    )
    for k, i in enumerate(model.layers_of(depth)):
        block = model.blocks[i]
        stages[f"layer{k}"] = nn.Sequential(
            OrderedDict(
                memory=memory(block.memory.memory, block.memory.norm.at(depth)),
                pointwise=Residual(
                    pointwise(block.pointwise1, block.norm1.at(depth)),
                    pointwise(block.pointwise2, block.norm2.at(depth)),
                ),
            )
        )
    stages["head"] = nn.Sequential(nn.Flatten(), head)
    return nn.Sequential(stages).eval().requires_grad_(False)


def stages_of(network, x):
    """The stages of a deployed network, each with its input.

    Arguments
    ---------
    network : nn.Sequential
        What ``deployed`` gives.
    x : torch.Tensor
        Input of the network.

    Returns
    -------
    dict of str to (nn.Module, torch.Tensor)
        Named as in csrc/include/bifsmn.h; of the layers, the first.
    """
    first, second = network.layer0.pointwise.body
    inputs = {}
    chain = OrderedDict(
        conv1=network.conv1,
        conv2=network.conv2,
        fc=network.fc,
        memory=network.layer0.memory,
        pointwise1=first,
        pointwise2=second,
    )
    for name, stage in chain.items():
        inputs[name] = x.clone()
        x = stage(x)
    # The head reads a stream of the shape that pointwise 2 writes.
    return {name: (chain[name], inputs[name]) for name in chain} | {
        "head": (network.head, x.clone())
    }


def _convolution(layer, norm, weight, **options):
    """A convolution with its norm folded into it, and its leaky ReLU."""
    scale, bias, slope, _ = norm.fold()
    outputs, inputs, *kernel = weight.shape
    inputs *= options.get("groups", 1)
    kind = nn.Conv2d if len(kernel) == 2 else nn.Conv1d
    stride = getattr(layer, "stride", 1)
    convolution = kind(inputs, outputs, tuple(kernel), stride, **options)
    _fill(convolution, weight, scale, bias)
    return nn.Sequential(convolution, nn.LeakyReLU(slope[0].item()))


def _fill(layer, weight, scale, bias):
    """Set weights and bias, each output channel multiplied by its scale."""
    scale = scale.view(-1, *[1] * (weight.dim() - 1))
    layer.weight.data = (weight.double() * scale).float().contiguous()
    layer.bias.data = bias.float()
