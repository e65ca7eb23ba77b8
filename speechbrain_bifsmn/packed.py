"""1-bit layers in PyTorch that compute with bits: ``pack`` a trained model.

``pack`` returns a copy of any module in which the binary layers run in the
compiled core, by XOR and popcount on packed bits. For evaluation and for
servers; a device runs the file that ``bifsmn export`` writes.

The outputs are those of the layers in eval mode within float rounding. The
sums themselves are exact: one of zero is zero, where a float sum may be off to
either side, which shows if a sign follows with no norm between, or one that has
seen no data yet.
"""

import copy
import ctypes
import functools
import os
import threading

import numpy as np
import torch
from torch import nn

from speechbrain_bifsmn.kernels import native
from speechbrain_bifsmn.layers import (
    Conv2d,
    IntegerConv2d,
    IntegerLinear,
    Linear,
    Memory,
    NormPReLU,
    integer_weights,
)
from speechbrain_bifsmn.model_file import pack_bits
from speechbrain_bifsmn.onebit import check_activations, check_weight
from speechbrain_bifsmn.quantizers.activations import AsReleasedActivation
from speechbrain_bifsmn.quantizers.base import along_channels
from speechbrain_bifsmn.quantizers.weights import AsReleasedWeight


def pack(model):
    """A copy of a model whose binary layers run as 1 bit.

    Every ``Linear``, ``Conv2d`` and ``Memory`` of ``layers`` with both
    binarizers is replaced, wherever it is. ``NormPReLU`` becomes one pass, and
    the integer layers keep their rounded weights. All else is copied as it is,
    also subclasses of these, layers with forward hooks, and those with the
    binarizer "as-released", which is not 1-bit.

    The copy is in eval mode and cannot be trained: no gradient passes through
    a packed layer. Those layers take float32 tensors on a CPU, any number of
    frames, and run in the calling thread; several threads may share them.
    They use the kernels that BIFSMN_KERNEL names, else the best. The copy can
    be copied and saved, also its ``state_dict``, which another packed copy
    can load; packed layers stay float32 on the CPU wherever it is moved.

    Arguments
    ---------
    model : nn.Module
        Trained; not changed.

    Returns
    -------
    nn.Module

    Raises
    ------
    NotOneBitError
        Naming the first layer whose weights have more than one magnitude for
        an output channel, or whose activations are not those that their
        binarizer folds to.
    ValueError
        Naming the first layer that is not float32, or if BIFSMN_KERNEL names
        no kernels.
    ImportError
        If the compiled core was not built.

    Example
    -------
    >>> layer = Linear(70, 3, "bifsmn", "bifsmn").eval()
    >>> x = torch.randn(2, 5, 70)
    >>> torch.allclose(pack(layer)(x), layer(x), atol=1e-5)
    True
    """
    _library()
    # deepcopy takes for a copy of a layer whatever its memo has.
    copies = {
        id(layer): packed
        for name, layer in model.named_modules()
        if (packed := _packed(name, layer)) is not None
    }
    return copy.deepcopy(model, copies).eval()


class _Struct(ctypes.Structure):
    """``struct bifsmn_packed``, field by field."""

    _fields_ = [
        ("kernels", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("inputs", "outputs", "planes")),
        ("terms", ctypes.c_size_t),
        *((name, ctypes.c_size_t) for name in ("kernel", "stride")),
        *((name, ctypes.c_size_t) for name in ("left", "dilation")),
        ("gain", ctypes.c_uint32 * 2),
        *((name, ctypes.c_void_p) for name in ("threshold", "weight")),
        *((name, ctypes.c_void_p) for name in ("scale", "bias")),
    ]


