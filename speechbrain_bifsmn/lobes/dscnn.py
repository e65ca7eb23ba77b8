"""DS-CNN: a depthwise-separable convolutional network on MFCC.

Source
------
Zhang, Suda, Lai, Chandra, "Hello Edge: Keyword Spotting on Microcontrollers",
2017 (arXiv 1711.07128). The defaults are DS-CNN small: 10 MFCC of 40 mel
bands, 40 ms windows every 20 ms, 38.6 KB of int8 weights and activations at 12
classes. Our front end gives 50 frames a second where the paper's has 49; both
become 25.
"""

import math

import torch
from torch import nn

from speechbrain_bifsmn.layers import check_sizes
from speechbrain_bifsmn.lobes.single import SingleDepth


def dct(coefficients, n_mels):
    """The orthonormal DCT-II, which makes MFCC of log-mel bands.

    Arguments
    ---------
    coefficients : int
        How many, from the lowest.
    n_mels : int
        Mel bands.

    Returns
    -------
    torch.Tensor, [coefficients, n_mels]

    Example
    -------
    >>> mfcc = dct(2, 40) @ torch.ones(40)
    >>> torch.allclose(mfcc, torch.tensor([40**0.5, 0.0]), atol=1e-5)
    True
    """
    k = torch.arange(coefficients, dtype=torch.float64)[:, None]
    n = torch.arange(n_mels, dtype=torch.float64)
    basis = torch.cos(math.pi / n_mels * (n + 0.5) * k) * (2 / n_mels) ** 0.5
    basis[0] /= 2**0.5
    return basis.float()


class DSConv(nn.Sequential):
    """Depthwise 3x3, then pointwise convolution, each with norm and ReLU.

    Arguments
    ---------
    channels : int
        Of input and output.

    Example
    -------
    >>> DSConv(8)(torch.randn(2, 8, 25, 5)).shape
    torch.Size([2, 8, 25, 5])
    """

    def __init__(self, channels):
        super().__init__(
            nn.Conv2d(
                *(channels, channels, 3),
                padding=1,
                groups=channels,
                bias=False,
            ),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class DSCNN(SingleDepth):
    """Keyword network from log-mel frames to logits.

    MFCC are a fixed linear map of log-mel bands, the first of this network, so
    that it shares front end, cache and masks with all the others.

    Arguments
    ---------
    n_mels : int
        Mel bands of the input.
    frames : int
        Frames of the input.
    classes : int
        Keywords, with unknown and silence where there are.
    coefficients : int
        MFCC that are made of the mel bands.
    channels : int
        Of every convolution.
    layers : int
        Depthwise-separable layers.

    Raises
    ------
    ValueError
        If a size is impossible.

    Example
    -------
    >>> model = DSCNN()
    >>> model(torch.randn(2, 50, 40)).shape
    torch.Size([2, 12])
    >>> sum(p.numel() for p in model.parameters())
    23180
    """

    def __init__(
        self,
        n_mels=40,
        frames=50,
        classes=12,
        coefficients=10,
        channels=64,
        layers=4,
    ):
        super().__init__(n_mels, frames, layers)
        check_sizes(classes=classes, channels=channels, layers=layers)
        # Smaller maps do not hold the first kernel, even padded.
        check_sizes(2, frames=frames, coefficients=coefficients)
        if coefficients > n_mels:
            raise ValueError(
                f"{n_mels} mel bands have no {coefficients} coefficients"
            )
        self.register_buffer("dct", dct(coefficients, n_mels), persistent=False)
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, (10, 4), 2, (4, 1), bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(DSConv(channels) for _ in range(layers)))
        self.fc = nn.Linear(channels, classes)
        # Depthwise convolutions train three times as fast so on a CPU.
        self.to(memory_format=torch.channels_last)

    def logits(self, x):
        """[batch, frames, n_mels] to [batch, classes]."""
        mfcc = nn.functional.linear(x, self.dct)
        return self.fc(self.blocks(self.stem(mfcc.unsqueeze(1))).mean((2, 3)))
