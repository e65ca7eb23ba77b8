"""The package as it is installed."""

import subprocess
import sys
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )


def test_importing_this_package_first_makes_speechbrain_importable():
    done = python("import speechbrain_bifsmn, speechbrain, torchaudio")
    assert done.returncode == 0, done.stderr


def test_torchaudio_that_imports_by_itself_is_left_alone():
    """A stand-in for torchaudio that works: nothing of it is replaced."""
    done = python(
        "import sys, types\n"
        "fake = types.ModuleType('torchaudio')\n"
        "sys.modules['torchaudio'] = fake\n"
        "from speechbrain_bifsmn._torchaudio import make_importable\n"
        "make_importable()\n"
        "assert sys.modules['torchaudio'] is fake\n"
        "assert 'torchaudio._extension' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr


def test_a_wheel_carries_the_c_sources_and_the_yamls(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"),
            *("--no-build-isolation", "-w", str(tmp_path), str(REPO)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "cp310-abi3" in wheel.name, "one wheel serves many Pythons"
    assert wheel.stat().st_size < 5e6
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "hparams/dfsmn.yaml",
        "hparams/bifsmn.yaml",
        "csrc/include/bifsmn.h",
        "csrc/src/network.c",
        "csrc/examples/spot.c",
    ):
        assert f"speechbrain_bifsmn/{name}" in names
    assert any("_native" in name for name in names)
