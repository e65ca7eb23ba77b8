#!/usr/bin/env python3
"""Train a keyword network on Speech Commands, teacher or 1-bit student.

    python train.py ../../hparams/dfsmn.yaml --data_folder=/path/to/data
    python train.py ../../hparams/bifsmn.yaml --data_folder=/path/to/data

The YAML holds every number; --key=value overrides one. Rerun a command to
resume it where it was interrupted. Afterwards <output_folder> has the trained
folder `model/`, which `bifsmn export` reads, `results.json`, training curves
and a confusion matrix.
"""

import json
import logging
import math
import os
import shutil
import signal
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

if "--noprogressbar" in sys.argv:
    # For the bars of what is cached, too; tqdm reads it when imported.
    os.environ["TQDM_DISABLE"] = "1"
# First, so that torchaudio can be imported beside a CPU torch.
import speechbrain_bifsmn  # noqa: F401  isort: skip
import speechbrain as sb
import torch
from filelock import FileLock, Timeout
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import ReproducibleWeightedRandomSampler
from speechbrain.utils.distributed import run_on_main

from speechbrain_bifsmn.brain import (
    BRAIN_KEYS,
    KeywordBrain,
    check_depth_weights,
    needs_teacher,
)
from speechbrain_bifsmn.data.features import (
    CachedFeatures,
    CachedLogits,
    read_clip,
    read_noise,
)
from speechbrain_bifsmn.data.generated import GENERATED
from speechbrain_bifsmn.data.manifest import read_labels, read_manifest
from speechbrain_bifsmn.data.prepare import (
    SHARES,
    prepare_speech_commands,
    read_seal,
)
from speechbrain_bifsmn.data.protocols import SILENCE, UNKNOWN
from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.hyperparameters import (
    check_same_run,
    front_end,
    load_hyperparameters,
    network_yaml,
    protect,
    settings,
)
from speechbrain_bifsmn.inference import save_trained
from speechbrain_bifsmn.layers import check_sizes
from speechbrain_bifsmn.lobes.features import LogMel
from speechbrain_bifsmn.plots import plot_confusion, plot_curves
from speechbrain_bifsmn.programs import one_line_errors
from speechbrain_bifsmn.teachers import Ensemble, digests, load_teachers

logger = logging.getLogger(__name__)

PREPARE_KEYS = {
    "data_folder",
    "protocol",
    "words",
    "unknown_percentage",
    "silence_percentage",
    "download",
    "skip_prep",
    "sample_rate",
    "samples",
    *GENERATED,
}
# Of a training YAML, what the exported file tells.
FACTS = (
    "licence",
    "epoch_clips",
    "seed",
    "weight_quantizer",
    "activation_quantizer",
)
KEYS = {
    *BRAIN_KEYS,
    *PREPARE_KEYS,
    "cache_features",
    "cache_teacher",
    "checkpointer",
    "classes",
    "epoch_clips",
    "feature_copies",
    "feature_step",
    "features_folder",
    "frames",
    "hop_length",
    "licence",
    "model",
    "modules",
    "opt_class",
    "prepared_folder",
    "start_from_teacher",
    "teacher",
    "teacher_folder",
    "train_dataloader_opts",
    "valid_dataloader_opts",
}


OPTIONAL = {
    "cache_teacher",
    "start_from_teacher",
    "teacher",
    "teacher_folder",
    "thin_depths",
}
NULLABLE = {"teacher", "wav_augment"}
# A run may be resumed with others of these.
FREE = {
    "data_folder",
    "download",
    "features_folder",
    "licence",
    "num_workers",
    "number_of_epochs",
    "output_folder",
    "prepared_folder",
    "results_folder",
    "save_folder",
    "skip_prep",
    "teacher_folder",
    "train_log",
    "valid_batch_size",
}
# Of a prepared folder, what a run keeps.
PREPARED = (
    *("train.csv", "valid.csv", "test.csv", "noise.csv"),
    *("labels.txt", "prepare.json"),
)
POSITIVE = "feature_step", "sample_rate"
# Whole numbers, and the least that each may be.
LEAST = {
    "classes": 1,
    "epoch_clips": 0,
    "feature_copies": 1,
    "norm_batches": 0,
    "number_of_epochs": 1,
    "samples": 1,
}


def prepare(prepared, run, hparams, now, resuming):
    """Manifests, copied to the run's own folder, with its settings.

    Another run may take the prepared folder as soon as this one lets it go.
    """
    prepared.mkdir(parents=True, exist_ok=True)
    # What is skipped may lie where nobody can write.
    skip = hparams["skip_prep"]
    with nullcontext() if skip else FileLock(prepared / ".lock"):
        prepare_speech_commands(
            save_folder=prepared, **{key: hparams[key] for key in PREPARE_KEYS}
        )
        now = {**now, "clips": read_seal(prepared)["clips"]}
        if resuming:
            check_same_run(run, now, FREE)
        for name in PREPARED:
            with whole_file(run / name) as part:
                shutil.copyfile(prepared / name, part)
    with whole_file(run / "settings.json") as part:
        part.write_text(json.dumps(now, indent=1), encoding="utf-8")


