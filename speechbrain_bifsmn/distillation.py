"""What a student learns from a teacher, or its thin paths from its deep ones.

Every loss here has the same two methods: ``targets`` prepares the output of
whoever teaches, ``forward`` compares it with the student's output at one
depth. ``KeywordBrain`` sums them; a loss of weight 0 is off.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_bifsmn.depths import layers_of


def taught_layers(features, targets):
    """Which layer of who teaches each layer of the student learns from.

    Arguments
    ---------
    features, targets : list
        One entry for each executed layer, of the student and of who teaches.

    Returns
    -------
    list of int

    Raises
    ------
    ValueError
        If there is no such layer.

    Example
    -------
    >>> taught_layers([None] * 2, [None] * 8)
    [3, 7]
    """
    if not 1 <= len(features) <= len(targets):
        raise ValueError(
            f"{len(features)} layers cannot learn from {len(targets)}: losses "
            "that compare layers need some, and no more than the teacher has"
        )
    return layers_of(len(targets), len(features))


class Distillation(nn.Module):
    """Interface of a distillation loss.

    Arguments
    ---------
    weight : float
        Factor of the loss.

    Raises
    ------
    ValueError
        If a number is impossible.
    """

    # Who teaches: "teacher", the frozen network at its full depth, once a
    # step, or "deeper", the student itself at the next deeper depth.
    source = "teacher"
    # Whether it compares layers; False if logits are enough.
    needs_features = True

    def __init__(self, weight):
        super().__init__()
        if not math.isfinite(weight):
            raise ValueError(
                f"the weight of {type(self).__name__} is a finite number, not "
                f"{weight}"
            )
        self.weight = weight

    def targets(self, logits, features):
        """What to compare with; no gradient flows to who teaches.

        Arguments
        ---------
        logits : torch.Tensor, [batch, classes]
            Of whoever teaches.
        features : list of torch.Tensor, [batch, time, channels]
            Outputs of its executed layers.

        Returns
        -------
        object
            For ``forward``.
        """
        raise TypeError(f"{type(self).__name__} must define targets")

    def forward(self, logits, features, targets):
        """Loss of the student at one depth.

        Arguments
        ---------
        logits, features
            As for ``targets``, of the student.
        targets : object
            What ``targets`` returned.

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        raise TypeError(f"{type(self).__name__} must define forward")


class LogitDistillation(Distillation):
    """Kullback-Leibler divergence from the teacher's softened posteriors.

    weight · T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over
    the batch. Source: Hinton et al., "Distilling the Knowledge in a Neural
    Network", 2015.

    Arguments
    ---------
    weight : float
        Factor of the loss.
    temperature : float
        T.

    Example
    -------
    >>> loss = LogitDistillation()
    >>> targets = loss.targets(torch.zeros(2, 5), [])
    >>> loss(torch.zeros(2, 5), [], targets).item()
    0.0
    """

    needs_features = False

    def __init__(self, weight=1.0, temperature=2.0):
        super().__init__(weight)
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"temperature must be positive and finite, not {temperature}"
            )
        self.temperature = temperature

    @torch.no_grad()
    def targets(self, logits, features):
        """See ``Distillation``: log-posteriors, [batch, classes]."""
        return F.log_softmax(logits.float() / self.temperature, dim=-1)

    def forward(self, logits, features, targets):
        """See ``Distillation``."""
        check_classes(logits, targets)
        ours = F.log_softmax(logits.float() / self.temperature, dim=-1)
        divergence = F.kl_div(
            ours, targets, reduction="batchmean", log_target=True
        )
        return self.weight * self.temperature**2 * divergence


class SubNetworkDistillation(LogitDistillation):
    """Each depth learns from the next deeper one of the same student.

    The loss of ``LogitDistillation``; the deepest depth has no such loss.
    Source: Yu and Huang, "Universally
    Slimmable Networks and Improved Training Techniques", ICCV 2019 (in-place
    distillation), with the next deeper path instead of the full one.

    Arguments
    ---------
    weight, temperature : float
        See ``LogitDistillation``.

    Example
    -------
    >>> SubNetworkDistillation().source
    'deeper'
    """

    source = "deeper"


def check_classes(ours, theirs):
    """Refuse logits of other classes, or of another batch.

    Raises
    ------
    ValueError
    """
    if ours.shape != theirs.shape:
        raise ValueError(
            f"logits of {list(ours.shape)} cannot learn from those of "
            f"{list(theirs.shape)}: teacher and student need the same clips "
            "and classes"
        )


