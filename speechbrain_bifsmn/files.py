"""Files that are there whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path):
    """A path to write to that becomes ``path`` at the end, at once.

    If the block fails or is interrupted, what was at ``path`` stays.

    Arguments
    ---------
    path : str or Path
        The file wanted; its folder exists.

    Yields
    ------
    Path
        Where to write meanwhile.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        # Of a full disk it says no more than that.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)
