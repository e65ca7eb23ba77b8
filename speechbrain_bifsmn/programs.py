"""What the recipe's programs have in common."""

import sys
from contextlib import contextmanager


@contextmanager
def one_line_errors(resumes=False):
    """End the program in one line if the user's is the mistake, or at Ctrl-C.

    Arguments
    ---------
    resumes : bool
        Whether the same command goes on where it was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt:
        how = ": the same command goes on from here" if resumes else ""
        sys.exit(f"interrupted{how}")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
