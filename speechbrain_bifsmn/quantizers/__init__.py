"""Binarizers: from real weights and activations to one bit.

A binarizer is one object. Its ``forward`` is what training computes, with the
method's surrogate gradient; ``fold`` says what it becomes on a device, where
only signs, scales and thresholds exist. Methods are looked up by name, for
weights (``WEIGHTS``) and for activations (``ACTIVATIONS``) separately; each
docstring gives forward, gradient, schedule or loss, what it folds to, source.

Some methods have a schedule, a loss, or parameters that learn slower and that
no weight decay may touch. ``KeywordBrain`` sees to it; a training loop of one's
own does as here, for a model that runs at several depths::

    slow = parameter_groups(model)
    apart = {p for group in slow for p in group["params"]}
    rest = [p for p in model.parameters() if p not in apart]
    for group in slow:
        group["lr"] = lr * group["lr_factor"]
    optimizer = torch.optim.AdamW([{"params": rest}, *slow], lr)
    for epoch in range(epochs):
        set_progress(model.train(), epoch / epochs)
        for feats, target in batches:
            outputs = model(feats, depth=model.depths)
            loss = sum(cross_entropy(y, target) for y, _ in outputs.values())
            (loss + auxiliary_loss(model)).backward()
            optimizer.step()
            optimizer.zero_grad()

A last pass with ``torch.optim.swa_utils.update_bn`` measures the norms of the
network as it is: one step flips many weights.

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
    "auxiliary_loss",
    "make",
    "parameter_groups",
    "quantizers_of",
    "set_progress",
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
    "lsq": weights.LPBWeight,
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
    "lsq": activations.LSQActivation,
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


def quantizers_of(model):
    """Binarizers of a model.

    Arguments
    ---------
    model : nn.Module

    Returns
    -------
    list of WeightQuantizer and ActivationQuantizer
    """
    kinds = WeightQuantizer, ActivationQuantizer
    return [module for module in model.modules() if isinstance(module, kinds)]


def parameter_groups(model):
    """Parameters of the binarizers themselves, as an optimizer takes groups.

    Arguments
    ---------
    model : nn.Module

    Returns
    -------
    list of dict
        For each binarizer that has any ``params``, a ``weight_decay`` of 0 and
        ``lr_factor``, by which to multiply the learning rate.

    Example
    -------
    >>> [group["lr_factor"] for group in parameter_groups(make(WEIGHTS, "lpb"))]
    [0.1]
    """
    return [
        {
            "params": parameters,
            "weight_decay": 0.0,
            "lr_factor": quantizer.lr_factor,
        }
        for quantizer in quantizers_of(model)
        if (parameters := list(quantizer.parameters()))
    ]


def set_progress(model, fraction):
    """Advance the schedules of all binarizers of a model.

    Arguments
    ---------
    model : nn.Module
    fraction : float
        How much of training is over, from 0 to 1.

    Raises
    ------
    ValueError
        If the fraction is none.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"progress is a fraction from 0 to 1, not {fraction}")
    for quantizer in quantizers_of(model):
        quantizer.set_progress(fraction)


def auxiliary_loss(model):
    """Sum of the binarizers' own losses over a step.

    To be called in each step, before anything goes backward.

    Arguments
    ---------
    model : nn.Module

    Returns
    -------
    torch.Tensor, a scalar, or 0.0 if no method has one

    Example
    -------
    >>> auxiliary_loss(make(ACTIVATIONS, "bnn"))
    0.0
    """
    return sum((q.auxiliary_loss() for q in quantizers_of(model)), 0.0)
