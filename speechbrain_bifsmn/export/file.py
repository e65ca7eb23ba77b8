"""The model file in Python: docs/format.md, line for line.

``Model`` holds the folded network in plain numpy arrays (bits as booleans,
True for +1); ``to_bytes`` and ``from_bytes`` are exact inverses.
"""

import json
import struct
import zlib
from dataclasses import astuple, dataclass, field, fields

import numpy as np

from speechbrain_bifsmn.layers import layers_of

MAGIC = b"BiFSMN\r\n"
MAJOR, MINOR = 1, 0
HEADER = struct.Struct("<8sHHIII")
ENTRY = struct.Struct("<4sB3xII")
ALIGNMENT = 16
TEXT, I4, BITS = 0, 8, 9
PLAIN = {1: "<u1", 2: "<i1", 3: "<u2", 4: "<u4", 5: "<i4", 6: "<f2", 7: "<f4"}


class ModelFileError(ValueError):
    """The bytes are not a model file that this version can read."""


@dataclass(frozen=True)
class Config:
    """The ``CONF`` section, in file order."""

    sample_rate: int = 16000
    samples: int = 16000
    win_length: int = 2048
    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 32
    frames: int = 32
    conv1_channels: int = 16
    conv2_channels: int = 32
    kernel: int = 5
    stride: int = 2
    channels: int = 128
    expansion: int = 256
    layers: int = 8
    left: int = 2
    right: int = 2
    dilation: int = 1
    classes: int = 12
    depths: int = 4
    private: int = 0

    PRIVATE = {"memory": 1, "pointwise1": 2, "pointwise2": 4}

    def after_stride(self, size, times):
        """Size of an axis after ``times`` padded, strided convolutions."""
        for _ in range(times):
            size = (size - 1) // self.stride + 1
        return size

    @property
    def taps(self):
        """Taps of the FSMN memory."""
        return self.left + 1 + self.right

    @property
    def frames_out(self):
        """T2, frames of the residual stream."""
        return self.after_stride(self.frames, 2)

    @property
    def mels_out(self):
        """M2, mel rows after both convolutions."""
        return self.after_stride(self.n_mels, 2)

    @property
    def front_padding(self):
        """Zeros before the first sample, so that the last frame ends last."""
        span = self.win_length + (self.frames - 1) * self.hop_length
        return span - self.samples


