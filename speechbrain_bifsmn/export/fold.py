"""Batch norm, PReLU and sign, folded to what a device computes.

A layer whose output is only ever compared with a threshold becomes an integer
threshold and a direction bit for each channel. One that feeds the residual
stream keeps one scale, one bias and one slope. docs/format.md says how they
are used.
"""

import numpy as np
import torch

from speechbrain_bifsmn.export.file import Config, Model
from speechbrain_bifsmn.layers import integer_weights

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
    private = config.private
    blocks = model.blocks
    used = {n: model.layers_of(n) for n in model.depths}

    def sets(stage, norm_of):
        """The norms of a stage in the order of the file's sets."""
        if private & Config.PRIVATE[stage]:
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

    def bits(layer, next_layer, norm, name):
        threshold = _threshold(next_layer, name)
        return fold_bits(*_sum(layer), *norm.fold(), threshold, name)

    def real_output(layer, norm, name):
        return fold_real(_sum(layer)[1], *norm.fold()[:2], real, name)

    for i, block in enumerate(blocks):
        for part in (block.memory.memory, block.pointwise1):
            if _threshold(part, f"blocks.{i}") != 0:
                raise ExportError(
                    f"blocks.{i} binarizes the residual stream at a threshold "
                    "other than 0, which format version 1 does not hold"
                )

    weights, steps = integer_weights(model.conv1.weight, model.conv1.bits)
    c1_t, c1_d = fold_integer(
        steps.flatten().double() * model.conv1.step,
        *model.norm1.fold(),
        _threshold(model.conv2, "conv2"),
    )
    c2_t, c2_d = bits(model.conv2, model.fc, model.norm2, "conv2")
    p1 = [
        bits(blocks[i].pointwise1, blocks[i].pointwise2, norm, "pointwise1")
        for i, norm in pointwise1
    ]
    head, head_steps = integer_weights(model.head.weight, model.head.bits)
    head_scale = head_steps.flatten()
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
        "FC.A": real_output(model.fc, model.norm_fc, "fc"),
        "FC.S": [model.norm_fc.fold()[2]],
        "ME.W": torch.cat([_signs(b.memory.memory).T for b in blocks]),
        "ME.A": np.stack(
            [
                real_output(blocks[i].memory.memory, norm, f"blocks.{i}.memory")
                for i, norm in memory
            ]
        ),
        "ME.S": [norm.fold()[2] for _, norm in memory],
        "P1.W": torch.cat([_signs(b.pointwise1) for b in blocks]),
        "P1.T": np.stack([t for t, _ in p1]),
        "P1.D": np.stack([d for _, d in p1]),
        "P2.W": torch.cat([_signs(b.pointwise2) for b in blocks]),
        "P2.A": np.stack(
            [
                real_output(
                    blocks[i].pointwise2, norm, f"blocks.{i}.pointwise2"
                )
                for i, norm in pointwise2
            ]
        ),
        "P2.S": [norm.fold()[2] for _, norm in pointwise2],
        "HD.W": head.to(torch.int8),
        "HD.A": torch.stack([head_scale, model.head.bias]),
    }
    single = {"FRNT", "MELS", "FC.S", "ME.S", "P2.S", "HD.A"}
    for tag, array in arrays.items():
        if isinstance(array, torch.Tensor):
            array = array.detach().cpu().numpy()
        arrays[tag] = np.asarray(array, np.float32 if tag in single else None)
    return Model(config, model.depths, list(labels), meta or {}, arrays)


