"""Batch norm, PReLU and sign, folded to what a device computes.

A layer whose output is only ever compared with a threshold becomes an integer
threshold and a direction bit for each channel. One that feeds the residual
stream keeps one scale, one bias and one slope. docs/format.md says how they
are used.
"""

import numpy as np
import torch

from speechbrain_bifsmn.layers import integer_weights
from speechbrain_bifsmn.model_file import Config, Model

INT32 = np.iinfo(np.int32)


class ExportError(ValueError):
    """The network cannot be written to a model file."""


def fold(model, log_mel, samples, labels, meta=None, real=np.float16):
    """Fold a trained network.

    Arguments
    ---------
    model : BiFSMN
        In eval mode or not; running statistics are used.
    log_mel : LogMel
        Front end.
    samples : int
        PCM samples of one decision.
    labels : list of str
        Class names.
    meta : dict, optional
        For the ``META`` section.
    real : type
        Storage of the multiply-adds, np.float16 or np.float32.

    Returns
    -------
    Model

    Raises
    ------
    ExportError
        Naming the layer that the file cannot hold.
    """
    config = _config(model, log_mel, samples, labels)
    blocks = model.blocks
    used = {n: model.layers_of(n) for n in model.depths}

    def sets(stage, norm_of):
        """The norms of a stage in the order of the file's sets."""
        if config.is_private(stage):
            pairs = [(n, i) for n in model.depths for i in used[n]]
        else:
            # A layer that no depth runs has no norm; any other stands in.
            pairs = [
                (next((n for n in model.depths if i in used[n]), None), i)
                for i in range(len(blocks))
            ]
        return [(i, norm_of(blocks[i]).at(n)) for n, i in pairs]

    memory = sets("memory", lambda b: b.memory.norm)
    pointwise1 = sets("pointwise1", lambda b: b.norm1)
    pointwise2 = sets("pointwise2", lambda b: b.norm2)

    weights, steps = integer_weights(model.conv1.weight, model.conv1.bits)
    c1_t, c1_d = fold_integer(
        steps.flatten().double() * model.conv1.step,
        *model.norm1.fold()[:3],
        model.conv2.activation_quantizer.fold(),
    )
    c2_t, c2_d = _bits(model.conv2, model.fc, model.norm2, "conv2")
    p1 = [
        _bits(
            blocks[i].pointwise1,
            blocks[i].pointwise2,
            norm,
            f"blocks.{i}.pointwise1",
        )
        for i, norm in pointwise1
    ]
    me_a = [
        _real(blocks[i].memory.memory, norm, real, f"blocks.{i}.memory")
        for i, norm in memory
    ]
    p2_a = [
        _real(blocks[i].pointwise2, norm, real, f"blocks.{i}.pointwise2")
        for i, norm in pointwise2
    ]
    head, head_steps = integer_weights(model.head.weight, model.head.bits)
    slopes = _slopes(config, real)
    arrays = {
        "FRNT": [
            log_mel.floor,
            log_mel.offset,
            1 / (log_mel.scale * model.conv1.step),
        ],
        "MELS": log_mel.mel_edges(),
        "C1.W": weights[:, 0].to(torch.int8),
        "C1.T": c1_t,
        "C1.D": c1_d[None],
        "C2.W": _signs(model.conv2).permute(0, 2, 3, 1).flatten(1),
        "C2.T": c2_t,
        "C2.D": c2_d[None],
        "FC.W": _signs(model.fc),
        "FC.A": _real(model.fc, model.norm_fc, real, "fc"),
        "FC.S": slopes([model.norm_fc]),
        "ME.W": torch.cat([_signs(b.memory.memory).T for b in blocks]),
        "ME.A": np.stack(me_a),
        "ME.S": slopes([norm for _, norm in memory]),
        "P1.W": torch.cat([_signs(b.pointwise1) for b in blocks]),
        "P1.T": np.stack([t for t, _ in p1]),
        "P1.D": np.stack([d for _, d in p1]),
        "P2.W": torch.cat([_signs(b.pointwise2) for b in blocks]),
        "P2.A": np.stack(p2_a),
        "P2.S": slopes([norm for _, norm in pointwise2]),
        "HD.W": head.to(torch.int8),
        "HD.A": torch.stack([head_steps.flatten(), model.head.bias]),
    }
    if config.planes > 1:
        gains = [
            layer.activation_quantizer.fold().gains
            for layer in binary_layers(model).values()
        ]
        arrays["GAIN"] = np.array(gains, np.uint8)
    if config.thresholds:
        cuts = _stream_cuts(model, config, real)
        arrays["ME.X"], arrays["P1.X"], arrays["HD.B"] = cuts
        if not config.rprelu:
            del arrays["HD.B"]
    single = {"FRNT", "MELS", "HD.A"}
    for tag, array in arrays.items():
        if isinstance(array, torch.Tensor):
            array = array.detach().cpu().numpy()
        arrays[tag] = np.asarray(array, np.float32 if tag in single else None)
    return Model(config, model.depths, list(labels), meta or {}, arrays)


