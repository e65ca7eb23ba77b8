"""Deep feed-forward sequential memory networks (DFSMN), thinnable.

A frame-synchronous network for keyword spotting: two strided convolutions, a
linear map of each frame, then layers that each look a few frames around them.
One set of weights can run at several depths. With binarizers
(``speechbrain_bifsmn.lobes.bifsmn``) the same network is 1-bit.

Sources
-------
Zhang et al., "Deep-FSMN for Large Vocabulary Continuous Speech Recognition",
ICASSP 2018; Qin et al., "BiFSMN: Binary Neural Network for Keyword Spotting",
IJCAI 2022 (arXiv 2202.06483), for the layout and the thinnable architecture.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from speechbrain_bifsmn.depths import is_whole, layers_of
from speechbrain_bifsmn.layers import (
    Conv2d,
    Linear,
    Memory,
    NormPReLU,
    PerDepth,
    check_input,
    check_sizes,
)
from speechbrain_bifsmn.quantizers import ACTIVATIONS

# Parts of a layer whose shapes depend on its expansion.
EXPANDED = "pointwise1", "pointwise2", "norm1"


class FSMNMemory(nn.Module):
    """Memory block: x + PReLU(BN(memory(x))).

    Arguments
    ---------
    channels : int
        Size of the last axis.
    left, right : int
        Taps in the past and in the future (lookahead).
    dilation : int
        Frames between two taps.
    depths : list of int
        Depths that execute this block.
    private : bool
        Whether each depth has its own norm; see ``PerDepth`` for how depths
        share one in training.
    weight_quantizer, activation_quantizer : str, optional
        Names of binarizers; None for a real block.

    Raises
    ------
    ValueError
        If a size is impossible, or there is no such binarizer.

    Example
    -------
    >>> FSMNMemory(16, left=4, right=1)(torch.randn(2, 50, 16)).shape
    torch.Size([2, 50, 16])
    """

    def __init__(
        self,
        channels,
        left=2,
        right=2,
        dilation=1,
        depths=(1,),
        private=False,
        weight_quantizer=None,
        activation_quantizer=None,
    ):
        super().__init__()
        self.memory = Memory(
            channels,
            left,
            right,
            dilation,
            weight_quantizer,
            activation_quantizer,
        )
        self.norm = PerDepth(
            channels, depths, private, rprelu=rprelu(activation_quantizer)
        )

    def forward(self, x, depth=1):
        """Map [batch, time, channels] to the same shape."""
        return x + self.norm(self.memory(x), depth)


class DFSMNBlock(nn.Module):
    """One layer: memory, then two pointwise maps, each with a residual.

    Arguments
    ---------
    channels : int
        Size of the residual stream.
    expansion : int
        Size between the two pointwise maps.
    left, right, dilation : int
        See ``FSMNMemory``.
    depths : list of int
        Depths that execute this layer.
    private : list of str
        Which norms each depth has of its own: "memory", "pointwise1",
        "pointwise2".
    dropout : float
        On what the pointwise maps add to the residual stream.
    weight_quantizer, activation_quantizer : str, optional
        Names of binarizers; None for a real layer.

    Raises
    ------
    ValueError
        If a size is impossible, or there is no such binarizer.

    Example
    -------
    >>> DFSMNBlock(16, 32)(torch.randn(2, 8, 16)).shape
    torch.Size([2, 8, 16])
    """

    def __init__(
        self,
        channels,
        expansion,
        left=2,
        right=2,
        dilation=1,
        depths=(1,),
        private=(),
        dropout=0.0,
        weight_quantizer=None,
        activation_quantizer=None,
    ):
        super().__init__()
        check_sizes(expansion=expansion)
        quantizers = weight_quantizer, activation_quantizer
        self.memory = FSMNMemory(
            channels,
            left,
            right,
            dilation,
            depths,
            "memory" in private,
            *quantizers,
        )
        self.pointwise1 = Linear(
            channels, expansion, *quantizers, kind="pointwise"
        )
        # Between two binary layers only the sign matters.
        prelu = activation_quantizer is None
        self.norm1 = PerDepth(
            expansion, depths, "pointwise1" in private, prelu=prelu
        )
        self.pointwise2 = Linear(
            expansion, channels, *quantizers, kind="pointwise"
        )
        self.norm2 = PerDepth(
            channels,
            depths,
            "pointwise2" in private,
            rprelu=rprelu(activation_quantizer),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, depth=1):
        """Map [batch, time, channels] to the same shape."""
        x = self.memory(x, depth)
        y = self.norm1(self.pointwise1(x), depth)
        y = self.norm2(self.pointwise2(y), depth)
        return x + self.dropout(y)


class DFSMN(nn.Module):
    """Keyword network from log-mel frames to logits.

    Arguments
    ---------
    n_mels : int
        Mel bands of the input.
    frames : int
        Frames of the input.
    classes : int
        Keywords, with unknown and silence where there are.
    conv_channels : tuple of int
        Channels of the two convolutions.
    kernel, stride : int
        Of both convolutions, along time and mel.
    channels : int
        Size of the residual stream.
    expansion : int
        Size between the two pointwise maps of a layer.
    layers : int
        How many layers there are.
    left, right, dilation : int
        Context of each layer's memory, see ``FSMNMemory``.
    depths : list of int, optional
        Depths that can run, deepest first; all layers only, if not given.
    private : list of str
        Norms that each depth has of its own, see ``DFSMNBlock``.
    dropout : float
        See ``DFSMNBlock``.
    weight_quantizer, activation_quantizer : str, optional
        Names of binarizers; None for a real network.

    Raises
    ------
    ValueError
        If a size or ``depths`` is impossible, or there is no such norm or
        binarizer.

    Example
    -------
    >>> model = DFSMN(n_mels=20, frames=40, classes=5, layers=3, depths=[3, 1])
    >>> model(torch.randn(2, 40, 20)).shape
    torch.Size([2, 5])
    >>> model(torch.randn(2, 40, 20), depth=1).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        n_mels=32,
        frames=32,
        classes=12,
        conv_channels=(16, 32),
        kernel=5,
        stride=2,
        channels=128,
        expansion=256,
        layers=8,
        left=2,
        right=2,
        dilation=1,
        depths=None,
        private=(),
        dropout=0.0,
        weight_quantizer=None,
        activation_quantizer=None,
    ):
        super().__init__()
        check_sizes(
            n_mels=n_mels,
            frames=frames,
            classes=classes,
            channels=channels,
            layers=layers,
        )
        depths = _checked_depths(depths or [layers], layers)
        if isinstance(private, str):
            raise ValueError(f"private is a list of norms, not {private!r}")
        unknown = set(private) - {"memory", "pointwise1", "pointwise2"}
        if unknown:
            raise ValueError(
                f"private names no norm called {', '.join(sorted(unknown))}: "
                "choose among memory, pointwise1, pointwise2"
            )
        self.n_mels = n_mels
        self.frames = frames
        self.depths = depths
        self.private = tuple(private)
        quantizers = weight_quantizer, activation_quantizer
        if not isinstance(conv_channels, Sequence) or len(conv_channels) != 2:
            raise ValueError(f"conv_channels are two, not {conv_channels!r}")
        first, second = conv_channels
        check_sizes(**{"conv_channels[0]": first, "conv_channels[1]": second})
        self.conv1 = Conv2d(1, first, kernel, stride)
        # Before a binary layer only the sign matters.
        prelu = activation_quantizer is None
        self.norm1 = NormPReLU(first, prelu)
        self.conv2 = Conv2d(first, second, kernel, stride, *quantizers)
        self.norm2 = NormPReLU(second, prelu)
        mels_out, frames_out = n_mels, frames
        for _ in range(2):
            mels_out = (mels_out - 1) // stride + 1
            frames_out = (frames_out - 1) // stride + 1
        self.fc = Linear(
            mels_out * second, channels, *quantizers, channels=second
        )
        self.norm_fc = NormPReLU(channels, rprelu=rprelu(activation_quantizer))
        used = {n: layers_of(layers, n) for n in depths}
        self.blocks = nn.ModuleList(
            DFSMNBlock(
                channels,
                expansion,
                left,
                right,
                dilation,
                [n for n in depths if i in used[n]],
                private,
                dropout,
                *quantizers,
            )
            for i in range(layers)
        )
        for i, block in enumerate(self.blocks):
            # What no depth runs gets no gradient; DDP wants to know.
            block.requires_grad_(any(i in used[n] for n in depths))
        self.head = nn.Linear(frames_out * channels, classes)

    def layers_of(self, depth):
        """Indices of the layers that a depth executes, in order."""
        return layers_of(len(self.blocks), depth)

    def forward(self, x, lens=None, depth=None):
        """Logits at one depth, or everything at several.

        Arguments
        ---------
        x : torch.Tensor, [batch, frames, n_mels]
            Log-mel frames, finite: the sign of what is no number is one.
        lens : torch.Tensor, optional
            Relative lengths, as SpeechBrain passes them. Not used: clips
            shorter than the network's window are padded with silence.
        depth : int or sequence of int, optional
            One of ``depths``, or several, which run from the deepest on; the
            deepest, if not given.

        Returns
        -------
        torch.Tensor, [batch, classes]
            The logits, for one depth. For several a dict that gives for each
            depth its logits and the list of the outputs of every executed
            layer, [batch, frames', channels], which distillation compares.

        Raises
        ------
        ValueError
            If the network has no such depth, or x has another shape.
        """
        if depth is None:
            depth = self.depths[0]
        several = isinstance(depth, Sequence)
        asked = depth if several else [depth]
        check_input(self, x, asked)
        outputs = {}
        if self.training:
            for module in self.modules():
                if isinstance(module, PerDepth):
                    module.statistics = None
        stem = self.stem(x)
        for n in sorted(asked, reverse=True):
            y, features = stem, []
            for i in self.layers_of(n):
                y = self.blocks[i](y, n)
                features.append(y)
            outputs[n] = self.head(y.flatten(1)), features
        return outputs if several else outputs[depth][0]

    def stem(self, x):
        """[batch, frames, n_mels] to [batch, frames', channels]."""
        y = self.norm1(self.conv1(x.unsqueeze(1)))
        y = self.norm2(self.conv2(y))
        y = y.permute(0, 2, 3, 1).flatten(2)
        return self.norm_fc(self.fc(y))

    def thinned(self, depths):
        """A copy that runs at fewer depths, without what only the others ran.

        Arguments
        ---------
        depths : list of int
            Some of ``depths``.

        Returns
        -------
        DFSMN
            Its layers are those of the deepest of them.

        Raises
        ------
        ValueError
            If the network has no such depth, or some, but not all, are asked
            for and one of them runs a layer that the deepest does not.
        """
        depths = tuple(sorted(set(depths), reverse=True))
        if not depths or not set(depths) <= set(self.depths):
            raise ValueError(
                f"cannot keep depths {list(depths)} of a network that runs at "
                "depth " + ", ".join(map(str, self.depths))
            )
        thin = copy.deepcopy(self)
        kept = self.layers_of(depths[0])
        for n in depths:
            layers = [kept[i] for i in layers_of(len(kept), n)]
            if layers == self.layers_of(n):
                continue
            if depths == self.depths:
                return thin
            raise ValueError(
                f"cannot keep depth {n} beside {depths[0]} without the others: "
                "it runs other layers"
            )
        thin.depths = depths
        thin.blocks = nn.ModuleList(thin.blocks[i] for i in kept)
        for module in thin.modules():
            if isinstance(module, PerDepth):
                module.keep(depths)
        return thin

    @torch.no_grad()
    def copy_weights(self, teacher):
        """Start from another network's weights, its norms at every depth.

        Arguments
        ---------
        teacher : DFSMN
            A network of the same sizes, but that its expansion may be larger:
            then of every layer its first units are taken.

        Raises
        ------
        ValueError
            Naming what does not match.
        """
        if not isinstance(teacher, DFSMN):
            raise ValueError(
                f"cannot start from the teacher: it is a "
                f"{type(teacher).__name__}, not a DFSMN"
            )
        if self._context() != teacher._context():
            raise ValueError(
                "cannot start from the teacher: layers, left, right and "
                f"dilation are {teacher._context()} there and "
                f"{self._context()} here"
            )
        theirs, copies = dict(teacher.state_dict()), []
        for name, ours in self.state_dict().items():
            parts = name.split(".")
            if "_quantizer." in name or parts[-1] in ("before", "after"):
                # Of the method, not of the network: if both have the same.
                value = theirs.get(name)
                if value is not None and value.shape == ours.shape:
                    copies.append((ours, value))
                continue
            if name not in theirs:
                # A norm at one of our depths: theirs is shared, or private
                # to their deepest.
                depths = [i for i, p in enumerate(parts) if _is_depth(p)]
                at = max(depths, default=0)
                for key in ("shared", str(teacher.depths[0])):
                    parts[at] = key
                    if ".".join(parts) in theirs:
                        break
            value = theirs.get(".".join(parts))
            slope = parts[-1] == "slope" and value is not None
            if slope and value.numel() == 1:
                value = value.expand_as(ours)
            if value is not None and set(parts[2:]) & set(EXPANDED):
                value = value[tuple(map(slice, ours.shape))]
            if value is None or value.shape != ours.shape:
                raise ValueError(
                    f"cannot start from the teacher: {name} does not match; "
                    "but for the expansion, which may be larger, teacher and "
                    "student must have the same sizes"
                )
            copies.append((ours, value))
        # Once all match: half a teacher is none.
        for ours, value in copies:
            ours.copy_(value)

    def _context(self):
        """What the shapes of weights do not tell."""
        memory = self.blocks[0].memory.memory
        return len(self.blocks), memory.left, memory.right, memory.dilation


def rprelu(activation_quantizer):
    """Whether the networks of an activation binarizer have RPReLU.

    Arguments
    ---------
    activation_quantizer : str or None
        A name.

    Returns
    -------
    bool

    Example
    -------
    >>> rprelu("reactnet"), rprelu("bifsmn"), rprelu(None)
    (True, False, False)
    """
    method = ACTIVATIONS.get(activation_quantizer)
    return method is not None and method.rprelu


def _is_depth(part):
    return part == "shared" or part.isdigit()


def _checked_depths(depths, layers):
    if not isinstance(depths, Sequence) or not all(map(is_whole, depths)):
        raise ValueError(f"depths are a list of whole numbers, not {depths}")
    decreasing = all(a > b for a, b in zip(depths, depths[1:], strict=False))
    if not decreasing or depths[0] > layers or depths[-1] < 1:
        raise ValueError(
            f"depths must decrease from at most {layers} (the number of "
            f"layers) to at least 1, not {list(depths)}"
        )
    return tuple(depths)
