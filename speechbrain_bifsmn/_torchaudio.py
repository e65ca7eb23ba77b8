"""Let torchaudio be imported beside a CPU build of torch.

PyPI's torchaudio for Linux is linked against CUDA. Beside a CPU torch its
compiled extension does not load, ``import torchaudio`` raises OSError, and
with it ``import speechbrain``. Everything a keyword recipe needs of torchaudio
(mel filters, resampling, Kaldi features) is plain Python, so it is enough to
tell it that its extension is absent.
"""

import importlib
import sys
import types


def make_importable():
    """Import torchaudio; if its extension does not load, do without it.

    Where torchaudio imports by itself nothing is changed. It must run before
    the first ``import speechbrain``, which importing this package sees to.
    """
    try:
        importlib.import_module("torchaudio")
    except OSError:
        for name in [m for m in sys.modules if m.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        sys.modules["torchaudio._extension"] = _absent_extension()
        importlib.import_module("torchaudio")


def _absent_extension():
    """A ``torchaudio._extension`` that says that there is none."""
    module = types.ModuleType("torchaudio._extension")
    module.__path__ = []
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module._check_cuda_version = lambda: None
    # torchaudio decorates its alignment functions with this.
    module.fail_if_no_align = lambda function: function
    return module