def binary_layers(model):
    """Every binary layer by its name, in the order of GAIN."""
    layers = {"conv2": model.conv2, "fc": model.fc}
    for i, block in enumerate(model.blocks):
        layers[f"blocks.{i}.memory"] = block.memory.memory
        layers[f"blocks.{i}.pointwise1"] = block.pointwise1
        layers[f"blocks.{i}.pointwise2"] = block.pointwise2
    return layers


def _slopes(config, real):
    """How PReLU slopes are stored: one for a set, or one for a channel."""

    def slopes(norms):
        rows = torch.stack([norm.fold()[2] for norm in norms]).cpu().numpy()
        return rows.astype(real) if config.rprelu else np.float32(rows[:, 0])

    return slopes


def _stream_cuts(model, config, real):
    """ME.X, P1.X and HD.B.

    RPReLU's last shift, the same at every position, is never added to the
    stream: what was added so far is taken off the thresholds that follow, and
    what is missing at the end is added to the classifier's bias.
    """
    head, steps = integer_weights(model.head.weight.double(), model.head.bits)
    head = (head * steps).detach().unflatten(1, (-1, config.channels)).sum(1)
    shared = {i: None for i in range(config.layers)}
    memory, pointwise1, biases = [], [], []
    for depth in model.depths:
        shift = model.norm_fc.fold()[3]
        for i in model.layers_of(depth):
            block = model.blocks[i]
            cuts = []
            for layer, norm in (
                (block.memory.memory, block.memory.norm),
                (block.pointwise1, block.norm2),
            ):
                planes = layer.activation_quantizer.fold()
                rows = torch.stack([t.double() for t in planes.thresholds])
                cuts.append(rows - shift if config.rprelu else rows)
                shift = shift + norm.at(depth).fold()[3]
            if config.rprelu:
                memory.append(cuts[0])
                pointwise1.append(cuts[1])
            shared[i] = cuts
        biases.append(model.head.bias.detach().double() + head @ shift)
    if not config.rprelu:
        # A layer that no depth runs takes the thresholds of any other.
        some = next(cuts for cuts in shared.values() if cuts)
        memory = [(cuts or some)[0] for cuts in shared.values()]
        pointwise1 = [(cuts or some)[1] for cuts in shared.values()]
    return (
        _stored(torch.stack(memory).cpu().numpy(), real, "memory thresholds"),
        _stored(
            torch.stack(pointwise1).cpu().numpy(), real, "pointwise thresholds"
        ),
        torch.stack(biases).float(),
    )


def _bits(layer, next_layer, norm, name):
    """Thresholds and direction of a layer that another one follows."""
    planes = layer.activation_quantizer.fold()
    signs, scale = layer.weight_quantizer.fold(layer.weight)
    scale, bias, slope, _ = _affine(signs, scale, planes, norm)
    inputs = signs[0].numel() * sum(planes.gains)
    after = next_layer.activation_quantizer.fold()
    return fold_bits(inputs, scale, bias, slope, after, name)


