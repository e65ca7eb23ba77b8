"""The package as it is installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


def python(code, folder=None):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def test_importing_this_package_first_makes_speechbrain_importable():
    done = python("import speechbrain_bifsmn, speechbrain, torchaudio")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("loads", [True, False])
def test_an_extension_of_torchaudio_that_loads_is_left_alone(loads, tmp_path):
    """A stand-in for torchaudio, whose extension loads or does not."""
    extension = tmp_path / "torchaudio/_extension"
    extension.mkdir(parents=True)
    (tmp_path / "torchaudio/__init__.py").write_text("from . import _extension")
    (extension / "__init__.py").write_text(
        "from . import utils\n_IS_TORCHAUDIO_EXT_AVAILABLE = True\n"
        + ("" if loads else "raise OSError('libc10_cuda.so')")
    )
    (extension / "utils.py").write_text("")
    done = python(
        # Also after it failed once.
        "try: import torchaudio\n"
        "except OSError: pass\n"
        f"import sys; sys.path.append({str(REPO)!r})\n"
        "import speechbrain_bifsmn, torchaudio\n"
        "print(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)\n",
        tmp_path,
    )
    assert done.stdout == f"{loads}\n", done.stderr


def test_a_model_file_runs_without_torch():
    """It takes seconds to import, and a device may lack it."""
    done = python(
        "import sys\n"
        "sys.modules |= dict.fromkeys(['torch', 'torchaudio', 'numba'])\n"
        "from speechbrain_bifsmn.spotting import Listener, Spotter\n"
        "import numpy as np\n"
        "assert Spotter().spot(np.zeros(16000, np.int16)).label[0] == '_'\n"
        "from speechbrain_bifsmn.cli import main\n"
        "main(['info'])"
    )
    assert done.returncode == 0, done.stderr


def test_numba_compiles_where_nothing_can_be_written():
    """As for a service user in a container."""
    done = python(
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from speechbrain_bifsmn.kernels import numba_kernels\n"
        "one = np.ones((1, 1), np.uint64)\n"
        "print(numba_kernels.differing(one, 0 * one))"
    )
    assert done.stdout == "[[1]]\n", done.stderr


def build_wheel(folder, **environment):
    """The wheel of a copy of the sources, and the names in it."""
    source = folder / "source"
    ignore = shutil.ignore_patterns(".*", "build", "results", "*.so")
    shutil.copytree(REPO, source, ignore=ignore)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"),
            *("--no-build-isolation", "-w", str(folder), str(source)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel, zipfile.ZipFile(wheel).namelist()


def test_a_wheel_carries_the_c_sources_and_the_yamls(tmp_path):
    wheel, names = build_wheel(tmp_path)
    assert "cp310-abi3" in wheel.name, "one wheel serves many Pythons"
    assert wheel.stat().st_size < 5e6
    for name in (
        "hparams/dfsmn.yaml",
        "hparams/bifsmn.yaml",
        "csrc/include/bifsmn.h",
        "csrc/src/network.c",
        "csrc/examples/spot.c",
        "csrc/LICENSE",
        "data/words.txt",
        "pretrained/gsc10/model.bifsmn",
        "pretrained/gsc10/model.ckpt",
        "pretrained/gsc10/README.md",
    ):
        assert f"speechbrain_bifsmn/{name}" in names
    assert any("_native" in name for name in names)

    # All of it runs, from there.
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    done = python(
        "import pkgutil, speechbrain_bifsmn\n"
        "for module in pkgutil.walk_packages(\n"
        "    speechbrain_bifsmn.__path__, 'speechbrain_bifsmn.'):\n"
        "    __import__(module.name)\n"
        "from speechbrain_bifsmn import cli\n"
        "cli.main(['info'])\n"
        "print(speechbrain_bifsmn.__file__)",
        installed,
    )
    assert done.returncode == 0, done.stderr
    assert "NativeEngine" in done.stdout and str(installed) in done.stdout
    ours = {
        f"speechbrain_bifsmn/{path.relative_to(REPO / 'speechbrain_bifsmn')}"
        for path in (REPO / "speechbrain_bifsmn").rglob("*.py")
    }
    assert ours <= set(names)


def test_without_a_compiler_it_still_installs(tmp_path):
    _, names = build_wheel(tmp_path, CC="no-such-compiler")
    assert "speechbrain_bifsmn/kernels/native.py" in names
    assert not any("_native" in name for name in names)


def test_the_c_library_carries_the_licence():
    assert (REPO / "csrc/LICENSE").read_bytes() == (
        REPO / "LICENSE"
    ).read_bytes()
