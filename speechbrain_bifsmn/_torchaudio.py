"""Let torchaudio be imported beside a CPU build of torch.

PyPI's torchaudio for Linux is linked against CUDA. Beside a CPU torch its
compiled extension does not load, ``import torchaudio`` raises OSError, and
with it ``import speechbrain``. Everything a keyword recipe needs of torchaudio
(mel filters, resampling, Kaldi features) is plain Python, so it is enough to
tell it that its extension is absent.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder


def make_importable():
    """From now on, torchaudio does without an extension that does not load.

    Nothing is imported here: who runs a model file needs neither torchaudio
    nor torch, which takes seconds. It must run before the first ``import
    speechbrain``, which importing this package sees to.
    """
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torchaudio._extension":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads the extension as Python does; if it cannot, it is absent."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        try:
            self.loader.exec_module(module)
        except OSError:
            module._IS_TORCHAUDIO_EXT_AVAILABLE = False
            module._IS_ALIGN_AVAILABLE = False
            module._check_cuda_version = lambda: None
            # torchaudio decorates its alignment functions with this.
            module.fail_if_no_align = lambda function: function