def dataio_prepare(hparams, device, noise, teacher=None):
    """The three datasets, with items id, target and feats or sig.

    With ``cache_teacher`` the training set has the teacher's logits too. What
    is cached is computed on a device.

    Returns
    -------
    dict of str to DynamicItemDataset
    list of str
        Class names, by index.
    """
    folder = Path(hparams["output_folder"])
    labels = read_labels(folder / "labels.txt")
    if len(labels) != hparams["classes"]:
        raise ValueError(
            f"{hparams['protocol']} has {len(labels)} classes "
            f"({', '.join(labels)}): pass --classes={len(labels)}"
        )
    index = {label: i for i, label in enumerate(labels)}

    @sb.utils.data_pipeline.takes("label")
    @sb.utils.data_pipeline.provides("target")
    def target_pipeline(label):
        return torch.tensor([index[label]])

    datasets = {}
    for split in ("train", "valid", "test"):
        manifest = folder / f"{split}.csv"
        rows = read_manifest(manifest)
        check_lengths(rows, hparams["samples"])
        # Not from_csv, for which a $ in a path is a variable.
        data = DynamicItemDataset({row["ID"]: row for row in rows})
        if hparams["cache_features"]:
            cache = cached_features(hparams, manifest, split, device, noise)
            items = [cached_pipeline(cache, "feats", hparams)]
            if split == "train" and hparams.get("cache_teacher"):
                cache = CachedLogits(cache, teacher)
                items.append(cached_pipeline(cache, "logits", hparams))
        else:
            items = [sig_pipeline(hparams)]
        items.append(target_pipeline)
        for item in items:
            data.add_dynamic_item(item)
        data.set_output_keys(["id", *(x.provides[0] for x in items)])
        datasets[split] = data
    return datasets, labels


def check_lengths(rows, samples):
    """Refuse recordings of which the network would hear the beginning only."""
    # Silences are cut from minutes, and may be cut shorter.
    clips = [row for row in rows if row["label"] != SILENCE]
    lengths = [int(row["stop"]) - int(row["start"]) for row in clips]
    longer = [i for i, length in enumerate(lengths) if length > samples]
    if longer:
        raise ValueError(
            f"{clips[longer[0]]['wav']} has {lengths[longer[0]]} samples, and "
            f"the network hears {samples} (--samples); {len(longer)} clips are "
            "too long: cut them to the word, or choose a longer window"
        )


def teacher_folders(hparams):
    """Whom a run learns from; of one folder, a list of it."""
    if not needs_teacher(hparams["distillation"]) and not hparams.get(
        "start_from_teacher"
    ):
        return []
    folders = hparams["teacher_folder"]
    folders = [folders] if isinstance(folders, str) else folders
    if not folders or not all(isinstance(x, str) for x in folders):
        raise ValueError(f"--teacher_folder names no teacher: {folders!r}")
    folders = [Path(folder) for folder in folders]
    # Of a run, or the trained folder in it.
    return [
        folder if (folder / "model.ckpt").is_file() else folder / "model"
        for folder in folders
    ]


def train_loader(hparams):
    """Options of the training loader: as the YAML says, or drawn in balance."""
    options = dict(hparams["train_dataloader_opts"])
    if not hparams["epoch_clips"]:
        return options
    folder = Path(hparams["output_folder"])
    labels = [row["label"] for row in read_manifest(folder / "train.csv")]
    counts = Counter(labels)
    # As prepared: with skip_prep the YAML may say otherwise.
    asked = read_seal(folder)["asked"]
    shares = {
        UNKNOWN: asked["unknown_percentage"] / 100,
        SILENCE: asked["silence_percentage"] / 100,
    }
    shares = {x: share for x, share in shares.items() if counts[x]}
    rest = (1 - sum(shares.values())) / (len(counts) - len(shares))
    options["shuffle"] = False
    options["sampler"] = ReproducibleWeightedRandomSampler(
        [shares.get(x, rest) / counts[x] for x in labels],
        hparams["epoch_clips"],
        replacement=True,
        # An epoch's number is added: no two seeds share an epoch.
        seed=1000 * hparams["seed"],
    )
    return options


def cached_features(hparams, manifest, split, device, noise):
    """Features of a split, from a file or computed now."""
    return CachedFeatures(
        manifest,
        hparams["features_folder"],
        hparams["log_mel"],
        hparams["samples"],
        hparams["feature_step"],
        hparams["feature_copies"],
        hparams["wav_augment"] if split == "train" else None,
        noise,
        hparams["seed"],
        device,
    )