@functools.cache
def _library():
    """The C functions, with their types."""
    if not native.available():
        raise ImportError(
            "pack needs the compiled core of speechbrain_bifsmn, which is "
            "missing: install a C compiler and then reinstall "
            "speechbrain_bifsmn"
        )
    lib = ctypes.CDLL(native._native.__file__)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, *arguments in (
        ("open", ctypes.c_int, pointer, ctypes.c_char_p, pointer),
        ("weights", size, size, size),
        ("scratch", size, pointer, size),
        ("linear", None, pointer, size, *[pointer] * 3),
        ("memory", None, pointer, size, size, *[pointer] * 3),
        ("conv", None, pointer, size, size, size, *[pointer] * 3),
        ("norm", None, size, size, size, *[pointer] * 3),
    ):
        function = getattr(lib, f"bifsmn_packed_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


class _Scratch(threading.local):
    """Memory for one call, which all layers of a thread share."""

    def __init__(self):
        self.size = 0

    def at_least(self, size):
        """Its address."""
        if size > self.size:
            self.memory = np.empty((size + 7) // 8, np.int64)
            self.size, self.address = size, self.memory.ctypes.data
        return self.address


_scratch = _Scratch()
_opening = threading.Lock()


def _packed(name, layer):
    """What stands for a layer in the copy, or None."""
    for module in layer.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return None
    if type(layer) in PACKED:
        weights, inputs = layer.weight_quantizer, layer.activation_quantizer
        if None in (weights, inputs) or isinstance(weights, AsReleasedWeight):
            return None
        if isinstance(inputs, AsReleasedActivation):
            return None
    elif type(layer) not in OTHERS:
        return None
    for parameter in layer.parameters():
        if parameter.dtype is not torch.float32:
            raise ValueError(
                f"{name or type(layer).__name__} is of {parameter.dtype}, and "
                "packed layers of float32: call .float() on the model first"
            )
    return {**PACKED, **OTHERS}[type(layer)](name, layer)


class _Packed(nn.Module):
    """What all that ``pack`` makes has in common; ``inputs`` are channels."""

    # Address of the constants for C.
    _native = None

    def _open(self):
        with _opening:
            return self._native or self._fill()

    def _ready(self, x, dim, channels, wanted):
        """The input as C takes it; of any number of axes, if dim is 0."""
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError(
                "a packed model cannot be traced: what runs in C leaves none"
            )
        if (
            x.dtype is torch.float32
            and x.is_cpu
            and (x.dim() == dim or dim == 0)
            and x.shape[channels] == self.inputs
        ):
            return x if x.is_contiguous() else x.contiguous()
        if not x.is_cpu:
            raise ValueError(
                f"packed layers run on the CPU, and the input is on {x.device}"
            )
        if x.dtype is not torch.float32:
            raise TypeError(f"packed layers take float32, not {x.dtype}")
        raise ValueError(f"expected {wanted}, got {list(x.shape)}")

    def train(self, mode=True):
        """Refuse to train; see ``nn.Module``."""
        if mode:
            raise RuntimeError(
                "a packed model cannot be trained: train the one it was "
                "packed from, and pack that again"
            )
        return super().train(False)

    def _apply(self, fn, recurse=True):
        # C takes the constants as they are, wherever the others are moved.
        return self

    def _load_from_state_dict(self, *args):
        self._native = None  # has the old weights
        super()._load_from_state_dict(*args)

    def __getstate__(self):
        """Without addresses, which mean nothing elsewhere."""
        state = self.__dict__.copy()
        state.pop("_keep", None)
        state["_native"] = None
        return state

    def extra_repr(self):
        """See ``nn.Module``."""
        return str(self.inputs)


class _PackedLayer(_Packed):
    """Constants of one layer, and the C function that computes it.

    y = scale · Σ_p gain[p] · (terms - 2 · differing bits of plane p) + bias.

    Arguments
    ---------
    name : str
        Of the layer, for errors.
    layer : Linear, Conv2d or Memory
        With both binarizers.
    inputs : int
        Channels of the input, a threshold each.
    **sizes
        Further fields of the struct.
    """

    @torch.no_grad()
    def __init__(self, name, layer, inputs, **sizes):
        super().__init__()
        name = name or type(layer).__name__
        check_weight(name, layer)
        x = torch.randn(64, inputs, generator=torch.Generator().manual_seed(0))
        check_activations(name, layer, x.to(layer.weight))
        planes = layer.activation_quantizer.fold()
        signs, scale = layer.weight_quantizer.fold(layer.weight)
        signs, scale = signs.cpu(), scale.cpu().double()
        self.inputs, self.outputs = inputs, len(signs)
        self.terms = signs[0].numel()
        self.sizes = sizes
        ones = (2 * signs.double() - 1).flatten(1).sum(1)
        spread = torch.zeros(1, inputs)
        limits = [
            along_channels(t.cpu().float(), spread) + spread
            for t in planes.thresholds
        ]
        for key, value in (
            ("gain", torch.tensor(planes.gains)),
            ("threshold", torch.cat(limits)),
            ("weight", _bit_rows(self._rows(signs))),
            ("scale", (planes.step * scale).float()),
            ("bias", (planes.offset * scale * ones).float()),
        ):
            self.register_buffer(key, value.contiguous())
        self.eval()
        self._open()

    # Whether kernels may pack the weights their own way.
    _packs = True

    @staticmethod
    def _rows(signs):
        """Signs as the rows of bits that the kernels take."""
        return signs.flatten(1)

    def _fill(self):
        """The struct, with the weights as the kernels have them."""
        lib = _library()
        size = lib.bifsmn_packed_weights(self.outputs, self.terms)
        packed = torch.empty(size, dtype=torch.uint8, device="cpu")
        struct = _Struct(
            inputs=self.inputs,
            outputs=self.outputs,
            terms=self.terms,
            planes=len(self.gain),
            gain=tuple(self.gain.tolist()),
            threshold=self.threshold.data_ptr(),
            weight=self.weight.data_ptr(),
            scale=self.scale.data_ptr(),
            bias=self.bias.data_ptr(),
            **self.sizes,
        )
        kernel = os.environ.get("BIFSMN_KERNEL")
        if lib.bifsmn_packed_open(
            ctypes.addressof(struct),
            kernel.encode() if kernel else None,
            packed.data_ptr() if self._packs else None,
        ):
            raise ValueError(native.unknown_kernels(kernel))
        address = ctypes.addressof(struct)
        self._keep = struct, packed
        self._size = lib.bifsmn_packed_scratch(address, 1)
        self._native = address
        return address

    def extra_repr(self):
        """See ``nn.Module``."""
        return f"{self.inputs}, {self.outputs}, planes={len(self.gain)}"


class PackedLinear(_PackedLayer):
    """``layers.Linear`` as ``pack`` makes it."""

    def __init__(self, name, layer):
        super().__init__(name, layer, layer.weight.shape[1])

    def forward(self, x):
        """Map [..., inputs] to [..., outputs]."""
        x = self._ready(x, 0, -1, f"[..., {self.inputs}]")
        layer = self._native or self._open()
        y = x.new_empty((*x.shape[:-1], self.outputs))
        _library().bifsmn_packed_linear(
            layer,
            y.numel() // self.outputs,
            x.data_ptr(),
            y.data_ptr(),
            _scratch.at_least(self._size),
        )
        return y


class PackedConv2d(_PackedLayer):
    """``layers.Conv2d`` as ``pack`` makes it."""

    def __init__(self, name, layer):
        _, inputs, kernel, _ = layer.weight.shape
        self.stride = layer.stride
        super().__init__(
            name, layer, inputs, kernel=kernel, stride=layer.stride
        )

    @staticmethod
    def _rows(signs):
        # In the order (time, mel, channels), inverted: see packed.c.
        return ~signs.permute(0, 2, 3, 1).flatten(1)

    def forward(self, x):
        """Map [batch, inputs, time, mel] to [batch, outputs, time', mel']."""
        x = self._ready(x, 4, 1, f"[batch, {self.inputs}, time, mel]")
        layer = self._native or self._open()
        clips, _, frames, mels = x.shape
        y = x.new_empty(
            (
                *(clips, self.outputs),
                (frames - 1) // self.stride + 1,
                (mels - 1) // self.stride + 1,
            )
        )
        if y.numel() == 0:
            return y
        lib = _library()
        lib.bifsmn_packed_conv(
            *(layer, clips, frames, mels, x.data_ptr(), y.data_ptr()),
            _scratch.at_least(lib.bifsmn_packed_scratch(layer, mels)),
        )
        return y


class PackedMemory(_PackedLayer):
    """``layers.Memory`` as ``pack`` makes it."""

    _packs = False

    def __init__(self, name, layer):
        super().__init__(
            name,
            layer,
            len(layer.weight),
            left=layer.left,
            dilation=layer.dilation,
        )

    @staticmethod
    def _rows(signs):
        return signs.T

    def forward(self, x):
        """Map [batch, time, channels] to the same shape."""
        x = self._ready(x, 3, -1, f"[batch, time, {self.inputs}]")
        layer = self._native or self._open()
        clips, frames, _ = x.shape
        y = torch.empty_like(x)
        _library().bifsmn_packed_memory(
            *(layer, clips, frames, x.data_ptr(), y.data_ptr()),
            _scratch.at_least(self._size),
        )
        return y


class PackedNormPReLU(_Packed):
    """``layers.NormPReLU`` in one pass: (z >= 0 ? z : z · slope) + shift."""

    def __init__(self, name, norm):
        super().__init__()
        self.register_buffer(
            "constants", torch.stack(norm.fold()).cpu().float()
        )
        self.inputs = self.constants.shape[1]
        self.eval()

    def _fill(self):
        self._native = self.constants.data_ptr()
        return self._native

    def forward(self, x):
        """Keep the shape."""
        axis = 1 if x.dim() == 4 else -1
        x = self._ready(x, 0, axis, "a channel for each constant")
        constants = self._native or self._open()
        y = torch.empty_like(x)
        inner = x.shape[2] * x.shape[3] if axis == 1 else 1
        _library().bifsmn_packed_norm(
            *(x.numel() // (self.inputs * inner), self.inputs, inner),
            *(x.data_ptr(), constants, y.data_ptr()),
        )
        return y


class _RoundedConv2d(IntegerConv2d):
    """``layers.IntegerConv2d`` with weights that are rounded already."""

    def __init__(self, name, layer):
        outputs, inputs, kernel, _ = layer.weight.shape
        super().__init__(inputs, outputs, kernel, layer.stride, layer.step)
        self.weight.data = layer.quantized_weight().detach()

    def quantized_weight(self):
        """The weight."""
        return self.weight


def _rounded_linear(name, layer):
    """``layers.IntegerLinear`` with weights that are rounded already."""
    integers, scale = integer_weights(layer.weight.detach(), layer.bits)
    rounded = nn.Linear(layer.in_features, layer.out_features)
    rounded.weight.data = integers * scale
    rounded.bias.data = layer.bias.detach().clone()
    return rounded


PACKED = {
    Linear: PackedLinear,
    Conv2d: PackedConv2d,
    Memory: PackedMemory,
}
# What is not 1-bit, and would cost more than all that is.
OTHERS = {
    NormPReLU: PackedNormPReLU,
    IntegerConv2d: _RoundedConv2d,
    IntegerLinear: _rounded_linear,
}


def _bit_rows(rows):
    """Bool [rows, size] to the bytes of 64-bit words, little-endian."""
    words = pack_bits(rows.numpy()).astype("<u8")
    return torch.from_numpy(words.view(np.uint8))
