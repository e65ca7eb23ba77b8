"""Every kernel of this machine against the scalar ones."""

import subprocess

import pytest

from speechbrain_bifsmn.kernels.native import NativeEngine, kernel_names
from tests.test_native import PORTABLE, SANITIZED, build, make


@pytest.mark.parametrize(
    ("compiler", "flags", "names"),
    [
        ("gcc", SANITIZED, kernel_names()[:-1]),
        ("gcc", [*SANITIZED, PORTABLE], []),
        ("clang", ["-O3"], kernel_names()[:-1]),
    ],
)
def test_operations_equal_scalar(compiler, flags, names, tmp_path):
    """Which equals the definition."""
    program = build("tests/kernels.c", tmp_path / "kernels", compiler, *flags)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = [f"{name} equals scalar" for name in names]
    assert done.stdout.splitlines() == tested


def test_scalar_is_always_there_and_last():
    assert kernel_names()[-1] == "scalar"


def test_kernels_by_name(monkeypatch):
    data = make().to_bytes()
    for name in kernel_names():
        assert NativeEngine(data, kernel=name).info.kernels.decode() == name
    monkeypatch.setenv("BIFSMN_KERNEL", "scalar")
    assert NativeEngine(data).info.kernels == b"scalar"
    best = kernel_names()[0]
    assert NativeEngine(data, kernel=best).info.kernels.decode() == best


def test_unknown_kernels_are_refused(monkeypatch):
    data = make().to_bytes()
    with pytest.raises(ValueError, match="of the name abacus .*scalar"):
        NativeEngine(data, kernel="abacus")
    monkeypatch.setenv("BIFSMN_KERNEL", "abacus")
    with pytest.raises(ValueError, match="name abacus .BIFSMN_KERNEL"):
        NativeEngine(data)