def _real(layer, norm, real, name):
    """Scale and bias of a layer that feeds the residual stream."""
    planes = layer.activation_quantizer.fold()
    signs, scale = layer.weight_quantizer.fold(layer.weight)
    scale, bias, _, _ = _affine(signs, scale, planes, norm)
    return _stored(torch.stack([scale, bias]).cpu().numpy(), real, name)


def _affine(signs, scale, planes, norm):
    """Norm of weighted sums as a norm of integer sums."""
    norm_scale, bias, slope, shift = norm.fold()
    scale = norm_scale * scale.double()
    # An activation is step · (weighted bits) + offset.
    ones = (2.0 * signs.double() - 1).flatten(1).sum(1)
    return (
        scale * planes.step,
        bias + scale * planes.offset * ones,
        slope,
        shift,
    )


def fold_bits(inputs, scale, bias, slope, after, name):
    """Fold an output that is only compared with thresholds.

    Every possible sum is tried, so the result holds for any sign of the scale
    and any slope, by construction.

    Arguments
    ---------
    inputs : int
        G, the greatest sum: inputs of the layer times what each counts.
    scale, bias : torch.Tensor, [out]
        Weights' magnitude and batch norm as a multiply-add.
    slope : torch.Tensor, [out]
        Of the PReLU.
    after : Planes
        What the next layer makes of it.
    name : str
        The layer, for the error.

    Returns
    -------
    threshold : np.ndarray of int64, [cuts, out]
        T, from 0 to G + 1.
    direction : np.ndarray of bool, [out]
        D; y >= cut is (d < T) xor D, d the weighted number of differing
        inputs, from 0 to G.

    Raises
    ------
    ExportError
        If a channel changes more than once as d grows.
    """
    scale, bias, slope = (
        v.double().cpu().numpy() for v in (scale, bias, slope)
    )
    sums = inputs - 2.0 * np.arange(inputs + 1)
    levels = [_column(cut, len(scale)) for cut in after.thresholds]
    thresholds = np.empty((len(levels), len(scale)), np.int64)
    direction = scale < 0
    # As many channels at a time as fit a few megabytes.
    block = max(1, 2**20 // len(sums))
    for first in range(0, len(scale), block):
        rows = slice(first, first + block)
        z = scale[rows, None] * sums + bias[rows, None]
        y = np.where(z >= 0, z, z * slope[rows, None])
        for cut, level in enumerate(levels):
            bits = (y >= level[rows, None]) != direction[rows, None]
            # (d < T) for d = 0, 1, … is T ones, then zeros.
            if (bits[:, 1:] > bits[:, :-1]).any():
                raise ExportError(
                    f"{name}: a channel needs more thresholds than format "
                    "version 1 holds; keep the PReLU slope positive"
                )
            thresholds[cut, rows] = bits.sum(1)
    return thresholds, direction


def _column(cut, channels):
    """One threshold for each channel; [mel, channels] repeat theirs."""
    values = cut.double().cpu().numpy()
    return np.broadcast_to(values, channels)


def fold_integer(scale, norm_scale, norm_bias, slope, after):
    """Fold the first convolution, whose integer sums are too many to try.

    Arguments
    ---------
    scale : torch.Tensor, [out]
        What one step of the sum is worth.
    norm_scale, norm_bias : torch.Tensor, [out]
        Batch norm as a multiply-add.
    slope : torch.Tensor, [out]
        Of the PReLU, positive.
    after : Planes
        What the next layer makes of it.

    Returns
    -------
    threshold : np.ndarray of int64, [cuts, out]
    direction : np.ndarray of bool, [out]
        y >= cut is (S >= threshold) xor direction.

    Raises
    ------
    ExportError
        If the output is not monotone in the sum.
    """
    scale = (scale.double() * norm_scale).cpu().numpy()
    bias, slope = norm_bias.cpu().numpy(), slope.cpu().numpy()
    thresholds = []
    for cut in after.thresholds:
        level = _column(cut, len(scale))
        if ((slope <= 0) & (level > 0)).any():
            raise ExportError("conv1: keep the PReLU slope positive")
        with np.errstate(divide="ignore", invalid="ignore"):
            # PReLU with a positive slope is increasing: compare before it.
            # With none or a negative one it is never below 0.
            before = np.where(slope > 0, level / slope, -np.inf)
            level = np.where(level > 0, level, before)
            edge = (level - bias) / scale
        rising = np.ceil(edge)
        falling = np.floor(edge) + 1
        # A channel with scale 0 is constant.
        constant = np.where(bias >= level, INT32.min, INT32.max)
        which = [scale > 0, scale < 0]
        rows = np.select(which, [rising, falling], constant)
        thresholds.append(np.clip(rows, INT32.min, INT32.max))
    return np.stack(thresholds).astype(np.int64), scale < 0


def _stored(constants, real, name):
    """Real constants in the type that the file stores.

    Raises
    ------
    ExportError
        If one is not finite in that type.
    """
    with np.errstate(over="ignore"):
        stored = constants.astype(real)
    if not np.isfinite(stored).all():
        raise ExportError(
            f"{name}: a constant of {np.abs(constants).max():g} "
            f"does not fit {np.dtype(real).name}"
        )
    return stored


def _config(model, log_mel, samples, labels):
    c1, _, kernel, _ = model.conv1.weight.shape
    block = model.blocks[0]
    memory = block.memory.memory
    n_fft = log_mel.n_fft
    if n_fft & (n_fft - 1):
        raise ExportError(f"n_fft must be a power of two, not {n_fft}")
    if len(labels) != model.head.out_features:
        raise ExportError(
            f"{len(labels)} labels for {model.head.out_features} classes"
        )
    if log_mel.n_mels != model.n_mels:
        raise ExportError(
            f"the front end has {log_mel.n_mels} mel bands, the network takes "
            f"{model.n_mels}"
        )
    frames = -(-samples // log_mel.hop_length)
    if frames != model.frames:
        raise ExportError(
            f"{samples} samples are {frames} frames, the network takes "
            f"{model.frames}"
        )
    return Config(
        sample_rate=log_mel.sample_rate,
        samples=samples,
        win_length=log_mel.win_length,
        n_fft=n_fft,
        hop_length=log_mel.hop_length,
        n_mels=log_mel.n_mels,
        frames=frames,
        conv1_channels=c1,
        conv2_channels=model.conv2.weight.shape[0],
        kernel=kernel,
        stride=model.conv1.stride,
        channels=model.fc.weight.shape[0],
        expansion=block.pointwise1.weight.shape[0],
        layers=len(model.blocks),
        left=memory.left,
        right=memory.right,
        dilation=memory.dilation,
        classes=len(labels),
        depths=len(model.depths),
        flags=_flags(model),
    )


def _flags(model):
    """What the file's readers must know of the binarizer."""
    flags = sum(Config.PRIVATE[name] for name in model.private)
    layers = binary_layers(model)
    planes = {
        name: layer.activation_quantizer.fold()
        for name, layer in layers.items()
    }
    first = planes["conv2"]
    for name, ours in planes.items():
        if len(ours.gains) != len(first.gains):
            raise ExportError(
                f"{name} has {len(ours.gains)} bit planes and conv2 "
                f"{len(first.gains)}: the layers must have the same"
            )
    if len(first.gains) > 1:
        flags |= Config.PLANES | Config.THRESHOLDS
    if model.norm_fc.before is not None:
        flags |= Config.RPRELU | Config.THRESHOLDS
    for block in model.blocks:
        for layer in (block.memory.memory, block.pointwise1):
            cuts = layer.activation_quantizer.fold().thresholds
            if any(cut.any() for cut in cuts):
                flags |= Config.THRESHOLDS
            if len(cuts[0]) > 1 and not flags & Config.RPRELU:
                raise ExportError(
                    "a threshold for each channel needs RPReLU: version 1 of "
                    "the format holds them together"
                )
    return flags


def _signs(layer):
    return layer.weight_quantizer.fold(layer.weight)[0]