def high_frequency(x, levels):
    """High-frequency part of a map under a 2-D Haar wavelet transform.

    The transform over ``levels`` levels, its low-low band set to zero, and
    back. For Haar that is each value less the mean of its 2^levels x 2^levels
    block. Sizes that the blocks do not divide are zero-padded at the end.

    Arguments
    ---------
    x : torch.Tensor, [batch, height, width]
        Feature maps.
    levels : int
        Decomposition levels.

    Returns
    -------
    torch.Tensor, [batch, height, width]

    Example
    -------
    >>> high_frequency(torch.tensor([[[1.0, 3.0], [1.0, 3.0]]]), levels=1)
    tensor([[[-1.,  1.],
             [-1.,  1.]]])
    """
    check_axes(x)
    _, height, width = x.shape
    side = 2**levels
    padded = F.pad(x, [0, -width % side, 0, -height % side])
    # By halves: pooling and interpolation take ten times as long on a CPU.
    low = padded
    for _ in range(levels):
        low = low[:, ::2] + low[:, 1::2]
        low = (low[:, :, ::2] + low[:, :, 1::2]) / 4
    blocks = padded.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    high = blocks - low[:, :, None, :, None]
    return high.flatten(3).flatten(1, 2)[:, :height, :width]


def check_bands(levels, norm):
    """Refuse levels below 1, and any norm but "utterance" and "batch".

    Raises
    ------
    ValueError
    """
    if not isinstance(levels, int) or levels < 1:
        raise ValueError(f"levels are a whole number from 1 on, not {levels}")
    if norm not in ("utterance", "batch"):
        raise ValueError(f"norm must be 'utterance' or 'batch', not {norm!r}")


def energy(x, norm):
    """x²/‖x²‖, over each clip or over the batch.

    Arguments
    ---------
    x : torch.Tensor, [batch, time, channels]
        Features.
    norm : str
        "utterance" or "batch".

    Returns
    -------
    torch.Tensor, [batch, time, channels]
    """
    squares = rows_of(x.float().square(), norm)
    # Silence can be all zeros; its energy stays zero.
    return F.normalize(squares, dim=1).view(x.shape)


def rows_of(x, norm):
    """One row for each clip or one for the batch, [rows, values]."""
    return x.reshape(1 if norm == "batch" else len(x), -1)


class _EnergyDistance(torch.autograd.Function):
    """‖ x²/‖x²‖ - target ‖₂ of each row, mean over the rows.

    By hand, since autograd makes twice as many passes over the features.
    """

    @staticmethod
    def forward(ctx, x, target, norm):
        squares, target = rows_of(x.square(), norm), rows_of(target, norm)
        tiny = torch.finfo(x.dtype).tiny
        length = torch.linalg.vector_norm(squares, dim=1, keepdim=True)
        # Silence can be all zeros; its energy stays zero.
        length = length.clamp(min=tiny)
        unit = squares / length
        difference = unit - target
        distance = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
        scale = distance.clamp(min=tiny) * length * len(squares)
        # Both may be tiny: their product must not be 0.
        ctx.save_for_backward(x, unit, difference, scale.clamp(min=tiny))
        return distance.mean()

    @staticmethod
    def backward(ctx, grad):
        x, unit, difference, scale = ctx.saved_tensors
        along = (unit * difference).sum(1, keepdim=True)
        # Where nothing differs, a scaled gradient would be 0 times infinity.
        largest = torch.finfo(scale.dtype).max
        grad = (grad / scale).clamp(-largest, largest)
        slope = (difference - along * unit) * grad
        return 2 * x * slope.view_as(x), None, None


def energy_distance(x, target, norm):
    """‖ x²/‖x²‖ - target ‖₂ of each row, mean over rows, a scalar.

    Arguments
    ---------
    x : torch.Tensor, [batch, time, channels]
        Features.
    target : torch.Tensor, [batch, time, channels]
        ``energy`` of others.
    norm : str
        The same as of that one: a row is a clip or the batch.

    Returns
    -------
    torch.Tensor

    Raises
    ------
    ValueError
        If their shapes differ.
    """
    check_shapes(x, target)
    return _EnergyDistance.apply(x.float(), target, norm)


def check_axes(features):
    """Refuse features that are not [batch, time, channels].

    Raises
    ------
    ValueError
    """
    if features.dim() != 3:
        raise ValueError(
            "losses that compare layers take them as [batch, time, channels], "
            f"not {list(features.shape)}"
        )


def check_shapes(ours, theirs, sizes="frames and channels"):
    """Refuse to compare a layer with one of another shape.

    Raises
    ------
    ValueError
        Saying which sizes must be the same.
    """
    if ours.shape != theirs.shape:
        raise ValueError(
            f"a layer of {list(ours.shape)} cannot learn from one of "
            f"{list(theirs.shape)}: losses that compare layers need teachers "
            f"with as many {sizes}"
        )


