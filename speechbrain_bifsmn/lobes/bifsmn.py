"""BiFSMN: the thinnable DFSMN with 1-bit weights and activations.

Between the int8 first convolution and the 4- or 8-bit classifier every weight
has one magnitude for each output channel and every activation one or two bit
planes, so that the network runs by XNOR and popcount on integers: ``bifsmn
export`` proves it and writes the file.

Source
------
Qin et al., "BiFSMN: Binary Neural Network for Keyword Spotting", IJCAI 2022
(arXiv 2202.06483). Differences, each because a device needs it: one scale for
each output channel, bits of +1 for padding, a batch norm after the per-frame
linear map as after every other layer, integer first and last layers. One
because training does: no PReLU where only a sign follows.
"""

from speechbrain_bifsmn.layers import IntegerConv2d, IntegerLinear
from speechbrain_bifsmn.lobes.fsmn import DFSMN


class BiFSMN(DFSMN):
    """1-bit, thinnable keyword network from log-mel frames to logits.

    A training loop of one's own tells the binarizers how far it is, see
    ``speechbrain_bifsmn.quantizers``.

    Arguments
    ---------
    feature_step : float
        One int8 step of the input features: what lies beyond 128 of them, 4 by
        default, is clipped. ``LogMel`` gives such features; dB would need a
        larger step, or to be scaled alike.
    head_bits : int
        Width of the classifier's weights, 4 or 8.
    weight_quantizer, activation_quantizer : str
        Names of binarizers, see ``speechbrain_bifsmn.quantizers``.
    depths : list of int
        Depths that can run, deepest first.
    private : list of str
        Norms that each depth has of its own.
    **sizes
        See ``DFSMN``.

    Raises
    ------
    ValueError
        If ``feature_step`` or ``head_bits`` is impossible, or as ``DFSMN``.

    Example
    -------
    >>> import torch
    >>> model = BiFSMN(classes=10)
    >>> model(torch.randn(2, 32, 32), depth=2).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        feature_step=0.03125,
        head_bits=4,
        weight_quantizer="bifsmn",
        activation_quantizer="bifsmn",
        depths=(8, 4, 2, 1),
        private=("pointwise2",),
        **sizes,
    ):
        super().__init__(
            weight_quantizer=weight_quantizer,
            activation_quantizer=activation_quantizer,
            depths=depths,
            private=private,
            **sizes,
        )
        channels, _, kernel, _ = self.conv1.weight.shape
        self.conv1 = IntegerConv2d(
            1, channels, kernel, self.conv1.stride, feature_step
        )
        self.head = IntegerLinear(
            self.head.in_features, self.head.out_features, head_bits
        )
