"""The NEON kernels, under qemu: each against scalar, then whole models."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from tests.test_native import SHAPES, build, make

GCC, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64"


@pytest.fixture(scope="module", autouse=True)
def cross():
    """Skipped or failed aloud where ARM programs cannot be built and run."""
    if os.environ.get("SKIP_CROSS") == "1":
        pytest.skip("SKIP_CROSS=1: THE NEON KERNELS ARE NOT TESTED")
    for tool, package in {
        GCC: "gcc-aarch64-linux-gnu",
        QEMU: "qemu-user",
    }.items():
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is missing: apt-get install {package}")


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("level", ["-O2", "-O3"])
def test_every_kernel_equals_scalar(tmp_path, level):
    flags = "-Wpedantic", "-Wshadow", level, "-static"
    program = build("tests/kernels.c", tmp_path / "kernels", GCC, *flags)
    assert output(QEMU, program) == [
        "neon_dot equals scalar",
        "neon equals scalar",
    ]


def test_every_stage_of_every_kernel(tmp_path):
    """A processor without dot products takes neon."""
    there = build("tests/golden.c", tmp_path / "there", GCC, "-O3", "-static")
    file = tmp_path / "model.bifsmn"
    file.write_bytes(make(channels=128, expansion=256).to_bytes())
    best = output(QEMU, there, file)
    other = output(QEMU, "-cpu", "cortex-a53", there, file)
    assert best == other


def scores(line):
    """The floats that golden.c prints as hexadecimal integers."""
    words = np.array([int(word, 16) for word in line.split()[3:]], np.uint32)
    return words.view(np.float32)


def test_every_stage_equals_the_host(tmp_path):
    here = build("tests/golden.c", tmp_path / "here", "gcc", "-O3")
    there = build("tests/golden.c", tmp_path / "there", GCC, "-O3", "-static")
    for name, shape in SHAPES.items():
        file = tmp_path / "model.bifsmn"
        file.write_bytes(make(len(name), **shape).to_bytes())
        ours, theirs = output(here, file), output(QEMU, there, file)
        assert len(ours) == len(theirs) > 5
        # The front end, on the first line, may differ by one step.
        steps = [np.array(x[0].split()[3:], int) for x in (ours, theirs)]
        assert np.abs(steps[0] - steps[1]).max() <= 1
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            if " scores " in a:
                np.testing.assert_allclose(scores(a), scores(b), 1e-4, 1e-4)
            else:
                assert a == b, name


def test_no_fused_operations(tmp_path):
    """Only the head may fuse; its name is that of the only float sum."""
    build("tests/golden.c", tmp_path / "there", GCC, "-O3", "-static")
    objdump = GCC.replace("gcc", "objdump")
    listing = output(objdump, "-d", "--no-show-raw-insn", tmp_path / "there")
    function, fused = "", set()
    for line in listing:
        if line.endswith(">:"):
            function = line.split("<")[1][:-2]
        elif "\tfm" in line and line.split("\t")[1].startswith(
            ("fmla", "fmls", "fmadd", "fmsub")
        ):
            fused.add(function)
    kernels = {name for name in fused if "__neon" in name or "bifsmn" in name}
    assert kernels <= {"f32_gemv__neon_4x16"}
