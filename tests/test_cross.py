"""Foreign processors, under qemu: the NEON kernels, then whole models.

armhf has 32-bit addresses, riscv64 no vectors, s390x the other byte order.
"""

import os
import shutil
import subprocess
from functools import cache

import numpy as np
import pytest

from speechbrain_bifsmn import cli
from tests.test_native import (
    SHAPES,
    STACK_FLAGS,
    build,
    check_stack,
    make,
)

AARCH64 = "aarch64-linux-gnu"
TARGETS = (
    AARCH64,
    "arm-linux-gnueabihf",
    "riscv64-linux-gnu",
    "s390x-linux-gnu",
)
GCC, QEMU = f"{AARCH64}-gcc", "qemu-aarch64"


def emulator(target):
    return "qemu-" + target.split("-")[0]


def see_to(target):
    """Skip or fail aloud where a target cannot be built for and run."""
    if os.environ.get("SKIP_CROSS") == "1":
        pytest.skip("SKIP_CROSS=1: NO FOREIGN PROCESSOR IS TESTED")
    for tool, package in {
        f"{target}-gcc": f"gcc-{target}",
        emulator(target): "qemu-user",
    }.items():
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is missing: apt-get install {package}")


@pytest.fixture(autouse=True)
def aarch64():
    """Where NEON is."""
    see_to(AARCH64)


@pytest.fixture(params=TARGETS)
def target(request):
    see_to(request.param)
    return request.param


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


@pytest.mark.parametrize("target", ["arm-linux-gnueabihf", "s390x-linux-gnu"])
def test_scalar_equals_the_definition(tmp_path, target):
    """With registers of 32 bits, and in the other byte order."""
    see_to(target)
    there = tmp_path / "kernels"
    program = build("tests/kernels.c", there, f"{target}-gcc", "-O2", "-static")
    assert output(emulator(target), program) == []


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


@pytest.fixture(scope="module")
def on_the_host(tmp_path_factory):
    """A model file of a shape, and what golden.c prints of it here."""
    folder = tmp_path_factory.mktemp("host")
    here = build("tests/golden.c", folder / "here", "gcc", "-O3")

    @cache
    def lines(name):
        file = folder / f"{name}.bifsmn"
        file.write_bytes(make(len(name), **SHAPES[name]).to_bytes())
        return file, output(here, file)

    return lines


def test_every_stage_equals_the_host(tmp_path, target, on_the_host):
    there = build(
        "tests/golden.c",
        tmp_path / "there",
        f"{target}-gcc",
        *("-Wpedantic", "-O3", "-static"),
    )
    for name in SHAPES:
        file, ours = on_the_host(name)
        theirs = output(emulator(target), there, file)
        assert len(ours) == len(theirs) > 5
        # The front end, on the first line, may differ by one step.
        steps = [np.array(x[0].split()[3:], int) for x in (ours, theirs)]
        assert np.abs(steps[0] - steps[1]).max() <= 1
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            if " scores " in a:
                np.testing.assert_allclose(scores(a), scores(b), 1e-4, 1e-4)
            else:
                assert a == b, name


def test_stack_is_what_the_header_says(tmp_path, target):
    there = tmp_path / "there"
    program = build("tests/stack.c", there, f"{target}-gcc", *STACK_FLAGS)
    most = (3 if target.startswith("arm") else 7) * 1024
    check_stack([emulator(target), program], tmp_path, most)


@pytest.mark.parametrize(
    "sizes",
    [
        # One map of 34 GB, whose size is 0 modulo 2^32; maps of 2^32 bits.
        {"frames": 28672, "n_mels": 14336, "conv1_channels": 32768},
        {"frames": 9000, "n_mels": 9000, "stride": 1},
    ],
)
def test_32_bits_refuse_what_they_cannot_number(tmp_path, sizes):
    target = "arm-linux-gnueabihf"
    see_to(target)
    flags = "-O1", "-static"
    there = build("tests/golden.c", tmp_path / "there", f"{target}-gcc", *flags)
    ones = "conv1_channels", "conv2_channels", "channels", "expansion"
    ones = dict.fromkeys([*ones, "kernel", "layers", "classes"], 1)
    file = tmp_path / "model.bifsmn"
    file.write_bytes(make(**{**ones, "stride": 7, **sizes}).to_bytes())
    done = subprocess.run([emulator(target), there, file], capture_output=True)
    assert b"section CONF" in done.stdout, done


def test_no_fused_operations(tmp_path):
    """Only the head may fuse; its name is that of the only float sum."""
    build("tests/golden.c", tmp_path / "there", GCC, "-O3", "-static")
    listing = output(
        *(f"{AARCH64}-objdump", "-d", "--no-show-raw-insn"),
        tmp_path / "there",
    )
    function, fused = "", set()
    for line in listing:
        if line.endswith(">:"):
            function = line.split("<")[1][:-2]
        elif "\tfm" in line and line.split("\t")[1].startswith(
            ("fmla", "fmls", "fmadd", "fmsub")
        ):
            fused.add(function)
    kernels = {name for name in fused if "__neon" in name or "bifsmn" in name}
    assert kernels <= {"head__neon_4x16"}


@pytest.mark.parametrize("target", ["arm-linux-gnueabihf", AARCH64])
def test_no_compiler_fuses_what_rounds_twice(target, tmp_path, capsys):
    """As a project compiles that knows nothing of it, GNU C by default."""
    see_to(target)
    cli.main(["export", "--package", str(tmp_path)])
    flags = "-O3 -mthumb -mfpu=vfpv4" if target.startswith("arm-") else "-O3"
    lines = output(
        *("make", "-C", tmp_path, "check", f"CC={target}-gcc"),
        *("STANDARD=-std=gnu99", f"CFLAGS={flags}", "LDFLAGS=-static"),
        f"RUN={emulator(target)}",
    )
    assert any("stages compared" in x and " 0 differ" in x for x in lines)
    done = subprocess.run(
        [f"{target}-gcc", "-ffast-math", "-c", tmp_path / "bifsmn.c"],
        capture_output=True,
        text=True,
    )
    assert done.returncode and "without -ffast-math" in done.stderr