def cached_pipeline(cache, name, hparams):
    """An item that a cache holds, of the copy that this epoch takes."""
    counter = hparams["epoch_counter"]

    @sb.utils.data_pipeline.takes("id")
    @sb.utils.data_pipeline.provides(name)
    def pipeline(clip_id):
        return cache.get(clip_id, counter.current)

    return pipeline


def sig_pipeline(hparams):
    """Waveforms, for features on the fly."""

    @sb.utils.data_pipeline.takes("wav", "start", "stop")
    @sb.utils.data_pipeline.provides("sig")
    def pipeline(wav, start, stop):
        row = {"wav": wav, "start": start, "stop": stop}
        return read_clip(row, hparams["samples"], hparams["sample_rate"])

    return pipeline


def main(arguments):
    """Check what is asked for, then do it."""
    hparams_file, run_opts, overrides = sb.parse_arguments(protect(arguments))
    sb.utils.distributed.ddp_init_group(run_opts)
    keys = KEYS, OPTIONAL, NULLABLE
    hparams = load_hyperparameters(hparams_file, overrides, *keys)
    if run_opts["debug"] or run_opts["debug_persistently"]:
        overrides = apart(hparams["output_folder"], overrides)
        hparams = load_hyperparameters(hparams_file, overrides, *keys)
    check(hparams)
    device = run_opts["device"] or sb.utils.distributed.infer_device()
    if run_opts["device"] and not device.startswith(("cpu", "cuda")):
        raise ValueError(f"--device={device}: training runs on cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device={device}: this torch sees no GPU")
    output = Path(hparams["output_folder"])
    lock = FileLock(output / ".lock")
    if sb.utils.distributed.if_main_process():
        output.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another training writes to {output}") from None
    try:
        run(hparams, hparams_file, run_opts, overrides, device)
    finally:
        lock.release()


def run(hparams, hparams_file, run_opts, overrides, device):
    """Prepare, train, evaluate, save; nobody else writes to the folder."""
    output = Path(hparams["output_folder"])
    prepared = Path(hparams["prepared_folder"])
    now = settings(hparams_file, overrides)
    teacher_models = teacher_folders(hparams)
    if teacher_models:
        now["teachers"] = digests(teacher_models)
    resuming = bool(hparams["checkpointer"].list_checkpoints())
    if resuming:
        # Before anything of the run's is replaced.
        check_same_run(output, now, FREE | {"clips"})
    sb.create_experiment_directory(output, hparams_file, overrides)
    run_on_main(prepare, args=[prepared, output, hparams, now, resuming])
    noise = None
    if hparams["wav_augment"] is not None:
        noise = read_noise(output / "noise.csv", hparams["sample_rate"])
        if noise is None:
            logger.warning("the data have no noise to train with")
    teacher = None
    if teacher_models:
        teachers = load_teachers(
            hparams["teacher"],
            teacher_models,
            read_labels(output / "labels.txt"),
            front_end(network_yaml(hparams_file, overrides)),
        )
        teacher = Ensemble(teachers) if len(teachers) > 1 else teachers[0]
    if hparams.get("start_from_teacher"):
        hparams["model"].copy_weights(teachers[0])
    if not device.startswith("cuda"):
        # Other accelerators do not have all that features and binarizers need.
        device = "cpu"
    run_opts = replace(run_opts, device=device)
    if teacher is not None:
        teacher.to(device)
    datasets, labels = dataio_prepare(hparams, device, noise, teacher)

    brain = KeywordBrain(
        teacher=teacher,
        labels=labels,
        noise=noise,
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    if run_opts["test_only"] and not resuming:
        raise ValueError(
            f"{output} has no checkpoint to test: train first, without "
            "--test_only"
        )
    loader = train_loader(hparams)
    # Else SpeechBrain does not tell it the epoch, and it draws the same anew.
    brain.train_sampler = loader.get("sampler")
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=loader,
        valid_loader_kwargs=hparams["valid_dataloader_opts"],
    )
    brain.evaluate(
        datasets["test"],
        min_key="error",
        test_loader_kwargs=hparams["valid_dataloader_opts"],
    )
    run_on_main(report, args=[brain, hparams, hparams_file, overrides, labels])
    if torch.distributed.is_initialized():
        # Else its threads may still run when the process ends, and abort it.
        torch.distributed.destroy_process_group()


def apart(folder, overrides):
    """Overrides with which a trial run leaves a real one's folder alone."""
    # In the YAMLs the others are in the first.
    outputs = "output_folder:", "save_folder:", "train_log:"
    others = [
        line for line in overrides.splitlines() if not line.startswith(outputs)
    ]
    # JSON is YAML, whatever is in the path.
    debug = f"output_folder: {json.dumps(f'{folder}/debug')}"
    return "\n".join([*others, debug]) + "\n"


