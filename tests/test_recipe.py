"""The programs around train.py: study, results, stream, release."""

import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from speechbrain_bifsmn import cli
from speechbrain_bifsmn.data.protocols import PROTOCOLS, Protocol
from speechbrain_bifsmn.programs import one_line_errors
from speechbrain_bifsmn.spotting import window_starts
from tests.recipe import REPO, SMALL, TRAIN, load_train


@pytest.fixture
def small(monkeypatch):
    """Options of a training of seconds, on a protocol of tones."""
    tones = Protocol("tones", ("low", "middle", "high"), silence=True)
    monkeypatch.setitem(PROTOCOLS, "tones", tones)
    options = dict(option[2:].split("=") for option in SMALL[3:-1])
    options = {key: json.loads(value) for key, value in options.items()}
    return options | {"number_of_epochs": 1}


@pytest.fixture
def trained_here(monkeypatch):
    """Trainings in this process; the output folders of those that ran."""
    monkeypatch.syspath_prepend(TRAIN.parent)
    outputs = []

    def train(yaml, output, settings, log):
        outputs.append(output)
        options = {**settings, "output_folder": str(output)}.items()
        texts = [f"--{key}={json.dumps(value)}" for key, value in options]
        yaml = str(REPO / "hparams" / yaml)
        load_train().main([yaml, *texts, "--noprogressbar"])

    monkeypatch.setattr(importlib.import_module("runs"), "train", train)
    return outputs


def test_a_study_resumes_and_tells_what_is_not_one_bit(
    small, trained_here, archive, tmp_path, monkeypatch
):
    study = importlib.import_module("study")
    student = {"depths": [2, 1], "depth_weights": [1.0, 0.5]}
    plan = study.plan

    def small_plan(args):
        folder, runs = plan(args)
        for run in runs:
            run.settings |= small | (student if run.teachers else {})
        return folder, runs

    monkeypatch.setattr(study, "plan", small_plan)
    command = [
        f"--data_folder={archive}",
        f"--results_folder={tmp_path}",
        *("--protocol", "tones", "--epochs", "1"),
        *("--methods", "dorefa", "as-released", "--distillations", "fid"),
    ]
    for nothing in "--epochs=0", "--jobs=0":
        with pytest.raises(SystemExit):
            study.main([*command, nothing])
    study.main(command)
    study.main(command)
    names = [output.name for output in trained_here]
    assert names == ["1", "dorefa-fid", "as-released-fid"]
    folder = tmp_path / "tones/study/1/1"
    rows = json.loads((folder / "study.json").read_text())
    assert rows["dorefa-fid"]["bytes"] > 1000
    assert "is not 1-bit" in rows["as-released-fid"]["refused"]
    text = (folder / "study.md").read_text()
    assert "| as-released | (" in text and "| not 1-bit |" in text
    assert (folder / "study.png").stat().st_size > 10000

    # What was trained with other settings is not mixed in.
    small["lr"] = 0.1
    with pytest.raises(ValueError, match="3 of 3 runs failed"):
        study.main(command)


