"""From a YAML to a keyword, through the recipe and the command line."""

import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import speechbrain as sb
import torch

from speechbrain_bifsmn import cli
from speechbrain_bifsmn.brain import KeywordBrain
from speechbrain_bifsmn.checkpoints import WholeCheckpointer
from speechbrain_bifsmn.data.augment import ClipAugment
from speechbrain_bifsmn.data.features import CachedFeatures, CachedLogits
from speechbrain_bifsmn.data.protocols import PROTOCOLS, Protocol, which_split
from speechbrain_bifsmn.export.folder import export_folder
from speechbrain_bifsmn.inference import KeywordSpotter
from speechbrain_bifsmn.kernels.native import kernel_names
from speechbrain_bifsmn.lobes.features import LogMel
from speechbrain_bifsmn.lobes.fsmn import DFSMN
from speechbrain_bifsmn.spotting import Listener, Spotter
from tests.random_model import random_model

REPO = Path(__file__).resolve().parents[1]
TRAIN = REPO / "recipes/SpeechCommands/train.py"
SMALL = [
    "--protocol=words",
    "--words=[low, middle, high, _silence_]",
    "--classes=4",
    "--channels=24",
    "--expansion=32",
    "--layers=2",
    "--conv_channels=[4, 6]",
    "--n_mels=20",
    "--n_fft=1024",
    "--win_length=800",
    "--batch_size=16",
    "--feature_copies=2",
    "--noprogressbar",
]
STUDENT = ["--depths=[2, 1]", "--depth_weights=[1.0, 0.5]"]


def load_train():
    spec = importlib.util.spec_from_file_location("train", TRAIN)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def train(yaml, archive, results, *options):
    """The recipe's main, in this process."""
    load_train().main(
        [
            str(REPO / "hparams" / yaml),
            f"--data_folder={archive}",
            f"--results_folder={results}",
            *SMALL,
            *options,
        ]
    )


@pytest.fixture(scope="module")
def results(archive, tmp_path_factory):
    """A teacher and a student, trained for seconds."""
    folder = tmp_path_factory.mktemp("results")
    train("dfsmn.yaml", archive, folder, "--number_of_epochs=4")
    options = *STUDENT, "--number_of_epochs=6", "--lr=0.01"
    train("bifsmn.yaml", archive, folder, *options)
    return folder / "words"


