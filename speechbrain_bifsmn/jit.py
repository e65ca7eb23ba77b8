"""numba, also where nothing can be written."""

import numba


def njit(**options):
    """``numba.njit``, compiled once for all programs if there is a cache.

    numba keeps it beside the source or in the user's home; in a container
    neither may be writable, and then every program compiles anew.

    Arguments
    ---------
    **options
        Of ``numba.njit``.

    Returns
    -------
    callable
        A decorator.

    Example
    -------
    >>> njit(fastmath=True)(lambda x: 2 * x)(3)
    6
    """

    def compiled(function):
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(**options)(function)

    return compiled
