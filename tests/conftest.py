"""Shared by all tests: torchaudio made importable, one thread."""

import pytest
import torch

import speechbrain_bifsmn  # noqa: F401  (before anything imports speechbrain)
from speechbrain_bifsmn import cli
from tests.recipe import STUDENT, train
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


@pytest.fixture(scope="session")
def results(archive, tmp_path_factory):
    """A teacher and a student, trained for seconds."""
    folder = tmp_path_factory.mktemp("results")
    train("dfsmn.yaml", archive, folder, "--number_of_epochs=4")
    options = *STUDENT, "--number_of_epochs=6", "--lr=0.01"
    train("bifsmn.yaml", archive, folder, *options)
    return folder / "words"


@pytest.fixture(scope="session")
def model_file(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    cli.main(["export", str(results / "bifsmn/1"), "-o", str(folder)])
    return folder / "model.bifsmn"
