"""The C runtime: against a plain numpy reference, damage, threads."""

import ctypes
import shutil
import struct
import subprocess
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from speechbrain_bifsmn.kernels.engine import NumbaEngine
from speechbrain_bifsmn.kernels.native import NativeEngine, kernel_names
from speechbrain_bifsmn.model_file import Model, ModelFileError
from speechbrain_bifsmn.pretrained import FILE
from tests import reference
from tests.random_model import random_model

CSRC = Path(__file__).parents[1] / "csrc"
FLAGS = ["-std=c99", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
SANITIZED = [
    *("-O1", "-g", "-fsanitize=address,undefined"),
    "-fno-sanitize-recover=all",
]
PORTABLE = "-DBIFSMN_PORTABLE"
NO_LEAKS = {"ASAN_OPTIONS": "detect_leaks=0"}  # test programs free nothing
SMALL = {
    "samples": 300,
    "win_length": 60,
    "n_fft": 64,
    "hop_length": 20,
    "n_mels": 9,
    "frames": 13,
    "conv1_channels": 5,
    "conv2_channels": 7,
    "channels": 70,
    "expansion": 33,
    "layers": 3,
    "classes": 4,
}
# Every corner that a kernel may get wrong, each as a change to SMALL.
SHAPES = {
    "small": {},
    "default": dict.fromkeys(SMALL),
    "words": {"channels": 128, "expansion": 64, "conv1_channels": 64},
    "more than a word": {"conv1_channels": 65, "conv2_channels": 130},
    "one of each": {
        "conv1_channels": 1,
        "conv2_channels": 1,
        "channels": 1,
        "expansion": 1,
        "classes": 1,
    },
    "one frame": {"frames": 1},
    "one mel": {"n_mels": 1},
    "kernel 1": {"kernel": 1},
    "kernel 3": {"kernel": 3},
    "kernel beyond the map": {"kernel": 9, "frames": 3, "n_mels": 2},
    "stride 1": {"stride": 1},
    "stride 3": {"stride": 3},
    "no past": {"left": 0},
    "no future": {"right": 0},
    "one tap": {"left": 0, "right": 0},
    "dilation": {"dilation": 2},
    "dilation beyond the frames": {"dilation": 50},
    "many taps": {"left": 200, "right": 300, "stride": 1},
    "all private": {"flags": 7},
    "some private": {"flags": 2},
    "thresholds": {"flags": 16},
    "two planes": {"flags": 8 + 16},
    "two planes, words": {"flags": 8 + 16, "channels": 128, "expansion": 64},
    "rprelu": {"flags": 16 + 32 + 5},
    "everything": {"flags": 63},
    "int8 head": {"head_bits": 8},
    "odd int4 head": {"channels": 3, "frames": 1},
    "float32": {"half": False},
    "thresholds of 8 bits": {"conv1_channels": 10, "channels": 254},
    "thresholds of 16 bits": {"conv1_channels": 11, "channels": 255},
    "long sums": {"conv1_channels": 90, "conv2_channels": 2100, "kernel": 5},
}


def make(seed=0, **changes):
    """A random model of a small shape, or of the default one."""
    sizes = {**SMALL, **changes}
    sizes = {k: v for k, v in sizes.items() if v is not None}
    layers = sizes.get("layers", 8)
    depths = sizes.pop("depths", (layers, max(1, layers - 1), 1))
    depths = tuple(sorted(set(depths), reverse=True))
    return random_model(seed, depths=depths, **sizes)


def random_features(model, seed=1):
    shape = model.config.frames, model.config.n_mels
    return np.random.default_rng(seed).integers(-128, 128, shape, np.int8)


def compare(model):
    """Every stage at every depth and in every kernel against the reference."""
    engines = [NativeEngine(model.to_bytes(), name) for name in kernel_names()]
    features = random_features(model)
    for depth in model.depths:
        expected = reference.trace(model, features, depth)
        for engine in engines:
            compare_traces(engine.trace(features, depth), expected)
            scores = engine.scores(features, depth)
            np.testing.assert_allclose(scores, expected["scores"], 1e-4, 1e-4)


def compare_traces(actual, expected):
    """Equal bits; the scores may be summed in another order."""
    assert list(actual) == list(expected)
    for stage, value in expected.items():
        assert actual[stage].dtype == value.dtype, stage
        if stage == "scores":
            np.testing.assert_allclose(actual[stage], value, 1e-4, 1e-4)
        else:
            np.testing.assert_array_equal(actual[stage], value, stage)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_stage_equals_the_reference(shape):
    compare(make(len(shape), **SHAPES[shape]))


@pytest.mark.parametrize("weights", [False, True])
def test_counts_at_their_ends(weights):
    """All bits differ, or none does: counters at their highest and at zero.

    Thresholds stand just below, at and just above what is counted.
    """
    sizes = {"left": 400, "right": 400, "conv1_channels": 90}
    model = make(channels=2112, expansion=2200, layers=1, **sizes)
    for tag, array in model.arrays.items():
        if tag in ("C2.W", "FC.W", "ME.W", "P1.W", "P2.W"):
            array[:] = weights
        elif tag.endswith(".D"):
            array[:] = False
        elif tag.endswith(".A") and tag != "HD.A":
            # The sum of such a row has the sign of its weights: x stays >= 0.
            array[..., 0, :] = 0.01 if weights else -0.01
            array[..., 1, :] = 0
    # First convolution: sums of zero, at thresholds of -1, 0 and 1; only the
    # last gives -1, and is turned.
    model.arrays["C1.W"][:] = 0
    model.arrays["C1.T"][:] = np.arange(90) % 3 - 1
    model.arrays["C1.D"][:] = np.arange(90) % 3 == 2
    inputs = {"C2.T": 25 * 90, "P1.T": 2112}
    for tag, most in inputs.items():
        threshold = model.arrays[tag]
        counted = 0 if weights else most
        threshold.flat = np.clip(
            counted + np.arange(threshold.size) % 3 - 1, 0, most + 1
        )
        direction = model.arrays[tag[:3] + "D"]
        direction[:] = (counted >= threshold).reshape(direction.shape)
    compare(model)


def pcm_like_speech(samples, seed):
    """Coloured noise in bursts over a quiet background."""
    rng = np.random.default_rng(seed)
    noise = np.cumsum(rng.normal(size=samples)) + 5 * rng.normal(size=samples)
    noise -= np.linspace(noise[0], noise[-1], samples)
    bursts = np.sin(np.arange(samples) / samples * 20) ** 8 + 0.01
    signal = noise * bursts
    return (signal / np.abs(signal).max() * 20000).astype(np.int16)


@pytest.mark.parametrize(
    "sizes",
    [
        dict.fromkeys(SMALL),
        {},
        {"n_fft": 4, "win_length": 3, "n_mels": 1},
        {"n_fft": 128, "win_length": 128, "samples": 400},
        {"n_fft": 512, "win_length": 400, "samples": 1000, "frames": 3},
        {"hop_length": 80, "win_length": 64},
        # Longer than its frames: what came first is left out.
        {"hop_length": 64, "frames": 6, "samples": 1000},
    ],
)
@pytest.mark.parametrize("engine", [NativeEngine, NumbaEngine])
def test_front_end_is_at_most_one_step_off(sizes, engine):
    model = make(**sizes)
    engine = engine(model.to_bytes())
    off, total = 0, 0
    for seed in range(3):
        pcm = pcm_like_speech(model.config.samples, seed)
        exact = reference.features(model, pcm)
        rounded = np.clip(np.rint(exact), -128, 127)
        features = engine.features(pcm)
        steps = np.abs(features - rounded)
        assert steps.max() <= 1
        # Only what was about to be rounded the other way may differ.
        assert (np.abs(exact - features)[steps == 1] < 0.5 + 1e-3).all()
        off, total = off + np.count_nonzero(steps), total + steps.size
    assert off <= 1e-3 * total


def test_silence_is_at_the_floor():
    engine = NativeEngine(make().to_bytes())
    features = engine.features(np.zeros(engine.info.samples, np.int16))
    assert (features == np.rint((-100 + 40) * 1.6)).all()


def test_pcm_to_scores_is_both_steps():
    model = make()
    engine = NativeEngine(model.to_bytes())
    pcm = pcm_like_speech(model.config.samples, 0)
    np.testing.assert_array_equal(
        engine.scores_pcm(pcm, 2), engine.scores(engine.features(pcm), 2)
    )


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        # Windows that begin before the first sample, at it, and after it.
        {"win_length": 20, "samples": 260},
        {"win_length": 20, "samples": 300},
        {"win_length": 64, "hop_length": 7, "samples": 91},
        dict.fromkeys(SMALL),
    ],
)
def test_the_next_window_keeps_frames_and_changes_nothing(sizes):
    model = make(**sizes)
    config = model.config
    engine = NativeEngine(model.to_bytes())
    for hops in range(config.frames + 3):
        moved = hops * config.hop_length
        pcm = pcm_like_speech(moved + config.samples, hops)
        before = engine.features(pcm[: config.samples])
        first, window = before.copy(), pcm[moved:]
        found = engine.features_next(before, window, hops)
        np.testing.assert_array_equal(found, engine.features(window))
        np.testing.assert_array_equal(before, first)
    # And takes them from there: 1 in all of the window before, and after one
    # hop in all frames but the last and those that see zeros.
    ones = engine.features_next(np.ones_like(first), pcm[: config.samples], 1)
    kept = (ones == 1).all(1)
    edge = max(0, -(-config.front_padding // config.hop_length))
    assert kept[edge:-1].all() and config.frames - 1 > edge
    with pytest.raises(ValueError, match="must not be negative: -1"):
        engine.features_next(first, window, -1)


@pytest.mark.parametrize("options", [[], [PORTABLE]])
def test_the_next_window_of_a_stream_has_the_same_scores(options, tmp_path):
    """Whatever the one before was; and what both have is computed once."""
    flags = *SANITIZED, *options
    program = build("tests/stream.c", tmp_path / "stream", "gcc", *flags)
    file = tmp_path / "model.bifsmn"
    for sizes in (
        {},
        {"stride": 1, "flags": 63},
        {"stride": 2, "kernel": 1, "frames": 40, "flags": 24},
        {"stride": 3, "kernel": 9, "frames": 60, "flags": 24},
        {"stride": 4, "flags": 5},
        {"frames": 1},
    ):
        file.write_bytes(make(**sizes).to_bytes())
        subprocess.run([program, file], check=True, env=NO_LEAKS)
    lines = subprocess.check_output([program, FILE], text=True, env=NO_LEAKS)
    # All 16 rows and 8 * 8 positions; then without 10 rows and 3 * 8.
    assert lines == "16 64\n6 40\n"


def test_scores_of_the_next_window():
    model = make()
    engine = NativeEngine(model.to_bytes())
    step = model.config.stride**2
    rng = np.random.default_rng(0)
    stream = rng.integers(-128, 128, (99, 9), dtype=np.int8)
    for start in range(0, 80, step):
        features = stream[start : start + 13].copy()
        found = engine.scores_next(features, step, 3)
        np.testing.assert_array_equal(found, engine.scores(features, 3))
    with pytest.raises(ValueError, match="must not be negative: -1"):
        engine.scores_next(features, -1, 3)


@pytest.mark.parametrize("shared", ["file", "engine"])
def test_two_threads_share(shared):
    model = make(**dict.fromkeys(SMALL))
    data = model.to_bytes()
    pcm = [pcm_like_speech(model.config.samples, i) for i in range(2)]
    alone = [NativeEngine(data).scores_pcm(pcm[i], 8 - i) for i in range(2)]
    together = [[], []]

    engines = [NativeEngine(data)] * 2
    if shared == "file":
        engines[1] = NativeEngine(data)

    def work(i):
        engine = engines[i]
        for _ in range(100):
            together[i].append(engine.scores_pcm(pcm[i], 8 - i))

    threads = [threading.Thread(target=work, args=[i]) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(together[i]) == 100
        for scores in together[i]:
            np.testing.assert_array_equal(scores, alone[i])


def test_what_a_model_says_of_itself():
    model = make()
    engine = NativeEngine(model.to_bytes())
    assert engine.labels == model.labels
    assert engine.depths == model.depths
    assert engine.info.kernels.decode() == kernel_names()[0]
    assert engine.info.frames2 == model.config.frames_out


def test_wrong_arguments_are_named():
    engine = NativeEngine(make().to_bytes())
    features = np.zeros((13, 9), np.int8)
    pcm = np.zeros(300, np.int16)
    for run, x in [(engine.scores, features), (engine.scores_pcm, pcm)]:
        for depth in (5, 2**32 + 3):
            with pytest.raises(ValueError, match="depth; it can at 3, 2, 1"):
                run(x, depth)
    with pytest.raises(ValueError, match=r"int8 \[13, 9\], not int8 \[9, 13\]"):
        engine.scores(features.T, 3)
    with pytest.raises(ValueError, match="int8"):
        engine.scores(features.astype(np.float32), 3)
    with pytest.raises(ValueError, match=r"int16 \[300\], not int16 \[299\]"):
        engine.features(np.zeros(299, np.int16))


def test_missing_core_is_explained(monkeypatch):
    from speechbrain_bifsmn.kernels import native

    monkeypatch.setattr(native, "_native", None)
    assert not native.available()
    with pytest.raises(ImportError, match="install a C compiler"):
        native.NativeEngine(b"")


def sections_of(data):
    """Place of every table entry."""
    count = struct.unpack_from("<I", data, 20)[0]
    places = range(24, 24 + 16 * count, 16)
    return {bytes(data[p : p + 4]).decode(): p for p in places}


def damaged(*edits, **changes):
    """A model file with some bytes replaced, and its checksum right again.

    Each edit is (tag or None, offset, struct format, value); without a tag
    offsets are those of the file, with a tag those of its section; "table"
    before the tag means its entry in the table.
    """
    data = bytearray(make(**changes).to_bytes())
    for where, offset, layout, value in edits:
        if where is not None:
            entry = sections_of(data)[where.removeprefix("table ")]
            inside = struct.unpack_from("<I", data, entry + 8)[0]
            offset += entry if where.startswith("table ") else inside
        struct.pack_into(layout, data, offset, value)
    struct.pack_into("<I", data, 16, zlib.crc32(data[20:]))
    return bytes(data)


CONF = {name: i for i, name in enumerate(make().config.__dict__)}
# What is wrong, and what the readers in C and in Python say of it.
DAMAGE = {
    "empty": (b"", "not a BiFSMN", "not a BiFSMN"),
    "magic": (damaged((None, 7, "<B", 0)), "not a BiFSMN", "not a BiFSMN"),
    "major version": (
        damaged((None, 8, "<H", 2)),
        "major format version",
        "format version 2\\.1",
    ),
    "truncated": (damaged()[:-1], "truncated", "truncated"),
    "padded": (damaged() + b"\0", "truncated or padded", "truncated or padded"),
    "altered": (damaged()[:-1] + b"\xff", "checksum", "checksum"),
    "count": (
        damaged((None, 20, "<I", 2**28)),
        "section table",
        "table runs past",
    ),
    "outside": (
        damaged(("table C2.W", 8, "<I", 2**31)),
        "section table",
        "C2.W lies outside",
    ),
    "too long": (
        damaged(("table HD.A", 12, "<I", 2**32 - 1)),
        "table",
        "HD.A lies outside",
    ),
    "unaligned": (
        damaged(("table FRNT", 8, "<I", 1001)),
        "section table",
        "FRNT does not start",
    ),
    "overlap": (
        damaged(("table META", 12, "<I", 4000)),
        "section table",
        "overlaps",
    ),
    "missing": (
        damaged(("table FC.S", 0, "4s", b"NEW!")),
        "missing",
        "no section FC.S",
    ),
    "twice": (
        damaged(("table FC.S", 0, "4s", b"FC.A")),
        "there twice",
        "FC.A is there twice",
    ),
    "alike": (
        damaged(
            ("table FC.S", 0, "4s", b"FC  "), ("table FC.A", 0, "4s", b"FC ")
        ),
        "missing",
        "no section FC.A",
    ),
    "dtype": (
        damaged(("table C1.T", 4, "<B", 4)),
        "wrong type or size",
        "C1.T has dtype 4",
    ),
    "unknown dtype": (
        damaged(("table C1.T", 4, "<B", 77)),
        "wrong type",
        "C1.T has dtype 77",
    ),
    "shape": (
        damaged(("CONF", 4 * CONF["expansion"], "<I", 65)),
        "or size",
        "P1.W should be",
    ),
    "depth 0": (damaged(("DPTH", 8, "<I", 0)), "depths", "depths"),
    "too deep": (damaged(("DPTH", 0, "<I", 4)), "depths", "depths"),
    "depth twice": (damaged(("DPTH", 4, "<I", 3)), "depths", "depths"),
    "labels": (
        damaged(("LABL", 3, "<B", 0)),
        "label",
        "4 classes but 5 labels",
    ),
    "open label": (
        damaged(("LABL", 23, "<B", 65)),
        "label",
        "last label has no end",
    ),
    "nan": (
        damaged(("FC.S", 0, "<f", np.nan)),
        "not finite",
        "FC.S has non-finite",
    ),
    "infinite": (
        damaged(("P2.A", 4, "<e", np.inf)),
        "not finite",
        "P2.A has non-finite",
    ),
    "edges": (damaged(("MELS", 4, "<f", 1e6)), "out of order", "rise strictly"),
    "floor": (
        damaged(("FRNT", 0, "<f", 0)),
        "not finite or out of order",
        "must be positive",
    ),
    "bits beyond a row": (
        damaged(("FC.W", 15, "<B", 128)),
        "out of order",
        "FC.W has bits beyond",
    ),
    **{
        f"{name} {value}": (
            damaged(("CONF", 4 * CONF[name], "<I", value)),
            "CONF",
            f"section CONF: .*{name}",
        )
        for name, value in {
            "sample_rate": 2**24 + 1,
            "samples": 0,
            "hop_length": 0,
            "conv1_channels": 4000,
            "n_fft": 63,
            "win_length": 65,
            "kernel": 4,
            "stride": 0,
            "channels": 2**32 - 1,
            "expansion": 2**31,
            "left": 2**31,
            "layers": 2**16,
            "depths": 4,
            "flags": 64,
        }.items()
    },
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name(damage):
    data, native, python = DAMAGE[damage]
    with pytest.raises(ModelFileError, match=native):
        NativeEngine(data)
    with pytest.raises(ModelFileError, match=python) as error:
        Model.from_bytes(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tag", "text", "message"),
    [
        ("LABL", b"\xff", "LABL is not UTF-8"),
        ("META", b"\xff", "META is not UTF-8"),
        ("META", b"licence", "META is not JSON"),
        ("META", b"[]".ljust(25), "META is not a JSON object"),
    ],
)
def test_text_is_read_in_python(tag, text, message):
    """C hands text on as it is."""
    data = damaged((tag, 0, f"{len(text)}s", text))
    with pytest.raises(ModelFileError, match=message):
        Model.from_bytes(data)
    if tag == "LABL":
        with pytest.raises(ModelFileError, match=message):
            NativeEngine(data)


def test_later_minor_version_may_add_sections():
    data = damaged((None, 10, "<H", 7))
    count = struct.unpack_from("<I", data, 20)[0]
    table, body = data[24 : 24 + 16 * count], data[24 + 16 * count :]
    table = bytearray(table)
    for i in range(count):
        where = struct.unpack_from("<I", table, 16 * i + 8)[0]
        struct.pack_into("<I", table, 16 * i + 8, where + 16)
    size = len(data) + 16
    table += struct.pack("<4sB3xII", b"NEW!", 99, size, 0)
    rest = struct.pack("<I", count + 1) + table + body
    head = struct.pack("<8sHHII", b"BiFSMN\r\n", 1, 7, size, zlib.crc32(rest))
    NativeEngine(head + rest)
    assert Model.from_bytes(head + rest).labels == make().labels


def test_workspace_too_small():
    engine = NativeEngine(make().to_bytes())
    lib, data = engine._lib, engine._data
    net = ctypes.c_void_p()
    where = engine._workspace.ctypes.data
    for size in (0, 1, engine._workspace.size // 2):
        error = lib.bifsmn_open(data, len(data), where, size, ctypes.byref(net))
        assert b"workspace" in lib.bifsmn_message(error)
    assert lib.bifsmn_message(99) == b"unknown error"


def build(program, out, compiler="gcc", *flags):
    """Compile the runtime with one of csrc/tests or csrc/examples."""
    if shutil.which(compiler) is None:
        pytest.fail(f"{compiler} is missing: apt-get install {compiler}")
    sources = [*sorted((CSRC / "src").glob("*.c")), CSRC / program]
    include = [f"-I{CSRC / folder}" for folder in ("include", "src")]
    subprocess.run(
        [compiler, *FLAGS, *flags, *include, *sources, "-lm", "-o", out],
        check=True,
    )
    return out


STACK_FLAGS = "-O3", "-static", "-pthread"


def check_stack(program, folder, most):
    """What each call uses of the stack, in bytes, is not more."""
    sizes = [{}, {"flags": 63}, {"flags": 24, "half": False}]
    for i, flags in enumerate(sizes):
        file = folder / f"{i}.bifsmn"
        file.write_bytes(make(i, **SHAPES["default"], **flags).to_bytes())
        lines = subprocess.check_output([*program, file], text=True)
        used = dict(line.split() for line in lines.splitlines())
        assert {"open", "scalar"} <= set(used)
        for name, stack in used.items():
            assert 0 < int(stack) <= most, (name, stack)


@pytest.mark.parametrize(
    ("compiler", "options"), [("gcc", []), ("gcc", [PORTABLE]), ("clang", [])]
)
def test_every_stage_under_sanitizers(compiler, options, tmp_path):
    """golden.c reads and writes nowhere else, whatever the flags."""
    there = tmp_path / "golden"
    program = build("tests/golden.c", there, compiler, *SANITIZED, *options)
    for flags in 0, 5, 24, 53, 63:
        file = tmp_path / f"{flags}.bifsmn"
        file.write_bytes(make(flags, flags=flags).to_bytes())
        done = subprocess.run(
            [program, file],
            capture_output=True,
            text=True,
            env=NO_LEAKS,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [[], [PORTABLE]])
def test_fuzz(options, tmp_path):
    flags = *SANITIZED, *options
    program = build("tests/fuzz.c", tmp_path / "fuzz", "gcc", *flags)
    tiny = {"frames": 5, "n_mels": 5, "n_fft": 16, "win_length": 16}
    tiny.update(channels=10, expansion=9, left=1, right=0)
    shapes = [
        {},
        {"flags": 5, "half": False},
        {"head_bits": 8, "stride": 1},
        {"flags": 24, "half": False},
        {"flags": 63},
    ]
    files = []
    for i, shape in enumerate(shapes):
        files.append(tmp_path / f"{i}.bifsmn")
        files[-1].write_bytes(make(i, **tiny, **shape).to_bytes())
    done = subprocess.run(
        [program, "4000", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shipped = CSRC.parent / "speechbrain_bifsmn/pretrained/gsc10/model.bifsmn"
    subprocess.run([program, "1000", shipped], check=True)
    met = {int(line.split()[0]) for line in done.stdout.splitlines()}
    # All that a file can be refused for, and some that still ran.
    assert met == {0, *range(2, 13)}, done.stdout


def test_misuse_is_refused(tmp_path):
    program = build("tests/misuse.c", tmp_path / "misuse", "gcc", *SANITIZED)
    file = tmp_path / "model.bifsmn"
    file.write_bytes(make().to_bytes())
    done = subprocess.run([program, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "every misuse is refused\n"


def test_stack_is_what_the_header_says(tmp_path):
    program = build("tests/stack.c", tmp_path / "stack", "gcc", *STACK_FLAGS)
    check_stack([program], tmp_path, most=6 * 1024)


def test_example(tmp_path):
    program = build("examples/spot.c", tmp_path / "spot", "gcc", "-O3")
    model = make()
    model.labels = ["_silence_", "yes", "no", "_unknown_"]
    model.arrays["HD.W"][:] = 0
    model.arrays["HD.W"].flat[0] = 7
    model.arrays["HD.A"][0] = 0
    file, wav = tmp_path / "m.bifsmn", tmp_path / "a.wav"

    def spot(bias, samples, *depth, rate=16000):
        """Scores are these biases, whatever the sound."""
        model.arrays["HD.A"][1] = np.log(bias)
        file.write_bytes(model.to_bytes())
        data = bytes(2 * samples)
        wav.write_bytes(
            struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE")
            + struct.pack("<4sIHHII", b"fmt ", 16, 1, 1, rate, 2 * rate)
            + struct.pack("<HH4sI", 2, 16, b"data", len(data))
            + data
        )
        return subprocess.run(
            [program, file, wav, *depth], capture_output=True, text=True
        )

    assert spot([1, 16, 2, 1], 100).stdout == "yes 0.800 at 0.00 s\n"
    # No keyword is sure enough; unless less is enough.
    unsure = [3, 12, 1, 4]
    assert spot(unsure, 100).stdout == "_unknown_ 0.200 at 0.00 s\n"
    assert spot(unsure, 100, "3", "0.5").stdout == "yes 0.600 at 0.00 s\n"
    assert spot([1, 1, 1, 7], 100, "2").stdout == "_unknown_ 0.700 at 0.00 s\n"
    assert "at this depth" in spot([1, 1, 1, 7], 100, "9").stderr
    refused = spot([1, 1, 1, 7], 100, rate=8000)
    assert refused.returncode == 1
    assert "16-bit mono" in refused.stderr