def test_the_results_table_resumes(
    small, trained_here, archive, tmp_path, monkeypatch, capsys
):
    table = importlib.import_module("results")
    student = {**small, "depths": [2, 1], "depth_weights": [1.0, 0.5]}
    real = {**student, "binarizer": "as-released"}
    rows = {
        "teacher": ("fp32", "dfsmn.yaml", small),
        "best": ("1-bit", "bifsmn.yaml", student),
        "as-released": ("real", "bifsmn.yaml", real),
        "ds-cnn": (
            "rival",
            "dscnn.yaml",
            {"channels": 8, "number_of_epochs": 1, "feature_copies": 2},
        ),
    }
    monkeypatch.setattr(table, "ROWS", rows)
    runs = importlib.import_module("runs")
    train = runs.train

    def broken_off(*options):
        if trained_here:
            raise KeyboardInterrupt
        train(*options)

    monkeypatch.setattr(runs, "train", broken_off)
    command = [
        f"--data_folder={archive}",
        f"--results_folder={tmp_path}",
        *("--protocol", "tones", "--seeds", "3", "--json"),
        *("--rows", "best", "as-released", "teacher", "ds-cnn"),
    ]
    with pytest.raises(KeyboardInterrupt):
        table.main(command)
    monkeypatch.setattr(runs, "train", train)
    capsys.readouterr()
    table.main(command)
    teacher, best = "dfsmn-teacher", "bifsmn-best"
    released, rival = "bifsmn-as-released", "dscnn-ds-cnn"
    # Those that nobody teaches first.
    names = [output.parent.name for output in trained_here]
    assert names == [teacher, rival, best, released]
    printed = capsys.readouterr().out
    # Trainings print too, which in a process of their own go to a log.
    assert "measured in PyTorch" not in printed
    report = json.loads(printed[printed.index("{\n") :])
    assert report == json.loads((tmp_path / "tones/results.json").read_text())
    networks = report["networks"]
    whole, thin = networks["1-bit"]["depths"].values()
    assert whole["bytes"] > thin["bytes"] > 1000
    assert thin["microseconds"] > 0
    file = tmp_path / "tones" / best / "3/exported/model.bifsmn"
    assert whole["bytes"] == file.stat().st_size
    alone = file.with_name("alone")
    folder = str(file.parents[1])
    cli.main(["export", folder, "-o", str(alone), "--depths", "1"])
    assert thin["bytes"] == (alone / file.name).stat().st_size
    for name, folder in (("real", released), ("fp32", teacher)):
        sizes = [row["bytes"] for row in networks[name]["depths"].values()]
        parameters = networks[name]["parameters"]
        assert sizes == [4 * parameters, *[None] * (len(sizes) - 1)]
        trained = tmp_path / "tones" / folder / "3/results.json"
        for depth, row in json.loads(trained.read_text())["depths"].items():
            found = networks[name]["depths"][depth]
            assert found["microseconds"] is None
            # Trained networks read features as int8, these as they come.
            assert abs(found["accuracy"]["mean"] - row["accuracy"]) < 15
    for form in ("rival, fp32", "rival, int8"):
        assert networks[form]["depths"]["4"]["bytes"] > 1000
        assert networks[form]["depths"]["4"]["microseconds"] > 0
    pairs = [row["first"] + row["second"] for row in report["differences"]]
    assert ["1-bit", "2", "fp32", "2"] in pairs and len(pairs) == 7
    for name in ("results.md", "results.png"):
        assert (tmp_path / "tones" / name).stat().st_size > 500

    # Nothing is done twice; a run that a row no longer describes is refused.
    monkeypatch.setattr(table, "one_bit", None)
    table.main(command)
    assert len(trained_here) == 4
    capsys.readouterr()
    table.main([*command, "--seeds", "3", "4", "--trained"])
    assert "(seed 3)" in (tmp_path / "tones/results.md").read_text()
    with pytest.raises(ValueError, match="nothing is trained"):
        table.main([*command, "--seeds", "4", "--trained"])
    assert len(trained_here) == 4
    rows["best"][2]["lr"] = 0.5
    with pytest.raises(ValueError, match="1 of 4 runs failed"):
        table.main(command)
    assert "best, seed 3: " in (err := capsys.readouterr().err)
    assert "lr 0.002, now it is 0.5" in err
    # The table of what is trained goes without it.
    with pytest.raises(ValueError, match="1 of 4 runs failed"):
        table.main([*command, "--trained"])
    table = json.loads(capsys.readouterr().out)
    assert "1-bit" not in table["networks"] and len(table["networks"]) == 4


