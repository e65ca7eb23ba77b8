"""From a YAML to a trained folder: train.py."""

import collections
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
from filelock import FileLock

from speechbrain_bifsmn.brain import KeywordBrain
from speechbrain_bifsmn.checkpoints import WholeCheckpointer
from speechbrain_bifsmn.data.augment import ClipAugment
from speechbrain_bifsmn.data.features import CachedFeatures, CachedLogits
from speechbrain_bifsmn.export.folder import export_folder
from speechbrain_bifsmn.lobes.features import LogMel
from speechbrain_bifsmn.lobes.fsmn import DFSMN
from tests import recipe
from tests.recipe import REPO, SMALL, STUDENT, TRAIN, load_train, state, train


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
    assert list(tmp_path.glob("*/unfinished.yaml"))
    resumed = WholeCheckpointer(tmp_path, {"model": model})
    assert resumed.recover_if_possible() is not None
    assert torch.equal(model.weight, expected)
    resumed.save_and_keep_only()
    assert not list(tmp_path.glob("*/unfinished.yaml"))


def test_two_trainings_do_not_share_a_folder(archive, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        with pytest.raises(ValueError, match=f"another .* writes to {folder}"):
            train(
                *("dfsmn.yaml", archive, tmp_path),
                f"--output_folder={folder}",
            )
        assert [p.name for p in folder.iterdir() if p.is_file()] == [".lock"]


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
        runs = tmp_path / "one", tmp_path / "two"
        for run in runs:
            run.mkdir()
        rest = 2 * [hparams], 2 * [{}], 2 * [False]
        list(pool.map(module.prepare, 2 * [tmp_path / "new"], runs, *rest))
    for run in runs:
        for name in module.PREPARED:
            expected = (tmp_path / "new" / name).read_bytes()
            assert (run / name).read_bytes() == expected


def test_a_run_keeps_its_clips_when_another_takes_the_folder(
    archive, tmp_path, monkeypatch
):
    module = load_train()
    original = module.dataio_prepare

    def taken(*args):
        for path in (tmp_path / "words").glob("*.*"):
            path.write_text("of another run")
        return original(*args)

    monkeypatch.setattr(module, "dataio_prepare", taken)
    monkeypatch.setattr(recipe, "load_train", lambda: module)
    train("dfsmn.yaml", archive, tmp_path, "--number_of_epochs=1")
    run = tmp_path / "words/dfsmn/1"
    report = json.loads((run / "results.json").read_text())
    clips = len((run / "test.csv").read_text().splitlines()) - 1
    assert np.sum(report["depths"]["2"]["confusion"]) == clips > 10


def test_teachers_of_other_words_or_front_ends_are_refused(
    results, archive, tmp_path
):
    options = *STUDENT, "--number_of_epochs=1"
    teacher = f"--teacher_folder={results / 'dfsmn/1'}"
    words = "--words=[middle, low, high, _silence_]"
    other = [words if x.startswith("--words") else x for x in SMALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "SMALL", other)
        with pytest.raises(ValueError, match="knows low, middle.*not middle"):
            train("bifsmn.yaml", archive, tmp_path, *options, teacher)
    other = *options, teacher, "--level_offset=90"
    with pytest.raises(ValueError, match="another front end, log_mel"):
        train("bifsmn.yaml", archive, tmp_path, *other)
    train("bifsmn.yaml", archive, tmp_path, *options, teacher)
    changed = tmp_path / "changed"
    shutil.copytree(results / "dfsmn/1/model", changed / "model")
    weights = changed / "model/model.ckpt"
    # Another process names the weights otherwise within the file.
    torch.save(state(changed), changed / "other")
    (changed / "other").replace(weights)
    same = f"--teacher_folder={changed}"
    train("bifsmn.yaml", archive, tmp_path, *options, same)
    torch.save({k: v + 1 for k, v in state(changed).items()}, weights)
    with pytest.raises(ValueError, match="holds a run with teachers"):
        train("bifsmn.yaml", archive, tmp_path, *options, same)
    shutil.rmtree(changed)
    with pytest.raises(FileNotFoundError, match="no teacher at .*changed"):
        train("bifsmn.yaml", archive, tmp_path, *options, same)


def test_recordings_longer_than_the_window_are_refused(archive, tmp_path):
    shutil.copytree(archive, tmp_path / "data")
    wav = next((tmp_path / "data/low").iterdir())
    soundfile.write(wav, np.zeros(40000), 16000)
    with pytest.raises(ValueError, match=f"{wav} has 40000.* 1 clips are too"):
        train("dfsmn.yaml", tmp_path / "data", tmp_path)


def test_a_damaged_or_clipped_cache_is_named(archive, tmp_path, caplog):
    wav = next((archive / "low").iterdir())
    manifest = tmp_path / "one.csv"
    manifest.write_text(
        f"ID,duration,wav,start,stop,label\na,1,{wav},0,16000,low\n"
    )
    path = CachedFeatures(manifest, tmp_path, LogMel()).path
    assert "outside of what int8 holds" not in caplog.text
    CachedFeatures(manifest, tmp_path, LogMel(offset=0.0, scale=1.0))
    assert "outside of what int8 holds, ±3.97" in caplog.text
    for damaged in path.read_bytes()[:200], b"":
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            CachedFeatures(manifest, tmp_path, LogMel())


def test_an_epoch_is_drawn_by_the_shares_of_the_classes(archive, tmp_path):
    module = load_train()
    labels = 90 * ["low"] + 10 * ["high"] + 300 * ["_unknown_"]
    rows = "".join(f"{i},1,x.wav,0,1,{x}\n" for i, x in enumerate(labels))
    header = "ID,duration,wav,start,stop,label\n"
    (tmp_path / "train.csv").write_text(header + rows)
    asked = {"unknown_percentage": 40, "silence_percentage": 10}
    seal = json.dumps({"asked": asked, "clips": {}})
    (tmp_path / "prepare.json").write_text(seal)
    hparams = {
        "output_folder": tmp_path,
        "train_dataloader_opts": {"batch_size": 4, "shuffle": True},
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


@pytest.mark.parametrize("clips", [0, 60])
def test_every_epoch_is_drawn_anew(clips, archive, tmp_path, monkeypatch):
    epochs = []

    class Watched(KeywordBrain):
        def on_stage_start(self, stage, epoch=None):
            super().on_stage_start(stage, epoch)
            epochs.append([])

        def compute_objectives(self, predictions, batch, stage):
            epochs[-1].append(batch.id)
            return super().compute_objectives(predictions, batch, stage)

    monkeypatch.setattr("speechbrain_bifsmn.brain.KeywordBrain", Watched)
    options = [f"--epoch_clips={clips}", "--number_of_epochs=2"]
    train("dfsmn.yaml", archive, tmp_path, *options)
    first, _, second, *_ = epochs
    assert len(first) == len(second) > 3
    assert first != second
    if clips:
        assert set(sum(first, [])) != set(sum(second, []))


def test_two_teachers_teach_their_mean(results, archive, tmp_path):
    module = load_train()
    _, _, overrides = sb.parse_arguments(
        [str(REPO / "hparams/dfsmn.yaml"), "--data_folder=x", *SMALL]
    )
    hparams = module.load_hyperparameters(
        REPO / "hparams/dfsmn.yaml", overrides, module.KEYS, module.OPTIONAL
    )
    one, two = module.load_teachers(
        hparams["model"],
        2 * [results / "dfsmn/1/model"],
        ["low", "middle", "high", "_silence_"],
        module.front_end(
            (results / "dfsmn/1/model/hyperparams.yaml").read_text()
        ),
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
    windowed = LogMel()
    windowed.window = torch.hamming_window(2048)
    other = CachedFeatures(tmp_path / "one.csv", tmp_path, windowed)
    plain = CachedFeatures(tmp_path / "one.csv", tmp_path, LogMel())
    assert not torch.equal(other.get("a"), plain.get("a"))
    networks = [DFSMN(layers=1, dilation=n).eval() for n in (1, 2)]
    networks[1].load_state_dict(networks[0].state_dict())
    logits = [CachedLogits(made[0], network).get("a") for network in networks]
    assert not torch.allclose(*logits)

    def path(**options):
        manifest = tmp_path / "one.csv"
        return CachedFeatures(manifest, tmp_path, LogMel(), **options).path

    paths = {
        path(**options)
        for options in (
            {},
            {"augment": ClipAugment()},
            {"augment": ClipAugment(gain=1.0)},
            {"augment": ClipAugment(), "seed": 1},
            {"augment": ClipAugment(), "copies": 2},
        )
    }
    assert len(paths) == 5
    # A recording that is replaced, too.
    copy = shutil.copy(wav, tmp_path / "a.wav")
    text = (tmp_path / "one.csv").read_text().replace(str(wav), str(copy))
    (tmp_path / "one.csv").write_text(text)
    before = path()
    os.utime(copy, (1, 1))
    assert path() != before


def test_every_copy_of_a_clip_is_heard_in_turn(archive, tmp_path):
    wav = next((archive / "low").iterdir())
    (tmp_path / "one.csv").write_text(
        f"ID,duration,wav,start,stop,label\na,1,{wav},0,16000,low\n"
    )
    cache = CachedFeatures(
        *(tmp_path / "one.csv", tmp_path, LogMel()),
        copies=3,
        augment=ClipAugment(),
    )
    heard = [cache.get("a", epoch) for epoch in range(1, 7)]
    for i in range(3):
        assert torch.equal(heard[i], heard[i + 3])
        assert not torch.equal(heard[i], heard[i - 1])


def test_only_training_clips_are_augmented(monkeypatch):
    module = load_train()
    monkeypatch.setattr(module, "CachedFeatures", lambda *args: args[6])
    hparams = collections.defaultdict(lambda: "set")
    made = [
        module.cached_features(hparams, "m", split, "cpu", None)
        for split in ("train", "valid", "test")
    ]
    assert made == ["set", None, None]


def test_features_on_the_fly_bf16_and_debug(results, archive, tmp_path):
    train(
        "bifsmn.yaml",
        archive,
        tmp_path,
        *STUDENT,
        f"--teacher_folder={results / 'dfsmn/1/model'}",
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
    teacher = hparams["teacher"]
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
    assert not any(p.requires_grad for p in teacher.parameters())
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


def test_a_student_starts_from_its_teacher(results, archive, tmp_path):
    teacher = results / "dfsmn/1"
    options = "--start_from_teacher=True", f"--teacher_folder={teacher}"
    budget = "--number_of_epochs=1", "--lr=0"
    train("bifsmn.yaml", archive, tmp_path, *STUDENT, *options, *budget)
    ours, theirs = state(tmp_path / "words/bifsmn/1"), state(teacher)
    for name in ("conv2.weight", "blocks.1.pointwise1.weight"):
        assert torch.equal(ours[name], theirs[name])


def test_the_best_epoch_is_kept_and_tested(archive, tmp_path, monkeypatch):
    keep, errors = WholeCheckpointer.save_and_keep_only, iter([1.0, 2.0])

    def keep_first(self, meta, **options):
        return keep(self, {**meta, "error": next(errors)}, **options)

    monkeypatch.setattr(WholeCheckpointer, "save_and_keep_only", keep_first)
    train("dfsmn.yaml", archive, tmp_path, "--number_of_epochs=2")
    run = tmp_path / "words/dfsmn/1"
    facts = json.loads((run / "model/training.json").read_text())
    assert (facts["best_epoch"], facts["epochs"]) == (1, 2)
    assert "epoch: 1 - test" in (run / "train_log.txt").read_text()


def test_nobody_starts_from_no_teacher(archive, tmp_path):
    args = "--logit_weight=0", "--hed_weight=0", "--start_from_teacher=True"
    with pytest.raises(ValueError, match="--start_from_teacher needs a teach"):
        train(
            "bifsmn.yaml", archive, tmp_path, *STUDENT, *args, "--teacher=null"
        )


def test_without_a_teacher_nobody_distils(archive, tmp_path):
    off = ["--hed_weight=0", "--logit_weight=0", "--start_from_teacher=False"]
    options = *STUDENT, *off, "--number_of_epochs=1"
    train("bifsmn.yaml", archive, tmp_path, *options)
    assert (tmp_path / "words/bifsmn/1/results.json").exists()


def test_a_training_that_diverges_says_so(archive, tmp_path):
    with pytest.raises(ValueError, match="diverged in epoch .*lower --lr"):
        # SpeechBrain's own patience would end it in a longer epoch.
        options = "--lr=1e30", "--nonfinite_patience=100"
        train("dfsmn.yaml", archive, tmp_path, *options)
    assert not (tmp_path / "words/dfsmn/1/model").exists()


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


def test_comments_and_paths_may_have_any_signs(tmp_path):
    path = tmp_path / "lr=1 #2/own.yaml"
    path.parent.mkdir()
    text = (REPO / "hparams/dfsmn.yaml").read_text()
    text = text.replace("lr: 0.002", "lr: 0.002  # <0.01, as <lr> diverges")
    path.write_text(text)
    with pytest.raises((ValueError, OSError), match="no-such-folder"):
        load_train().main(
            [str(path), f"--data_folder={tmp_path}/no-such-folder"]
        )
    path.write_text(text + "other: 1  # !ref <other>\n")
    with pytest.raises(ValueError, match="nothing reads the key 'other'"):
        load_train().main([str(path), f"--data_folder={tmp_path}"])


def test_workers_that_never_see_another_epoch_are_refused(archive, tmp_path):
    options = "{batch_size: 4, num_workers: 1, persistent_workers: True}"
    with pytest.raises(ValueError, match="persistent_workers would read"):
        train(
            *("dfsmn.yaml", archive, tmp_path),
            f"--train_dataloader_opts={options}",
        )


def test_wrong_settings_are_named(archive, tmp_path):
    with pytest.raises(ValueError, match="no key 'lrr'.*'lr'"):
        train("dfsmn.yaml", archive, tmp_path, "--lrr=1")
    with pytest.raises(ValueError, match='duplicate key "classes"$'):
        train("dfsmn.yaml", archive, tmp_path, "--classes=5")
    with pytest.MonkeyPatch.context() as patch:
        fewer = [option for option in SMALL if option != "--classes=4"]
        patch.setattr(recipe, "SMALL", fewer)
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
        ("--feature_step=.nan", "feature_step must be positive"),
        ("--level_offset=.nan", "offset of the front end is a finite number"),
        ("--frames=40", "are 32 frames: pass --frames=32"),
        ("--train_dataloader_opts={batch: 3}", "'batch'"),
        ("--depth_weights=[1.0, 0.5]", "depth_weights has 2 numbers"),
        ("--depth_weights=[0.0]", "must not be negative, nor all 0"),
        ("--norm_batches=2.5", "norm_batches is a whole number"),
        ("--norm_batches=-1", "norm_batches is a whole number from 0 on"),
        ("--epoch_clips=-5", "epoch_clips is a whole number from 0 on"),
        ("--number_of_epochs=0", "number_of_epochs is .* from 1 on, not 0"),
        ("--label_smoothing=1.5", "label_smoothing is from 0 to 1"),
        ("--depth_weights=[heavy]", "depth_weights are numbers"),
        ("--lr", "lr needs a value"),
        ("--licence=12", "licence is text, not 12"),
        ("--hop_length=0", "0 < hop_length"),
        ("--dilation=0", "dilation is a whole number from 1 on"),
        ("--wav_augment=none", "wav_augment is a mapping or null"),
        ("--model=none", "model is a mapping, not 'none'"),
        ("--opt_class=null", "opt_class needs a value"),
        ("--1=2", "no key 1 to override"),
        ("--noise_probability=70", "noise_probability must be from 0 to 1"),
        ("--snr_low=40", "snr_low must be finite and at most snr_high"),
        ("--device=cuda", "sees no GPU"),
        ("--device=gpu", "runs on cpu or cuda"),
    ]:
        with pytest.raises(ValueError, match=words):
            train("dfsmn.yaml", archive, tmp_path, option)
    with pytest.MonkeyPatch.context() as patch:
        fewer = [option for option in SMALL if "--words" not in option]
        patch.setattr(recipe, "SMALL", fewer)
        with pytest.raises(ValueError, match="words must be a list"):
            train("dfsmn.yaml", archive, tmp_path, "--words=low")
    for option, words in [
        ("--logit_weight=0", "cache_teacher needs a loss"),
        ("--hed_weight=0.1", "keeps logits, not layers"),
        ("--cache_features=False", "cache_features=True"),
        ("--thin_depths=2", "thin_depths must be from 1 to 1"),
        ("--thin_depths=0.5", "thin_depths must be from 1 to 1"),
        ("--epoch_clips=True", "epoch_clips is a number, not True"),
        ("--temperature=0", "temperature must be positive"),
        ("--teacher_folder=[]", "names no teacher"),
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
        ("", "not a mapping of keys"),
        ("- lr: 0.1\n", "not a mapping of keys"),
    ]:
        path.write_text(changed)
        with pytest.raises(ValueError, match=words):
            load_train().main([str(path), "--data_folder=x"])


@pytest.mark.parametrize("key", ['"lr": 0.1', "lr : 0.1", "? lr\n: 0.1"])
def test_keys_may_be_written_as_yaml_lets_them(tmp_path, key):
    module, path = load_train(), tmp_path / "own.yaml"
    text = (REPO / "hparams/dfsmn.yaml").read_text()
    path.write_text(text.replace("lr: 0.002", key))
    hparams = module.load_hyperparameters(
        path, "data_folder: x\n", module.KEYS, module.OPTIONAL
    )
    assert hparams["opt_class"].keywords["lr"] == 0.1


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


def test_a_run_is_not_resumed_on_other_clips(archive, tmp_path):
    module, run = load_train(), tmp_path / "run"
    data = shutil.copytree(archive, tmp_path / "data")
    run.mkdir()
    hparams = module.load_hyperparameters(
        REPO / "hparams/dfsmn.yaml",
        f"data_folder: {data}\nprotocol: words\nwords: [low, high]\n",
        *(module.KEYS, module.OPTIONAL),
    )
    module.prepare(tmp_path / "new", run, hparams, {}, False)
    module.prepare(tmp_path / "new", run, hparams, {}, True)
    before = (run / "train.csv").read_bytes()
    next((data / "low").iterdir()).unlink()
    with pytest.raises(ValueError, match="trained on other clips"):
        module.prepare(tmp_path / "new", run, hparams, {}, True)
    assert (run / "train.csv").read_bytes() == before


def test_a_trial_run_leaves_the_real_one_alone(results, archive):
    run = results / "dfsmn/1"
    before = files_of(run)
    own = f"--save_folder={run / 'save'}", f"--train_log={run / 'log.txt'}"
    for options in ["--debug"], ["--debug_persistently", *own]:
        train("dfsmn.yaml", archive, results.parent, "--lr=0.5", *options)
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