def check(hparams):
    """Find wrong settings before any work is done."""
    for key in POSITIVE:
        if not 0 < hparams[key] < math.inf:
            raise ValueError(
                f"--{key} must be positive and finite, not {hparams[key]}"
            )
    for key, least in LEAST.items():
        check_sizes(least, **{f"--{key}": hparams[key]})
    if not 0 <= hparams["label_smoothing"] <= 1:
        raise ValueError(
            "--label_smoothing is from 0 to 1, not "
            f"{hparams['label_smoothing']}"
        )
    check_depth_weights(hparams["depth_weights"], hparams["model"].depths)
    if hparams.get("teacher") is None and (
        hparams.get("start_from_teacher")
        or needs_teacher(hparams["distillation"])
    ):
        raise ValueError(
            "a distillation loss or --start_from_teacher needs a teacher"
        )
    if hparams.get("cache_teacher"):
        teaching = [x for x in hparams["distillation"] if x.weight]
        if not needs_teacher(teaching):
            raise ValueError("--cache_teacher needs a loss with a teacher")
        if not hparams["cache_features"] or hparams["feature_augment"]:
            raise ValueError(
                "--cache_teacher needs features that stay the same: "
                "--cache_features=True and --feature_augment=[]"
            )
        if any(loss.needs_features for loss in teaching):
            raise ValueError(
                "--cache_teacher keeps logits, not layers: weight "
                "hed, fid and attention 0, or pass --cache_teacher=False"
            )
    thin = len(hparams["model"].depths) - 1
    if hparams.get("thin_depths", 1) not in range(1, max(thin, 1) + 1):
        raise ValueError(
            f"--thin_depths must be from 1 to {thin}, the number of depths "
            f"but for the deepest, not {hparams['thin_depths']}"
        )
    if not isinstance(hparams["log_mel"], LogMel):
        raise ValueError(
            f"log_mel is a {type(hparams['log_mel']).__name__}: this program "
            "trains on speechbrain_bifsmn.lobes.features.LogMel"
        )
    if hparams["cache_features"] and hparams["train_dataloader_opts"].get(
        "persistent_workers"
    ):
        raise ValueError(
            "persistent_workers would read the first epoch's copies in every "
            "epoch: leave them out, or pass --cache_features=False"
        )
    frames = -(-hparams["samples"] // hparams["hop_length"])
    if hparams["frames"] != frames:
        raise ValueError(
            f"{hparams['samples']} samples with a hop_length of "
            f"{hparams['hop_length']} are {frames} frames: pass "
            f"--frames={frames}"
        )
    try:
        hparams["opt_class"]([torch.zeros(1, requires_grad=True)])
        for key in ("train_dataloader_opts", "valid_dataloader_opts"):
            torch.utils.data.DataLoader([0], **hparams[key])
    except TypeError as error:
        raise ValueError(str(error)) from error


def report(brain, hparams, hparams_file, overrides, labels):
    """Write the trained folder, results.json and the pictures."""
    output = Path(hparams["output_folder"]).resolve()
    asked = read_seal(output)["asked"]
    history = json.loads((output / "history.json").read_text())
    protocol = asked["protocol"]["name"]
    facts = {
        **{key: hparams[key] for key in FACTS if key in hparams},
        "protocol": protocol,
        "words": labels if protocol == "words" else None,
        **{key: asked[key] for key in (*GENERATED, *SHARES)},
        "epochs": history[-1]["epoch"],
        "best_epoch": hparams["epoch_counter"].current,
    }
    depths = brain.results()
    accuracy = {depth: row["accuracy"] for depth, row in depths.items()}
    save_trained(
        output / "model",
        hparams_file,
        overrides,
        hparams["model"],
        labels,
        {
            **facts,
            "test_accuracy": accuracy,
            "data": asked["data"],
            "test_manifest": str(output / "test.csv"),
        },
    )
    results = {**facts, "test": asked["test"], "depths": depths}
    with whole_file(output / "results.json") as part:
        part.write_text(json.dumps(results, indent=1))
    for depth, value in accuracy.items():
        print(f"depth {depth}: {value:.2f} % of the test clips")
    print(f"trained folder: {output / 'model'}")
    try:
        draw(output, labels, results, history)
    except ImportError:
        print("no pictures: pip install matplotlib draws them")


def draw(output, labels, results, history):
    """Training curves and the confusion matrix of the deepest network."""
    plot_curves(history, output / "curves.png")
    depth, row = next(iter(results["depths"].items()))
    plot_confusion(
        labels,
        row["confusion"],
        f"{results['protocol']} test clips, depth {depth}, %",
        output / "confusion.png",
    )


if __name__ == "__main__":
    # As when interrupted: what is half written goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with one_line_errors(resumes=True):
        main(sys.argv[1:])