@pytest.fixture(scope="module")
def model_file(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    cli.main(["export", str(results / "bifsmn/1"), "-o", str(folder)])
    return folder / "model.bifsmn"


def test_a_run_keeps_what_it_was_tested_on(results):
    run = results / "bifsmn/1"
    facts = json.loads((run / "model/training.json").read_text())
    tested = Path(facts["test_manifest"])
    assert tested == (run / "test.csv").resolve()
    assert tested.read_bytes() == (results / "test.csv").read_bytes()
    assert facts["words"] == ["low", "middle", "high", "_silence_"]


def test_the_log_has_the_rate_that_an_epoch_was_trained_with(results):
    log = (results / "dfsmn/1/train_log.txt").read_text()
    rates = [float(rate) for rate in re.findall(r"lr: (\S+)", log)]
    cosine = [1, 1, (1 + 0.5**0.5) / 2, 0.5]
    assert rates == pytest.approx([0.002 * x for x in cosine], rel=0.01)


def test_the_chain_learns_and_draws(results):
    for name in ("dfsmn", "bifsmn"):
        report = json.loads((results / name / "1/results.json").read_text())
        for row in report["depths"].values():
            assert row["accuracy"] > 50, "four classes, chance is 25 %"
        for picture in ("curves.png", "confusion.png"):
            assert (results / name / "1" / picture).stat().st_size > 5000


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


def test_a_trained_folder_can_be_moved(results, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(results / "bifsmn/1/model", moved)
    before = sorted(moved.iterdir())
    clip = np.zeros(8000, np.float32)
    soundfile.write(tmp_path / "quiet.wav", clip, 16000)
    spotter = KeywordSpotter.from_hparams(moved)
    label, probability = spotter.classify_file(tmp_path / "quiet.wav", depth=1)
    with pytest.raises(ValueError, match="divide 16-bit samples by 32768"):
        spotter.classify_batch(torch.zeros(1, 8000, dtype=torch.int16))
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
    assert "high" not in re.sub(r".*\.wav:", "", capsys.readouterr().out)
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
    stream = io.TextIOWrapper(io.BytesIO(pcm.astype("<i2").tobytes() + b"odd"))
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


def state(folder):
    return torch.load(folder / "model/model.ckpt", weights_only=True)


@pytest.mark.parametrize("yaml", ["bifsmn.yaml", "bifsmn_best.yaml"])
def test_an_interrupted_run_resumes_to_the_same_weights(
    yaml, results, archive, tmp_path, monkeypatch
):
    options = [*STUDENT, "--number_of_epochs=2", "--lr=0.01"]
    teacher = str(results / "dfsmn/1")
    if yaml == "bifsmn_best.yaml":
        teacher = json.dumps([teacher])
    options += [f"--teacher_folder={teacher}", "--epoch_clips=60"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(yaml, archive, whole, *options)
    network = f"words/{yaml.removesuffix('.yaml')}/1"

    original = KeywordBrain.on_stage_start

    def stop_in_epoch_two(brain, stage, epoch=None):
        if epoch == 2:
            raise KeyboardInterrupt
        original(brain, stage, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(KeywordBrain, "on_stage_start", stop_in_epoch_two)
        with pytest.raises(KeyboardInterrupt):
            train(yaml, archive, broken, *options)
    assert not (broken / network / "model").exists()
    train(yaml, archive, broken, *options)
    expected = state(whole / network)
    for name, value in state(broken / network).items():
        assert torch.equal(value, expected[name]), name


def test_a_checkpoint_counts_once_it_is_whole(tmp_path):
    def interrupted(_obj, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    model = torch.nn.Linear(2, 2)
    checkpointer = WholeCheckpointer(tmp_path, {"model": model})
    checkpointer.save_and_keep_only()
    expected = model.weight.clone()
    torch.nn.init.zeros_(model.weight)
    checkpointer.add_recoverable("more", model, custom_save_hook=interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save_and_keep_only()
    resumed = WholeCheckpointer(tmp_path, {"model": model})
    assert resumed.recover_if_possible() is not None
    assert torch.equal(model.weight, expected)


def test_runs_at_once_prepare_one_after_the_other(
    archive, tmp_path, monkeypatch
):
    module = load_train()
    hparams = module.load_hyperparameters(
        REPO / "hparams/dfsmn.yaml",
        f"data_folder: {archive}\nprotocol: words\nwords: [low, high]\n",
        module.KEYS,
        module.OPTIONAL,
    )
    original, inside = module.prepare_speech_commands, []

    def watch(**options):
        inside.append(1)
        time.sleep(0.1)
        assert len(inside) == 1
        original(**options)
        inside.pop()

    monkeypatch.setattr(module, "prepare_speech_commands", watch)
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(module.prepare, 2 * [tmp_path / "new"], 2 * [hparams])
        assert list(both) == [None, None]
    assert (tmp_path / "new/prepare.json").exists()


def test_an_epoch_is_drawn_by_the_shares_of_the_classes(archive, tmp_path):
    module = load_train()
    labels = 90 * ["low"] + 10 * ["high"] + 300 * ["_unknown_"]
    rows = "".join(f"{i},1,x.wav,0,1,{x}\n" for i, x in enumerate(labels))
    header = "ID,duration,wav,start,stop,label\n"
    (tmp_path / "train.csv").write_text(header + rows)
    hparams = {
        "prepared_folder": tmp_path,
        "train_dataloader_opts": {"batch_size": 4, "shuffle": True},
        "unknown_percentage": 40,
        "silence_percentage": 10,
        "epoch_clips": 10000,
        "seed": 1,
    }
    options = module.train_loader(hparams)
    drawn = [labels[i] for i in options.pop("sampler")]
    assert options == {"batch_size": 4, "shuffle": False}
    for label, share in {"low": 0.3, "high": 0.3, "_unknown_": 0.4}.items():
        assert abs(drawn.count(label) / 10000 - share) < 0.03
    everything = module.train_loader({**hparams, "epoch_clips": 0})
    assert everything == hparams["train_dataloader_opts"]


def test_two_teachers_teach_their_mean(results, archive, tmp_path):
    module = load_train()
    _, _, overrides = sb.parse_arguments(
        [str(REPO / "hparams/dfsmn.yaml"), "--data_folder=x", *SMALL]
    )
    hparams = module.load_hyperparameters(
        REPO / "hparams/dfsmn.yaml", overrides, module.KEYS, module.OPTIONAL
    )
    one, two = module.load_teachers(
        hparams["model"], 2 * [str(results / "dfsmn/1")]
    )
    with torch.no_grad():
        two.head.bias.add_(2.0)
    feats = torch.randn(3, one.frames, one.n_mels)
    depth = one.depths[0]
    both, features = module.Ensemble([one, two])(feats, [depth])[depth]
    assert torch.allclose(both, one(feats) + 1.0, atol=1e-5)
    assert torch.equal(features[-1], one(feats, depth=[depth])[depth][1][-1])
    folders = 2 * [str(results / "dfsmn/1")]
    train(
        "bifsmn.yaml",
        archive,
        tmp_path,
        *STUDENT,
        "--number_of_epochs=1",
        f"--teacher_folder={json.dumps(folders)}",
    )
    assert (tmp_path / "words/bifsmn/1/results.json").exists()


def test_kept_logits_teach_what_the_teachers_say(results, archive, tmp_path):
    """The same loss as with the teachers run in every step, in all epochs."""
    losses = []
    for name, cached in ("kept", True), ("run", False):
        train(
            "bifsmn_best.yaml",
            archive,
            tmp_path,
            *STUDENT,
            "--epoch_clips=60",
            "--number_of_epochs=2",
            f"--teacher_folder={json.dumps([str(results / 'dfsmn/1')])}",
            f"--cache_teacher={cached}",
            f"--output_folder={tmp_path / name}",
        )
        history = json.loads((tmp_path / name / "history.json").read_text())
        losses.append([row["train_loss"] for row in history])
    assert np.allclose(*losses, rtol=1e-4)
    assert list(tmp_path.rglob("logits-*.npy"))


def test_caches_tell_apart_what_they_were_made_from(archive, tmp_path):
    wav = next((archive / "low").iterdir())
    (tmp_path / "one.csv").write_text(
        f"ID,duration,wav,start,stop,label\na,1,{wav},0,16000,low\n"
    )
    made = [
        CachedFeatures(
            *(tmp_path / "one.csv", tmp_path, LogMel()),
            augment=ClipAugment(noise_probability=1.0),
            noise=noise,
        )
        for noise in (None, torch.randn(16000), torch.zeros(16000))
    ]
    assert len({cache.path for cache in made}) == 3
    networks = [DFSMN(layers=1, dilation=n).eval() for n in (1, 2)]
    networks[1].load_state_dict(networks[0].state_dict())
    logits = [CachedLogits(made[0], network).get("a") for network in networks]
    assert not torch.allclose(*logits)


def test_features_on_the_fly_bf16_and_debug(results, archive, tmp_path):
    train(
        "bifsmn.yaml",
        archive,
        tmp_path,
        *STUDENT,
        f"--teacher_folder={results / 'dfsmn/1'}",
        "--cache_features=False",
        "--precision=bf16",
        "--device=cpu",
        "--debug",
    )
    assert state(tmp_path / "words/bifsmn/1/debug")
    assert not (tmp_path / "words/features").exists()


# Depths that are not drawn have norms without a gradient.
SOME_DEPTHS = [
    *("bifsmn_best.yaml", "--depths=[3, 2, 1]", "--distillation=[]"),
    *("--depth_weights=[1.0, 0.5, 0.2]", "--cache_teacher=False"),
    "--start_from_teacher=False",
]


@pytest.mark.parametrize(
    "options", [["bifsmn.yaml", *STUDENT], SOME_DEPTHS], ids=["all", "drawn"]
)
def test_two_processes_train_one_model(results, archive, tmp_path, options):
    yaml, *options = options
    layers = "layers=3" if "--depths=[3, 2, 1]" in options else "layers=2"
    if yaml == "bifsmn.yaml":
        options = [*options, f"--teacher_folder={results / 'dfsmn/1'}"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nproc_per_node=2", "--standalone"),
            *(str(REPO / "tests/data_parallel.py"),),
            *(str(REPO / "hparams" / yaml), f"--data_folder={archive}"),
            f"--results_folder={tmp_path}",
            *[x.replace("layers=2", layers) for x in SMALL],
            *options,
            *("--number_of_epochs=1", "--device=cpu"),
            "--distributed_backend=gloo",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert state(tmp_path / "words" / yaml.removesuffix(".yaml") / "1")
    # Both halves of the data were seen once, by one model.
    assert done.stdout.count("trained folder") == 1
    assert "%|" not in done.stderr, "a bar in spite of --noprogressbar"


def test_the_teacher_stays_frozen_and_out_of_the_optimizer(results, archive):
    module = load_train()
    hparams = module.load_hyperparameters(
        REPO / "hparams/bifsmn.yaml",
        "data_folder: x\nclasses: 4\nn_mels: 20\n",
        module.KEYS,
        module.OPTIONAL,
    )
    teacher = hparams["teacher"].eval().requires_grad_(False)
    brain = KeywordBrain(
        teacher=teacher,
        labels="abcd",
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts={"device": "cpu"},
    )
    brain.init_optimizers()
    brain.modules.train()
    trained = {id(p) for g in brain.optimizer.param_groups for p in g["params"]}
    assert not any(module.training for module in teacher.modules())
    assert not trained & {id(p) for p in teacher.parameters()}
    assert trained == {id(p) for p in hparams["model"].parameters()}


@pytest.mark.parametrize(
    "yaml, options",
    [
        ("bifsmn_paper.yaml", []),
        ("bifsmnv2_paper.yaml", []),
        # All losses at once, with a method that has one of its own.
        (
            "bifsmn.yaml",
            [
                "--binarizer=rad",
                "--fid_weight=0.01",
                "--attention_weight=0.1",
                "--subnetwork_weight=1.0",
            ],
        ),
        ("bifsmn.yaml", ["--binarizer=reactnet", "--logit_weight=0"]),
    ],
)
def test_methods_train_and_export_from_yaml(
    yaml, options, results, archive, tmp_path
):
    train(
        yaml,
        archive,
        tmp_path,
        *STUDENT,
        *options,
        "--number_of_epochs=1",
        f"--teacher_folder={results / 'dfsmn/1'}",
        f"--output_folder={tmp_path / 'run'}",
    )
    report = export_folder(tmp_path / "run", tmp_path / "exported")
    assert report["parity"]["stages"] > 100


def test_without_a_teacher_nobody_distils(archive, tmp_path):
    off = ["--hed_weight=0", "--logit_weight=0", "--start_from_teacher=False"]
    options = *STUDENT, *off, "--number_of_epochs=1"
    train("bifsmn.yaml", archive, tmp_path, *options)
    assert (tmp_path / "words/bifsmn/1/results.json").exists()


def test_a_study_resumes_and_tells_what_is_not_one_bit(
    results, archive, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(TRAIN.parent)
    study = importlib.import_module("study")
    (tmp_path / "words").mkdir()
    shutil.copytree(results / "dfsmn", tmp_path / "words/dfsmn")
    runs = []

    def train_here(yaml, output, settings, log):
        """The recipe's main, in this process, at the size of these tests."""
        runs.append(output.name)
        options = {**settings, "output_folder": output}
        options.pop("protocol"), options.pop("classes")
        load_train().main(
            [
                str(REPO / "hparams" / yaml),
                *(f"--{key}={value}" for key, value in options.items()),
                *SMALL,
                *STUDENT,
            ]
        )

    monkeypatch.setattr(study, "train", train_here)
    command = [
        f"--data_folder={archive}",
        f"--results_folder={tmp_path}",
        *("--protocol", "words", "--epochs", "1"),
        *("--methods", "dorefa", "as-released", "--distillations", "fid"),
    ]
    study.main(command)
    study.main(command)
    assert runs == ["dorefa-fid", "as-released-fid"]
    folder = tmp_path / "words/study/1"
    rows = json.loads((folder / "study.json").read_text())
    assert rows["dorefa-fid"]["bytes"] > 1000
    assert "is not 1-bit" in rows["as-released-fid"]["refused"]
    text = (folder / "study.md").read_text()
    assert "| as-released | (" in text and "| not 1-bit |" in text
    assert (folder / "study.png").stat().st_size > 10000


def test_the_results_table_resumes(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(TRAIN.parent)
    table = importlib.import_module("results")
    tones = Protocol("tones", ("low", "middle", "high"), silence=True)
    monkeypatch.setitem(PROTOCOLS, "tones", tones)
    small = dict(option[2:].split("=") for option in SMALL[3:-1])
    small = {key: json.loads(value) for key, value in small.items()}
    small |= {"number_of_epochs": 1}
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
    runs, interrupted = [], [True]

    def train_here(yaml, output, settings, log):
        """The recipe's main, in this process, broken off after a run."""
        if interrupted and runs:
            raise KeyboardInterrupt
        runs.append(output.parent.name)
        options = {**settings, "output_folder": str(output)}.items()
        texts = [f"--{key}={json.dumps(value)}" for key, value in options]
        yaml = str(REPO / "hparams" / yaml)
        load_train().main([yaml, *texts, "--noprogressbar"])

    monkeypatch.setattr(table, "train", train_here)
    command = [
        f"--data_folder={archive}",
        f"--results_folder={tmp_path}",
        *("--protocol", "tones", "--seeds", "3", "--json"),
        *("--rows", "best", "as-released", "teacher", "ds-cnn"),
    ]
    with pytest.raises(KeyboardInterrupt):
        table.main(command)
    interrupted.clear()
    capsys.readouterr()
    table.main(command)
    teacher, best = "dfsmn-teacher", "bifsmn-best"
    released, rival = "bifsmn-as-released", "dscnn-ds-cnn"
    # Those that nobody teaches first.
    assert runs == [teacher, rival, best, released]
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
    assert len(runs) == 4
    capsys.readouterr()
    table.main([*command, "--seeds", "3", "4", "--trained"])
    assert "(seed 3)" in (tmp_path / "tones/results.md").read_text()
    with pytest.raises(ValueError, match="nothing is trained"):
        table.main([*command, "--seeds", "4", "--trained"])
    assert len(runs) == 4
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


def test_misspelt_yaml_keys_are_named(tmp_path, archive):
    text = (REPO / "hparams/bifsmn.yaml").read_text()
    cases = {
        "batch_sise: 96": ("batch_size: 96", "batch_size"),
        "hed_wieght: 0.01": ("hed_weight: 0.01", "hed_we?ight"),
        "    lambels: [2]\n    head_bits:": ("    head_bits:", "lambels"),
    }
    for wrong, (right, named) in cases.items():
        assert right in text
        path = tmp_path / "wrong.yaml"
        path.write_text(text.replace(right, wrong, 1))
        with pytest.raises(ValueError, match=named):
            load_train().main([str(path), f"--data_folder={archive}"])


def test_wrong_settings_are_named(archive, tmp_path):
    with pytest.raises(ValueError, match="no key 'lrr'.*'lr'"):
        train("dfsmn.yaml", archive, tmp_path, "--lrr=1")
    with pytest.raises(ValueError, match='duplicate key "classes"'):
        train("dfsmn.yaml", archive, tmp_path, "--classes=5")
    with pytest.MonkeyPatch.context() as patch:
        fewer = [option for option in SMALL if option != "--classes=4"]
        patch.setattr(sys.modules[__name__], "SMALL", fewer)
        with pytest.raises(ValueError, match="4 classes .* --classes=4"):
            train("dfsmn.yaml", archive, tmp_path)
    with pytest.raises(FileNotFoundError, match="train one first"):
        train("bifsmn.yaml", archive, tmp_path, *STUDENT)
    with pytest.raises(ValueError, match="depth_weights has 4 numbers"):
        train(
            "bifsmn.yaml",
            archive,
            tmp_path,
            "--depths=[2, 1]",
            "--distillation=[]",
            "--start_from_teacher=False",
        )


def test_wrong_values_are_named_before_any_work(archive, tmp_path):
    for option, words in [
        ("--lr=fast", "lr is a number, not 'fast'"),
        ("--depth_weights=1.0", "depth_weights is a list"),
        ("--cache_features=3", "cache_features is True or False"),
        ("--feature_step=0", "feature_step must be positive"),
        ("--frames=40", "are 32 frames: pass --frames=32"),
        ("--train_dataloader_opts={batch: 3}", "'batch'"),
        ("--words=low", "words"),
    ]:
        with pytest.raises(ValueError, match=words):
            train("dfsmn.yaml", archive, tmp_path, option)
    for option, words in [
        ("--logit_weight=0", "cache_teacher needs a loss"),
        ("--hed_weight=0.1", "keeps logits, not layers"),
        ("--cache_features=False", "cache_features=True"),
        ("--thin_depths=2", "thin_depths must be from 1 to 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            train("bifsmn_best.yaml", archive, tmp_path, *STUDENT, option)
    assert not any(tmp_path.rglob("*.csv"))


def test_mistakes_in_a_yaml_are_named(tmp_path):
    text = (REPO / "hparams/dfsmn.yaml").read_text()
    path = tmp_path / "short.yaml"
    for changed, words in [
        (text.replace("licence: Apache-2.0", ""), "'licence' is missing"),
        (text + "lr: 0.1\n", 'duplicate key "lr"'),
        (text.replace("dropout: 0.2", "dropout: [0.2"), "expected"),
    ]:
        path.write_text(changed)
        with pytest.raises(ValueError, match=words):
            load_train().main([str(path), "--data_folder=x"])


def test_a_run_is_not_resumed_under_other_settings(results, archive):
    folder = results.parent
    run = results / "dfsmn/1"
    before = files_of(run), files_of(results, "*.csv")
    for option, words in (
        ("--lr=0.5", "lr 0.002, now it is 0.5"),
        ("--silence_percentage=20", "silence_percentage 10, now it is 20"),
        ("--train_dataloader_opts={shuffle: True}", "train_dataloader_opts"),
    ):
        with pytest.raises(ValueError, match=words):
            train("dfsmn.yaml", archive, folder, option)
    with pytest.raises(ValueError, match="no checkpoint to test"):
        train(
            "dfsmn.yaml",
            archive,
            folder,
            "--test_only",
            f"--output_folder={folder / 'new'}",
        )
    assert (files_of(run), files_of(results, "*.csv")) == before


def files_of(folder, names="**/*"):
    return {p: p.read_bytes() for p in folder.glob(names) if p.is_file()}


def test_a_trial_run_leaves_the_real_one_alone(results, archive):
    run = results / "dfsmn/1"
    before = files_of(run)
    for option in "--debug", "--debug_persistently":
        train("dfsmn.yaml", archive, results.parent, "--lr=0.5", option)
    after = files_of(run)
    assert before.items() <= after.items()
    assert all(run / "debug" in p.parents for p in after.keys() - before.keys())


def test_without_matplotlib_nothing_but_pictures_is_missing(
    results, archive, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    train("dfsmn.yaml", archive, tmp_path, "--number_of_epochs=1")
    assert state(tmp_path / "words/dfsmn/1")
    assert "pip install matplotlib" in capsys.readouterr().out


def one_line(command):
    """Run; expect failure in one line on stderr."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    lines = [x for x in done.stderr.splitlines() if x.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in done.stderr
    return lines[0]


def test_train_says_in_one_line_that_the_data_are_missing(tmp_path):
    line = one_line(
        [
            TRAIN,
            REPO / "hparams/dfsmn.yaml",
            "--data_folder=/no/such/folder",
            f"--results_folder={tmp_path}",
        ]
    )
    assert "/no/such/folder" in line


def test_bad_input_to_the_command_is_one_line(model_file, tmp_path, archive):
    good = sorted((archive / "low").iterdir())[0]
    clip, _ = soundfile.read(good, dtype="int16")
    slow, stereo = tmp_path / "8k.wav", tmp_path / "stereo.wav"
    corrupt, cut = tmp_path / "corrupt.wav", tmp_path / "cut.bifsmn"
    altered = tmp_path / "altered.bifsmn"
    soundfile.write(slow, clip[::2], 8000)
    soundfile.write(stereo, np.stack([clip, clip], 1), 16000)
    corrupt.write_bytes(b"RIFF and nothing else")
    data = model_file.read_bytes()
    cut.write_bytes(data[:1000])
    altered.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    for arguments, words in [
        (["spot", "-m", model_file, slow], "8000 Hz"),
        (["spot", "-m", model_file, stereo], "2 channel"),
        (["spot", "-m", model_file, corrupt], "not a readable sound file"),
        (["spot", "-m", model_file, tmp_path / "no.wav"], "no such file"),
        (["spot", "-m", cut, good], "truncated"),
        (["spot", "-m", altered, good], "checksum"),
        (["spot", "-m", tmp_path / "no.bifsmn", good], "no model file"),
        (["spot", "-m", model_file, good, "--depth", "3"], "at depth 2, 1"),
        (["info", good], "not a BiFSMN"),
        (["export", tmp_path, "-o", tmp_path], "not a trained folder"),
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
