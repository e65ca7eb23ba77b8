"""Binarizers: from real weights and activations to one bit.

A binarizer is one object. Its ``forward`` is what training computes, with the
method's surrogate gradient; ``fold`` says what it becomes on a device, where
only signs, scales and thresholds exist. Methods are looked up by name, for
weights (``WEIGHTS``) and for activations (``ACTIVATIONS``) separately; each
docstring gives forward, gradient, schedule or loss, what it folds to, source.

A new method is a subclass of ``WeightQuantizer`` or ``ActivationQuantizer``
and a line in a table below.
"""

from speechbrain_bifsmn.quantizers import activations, weights
from speechbrain_bifsmn.quantizers.base import (
    ActivationQuantizer,
    Planes,
    WeightQuantizer,
    sign,
)

__all__ = [
    "ACTIVATIONS",
    "WEIGHTS",
    "ActivationQuantizer",
    "Planes",
    "WeightQuantizer",
    "make",
    "sign",
]

WEIGHTS = {
    "bnn": weights.BNNWeight,
    "xnor": weights.XNORWeight,
    "dorefa": weights.DoReFaWeight,
    "bireal": weights.BiRealWeight,
    "irnet": weights.IRNetWeight,
    "reactnet": weights.ReActNetWeight,
    "rad": weights.BNNWeight,
    "recu": weights.ReCUWeight,
    "fda": weights.FDAWeight,
    "bifsmn": weights.BiFSMNWeight,
    "lpb": weights.LPBWeight,
    "bifsmnv2": weights.LPBWeight,
    "as-released": weights.AsReleasedWeight,
}

ACTIVATIONS = {
    "bnn": activations.SignActivation,
    "xnor": activations.SignActivation,
    "dorefa": activations.DoReFaActivation,
    "bireal": activations.ApproxSignActivation,
    "irnet": activations.EDEActivation,
    "reactnet": activations.RSignActivation,
    "rad": activations.RADActivation,
    "recu": activations.ApproxSignActivation,
    "fda": activations.FDAActivation,
    "bifsmn": activations.SignActivation,
    "lpb": activations.LPBActivation,
    "bifsmnv2": activations.DualScaleActivation,
    "as-released": activations.AsReleasedActivation,
}


def make(table, name, *args, **kwargs):
    """A binarizer by its name.

    Arguments
    ---------
    table : dict
        ``WEIGHTS`` or ``ACTIVATIONS``.
    name : str
        A key of the table.
    *args, **kwargs
        For the binarizer.

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        If there is no such method; it lists those there are.

    Example
    -------
    >>> make(WEIGHTS, "bifsmn", kind="linear").kind
    'linear'
    """
    if name not in table:
        raise ValueError(
            f"no binarizer named {name!r}: choose one of {', '.join(table)}"
        )
    return table[name](*args, **kwargs)
