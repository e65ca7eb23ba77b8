"""What a student learns from a teacher.

Every loss here has the same two methods, so that a YAML lists those it wants:
``targets`` prepares the teacher's output once a step, ``forward`` compares it
with the student's output at one depth. ``KeywordBrain`` sums them.
"""

import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_bifsmn.layers import layers_of


class LogitDistillation(nn.Module):
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

    def __init__(self, weight=1.0, temperature=2.0):
        super().__init__()
        self.weight = weight
        self.temperature = temperature

    def targets(self, logits, features):
        """Log-posteriors of the teacher, [batch, classes]."""
        return F.log_softmax(logits.float() / self.temperature, dim=-1)

    def forward(self, logits, features, targets):
        """Loss of the student's logits, [batch, classes], as a scalar."""
        ours = F.log_softmax(logits.float() / self.temperature, dim=-1)
        divergence = F.kl_div(
            ours, targets, reduction="batchmean", log_target=True
        )
        return self.weight * self.temperature**2 * divergence


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
    _, height, width = x.shape
    side = 2**levels
    padded = F.pad(x, [0, -width % side, 0, -height % side])
    mean = F.avg_pool2d(padded.unsqueeze(1), side)
    low = mean.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return x - low[:, 0, :height, :width]


class HED(nn.Module):
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
        super().__init__()
        if norm not in ("utterance", "batch"):
            raise ValueError(
                f"norm must be 'utterance' or 'batch', not {norm!r}"
            )
        self.weight = weight
        self.levels = levels
        self.norm = norm

    def targets(self, logits, features):
        """Normalised, enhanced energies of every teacher layer."""
        return [self._energy(self.enhance(f.float())) for f in features]

    def enhance(self, x):
        """T' of one layer, [batch, time, channels]."""
        high = high_frequency(x, self.levels)
        return self._by_std(high) + self._by_std(x)

    def forward(self, logits, features, targets):
        """Loss of the student's features at one depth, as a scalar."""
        total = 0.0
        layers = layers_of(len(targets), len(features))
        for ours, layer in zip(features, layers, strict=True):
            difference = self._energy(ours.float()) - targets[layer]
            total = total + difference.norm(dim=1).mean()
        return self.weight * total

    def _energy(self, x):
        """x²/‖x²‖, one row for each clip or one for the batch."""
        rows = 1 if self.norm == "batch" else len(x)
        energy = x.square().reshape(rows, -1)
        # Silence can be all zeros; its energy stays zero.
        return F.normalize(energy, dim=1)

    def _by_std(self, x):
        """x/std(x), the deviation of each clip or of the whole batch."""
        axes = (0, 1, 2) if self.norm == "batch" else (1, 2)
        std = x.std(dim=axes, keepdim=True)
        return x / std.clamp(min=torch.finfo(x.dtype).tiny)
