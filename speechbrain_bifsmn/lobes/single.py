"""What networks of one depth share: DFSMN's interface."""

from collections.abc import Sequence

from torch import nn

from speechbrain_bifsmn.layers import check_input, check_sizes


class SingleDepth(nn.Module):
    """A network that runs whole, called as the thinnable DFSMN is.

    A subclass maps checked features to logits in ``logits``.

    Arguments
    ---------
    n_mels : int
        Mel bands of the input.
    frames : int
        Frames of the input.
    depth : int
        The only depth there is.

    Raises
    ------
    ValueError
        If ``n_mels`` or ``frames`` is impossible.
    """

    def __init__(self, n_mels, frames, depth):
        super().__init__()
        check_sizes(n_mels=n_mels, frames=frames)
        self.n_mels = n_mels
        self.frames = frames
        self.depths = (depth,)

    def forward(self, x, lens=None, depth=None):
        """Logits, alone or in a dict by depth.

        Arguments
        ---------
        x : torch.Tensor, [batch, frames, n_mels]
            Log-mel frames.
        lens : torch.Tensor, optional
            Relative lengths, as SpeechBrain passes them; not used.
        depth : int or sequence of int, optional
            The depth, or a sequence of it.

        Returns
        -------
        torch.Tensor, [batch, classes]
            For a sequence a dict that gives for the depth its logits and an
            empty list: no distillation compares these networks' layers.

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
        logits = self.logits(x)
        return {n: (logits, []) for n in asked} if several else logits
