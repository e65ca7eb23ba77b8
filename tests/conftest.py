"""Shared by all tests: torchaudio made importable, one thread."""

import pytest
import torch

import speechbrain_bifsmn  # noqa: F401  (before anything imports speechbrain)
from tests.tiny import make_archive, tiny_bifsmn

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """A small folder in the layout of Speech Commands; three tones."""
    return make_archive(tmp_path_factory.mktemp("data") / "speech_commands")


@pytest.fixture
def network():
    """A small BiFSMN with lived-in norms."""
    return tiny_bifsmn()
