"""From a trained folder to a keyword: the command, and the C examples."""

import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_bifsmn import cli
from speechbrain_bifsmn.data.protocols import which_split
from speechbrain_bifsmn.evaluation import evaluate_file, protocol_clips
from speechbrain_bifsmn.inference import KeywordSpotter
from speechbrain_bifsmn.kernels.native import kernel_names
from speechbrain_bifsmn.spotting import Listener, Spotted, Spotter
from tests.random_model import random_model
from tests.recipe import REPO


def test_the_file_is_as_good_as_the_graph(results, model_file, archive, capsys):
    words = ["--words", "low", "middle", "high", "_silence_"]
    cli.main(["eval", "-m", str(model_file), str(archive), "--json", *words])
    report = json.loads(capsys.readouterr().out)
    graph = json.loads((results / "bifsmn/1/results.json").read_text())
    assert report["engine"] == "NativeEngine"
    assert Spotter(model_file).model.meta["testing_percentage"] == 10
    for depth, row in graph["depths"].items():
        found = report["depths"][depth]["accuracy"]
        assert abs(found - row["accuracy"]) <= 10


def test_eval_of_own_recordings_takes_all(
    model_file, archive, tmp_path, capsys
):
    shutil.copytree(archive / "low", tmp_path / "low")
    shutil.copytree(archive / "high", tmp_path / "high")
    cli.main(["eval", "-m", str(model_file), str(tmp_path), "--all", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["clips"] == len(
        [*archive.glob("low/*"), *archive.glob("high/*")]
    )
    assert report["depths"]["2"]["recall"]["middle"] is None
    cli.main(["eval", "-m", str(model_file), str(tmp_path), "--all"])
    assert "middle" not in capsys.readouterr().out
    (tmp_path / "low/notes.txt").write_text("no recording")
    soundfile.write(tmp_path / "high/long.wav", np.zeros(16001), 16000)
    with pytest.raises(SystemExit, match="long.wav: 16001 samples, but"):
        cli.main(["eval", "-m", str(model_file), str(tmp_path), "--all"])
    shutil.copytree(archive, tmp_path / "all")
    for long in (tmp_path / "all/low").iterdir():
        soundfile.write(long, np.zeros(16001), 16000)
    with pytest.raises(SystemExit, match=r"all/low/.*wav: 16001 samples, but"):
        cli.main(["eval", "-m", str(model_file), str(tmp_path / "all")])
    with pytest.raises(SystemExit, match="no recordings in folders .* low, "):
        cli.main(
            ["eval", "-m", str(model_file), str(tmp_path / "low"), "--all"]
        )


def test_eval_takes_rate_and_split_of_the_model(tmp_path, capsys):
    sizes = {"sample_rate": 8000, "samples": 8000, "hop_length": 256}
    model = random_model(classes=2, **sizes)
    model.labels[:] = ["low", "high"]
    model.meta["testing_percentage"] = 40
    (tmp_path / "8k.bifsmn").write_bytes(model.to_bytes())
    for word in model.labels:
        (tmp_path / "data" / word).mkdir(parents=True)
        for i in range(40):
            path = tmp_path / f"data/{word}/{i:08x}_nohash_0.wav"
            soundfile.write(path, np.zeros(8000, np.int16), 8000)
    paths = str(tmp_path / "8k.bifsmn"), str(tmp_path / "data")
    cli.main(["eval", "-m", *paths, "--json", "--words", *model.labels])
    report = json.loads(capsys.readouterr().out)
    names = [f"{i:08x}" for i in range(40)]
    test = [which_split(name, 10, 40) == "test" for name in names]
    assert report["clips"] == 2 * sum(test) > 20


def test_clips_of_a_split_are_those_of_the_split(archive):
    model = random_model(classes=3)
    model.labels[:] = ["low", "middle", "high"]
    for split in ("train", "valid", "test"):
        *_, rows = protocol_clips(
            archive, model, words=model.labels, split=split
        )
        assert {which_split(Path(r["wav"]).name) for r in rows} == {split}


def test_every_depth_is_evaluated_by_itself(tmp_path):
    model, rng, rows = random_model(classes=3), np.random.default_rng(0), []
    path = tmp_path / "m.bifsmn"
    path.write_bytes(model.to_bytes())
    for i in range(12):
        wav = tmp_path / f"{i}.wav"
        noise = rng.normal(0, 10 ** rng.uniform(-4, -1), 16000)
        soundfile.write(wav, noise, 16000)
        row = {"wav": str(wav), "start": 0, "stop": 16000, "label": "word1"}
        rows.append(row)
    found, said = evaluate_file(path, rows)["depths"], set()
    for depth in model.depths:
        spotter = Spotter(path, depth, threshold=0.0)
        heard = [spotter.spot_file(row["wav"]).label for row in rows]
        counts = [heard.count(label) for label in model.labels]
        assert found[str(depth)]["confusion"][1] == counts
        said.add(tuple(counts))
    assert len(said) > 1


def test_a_trained_folder_can_be_moved(results, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(results / "bifsmn/1/model", moved)
    before = sorted(moved.iterdir())
    clip = np.zeros(8000, np.float32)
    soundfile.write(tmp_path / "quiet.wav", clip, 16000)
    # Not what another folder left there, nor in train mode.
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/hyperparams.yaml").write_text("of: another")
    spotter = KeywordSpotter.from_hparams(
        moved, savedir=tmp_path / "cache", freeze_params=False
    )
    assert not spotter.mods.training
    label, probability = spotter.classify_file(tmp_path / "quiet.wav", depth=1)
    with pytest.raises(ValueError, match="divide 16-bit samples by 32768"):
        spotter.classify_batch(torch.zeros(1, 8000, dtype=torch.int16))
    with pytest.raises(ValueError, match="samples that are no numbers"):
        spotter.classify_batch(torch.full((1, 8000), torch.nan))
    with pytest.raises(ValueError, match="divide 16-bit samples by 32768"):
        spotter.classify_batch(torch.full((1, 8000), 3000.0))
    assert label in spotter.labels and 0 < probability <= 1
    assert sorted(moved.iterdir()) == before
    assert not any(path.is_symlink() for path in before)


def test_spot_pads_short_clips_and_scans_long_ones(
    model_file, archive, tmp_path, capsys
):
    path = sorted((archive / "high").iterdir())[0]
    clip, _ = soundfile.read(path, dtype="int16")
    quiet = np.zeros(24000, np.int16)
    long = np.concatenate([quiet, clip, quiet])
    soundfile.write(tmp_path / "long.wav", long, 16000)
    soundfile.write(tmp_path / "short.wav", clip[4000:12000], 16000)
    waves = [str(path), str(tmp_path / "long.wav"), str(tmp_path / "short.wav")]
    cli.main(["spot", "-m", str(model_file), *waves, "--json"])
    whole, scanned, short = json.loads(capsys.readouterr().out)
    assert scanned["label"] == whole["label"] == "high"
    assert 0.5 <= scanned["start"] <= 2.5
    assert short["start"] == 0
    cli.main(["spot", "-m", str(model_file), waves[0], "--depth", "1"])
    assert whole["file"] in capsys.readouterr().out
    cli.main(["spot", "-m", str(model_file), *waves, "--threshold", "1"])
    lines = re.findall(r"\.wav: (.*)", capsys.readouterr().out)
    assert all(line.startswith("_") for line in lines)
    assert re.search(r"; high \(\d+ %\) is below .* of 100 %$", lines[0])
    # A keyword that is believed, however sure the network is of silence.
    believed = Spotted("no", 0.35, 0.0, {"no": 0.35, "_silence_": 0.6})
    assert cli.heard(believed, 0.3) == "no (35 %) at 0.00 s"
    with pytest.raises(SystemExit, match="threshold 70.0 is not from 0 to 1"):
        cli.main(["spot", "-m", str(model_file), *waves, "--threshold", "70"])


def test_posteriors_are_averaged_over_four_windows(model_file):
    spotter = Spotter(model_file)
    rng = np.random.default_rng(0)
    pcm = (rng.normal(0, 3000, 40000)).astype(np.int16)
    starts, means = spotter.posteriors(pcm)
    single = [spotter.posteriors(pcm[s : s + 16000])[1][0] for s in starts]
    for i, mean in enumerate(means):
        expected = np.mean(single[max(0, i - 3) : i + 1], axis=0)
        assert np.allclose(mean, expected, atol=1e-6)


def build_example(name, folder, *flags):
    csrc, program = REPO / "csrc", folder / name
    subprocess.run(
        [
            *("gcc", "-std=c99", "-ffp-contract=off", *flags, "-o", program),
            *sorted((csrc / "src").glob("*.c")),
            *(csrc / f"examples/{name}.c", "-I", csrc / "include", "-lm"),
        ],
        check=True,
    )
    return program


def test_a_stream_gives_the_same_keywords_in_c_and_in_any_chunks(
    model_file, archive, tmp_path, monkeypatch, capsys
):
    rng = np.random.default_rng(0)
    parts = []
    for word in ("high", "low", "middle", "high"):
        clip = sorted((archive / word).iterdir())[3]
        parts += [
            soundfile.read(clip, dtype="int16")[0],
            rng.integers(-9, 9, 9000),
        ]
    pcm = np.concatenate(parts).astype(np.int16)
    listener, heard = Listener(Spotter(model_file, threshold=0.4)), []
    for wrong in pcm.astype(np.float32), pcm[:, None], pcm.astype(np.int8):
        with pytest.raises(ValueError, match=r"must be int16 \[n\], not "):
            listener.feed(wrong)
    for part in np.split(pcm, np.sort(rng.integers(0, len(pcm), 20))):
        heard += listener.feed(part)
    assert {found.label for found in heard} <= {"low", "middle", "high"}
    assert len(heard) >= 3
    for one, two in itertools.combinations(heard, 2):
        assert one.label != two.label or two.start >= one.start + 1
    expected = "".join(
        f"{found.label} {found.probability:.3f} at {found.start:.2f} s\n"
        for found in heard
    )
    sent = io.BytesIO(pcm.astype("<i2").tobytes() + b"odd")
    stream = io.TextIOWrapper(io.BufferedReader(sent))
    monkeypatch.setattr(sys, "stdin", stream)
    cli.main(["listen", "-m", str(model_file), "--threshold", "0.4"])
    assert capsys.readouterr().out == expected
    flags = "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    done = subprocess.run(
        [build_example("listen", tmp_path, *flags), model_file, "2", "0.4"],
        input=pcm.astype("<i2").tobytes(),
        capture_output=True,
    )
    assert done.stdout.decode() == expected, done.stderr
    for header in b"RIFF$", b"fLaC$":
        stream = io.TextIOWrapper(io.BufferedReader(io.BytesIO(header * 9999)))
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(SystemExit, match="give it to bifsmn spot"):
            cli.main(["listen", "-m", str(model_file)])
    done = subprocess.run(
        [tmp_path / "listen", model_file],
        input=b"RIFF" * 9999,
        capture_output=True,
    )
    assert done.returncode == 1 and b"a WAV file" in done.stderr
    folder = os.open(tmp_path, os.O_RDONLY)
    for arguments, words in ([], b"cannot read"), (["3"], b"depth"):
        done = subprocess.run(
            [tmp_path / "listen", model_file, *arguments],
            stdin=folder,
            capture_output=True,
        )
        assert done.returncode == 1 and words in done.stderr, done
    os.close(folder)


def test_the_c_program_says_what_the_command_says(
    model_file, archive, tmp_path
):
    program = build_example("spot", tmp_path, "-O3")
    clips = [
        soundfile.read(sorted((archive / word).iterdir())[1], dtype="int16")[0]
        for word in ("low", "high")
    ]
    wav = tmp_path / "two.wav"
    soundfile.write(wav, np.concatenate(clips)[:30123], 16000, "PCM_16")
    done = subprocess.run(
        [program, model_file, wav, "1"], capture_output=True, text=True
    )
    found = Spotter(model_file, depth=1).spot_file(wav)
    expected = f"{found.label} {found.probability:.3f} at {found.start:.2f} s"
    assert done.stdout.strip() == expected

    # What recorders write that do not know the length, or more channels.
    piped, extensible, empty = (tmp_path / f"{i}.wav" for i in range(3))
    data = wav.read_bytes()
    piped.write_bytes(data[:40] + b"\xff" * 4 + data[44:])
    soundfile.write(
        extensible,
        soundfile.read(wav, dtype="int16")[0],
        16000,
        "PCM_16",
        format="WAVEX",
    )
    empty.write_bytes(data[:40] + bytes(4) + data[44:])
    for path in piped, extensible:
        done = subprocess.run(
            [program, model_file, path, "1"], capture_output=True, text=True
        )
        assert done.stdout.strip() == expected, done.stderr
    for arguments, words in [
        ([empty], "no samples"),
        ([wav, "3"], "depth"),
        ([wav, "1x"], "not a number"),
        ([wav, "1", "0,9"], "not a number"),
        ([wav, "1", "7"], "from 0 to 1"),
    ]:
        done = subprocess.run(
            [program, model_file, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 1 and words in done.stderr, done


def test_a_package_builds_in_an_empty_folder(results, tmp_path):
    package = tmp_path / "package"
    cli.main(["export", str(results / "bifsmn/1"), "--package", str(package)])
    done = subprocess.run(
        ["make", "-C", package, "CC=gcc", "check", "all"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr
    assert " 0 differ" in done.stdout
    # The array holds the file, and the header compiles alone.
    both = tmp_path / "both.c"
    both.write_text(
        '#include <stdio.h>\n#include "model.h"\nint main(void) { return '
        "fwrite(bifsmn_model, sizeof bifsmn_model, 1, stdout) != 1; }\n"
    )
    subprocess.run(
        ["gcc", both, "-I", package, "-o", both.stem], check=True, cwd=tmp_path
    )
    array = subprocess.run([tmp_path / "both"], capture_output=True).stdout
    assert array == (package / "model.bifsmn").read_bytes()


def test_a_device_tests_itself_and_hears_the_same(results, archive, tmp_path):
    """And names the first stage that a wrong library gets wrong."""
    cli.main(["export", str(results / "bifsmn/1"), "--package", str(tmp_path)])
    library, firmware = tmp_path / "bifsmn.c", tmp_path / "firmware.c"
    text = library.read_text()
    firmware.write_text(firmware.read_text().replace("0.7f", "0.4f"))
    clips = [
        soundfile.read(sorted((archive / word).iterdir())[3], dtype="int16")[0]
        for word in ("high", "low", "middle", "high")
    ]
    pcm = np.pad(clips, [(0, 0), (0, 9000)]).astype("<i2").tobytes()
    flags = "CFLAGS=-O1 -Wall -Wextra -Wpedantic -Werror"
    make = "make", "-s", "-C", tmp_path, "CC=gcc", flags
    subprocess.run([*make, "listen"], check=True)
    listen = tmp_path / "listen", tmp_path / "model.bifsmn", "2", "0.4"
    heard = subprocess.check_output(listen, input=pcm, text=False).decode()
    assert len(heard.splitlines()) >= 3
    for stage, ours, theirs in [
        ("", "", ""),
        ("features", "10.0f * log10f", "10.5f * log10f"),
        ("conv1", "(sum[i - 1] >= thr", "(sum[i - 1] / 2 >= thr"),
        ("fc", "z = z + bias[i];", "z = z + bias[i] * 1.001f;"),
        ("scores", "scores[i] = scaled +", "scores[i] = 1.01f * scaled +"),
    ]:
        assert ours in text
        library.write_text(text.replace(ours, theirs))
        subprocess.run([*make, "-B", "firmware"], check=True)
        done = subprocess.run(
            [tmp_path / "firmware"], input=pcm, capture_output=True
        )
        assert done.returncode == bool(stage)
        said = f"the self-test fails at: {stage}\n" if stage else heard
        assert done.stdout.decode() == said


def test_a_package_replaces_no_other_project(results, tmp_path, capsys):
    mine = tmp_path / "README.md"
    mine.write_text("mine")
    command = ["export", str(results / "bifsmn/1"), "--package", str(tmp_path)]
    with pytest.raises(SystemExit, match="has a README.md and is no package"):
        cli.main(command)
    assert [*tmp_path.iterdir()] == [mine] and mine.read_text() == "mine"
    mine.unlink()
    cli.main(command)
    # What a project may have changed stays; the library is renewed.
    mine.write_text("mine")
    (tmp_path / "spot.c").write_text("mine")
    (tmp_path / "bifsmn.c").unlink()
    cli.main(command)
    assert mine.read_text() == (tmp_path / "spot.c").read_text() == "mine"
    assert (tmp_path / "bifsmn.c").read_text().count("Apache-2.0") == 1
    assert "Licensed under" in (tmp_path / "LICENSE").read_text()


def test_a_package_builds_for_aarch64(results, tmp_path):
    if os.environ.get("SKIP_CROSS") == "1":
        pytest.skip("SKIP_CROSS=1: THE PACKAGE IS NOT BUILT FOR AARCH64")
    for tool, package in {
        "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
        "qemu-aarch64": "qemu-user",
    }.items():
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is missing: apt-get install {package}")
    package = tmp_path / "package"
    cli.main(["export", str(results / "bifsmn/1"), "--package", str(package)])
    done = subprocess.run(
        [
            *("make", "-C", package, "check", "CC=aarch64-linux-gnu-gcc"),
            *("LDFLAGS=-static", "RUN=qemu-aarch64"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr
    assert " 0 differ" in done.stdout


def test_listen_takes_its_options(monkeypatch):
    made = []
    monkeypatch.setattr(
        "speechbrain_bifsmn.spotting.Listener",
        lambda spotter: made.append((spotter.depth, spotter.threshold)),
    )
    stream = io.TextIOWrapper(io.BufferedReader(io.BytesIO()))
    monkeypatch.setattr(sys, "stdin", stream)
    cli.main(["listen", "--depth", "2", "--threshold", "0.4"])
    assert made == [(2, 0.4)]


def test_a_short_batch_is_padded_at_its_end_and_a_long_one_refused(results):
    spotter = KeywordSpotter.from_hparams(results / "bifsmn/1")
    clips = 0.1 * torch.randn(2, 12000)
    padded = torch.nn.functional.pad(clips, [0, 4000])
    depths = {n: spotter.classify_batch(clips, depth=n) for n in (2, 1)}
    for depth, posteriors in depths.items():
        whole = spotter.classify_batch(padded, depth=depth)
        assert torch.equal(posteriors, whole)
    assert not torch.allclose(depths[2], depths[1])
    with pytest.raises(ValueError, match="window is 16000: cut"):
        spotter.classify_batch(torch.zeros(1, 16001))


def test_info_names_the_labels_and_the_engine(model_file, capsys):
    cli.main(["info", str(model_file)])
    printed = capsys.readouterr().out
    assert "low middle high _silence_" in printed
    assert f"NativeEngine with {kernel_names()[0]} kernels" in printed
    assert str(REPO) not in printed
    assert "32,000 of PCM" in printed


def test_without_the_compiled_core_numba_runs_and_says_so(
    model_file, archive, monkeypatch, caplog
):
    clip = sorted((archive / "low").iterdir())[0]
    compiled = Spotter(model_file).spot_file(clip)
    monkeypatch.setattr("speechbrain_bifsmn.kernels.native._native", None)
    spotter = Spotter(model_file)
    assert type(spotter.engine).__name__ == "NumbaEngine"
    assert "C compiler" in caplog.text
    found = spotter.spot_file(clip)
    assert found.label == compiled.label
    assert abs(found.probability - compiled.probability) < 0.05


def test_bad_input_to_the_command_is_one_line(
    model_file, results, tmp_path, archive, monkeypatch, capsys
):
    good = sorted((archive / "low").iterdir())[0]
    clip, _ = soundfile.read(good, dtype="int16")
    slow, stereo = tmp_path / "8k.wav", tmp_path / "stereo.wav"
    corrupt, cut = tmp_path / "corrupt.wav", tmp_path / "cut.bifsmn"
    altered = tmp_path / "altered.bifsmn"
    soundfile.write(slow, clip[::2], 8000)
    soundfile.write(stereo, np.stack([clip, clip], 1), 16000)
    corrupt.write_bytes(b"RIFF and nothing else")
    raw = tmp_path / "clip.raw"
    raw.write_bytes(clip.tobytes())
    latin, pipe = tmp_path / os.fsdecode(b"r\xe9.wav"), tmp_path / "pipe.wav"
    shutil.copyfile(good, latin)
    os.mkfifo(pipe)
    bad = {
        slow: "8000 Hz",
        stereo: "2 channel",
        corrupt: "not a readable sound file",
        tmp_path / "no.wav": "no such file",
        raw: "bifsmn listen",
        latin: r"r\xe9.wav: its name is not UTF-8",
        pipe: "a pipe",
    }
    files = [*map(str, bad), str(good)]
    # What cannot be heard is said; the rest is heard.
    with pytest.raises(SystemExit) as stopped:
        cli.main(["spot", "-m", str(model_file), "--json", *files])
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [row["file"] for row in rows] == files
    assert ["label" in row for row in rows] == [False] * len(bad) + [True]
    lines = err.splitlines()
    for line, row, words in zip(lines, rows, bad.values(), strict=False):
        assert line == f"bifsmn: {row['error']}" and words in line
    assert len(lines) == len(bad)
    trained = results / "bifsmn/1"
    data = model_file.read_bytes()
    cut.write_bytes(data[:1000])
    altered.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    for arguments, words in [
        (["eval", archive, "--protocol", "words"], "--words for an own list"),
        (["spot", "-m", cut, good], "truncated"),
        (["spot", "-m", altered, good], "checksum"),
        (["spot", "-m", tmp_path / "no.bifsmn", good], "no model file"),
        (["spot", "-m", model_file, good, "--depth", "3"], "at depth 2, 1"),
        (["info", good], "not a BiFSMN"),
        (["export", tmp_path, "-o", tmp_path], "not a trained folder"),
        (["export", trained, "-o", good], f"{good} is a file"),
        (
            ["export", trained, "-o", tmp_path, "--manifest", good],
            f"{good} is no manifest",
        ),
        (
            ["export", trained, "-o", tmp_path, "--manifest", REPO / "LICENSE"],
            "it has no column wav, start",
        ),
        (["eval", "-m", model_file, tmp_path / "none"], "none"),
        (
            ["eval", "-m", model_file, archive, "--words", "low", "high"],
            "asks for",
        ),
    ]:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(a) for a in arguments])
        message = str(stopped.value)
        assert message.startswith("bifsmn: ") and "\n" not in message
        assert words in message, message
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit, match="standard input is closed"):
        cli.main(["listen"])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit, match="standard output is closed"):
        cli.main(["info"])


def test_a_folder_without_all_its_files_is_not_exported(results, tmp_path):
    for name in ("hyperparams.yaml", "labels.txt", "training.json"):
        folder = tmp_path / name
        shutil.copytree(results / "bifsmn/1/model", folder)
        (folder / name).unlink()
        with pytest.raises(SystemExit, match=f"it has no {name}"):
            cli.main(["export", str(folder), "-o", str(tmp_path / "out")])


def test_weights_that_are_no_numbers_are_named(results, tmp_path):
    shutil.copytree(results / "bifsmn/1/model", tmp_path / "model")
    state = torch.load(tmp_path / "model/model.ckpt")
    state["conv2.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "model/model.ckpt")
    with pytest.raises(SystemExit, match="conv2.weight .* no numbers"):
        cli.main(["export", str(tmp_path), "-o", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_export_refuses_a_full_precision_network(results, tmp_path):
    with pytest.raises(SystemExit, match="conv1 has real weights"):
        cli.main(
            ["export", str(results / "dfsmn/1"), "-o", str(tmp_path / "out")]
        )
    assert not (tmp_path / "out").exists()


def test_checkpoints_are_never_unpickled(results, tmp_path):
    class Malice:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    folder = tmp_path / "model"
    shutil.copytree(results / "bifsmn/1/model", folder)
    torch.save({"weight": Malice()}, folder / "model.ckpt")
    with pytest.raises(SystemExit):
        cli.main(["export", str(folder), "-o", str(tmp_path / "out")])
    assert not (tmp_path / "pwned").exists()
