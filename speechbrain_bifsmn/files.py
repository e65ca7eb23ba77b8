"""Files that are there whole or not at all."""

import os
from contextlib import ExitStack, contextmanager
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


@contextmanager
def whole_files(paths):
    """The same for files that are of no use without one another.

    If the block fails or is interrupted, or a file cannot be put in place, all
    that were there stay. While they are put in place the last one is missing.

    Arguments
    ---------
    paths : list of Path
        The files wanted; their folders exist.

    Yields
    ------
    list of Path
        Where to write meanwhile.
    """
    end = f"{os.getpid()}.old"
    old = {path: path.with_name(f".{path.name}.{end}") for path in paths}
    try:
        with ExitStack() as written:
            # First in is last in place.
            parts = {
                path: written.enter_context(whole_file(path))
                for path in reversed(paths)
            }
            yield [parts[path] for path in paths]
            for path in reversed(paths):
                if path.is_file():
                    os.replace(path, old[path])
    except BaseException:
        for path, aside in old.items():
            if aside.exists():
                os.replace(aside, path)
        raise
    for aside in old.values():
        aside.unlink(missing_ok=True)
