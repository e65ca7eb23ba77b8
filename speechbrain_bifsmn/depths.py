"""Depths that a network runs at; no torch, for who runs a model file."""

from numbers import Integral


def is_whole(number):
    """Whether it is a whole number; True and 2.0 are none."""
    return isinstance(number, Integral) and not isinstance(number, bool)


def layers_of(layers, depth):
    """Layers executed at a depth: evenly spread, the last one always runs.

    Arguments
    ---------
    layers : int
        Layers of the whole network.
    depth : int
        Layers to execute, from 1 to ``layers``.

    Returns
    -------
    list of int

    Example
    -------
    >>> layers_of(8, 4)
    [1, 3, 5, 7]
    """
    return [(k + 1) * layers // depth - 1 for k in range(depth)]