def fold_bits(inputs, scale, norm_scale, norm_bias, slope, threshold, name):
    """Fold an output that is only compared with a threshold.

    Every possible sum is tried, so the result holds for any sign of the norm's
    scale and any slope, by construction.

    Arguments
    ---------
    inputs : int
        K, inputs of one sum.
    scale : torch.Tensor, [out]
        Weight magnitude of each channel.
    norm_scale, norm_bias : torch.Tensor, [out]
        Batch norm as a multiply-add.
    slope : float
        Of the PReLU.
    threshold : float
        The next layer's bit is y >= threshold.
    name : str
        The layer, for the error.

    Returns
    -------
    threshold : np.ndarray of int64, [out]
        T, from 0 to K + 1.
    direction : np.ndarray of bool, [out]
        D; the bit is (d < T) xor D, d the number of differing inputs.

    Raises
    ------
    ExportError
        If a channel changes more than once as d grows.
    """
    d = torch.arange(inputs + 1, dtype=torch.float64)
    z = (scale.double() * norm_scale)[:, None] * (inputs - 2 * d)
    z = z + norm_bias[:, None]
    bits = (torch.where(z >= 0, z, z * slope) >= threshold).numpy()
    changes = bits[:, 1:] != bits[:, :-1]
    if (changes.sum(1) > 1).any():
        raise ExportError(
            f"{name}: a channel needs more than one threshold, which format "
            "version 1 does not hold; keep the PReLU slope positive"
        )
    constant = ~changes.any(1)
    first = bits[:, 0]
    thresholds = np.where(constant, inputs + 1, changes.argmax(1) + 1)
    return thresholds.astype(np.int64), ~first


def fold_integer(scale, norm_scale, norm_bias, slope, threshold):
    """Fold the first convolution, whose integer sums are too many to try.

    Arguments
    ---------
    scale : torch.Tensor, [out]
        What one step of the sum is worth.
    norm_scale, norm_bias : torch.Tensor, [out]
        Batch norm as a multiply-add.
    slope : float
        Of the PReLU.
    threshold : float
        The next layer's bit is y >= threshold.

    Returns
    -------
    threshold : np.ndarray of int64, [out]
    direction : np.ndarray of bool, [out]
        The bit is (S >= threshold) xor direction.

    Raises
    ------
    ExportError
        If the output is not monotone in the sum.
    """
    scale = (scale * norm_scale).numpy()
    bias = norm_bias.numpy()
    if slope <= 0 and threshold <= 0:
        # Negative sums give 0 or more: every bit is +1.
        return np.full(len(scale), INT32.min), np.zeros(len(scale), bool)
    if slope <= 0:
        raise ExportError("conv1: keep the PReLU slope positive")
    # PReLU with a positive slope is increasing: compare before it.
    level = threshold if threshold >= 0 else threshold / slope
    with np.errstate(divide="ignore", invalid="ignore"):
        edge = (level - bias) / scale
    rising = np.ceil(edge)
    falling = np.floor(edge) + 1
    # A channel with scale 0 is constant.
    constant = np.where(bias >= level, INT32.min, INT32.max)
    thresholds = np.select([scale > 0, scale < 0], [rising, falling], constant)
    thresholds = np.clip(thresholds, INT32.min, INT32.max).astype(np.int64)
    return thresholds, scale < 0


def fold_real(scale, norm_scale, norm_bias, real, name):
    """Fold an output that feeds the residual stream.

    Arguments
    ---------
    scale : torch.Tensor, [out]
        Weight magnitude of each channel.
    norm_scale, norm_bias : torch.Tensor, [out]
        Batch norm as a multiply-add.
    real : type
        Storage type.
    name : str
        The layer, for the error.

    Returns
    -------
    np.ndarray of ``real``, [2, out]
        Scale and bias.

    Raises
    ------
    ExportError
        If a constant is not finite in that type.
    """
    constants = torch.stack([scale.double() * norm_scale, norm_bias]).numpy()
    with np.errstate(over="ignore"):
        stored = constants.astype(real)
    if not np.isfinite(stored).all():
        raise ExportError(
            f"{name}: a batch norm constant of {np.abs(constants).max():g} "
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
        private=sum(Config.PRIVATE[name] for name in model.private),
    )


def _signs(layer):
    return layer.weight_quantizer.fold(layer.weight)[0]


def _sum(layer):
    """K and the weight magnitude of each channel."""
    signs, scale = layer.weight_quantizer.fold(layer.weight)
    return signs[0].numel(), scale.cpu()


def _threshold(layer, name):
    thresholds = layer.activation_quantizer.fold()
    if len(thresholds) != 1:
        raise ExportError(
            f"{name} has {len(thresholds)} bit planes, "
            "format version 1 holds one"
        )
    return thresholds[0]