@dataclass
class Model:
    """A folded 1-bit network.

    Arguments
    ---------
    config : Config
        Every size.
    depths : tuple of int
        The depths that can run, deepest first.
    labels : list of str
        Class names.
    meta : dict
        Licence, training facts, accuracy; anything JSON can hold.
    arrays : dict of str to np.ndarray
        One array for each section, shaped as in docs/format.md. Bits are
        bool, 4-bit weights are int8 within [-7, 7]. The precision on disk
        follows from the array: float16 or float32 as given, the smallest
        integer type that the section allows.
    """

    config: Config
    depths: tuple
    labels: list
    meta: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)

    def layers_of(self, depth):
        """Layers that a depth executes, as indices, in order."""
        return layers_of(self.config.layers, depth)

    def set_of(self, stage, depth, k):
        """Index of the constants of the k-th executed layer at a depth.

        Arguments
        ---------
        stage : str
            "memory", "pointwise1" or "pointwise2".
        depth : int
            One of ``depths``.
        k : int
            Position among the executed layers, from 0.

        Returns
        -------
        int
        """
        if self.config.private & Config.PRIVATE[stage]:
            return sum(self.depths[: self.depths.index(depth)]) + k
        return self.layers_of(depth)[k]

    def to_bytes(self):
        """Serialize.

        Returns
        -------
        bytes

        Raises
        ------
        ModelFileError
            If an array is missing or has the wrong shape.
        """
        sections = {
            "CONF": (4, _plain(astuple(self.config), 4)),
            "DPTH": (4, _plain(self.depths, 4)),
            "LABL": (TEXT, b"".join(s.encode() + b"\0" for s in self.labels)),
            "META": (TEXT, json.dumps(self.meta, sort_keys=True).encode()),
        }
        for tag, (dtypes, shape) in layout(self.config, self.depths).items():
            if tag not in self.arrays:
                raise ModelFileError(f"no array for section {tag}")
            array = self.arrays[tag]
            if array.shape != shape:
                raise ModelFileError(
                    f"section {tag} must be {shape}, not {array.shape}"
                )
            dtype = _smallest(array, dtypes, tag)
            sections[tag] = dtype, _encode(array, dtype)
        self.check()

        offset = HEADER.size + ENTRY.size * len(sections)
        table, body = b"", b""
        for tag, (dtype, data) in sections.items():
            gap = -(offset + len(body)) % ALIGNMENT
            body += bytes(gap)
            where = offset + len(body)
            table += ENTRY.pack(tag.ljust(4).encode(), dtype, where, len(data))
            body += data
        size = offset + len(body)
        count = struct.pack("<I", len(sections))
        crc = zlib.crc32(count + table + body)
        head = HEADER.pack(MAGIC, MAJOR, MINOR, size, crc, len(sections))
        return head + table + body

    @classmethod
    def from_bytes(cls, data):
        """Parse and check everything.

        Arguments
        ---------
        data : bytes
            A whole file.

        Returns
        -------
        Model

        Raises
        ------
        ModelFileError
            Naming what is wrong: not a model file, truncated, altered, of
            another version, or with a section missing or misshapen.
        """
        sections = read_sections(data)

        def get(tag):
            if tag not in sections:
                raise ModelFileError(f"model file has no section {tag}")
            return sections[tag]

        numbers = _decode(*get("CONF"), (len(fields(Config)),), "CONF")
        config = Config(*(int(n) for n in numbers))
        depths = _decode(*get("DPTH"), (config.depths,), "DPTH")
        depths = tuple(int(n) for n in depths)
        labels = get("LABL")[1].decode().split("\0")[:-1]
        if len(labels) != config.classes:
            raise ModelFileError(
                f"{config.classes} classes but {len(labels)} labels"
            )
        meta = json.loads(get("META")[1].decode())
        arrays = {
            tag: _decode(*get(tag), shape, tag)
            for tag, (_, shape) in layout(config, depths).items()
        }
        model = cls(config, depths, labels, meta, arrays)
        model.check()
        return model

    def check(self):
        """Refuse values that the arithmetic is not defined for.

        Raises
        ------
        ModelFileError
            Naming the section.
        """
        depths, layers = self.depths, self.config.layers
        if sorted(set(depths), reverse=True) != list(depths) or not (
            depths and depths[0] <= layers and depths[-1] >= 1
        ):
            raise ModelFileError(
                f"depths {list(depths)} must decrease from at most {layers}"
            )
        for tag, array in self.arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ModelFileError(f"section {tag} has non-finite numbers")
        if self.arrays["FRNT"][0] <= 0:
            raise ModelFileError("the floor of the front end must be positive")
        if (np.diff(self.arrays["MELS"]) <= 0).any():
            raise ModelFileError("mel edges must rise strictly")


def layout(config, depths):
    """Allowed dtypes and shape of every numeric section.

    Arguments
    ---------
    config : Config
        Sizes.
    depths : tuple of int
        Depths that can run.

    Returns
    -------
    dict of str to (tuple of int, tuple of int)
    """
    c = config
    conv = c.kernel * c.kernel

    def sets(stage):
        private = c.private & Config.PRIVATE[stage]
        return sum(depths) if private else c.layers

    def thresholds(inputs):
        return (1,) if inputs < 255 else (3,)

    conv2_in = conv * c.conv1_channels
    real = (6, 7)
    return {
        "FRNT": ((7,), (3,)),
        "MELS": ((7,), (c.n_mels + 2,)),
        "C1.W": ((2,), (c.conv1_channels, c.kernel, c.kernel)),
        "C1.T": ((5,), (c.conv1_channels,)),
        "C1.D": ((BITS,), (1, c.conv1_channels)),
        "C2.W": ((BITS,), (c.conv2_channels, conv2_in)),
        "C2.T": (thresholds(conv2_in), (c.conv2_channels,)),
        "C2.D": ((BITS,), (1, c.conv2_channels)),
        "FC.W": ((BITS,), (c.channels, c.mels_out * c.conv2_channels)),
        "FC.A": (real, (2, c.channels)),
        "FC.S": ((7,), (1,)),
        "ME.W": ((BITS,), (c.layers * c.taps, c.channels)),
        "ME.A": (real, (sets("memory"), 2, c.channels)),
        "ME.S": ((7,), (sets("memory"),)),
        "P1.W": ((BITS,), (c.layers * c.expansion, c.channels)),
        "P1.T": (thresholds(c.channels), (sets("pointwise1"), c.expansion)),
        "P1.D": ((BITS,), (sets("pointwise1"), c.expansion)),
        "P2.W": ((BITS,), (c.layers * c.channels, c.expansion)),
        "P2.A": (real, (sets("pointwise2"), 2, c.channels)),
        "P2.S": ((7,), (sets("pointwise2"),)),
        "HD.W": ((I4, 2), (c.classes, c.frames_out * c.channels)),
        "HD.A": ((7,), (2, c.classes)),
    }


