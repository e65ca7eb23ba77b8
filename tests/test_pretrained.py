"""The network that comes with the package."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from speechbrain_bifsmn import cli
from speechbrain_bifsmn.data.protocols import PROTOCOLS
from speechbrain_bifsmn.data.synthesis import Espeak, Speaker, speak_clip
from speechbrain_bifsmn.export.folder import export_folder
from speechbrain_bifsmn.inference import KeywordSpotter
from speechbrain_bifsmn.pretrained import FILE, FOLDER
from speechbrain_bifsmn.spotting import Spotter

KEYWORDS = PROTOCOLS["GSC-10"].keywords


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """The keywords, by a synthetic voice; no recording is in the project."""
    pytest.importorskip("espeakng_loader")
    folder, espeak = tmp_path_factory.mktemp("spoken"), Espeak(0)
    for word in KEYWORDS:
        audio = speak_clip(
            espeak,
            Speaker("en-us", "m3", 50, 150),
            word,
            np.random.default_rng(0),
        )
        soundfile.write(folder / f"{word}.wav", audio, 16000, "PCM_16")
    return folder


def test_bifsmn_spot_needs_nothing_but_a_recording(spoken, capsys):
    cli.main(["spot", *(f"{spoken / w}.wav" for w in KEYWORDS), "--json"])
    found = [row["label"] for row in json.loads(capsys.readouterr().out)]
    right = sum(a == b for a, b in zip(found, KEYWORDS, strict=True))
    # It is trained on people; chance would be one of eight.
    assert right >= 6, found
    silence = Spotter().spot(np.zeros(16000, np.int16))
    assert silence.label == "_silence_"
    cli.main(["info"])
    assert str(FILE) in capsys.readouterr().out


def test_the_folder_is_whole_wherever_it_is(spoken, tmp_path):
    """Loaded from another place it agrees with the file on every keyword."""
    copy = shutil.copytree(FOLDER, tmp_path / "copy")
    before = {path: path.read_bytes() for path in copy.rglob("*")}
    spotter, listener = KeywordSpotter.from_hparams(copy), Spotter()
    for word in KEYWORDS:
        wav = f"{spoken / word}.wav"
        label, probability = spotter.classify_file(wav)
        heard = listener.spot_file(wav)
        # The file has constants of 16 bits, and int8 features.
        assert abs(heard.posteriors[label] - probability) < 0.2
    assert {path: path.read_bytes() for path in copy.rglob("*")} == before
    for name in ("training.json", "hyperparams.yaml", "README.md"):
        assert "/tmp" not in (copy / name).read_text()


def test_the_file_is_what_the_folder_exports(tmp_path):
    export_folder(FOLDER, tmp_path)
    exported = (tmp_path / "model.bifsmn").read_bytes()
    assert exported == FILE.read_bytes()
    assert len(exported) <= 98_000


def test_it_is_exported_smaller_at_fewer_depths(tmp_path):
    cli.main(["export", "-o", str(tmp_path), "--depths", "2,1"])
    small, whole = Spotter(tmp_path / "model.bifsmn"), Spotter(FILE, depth=2)
    assert small.depth == 2 and small.model.meta["test_accuracy"].keys() == {
        "2",
        "1",
    }
    assert (tmp_path / "model.bifsmn").stat().st_size < 0.6 * 94_016
    noise = np.random.default_rng(0).normal(0, 3000, 16000).astype(np.int16)
    assert small.spot(noise).posteriors == whole.spot(noise).posteriors