def test_a_stream_is_heard_and_counted(
    model_file, archive, tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(TRAIN.parent)
    stream = importlib.import_module("stream")
    # Three seconds: yes, another word, no. The first is found, and once more
    # beside it; "no" is taken for "yes", which the next clip does not excuse.
    labels, truth = ["yes", "no", "_unknown_"], [0, 2, 1, 1]
    highest = np.array([[0.9, 0, 1], [0.8, 0, 1], [0.7, 0.2, 1], [0, 0.9, 1]])
    rates = stream.rates(labels, truth, highest, hours=0.5, threshold=0.5)
    assert rates["missed"] == pytest.approx(100 / 3)
    assert rates["false_alarms"] == 2
    assert stream.rates(labels, truth, highest, 0.5, 0.95)["missed"] == 100

    command = ["stream.py", "--data_folder", archive, "--model", model_file]
    command = [*map(str, command), "-o", str(tmp_path / "new"), "--json"]
    monkeypatch.setattr(sys, "argv", command)
    stream.main()
    for curve in json.loads(capsys.readouterr().out).values():
        missed = [row["missed"] for row in curve]
        alarms = [row["false_alarms"] for row in curve]
        assert missed == sorted(missed) and missed[0] < 60
        assert alarms == sorted(alarms, reverse=True)
    assert (tmp_path / "new/det.png").stat().st_size > 5000
    # What was measured is printed, whatever becomes of the picture.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    stream.main()
    said = capsys.readouterr()
    assert json.loads(said.out) and "pip install matplotlib" in said.err


def test_ctrl_c_ends_a_program_in_one_line():
    for resumes, said in (True, "interrupted: the same .*"), (False, ".*ed"):
        with (
            pytest.raises(SystemExit, match=f"^{said}$"),
            one_line_errors(resumes),
        ):
            raise KeyboardInterrupt


class Clock:
    """A spotter whose posteriors are the number of the window, from 1 on."""

    def __init__(self, stride, hop_length):
        sizes = {"stride": stride, "hop_length": hop_length}
        config = SimpleNamespace(samples=16000, sample_rate=16000, **sizes)
        self.model = SimpleNamespace(config=config, labels=["yes", "no"])

    def posteriors(self, pcm):
        starts = window_starts(len(pcm), self.model.config)
        return starts, 1.0 + np.arange(len(starts))[:, None].repeat(2, 1)


def test_windows_count_for_the_clip_in_their_middle(monkeypatch):
    monkeypatch.syspath_prepend(TRAIN.parent)
    stream = importlib.import_module("stream")
    silence = np.zeros(16000, np.int16)
    monkeypatch.setattr(stream, "read_window", lambda *_: silence)

    def hear(stride, hop_length, clips):
        rows = clips * [{"label": "no"}]
        _, highest, hours = stream.hear(Clock(stride, hop_length), rows)
        assert hours == pytest.approx(clips / 3600)
        return highest[:, 0].tolist()

    # Every 2,000 samples; the middle of four windows lies 5,000 after the
    # last one's start.
    assert hear(2, 500, 3) == [6, 14, 17]
    # Every 8,192, 4,288 before it: the first counts for the first clip.
    assert hear(4, 512, 4) == [3, 5, 7, 0]
    assert hear(2, 500, 1) == [1]
    # A neighbour's word is no false alarm, and no hit.
    heard = np.array([[0, 0.9], [0, 0.9]])
    rates = stream.rates(["yes", "no"], [0, 1], heard, hours=1, threshold=0.5)
    assert rates["missed"] == 50 and rates["false_alarms"] == 0
    # Each depth by itself.
    monkeypatch.setattr(stream, "hear", lambda spotter, _: (spotter.depth,))
    monkeypatch.setattr(stream, "rates", lambda labels, depth, t: depth)
    curves = stream.measure(stream.FILE, [])
    assert {n: set(curve) for n, curve in curves.items()} == {
        n: {n} for n in (8, 4, 2, 1)
    }


def test_the_card_says_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(TRAIN.parent)
    release = importlib.import_module("release")
    recall = {"yes": 97, "no": 95, "_unknown_": 70, "_silence_": 100}
    confusion = [[9, 1, 0, 0], [0, 9, 1, 0], [1, 2, 6, 1], [0, 0, 0, 9]]
    row = {"accuracy": 91, "accuracy_without_silence": 90}
    row |= {"recall": recall, "confusion": confusion}
    curve = [
        {"threshold": t, "missed": 10 * t, "false_alarms": 100 * t}
        for t in (0.5, release.THRESHOLD)
    ]
    facts = {"seed": 3, "epochs": 7, "licence": "MIT", "spliced_unknowns": 5}
    report = {"depths": {"8": row, "2": row}, "clips": 40}
    clips = {"yes": 20, "_unknown_": 15}
    curves = {8: curve, 2: curve}
    text = release.card(report, facts, [900, 800, 700], clips, curves)
    for said in (
        *("in 30 of 100 cases", "| 7.0 | 7.0 |", "| 800 | 700 |"),
        *("(30 clips", "seed 3", "7 epochs", "5 pseudo-words"),
    ):
        assert said in text


def test_only_the_package_s_protocol_is_released(
    results, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(TRAIN.parent)
    release = importlib.import_module("release")
    with pytest.raises(ValueError, match="trained on words.*one of GSC-10"):
        release.release(results / "bifsmn/1", tmp_path / "target")
    monkeypatch.setattr(release, "PROTOCOL", "words")
    with pytest.raises(ValueError, match="tested on an own draw"):
        release.release(results / "bifsmn/1", tmp_path / "target")
    monkeypatch.setattr(release, "OWN_DRAW", None)
    monkeypatch.setattr(release, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="more than the 1,000"):
        release.release(results / "bifsmn/1", tmp_path / "target")
    assert not list(tmp_path.iterdir())