def read_sections(data):
    """Check header, size and checksum, and cut the file into sections.

    Arguments
    ---------
    data : bytes
        A whole file.

    Returns
    -------
    dict of str to (int, bytes)
        dtype code and raw bytes of each tag, in file order.

    Raises
    ------
    ModelFileError
        If the file is not whole and unaltered.
    """
    if len(data) < HEADER.size or data[:8] != MAGIC:
        raise ModelFileError("not a BiFSMN model file")
    _, major, minor, size, crc, count = HEADER.unpack_from(data)
    if major != MAJOR:
        raise ModelFileError(
            f"model file has format version {major}.{minor}; "
            f"this reader knows {MAJOR}.x: install a newer speechbrain_bifsmn"
        )
    if size != len(data):
        raise ModelFileError(
            f"model file should be {size} bytes and is {len(data)}: "
            "truncated or padded; copy or export it again"
        )
    if zlib.crc32(data[20:]) != crc:
        raise ModelFileError(
            "checksum does not match: the model file was altered; "
            "copy or export it again"
        )
    sections = {}
    for i in range(count):
        where = HEADER.size + i * ENTRY.size
        if where + ENTRY.size > size:
            raise ModelFileError("section table runs past the end")
        tag, dtype, offset, length = ENTRY.unpack_from(data, where)
        if offset % ALIGNMENT or offset + length > size:
            raise ModelFileError(f"section {tag!r} lies outside the file")
        name = tag.decode("ascii", "replace").rstrip()
        sections[name] = dtype, data[offset : offset + length]
    return sections


def pack_bits(bits):
    """Pack the last axis into little-endian 64-bit words, zero-padded.

    Arguments
    ---------
    bits : np.ndarray of bool, [..., n]
        True is +1.

    Returns
    -------
    np.ndarray of uint64, [..., ceil(n / 64)]
    """
    words = -(-bits.shape[-1] // 64)
    packed = np.packbits(bits, axis=-1, bitorder="little")
    missing = words * 8 - packed.shape[-1]
    widths = [(0, 0)] * (packed.ndim - 1) + [(0, missing)]
    packed = np.ascontiguousarray(np.pad(packed, widths))
    return packed.view("<u8").astype(np.uint64)


def unpack_bits(words, size):
    """Inverse of ``pack_bits``.

    Arguments
    ---------
    words : np.ndarray of uint64, [..., ceil(size / 64)]
        Packed rows.
    size : int
        Bits of a row.

    Returns
    -------
    np.ndarray of bool, [..., size]
    """
    raw = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(raw, axis=-1, bitorder="little")[..., :size] > 0


def _smallest(array, dtypes, tag):
    """The dtype code, of those allowed, that stores the array exactly."""
    for dtype in dtypes:
        if dtype == BITS:
            ok = array.dtype == bool
        elif dtype == I4:
            ok = np.abs(array).max() <= 7
        else:
            ok = (array.astype(PLAIN[dtype]) == array).all()
        if ok:
            return dtype
    raise ModelFileError(f"section {tag} cannot hold {array.dtype} values")


def _plain(values, dtype):
    return np.ascontiguousarray(values, dtype=PLAIN[dtype]).tobytes()


def _encode(array, dtype):
    if dtype == BITS:
        return pack_bits(array).astype("<u8").tobytes()
    if dtype == I4:
        nibbles = array.astype(np.int8).view(np.uint8) & 15
        odd = [(0, 0)] * (array.ndim - 1) + [(0, array.shape[-1] % 2)]
        nibbles = np.pad(nibbles, odd)
        return (nibbles[..., ::2] | nibbles[..., 1::2] << 4).tobytes()
    return _plain(array, dtype)


def _decode(dtype, data, shape, tag):
    """Raw bytes of a section to an array of the given shape."""
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    n = shape[-1]
    if dtype == BITS:
        width = -(-n // 64) * 8
    elif dtype == I4:
        width = -(-n // 2)
    elif dtype in PLAIN:
        width = n * np.dtype(PLAIN[dtype]).itemsize
    else:
        raise ModelFileError(f"section {tag} has unknown dtype {dtype}")
    if len(data) != rows * width:
        raise ModelFileError(
            f"section {tag} should be {rows * width} bytes, is {len(data)}"
        )
    if dtype == BITS:
        words = np.frombuffer(data, "<u8").reshape(*shape[:-1], -1)
        return unpack_bits(words, n)
    if dtype == I4:
        raw = np.frombuffer(data, np.uint8).reshape(rows, width)
        nibbles = np.stack([raw & 15, raw >> 4], -1).reshape(rows, -1)
        signed = (nibbles.astype(np.int8) ^ 8) - 8
        return signed[:, :n].reshape(shape)
    array = np.frombuffer(data, PLAIN[dtype]).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))
