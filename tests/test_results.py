"""The results table and its intervals, from made-up predictions."""

import copy
import hashlib
import importlib
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from speechbrain_bifsmn.metrics import paired_bootstrap, summarize

RECIPE = Path(__file__).resolve().parents[1] / "recipes/SpeechCommands"


def test_the_bootstrap_finds_a_known_difference():
    rng = np.random.default_rng(0)
    easy = rng.random(2000)
    better = easy < 0.90 + rng.normal(0, 0.01, (3, 2000))
    worse = easy < 0.86 + rng.normal(0, 0.01, (3, 2000))
    clips = range(2000)
    difference, low, high = paired_bootstrap(better, worse, clips)
    assert low < 4 < high and low < difference < high
    # Paired: far less than the ±2 points of two independent test sets.
    assert high - low < 2
    mirrored = paired_bootstrap(worse, better, clips)
    assert mirrored == pytest.approx((-difference, -high, -low))
    assert paired_bootstrap(better, better, clips) == (0, 0, 0)


def test_the_bootstrap_draws_speakers_with_all_their_clips():
    """Ten clips each that agree: a standard error of √10 times as much."""
    rng = np.random.default_rng(2)
    first = np.repeat(rng.random((1, 400)) < 0.8, 10, axis=1)
    speakers = np.repeat(np.arange(400), 10)
    second = np.ones_like(first)
    _, low, high = paired_bootstrap(first, second, speakers)
    error = 100 * first.std() / 400**0.5
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def test_the_bootstrap_averages_seeds_not_networks():
    """Networks of different numbers of seeds; the standard error is known."""
    rng = np.random.default_rng(1)
    first = rng.random((3, 1000)) < 0.8
    second = np.ones((1, 1000), bool)
    difference, low, high = paired_bootstrap(first, second, range(1000))
    assert difference == pytest.approx(100 * first.mean() - 100)
    error = 100 * first.mean(0).std() / 1000**0.5
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def cell(labels, predicted, microseconds=None, size=4000):
    """A predictions file of six clips, two of each label or so."""
    truth = [i % len(labels) for i in range(6)]
    times = microseconds and dict.fromkeys(predicted, microseconds)
    sizes = {depth: size // (i + 1) for i, depth in enumerate(predicted)}
    form = {"bytes": sizes, "microseconds": times, "predicted": predicted}
    return {
        "labels": labels,
        "clips": list("abcdef"),
        "truth": truth,
        "parameters": 1000,
        "forms": {"": form},
    }


NAMES = {
    "teacher": "teacher, DFSMN fp32",
    "best": "best, 1-bit",
    "bifsmn": "BiFSMN, 1-bit",
}


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(RECIPE)
    return importlib.import_module("results")


@pytest.fixture
def comparison(monkeypatch):
    monkeypatch.syspath_prepend(RECIPE)
    return importlib.import_module("comparison")


@pytest.fixture
def predictions(monkeypatch):
    monkeypatch.syspath_prepend(RECIPE)
    return importlib.import_module("predictions")


def test_every_row_has_the_same_data_and_its_teachers_first(results):
    args = Namespace(
        results_folder=Path("results"),
        data_folder="x",
        protocol="GSC-10",
        words=None,
        rows=["best", "fp32-twin", "bifsmn", "bc-resnet"],
        seeds=[3],
    )
    runs = results.plan(args)
    names = [str(run) for run in runs]
    assert names == [
        *(f"teacher, seed {seed}" for seed in (1, 2, 3)),
        "bc-resnet, seed 3",
        # The best of seed 3 starts from that of seed 3.
        *(f"fp32, seed {seed}" for seed in (3, 1, 2)),
        *(f"{row}, seed 3" for row in ("bifsmn", "best", "fp32-twin")),
    ]
    teachers, rival, fp32 = runs[:3], runs[3], runs[4:7]
    paper, best, twin = runs[7:]
    for run, them in (fp32[0], teachers), (best, fp32), (twin, fp32):
        folders = [str(teacher.folder) for teacher in them]
        assert run.settings["teacher_folder"] == folders
    assert paper.settings["teacher_folder"] == str(teachers[2].folder)
    assert "teacher_folder" not in rival.settings
    for key in results.DATA:
        assert len({run.settings[key] for run in runs}) == 1
    budgets = [run.settings.get(results.BUDGET) for run in runs]
    epochs = budgets[3]
    assert epochs and budgets == [
        *[None] * 3,
        epochs,
        *[None] * 3,
        *[epochs] * 3,
    ]

    # For words of one's own, too.
    args.protocol, args.words = "words", ["lamp", "_silence_"]
    for run in results.plan(args):
        assert run.settings["words"] == args.words
        assert run.settings["classes"] == 2
        assert run.folder.parents[1].name == "words"


def test_the_table_has_means_deviations_and_no_silence(comparison):
    labels = ["yes", "no", "_silence_"]
    right, wrong = [0, 1, 2, 0, 1, 2], [0, 0, 2, 0, 0, 2]
    cells = {
        "teacher": {
            1: cell(labels, {"8": right}),
            2: cell(labels, {"8": wrong}),
        },
        "best": {
            1: cell(labels, {"8": right, "2": wrong}, 10.0, 900),
            2: cell(labels, {"8": right, "2": wrong}, 12.0, 904),
        },
        "bifsmn": {2: cell(labels, {"8": wrong}, 15.0, 950)},
    }
    report = comparison.compare(cells, NAMES, "GSC-10", [1, 2])
    text = comparison.markdown(report)
    for line in (
        "| teacher, DFSMN fp32 | 8 | 83.33 ± 23.57 | 75.00 ± 35.36 "
        "| 1,000 | 4,000 |  |",
        "| best, 1-bit | 8 | 100.00 ± 0.00 | 100.00 ± 0.00 "
        "| 1,000 | 904 | 11.0 |",
        "| ” | 2 | 66.67 ± 0.00 | 50.00 ± 0.00 |  | 452 | 11.0 |",
        "| BiFSMN, 1-bit (seed 2) | 8 | 66.67 | 50.00 | 1,000 | 950 | 15.0 |",
    ):
        assert line in text.splitlines()
    differences = {
        (*row["first"], row["second"][0]): row for row in report["differences"]
    }
    assert len(differences) == 3
    deepest = differences["best, 1-bit", "8", "teacher, DFSMN fp32"]
    assert deepest["difference"] == pytest.approx(100 / 6)
    thin = differences["best, 1-bit", "2", "teacher, DFSMN fp32"]
    assert thin["difference"] == pytest.approx(-100 / 6)
    papers = differences["best, 1-bit", "8", "BiFSMN, 1-bit"]
    assert papers["seeds"] == [2]
    for row in report["differences"]:
        assert row["low"] <= row["difference"] <= row["high"]
    recall = report["networks"]["best, 1-bit"]["depths"]["2"]["recall"]
    assert recall == {"yes": 100, "no": 0, "_silence_": 100}


def test_intervals_are_over_speakers_and_times_medians(comparison):
    labels = ["yes", "no"]
    wrong, right = [0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1]
    cells = {
        "best": {
            seed: cell(labels, {"8": right}, time)
            for seed, time in enumerate((10.0, 11.0, 99.0), 1)
        },
        "teacher": {seed: cell(labels, {"8": wrong}) for seed in (1, 2, 3)},
    }
    for by_seed in cells.values():
        for one in by_seed.values():
            one["clips"] = [f"yes/anna_nohash_{i}" for i in range(6)]
    report = comparison.compare(cells, NAMES, "GSC-10", [1, 2, 3])
    (row,) = report["differences"]
    # There is one speaker to draw.
    assert row["low"] == row["difference"] == row["high"] == 50
    best = report["networks"]["best, 1-bit"]["depths"]["8"]
    assert best["microseconds"] == 11


def test_balanced_accuracy_is_the_mean_of_recalls():
    row = summarize(["a", "b"], [0, 0, 0, 1], [0, 0, 0, 0])
    assert row["accuracy"] == 75 and row["balanced_accuracy"] == 50
    row = summarize(["a", "b"], [], [])
    assert row["accuracy"] is row["balanced_accuracy"] is row["recall"]["a"]


def test_a_measurement_of_other_weights_or_clips_is_not_kept(
    results, tmp_path, monkeypatch
):
    def load(_):
        raise LookupError

    spotter = Namespace(from_hparams=load)
    monkeypatch.setattr(results, "KeywordSpotter", spotter)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.ckpt").write_bytes(b"new")
    (tmp_path / "test.csv").write_text("now")
    run = results.Run("best", 1, "", {}, tmp_path, [])
    for of, same in (b"newnow", True), (b"oldnow", False), (b"newold", False):
        kept = {"source": hashlib.sha256(of).hexdigest()}
        (tmp_path / "measured.json").write_text(json.dumps(kept))
        if same:
            assert results.measure(run) == kept
        else:
            with pytest.raises(LookupError):
                results.measure(run)


def test_a_run_of_fewer_epochs_is_not_the_row_s(results, tmp_path, monkeypatch):
    folder = tmp_path / "GSC-10/best/1"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    before = {"number_of_epochs": 6, "clips": {}}
    (folder / "settings.json").write_text(json.dumps(before))
    now = {"number_of_epochs": 100, "prepared_folder": tmp_path}
    runs = importlib.import_module("runs")
    monkeypatch.setattr(runs, "settings", lambda *_: now)
    monkeypatch.setattr(runs, "read_seal", lambda _: {"clips": {}})
    run = runs.Run("best", 1, "bifsmn.yaml", {}, folder, [])
    with pytest.raises(ValueError, match="number_of_epochs 6, now it is 100"):
        runs.is_trained(run)


def test_without_silence_clips_there_is_no_column_for_it(comparison):
    cells = {"best": {1: cell(["yes", "no"], {"8": [0, 1, 0, 1, 0, 0]})}}
    report = comparison.compare(cells, NAMES, "GSC-11w", [1])
    text = comparison.markdown(report)
    assert "silence" not in text and "minus" not in text
    assert "| best, 1-bit | 8 | 83.33 | 1,000 | 4,000 |  |" in text


def test_different_test_clips_are_not_compared(comparison):
    cells = {
        "best": {1: cell(["yes", "no"], {"8": [0] * 6})},
        "teacher": {1: cell(["yes", "no", "up"], {"8": [0] * 6})},
    }
    with pytest.raises(ValueError, match="different clips"):
        comparison.compare(cells, NAMES, "GSC-10", [1])


def test_other_archives_are_compared_on_common_clips(comparison, predictions):
    """Nobody else has just our part of the test clips."""
    more = cell(["yes", "no"], {"8": [0, 1, 1, 1, 0, 0]})
    fewer = cell(["yes", "no"], {"8": [0, 0, 0, 0]})
    fewer |= {"clips": list("dxba"), "truth": [1, 0, 1, 0]}
    cells = predictions.on_common_clips({"best": {1: more}, "mine": {1: fewer}})
    ours, theirs = cells["best"][1], cells["mine"][1]
    assert ours["clips"] == theirs["clips"] == ["a", "b", "d"]
    assert ours["truth"] == theirs["truth"] == [0, 1, 1]
    assert ours["forms"][""]["predicted"] == {"8": [0, 1, 1]}
    comparison.compare(cells, {"best": "b", "mine": "m"}, "GSC-10", [1])
    other = cell(["yes", "up"], {"8": [0] * 6})
    with pytest.raises(ValueError, match="different classes"):
        predictions.on_common_clips({"best": {1: more}, "mine": {1: other}})
    none = fewer | {"clips": list("wxyz")}
    with pytest.raises(ValueError, match="no clip that all networks"):
        predictions.on_common_clips({"best": {1: more}, "mine": {1: none}})


@pytest.fixture
def kept(predictions, tmp_path):
    """A file of predictions."""
    labels = ["yes", "no", "_silence_"]
    cells = {
        "teacher": {3: cell(labels, {"8": [0, 1, 2, 0, 1, 2]})},
        "best": {3: cell(labels, {"8": [0, 0, 2, 0, 0, 2]}, 10.0, 900)},
        "theirs": {3: cell(labels, {"8": [0, 0, 2, 0, 0, 2]}, 10.0, 900)},
    }
    path = tmp_path / "kept.json"
    predictions.write_predictions(cells, "GSC-10", path)
    assert predictions.read_predictions(path, "GSC-10") == cells
    return path


def test_predictions_may_be_of_many_words(predictions, tmp_path):
    labels = [f"word{i}" for i in range(300)]
    said = {"8": [0, 35, 36, 37, 255, 299]}
    cells = {"best": {1: cell(labels, said)}}
    path = tmp_path / "many.json"
    predictions.write_predictions(cells, "words", path)
    assert predictions.read_predictions(path, "words") == cells


def test_other_files_are_not_read_as_predictions(predictions, kept):
    with pytest.raises(ValueError, match="is of GSC-10, not of V2-12"):
        predictions.read_predictions(kept, "V2-12")
    whole = kept.read_text()
    data = json.loads(whole)
    damaged = [whole[:-9], "[]", whole.replace('"8": "0', '"8": "')]
    damaged += [whole.replace('"8": "0', '"8": "?')]
    for path, value in (
        (["networks"], {}),
        (["networks", "best"], {}),
        (["networks", "best", "3", "parameters"], None),
        (["networks", "best", "3", "forms"], {}),
        (["networks", "best", "3", "forms", "", "bytes"], 900),
        (["networks", "best", "3", "forms", "", "microseconds"], {"4": 1.0}),
        (["clips"], []),
    ):
        *above, last = path
        other = place = copy.deepcopy(data)
        for key in above:
            place = place[key]
        place[last] = value
        damaged.append(json.dumps(other))
    for text in damaged:
        kept.write_text(text)
        with pytest.raises(
            ValueError, match=r"kept\.json: not what results\.py"
        ):
            predictions.read_predictions(kept, "GSC-10")


def test_a_table_of_others_predictions_needs_no_data(
    results, kept, tmp_path, capsys
):
    common = ["--results_folder", str(tmp_path), "--rows"]
    results.main([*common, "--beside", str(kept)])
    folder = tmp_path / "GSC-10"
    printed = capsys.readouterr().out
    assert printed == (folder / "results.md").read_text() + "\n"
    assert "seeds 3: " in printed and "| theirs | 8 |" in printed
    written = folder / "predictions.json"
    assert written.read_text() == kept.read_text()
    for arguments in (
        common,
        [*common, "worst"],
        [*common, "best"],
        [*common, "--beside", str(written)],
    ):
        with pytest.raises(SystemExit):
            results.main(arguments)
    with pytest.raises(ValueError, match="nothing is trained yet"):
        # A row that is asked for is not taken from the file.
        results.main(
            [*common, "best", "--trained", "--data_folder", "x", "--beside"]
            + [str(kept)]
        )