class HED(Distillation):
    """High-frequency Enhancement Distillation.

    The teacher's features are emphasised, T' = HP(T)/std(HP(T)) + T/std(T),
    and compared by L(S, T') = ‖ S²/‖S²‖ - T'²/‖T'²‖ ‖₂, summed over the
    student's executed layers. Layer k of a student that executes n layers
    learns from the teacher's layer (k + 1)·L div n - 1.
    Source: Qin et al., "BiFSMN", IJCAI 2022, section 3.1.

    Arguments
    ---------
    weight : float
        Factor of the loss (the paper's α).
    levels : int
        Haar decomposition levels (the paper's J).
    norm : str
        "utterance" takes std and ‖·‖ over each clip and averages the losses;
        "batch" takes both over the whole batch, as the authors do, which
        couples its clips.

    Example
    -------
    >>> loss = HED()
    >>> features = [torch.randn(2, 8, 16) for _ in range(4)]
    >>> targets = loss.targets(None, features)
    >>> loss(None, features[1::2], targets).shape
    torch.Size([])
    """

    def __init__(self, weight=0.01, levels=1, norm="utterance"):
        super().__init__(weight)
        check_bands(levels, norm)
        self.levels = levels
        self.norm = norm

    @torch.no_grad()
    def targets(self, logits, features):
        """See ``Distillation``: enhanced energies of every teacher layer."""
        return [energy(self.enhance(f.float()), self.norm) for f in features]

    def enhance(self, x):
        """T' of one layer, [batch, time, channels]."""
        high = high_frequency(x, self.levels)
        return self._by_std(high) + self._by_std(x)

    def forward(self, logits, features, targets):
        """See ``Distillation``."""
        layers = taught_layers(features, targets)
        return self.weight * sum(
            energy_distance(ours, targets[layer], self.norm)
            for ours, layer in zip(features, layers, strict=True)
        )

    def _by_std(self, x):
        """x/std(x), the deviation of each clip or of the whole batch."""
        axes = (0, 1, 2) if self.norm == "batch" else (1, 2)
        # torch.std takes ten times as long on a CPU.
        centred = x - x.mean(axes, keepdim=True)
        count = x.numel() if self.norm == "batch" else x[0].numel()
        total = centred.square().sum(axes, keepdim=True)
        std = (total / max(count - 1, 1)).sqrt()
        return x / std.clamp(min=torch.finfo(x.dtype).tiny)


class FID(Distillation):
    """Frequency Independent Distillation.

    weight · (Σ over the executed layers of L(HP(S), HP(T)) + L(LP(S), LP(T))
    + mean squared error of the logits), with HP, LP the high and low band of
    the Haar transform, L and the layers as in ``HED``.
    Source: Qin et al., "BiFSMNv2", 2022 (arXiv 2211.06987), section III.

    Arguments
    ---------
    weight : float
        Factor of the loss (the paper's α).
    levels : int
        Haar decomposition levels (the paper's J).
    norm : str
        See ``HED``.

    Example
    -------
    >>> loss = FID()
    >>> logits, features = torch.zeros(2, 5), [torch.randn(2, 8, 16)]
    >>> loss(logits, features, loss.targets(logits, features)).item()
    0.0
    """

    def __init__(self, weight=0.01, levels=1, norm="utterance"):
        super().__init__(weight)
        check_bands(levels, norm)
        self.levels = levels
        self.norm = norm

    @torch.no_grad()
    def targets(self, logits, features):
        """See ``Distillation``: logits, and energies of both bands."""
        bands = [
            [energy(band, self.norm) for band in self._bands(f)]
            for f in features
        ]
        return logits.detach().float(), bands

    def forward(self, logits, features, targets):
        """See ``Distillation``."""
        their_logits, bands = targets
        check_classes(logits, their_logits)
        total = F.mse_loss(logits.float(), their_logits)
        for ours, layer in zip(
            features, taught_layers(features, bands), strict=True
        ):
            for band, target in zip(
                self._bands(ours), bands[layer], strict=True
            ):
                total = total + energy_distance(band, target, self.norm)
        return self.weight * total

    def _bands(self, x):
        """The high and the low band."""
        x = x.float()
        high = high_frequency(x, self.levels)
        return high, x - high


class AttentionTransfer(Distillation):
    """Where, over time, the layers are active.

    weight · Σ over the executed layers of ‖ Q_S/‖Q_S‖ - Q_T/‖Q_T‖ ‖₂, with
    Q[t] = Σ_c F[t, c]² of each clip; layers as in ``HED``.
    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR
    2017, eq. 2 with p = 2, over time in place of the image.

    Arguments
    ---------
    weight : float
        Factor of the loss.

    Example
    -------
    >>> loss = AttentionTransfer()
    >>> features = [torch.randn(2, 8, 16)]
    >>> loss(None, features, loss.targets(None, features)).item()
    0.0
    """

    def __init__(self, weight=0.1):
        super().__init__(weight)

    @torch.no_grad()
    def targets(self, logits, features):
        """See ``Distillation``: attention of every layer, [batch, time]."""
        return [self._attention(f) for f in features]

    def forward(self, logits, features, targets):
        """See ``Distillation``."""
        layers = taught_layers(features, targets)
        return self.weight * sum(
            self._distance(self._attention(ours), targets[layer])
            for ours, layer in zip(features, layers, strict=True)
        )

    def _distance(self, ours, theirs):
        check_shapes(ours, theirs, "frames")
        return (ours - theirs).norm(dim=1).mean()

    def _attention(self, x):
        check_axes(x)
        return F.normalize(x.float().square().sum(2), dim=1)
