"""BC-ResNet: residual blocks that broadcast over frequency.

Most of a block is a convolution over time of the mean over mel bands; what it
finds is added to every band again. Few multiplications, and still the features
keep their frequencies.

Source
------
Kim, Chang, Lee, Sung, "Broadcasted Residual Learning for Efficient Keyword
Spotting", Interspeech 2021 (arXiv 2106.04140); sub-spectral normalization from
Chang et al., "SubSpectral Normalization for Neural Audio Data Processing",
ICASSP 2021. BC-ResNet-1 has 9.2k parameters at 12 classes.
"""

import math

import torch
from torch import nn

from speechbrain_bifsmn.layers import check_sizes
from speechbrain_bifsmn.lobes.single import SingleDepth

# Mel bands are normalised in this many groups.
BANDS = 5
# Blocks, channels, stride over mel and dilation over time of each stage.
STAGES = ((2, 8, 1, 1), (2, 12, 2, 2), (4, 16, 2, 4), (4, 20, 1, 8))


class SubSpectralNorm(nn.Module):
    """Batch norm with statistics and constants of its own in each sub-band.

    Arguments
    ---------
    channels : int
        Size of the second axis.
    bands : int
        Groups of neighbouring mel bands; their number must divide n_mels.

    Example
    -------
    >>> SubSpectralNorm(8)(torch.randn(2, 8, 20, 50)).shape
    torch.Size([2, 8, 20, 50])
    """

    def __init__(self, channels, bands=BANDS):
        super().__init__()
        self.bands = bands
        self.norm = nn.BatchNorm2d(channels * bands)

    def forward(self, x):
        """Keep the shape, [batch, channels, n_mels, frames]."""
        split = x.unflatten(2, (self.bands, -1)).flatten(1, 2)
        return self.norm(split).view(x.shape)


class BCResBlock(nn.Module):
    """ReLU(x + f2(x) + broadcast(f1(mean of f2(x) over mel bands))).

    f2 is a depthwise convolution over frequency with sub-spectral norm; f1 a
    depthwise convolution over time, batch norm, swish, a pointwise map and
    dropout of whole channels. Where channels or bands change (the transition
    block), f2 begins with a pointwise map and x itself is not added.

    Arguments
    ---------
    inputs, outputs : int
        Channels.
    stride : int
        Over frequency.
    dilation : int
        Over time.
    dropout : float
        Of f1.

    Example
    -------
    >>> BCResBlock(16, 8, stride=2)(torch.randn(2, 16, 20, 50)).shape
    torch.Size([2, 8, 10, 50])
    """

    def __init__(self, inputs, outputs, stride=1, dilation=1, dropout=0.1):
        super().__init__()
        self.residual = inputs == outputs and stride == 1
        options = {"groups": outputs, "bias": False}
        pointwise = (
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )
        self.frequency = nn.Sequential(
            *([] if self.residual else pointwise),
            nn.Conv2d(outputs, outputs, (3, 1), (stride, 1), (1, 0), **options),
            SubSpectralNorm(outputs),
        )
        self.time = nn.Sequential(
            nn.Conv2d(
                *(outputs, outputs, (1, 3)),
                padding=(0, dilation),
                dilation=(1, dilation),
                **options,
            ),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.Dropout2d(dropout),
        )

    def forward(self, x):
        """[batch, inputs, mel, time] to [batch, outputs, mel', time]."""
        y = self.frequency(x)
        y = y + self.time(y.mean(2, keepdim=True))
        return torch.relu(x + y if self.residual else y)


class BCResNet(SingleDepth):
    """Keyword network from log-mel frames to logits.

    Arguments
    ---------
    n_mels : int
        Mel bands of the input, a multiple of 40.
    frames : int
        Frames of the input.
    classes : int
        Keywords, with unknown and silence where there are.
    tau : float
        Scales all channels; BC-ResNet-tau of the paper.
    dropout : float
        See ``BCResBlock``.

    Raises
    ------
    ValueError
        If a size is impossible.

    Example
    -------
    >>> model = BCResNet()
    >>> model(torch.randn(2, 100, 40)).shape
    torch.Size([2, 12])
    >>> sum(p.numel() for p in model.parameters())
    9232
    """

    def __init__(self, n_mels=40, frames=100, classes=12, tau=1, dropout=0.1):
        super().__init__(n_mels, frames, sum(blocks for blocks, *_ in STAGES))
        check_sizes(classes=classes)
        # With less, the stage of 8 channels has none.
        if not 1 / 8 <= tau < math.inf:
            raise ValueError(f"tau is a number from 0.125 on, not {tau}")
        if n_mels % (8 * BANDS):
            raise ValueError(
                f"BC-ResNet halves the mel bands three times and norms them "
                f"in {BANDS} groups: n_mels must be a multiple of "
                f"{8 * BANDS}, not {n_mels}"
            )
        channels = int(16 * tau)
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, 5, (2, 1), 2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential()
        for blocks, width, stride, dilation in STAGES:
            for i in range(blocks):
                outputs = int(width * tau)
                step = 1 if i else stride
                self.blocks.append(
                    BCResBlock(channels, outputs, step, dilation, dropout)
                )
                channels = outputs
        last = int(32 * tau)
        self.head = nn.Sequential(
            nn.Conv2d(
                *(channels, channels, 5),
                padding=(0, 2),
                groups=channels,
                bias=False,
            ),
            nn.Conv2d(channels, last, 1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(),
        )
        self.fc = nn.Linear(last, classes)

    def logits(self, x):
        """[batch, frames, n_mels] to [batch, classes]."""
        x = x.transpose(1, 2).unsqueeze(1)
        return self.fc(self.head(self.blocks(self.stem(x))).mean((2, 3)))
