"""The binary kernels: numba prototype and compiled core, one interface."""

import logging

from speechbrain_bifsmn.kernels import native

logger = logging.getLogger(__name__)


def open_engine(data):
    """The fastest engine there is for a model file.

    Arguments
    ---------
    data : bytes
        A whole model file.

    Returns
    -------
    NativeEngine or NumbaEngine
        Both have ``features``, ``features_next``, ``scores``, ``scores_next``,
        ``scores_pcm`` and ``trace``.

    Raises
    ------
    ModelFileError
        If the bytes are no model file.
    """
    if native.available():
        return native.NativeEngine(data)
    from speechbrain_bifsmn.kernels.engine import NumbaEngine

    logger.warning("%s", native.MISSING)
    return NumbaEngine(data)
