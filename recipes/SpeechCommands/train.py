#!/usr/bin/env python3
"""Train a keyword network on Speech Commands, teacher or 1-bit student.

    python train.py ../../hparams/dfsmn.yaml --data_folder=/path/to/data
    python train.py ../../hparams/bifsmn.yaml --data_folder=/path/to/data

The YAML holds every number; --key=value overrides one. Rerun a command to
resume it where it was interrupted. Afterwards <output_folder> has the trained
folder `model/`, which `bifsmn export` reads, `results.json`, training curves
and a confusion matrix.
"""

import copy
import json
import logging
import os
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

if "--noprogressbar" in sys.argv:
    # For the bars of what is cached, too; tqdm reads it when imported.
    os.environ["TQDM_DISABLE"] = "1"
# First, so that torchaudio can be imported beside a CPU torch.
import speechbrain_bifsmn  # noqa: F401  isort: skip
import speechbrain as sb
import torch
from filelock import FileLock
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import ReproducibleWeightedRandomSampler
from speechbrain.utils.distributed import run_on_main

from speechbrain_bifsmn.brain import (
    BRAIN_KEYS,
    Ensemble,
    KeywordBrain,
    load_teacher,
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
from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.hyperparameters import (
    check_same_run,
    load_hyperparameters,
    settings,
)
from speechbrain_bifsmn.inference import save_trained
from speechbrain_bifsmn.metrics import plot_confusion, plot_curves

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
POSITIVE = (
    "classes",
    "feature_copies",
    "feature_step",
    "number_of_epochs",
    "sample_rate",
    "samples",
)


def prepare(folder, hparams):
    """Manifests and generated clips; runs beside this one wait for them."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        prepare_speech_commands(
            save_folder=folder, **{key: hparams[key] for key in PREPARE_KEYS}
        )


def note_run(folder, prepared, now):
    """What a run is, in its own folder: settings, test clips, how prepared.

    Another task may take the prepared folder later.
    """
    for name in ("prepare.json", "test.csv"):
        with whole_file(folder / name) as part:
            shutil.copyfile(prepared / name, part)
    with whole_file(folder / "settings.json") as part:
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
    folder = Path(hparams["prepared_folder"])
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
        data = DynamicItemDataset.from_csv(manifest)
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


def load_teachers(network, folders):
    """The trained network of each folder; one folder may be a text."""
    folders = [folders] if isinstance(folders, str) else folders
    return [
        load_teacher(copy.deepcopy(network), Path(x) / "model/model.ckpt")
        for x in folders
    ]


def train_loader(hparams):
    """Options of the training loader: as the YAML says, or drawn in balance."""
    options = dict(hparams["train_dataloader_opts"])
    if not hparams["epoch_clips"]:
        return options
    folder = Path(hparams["prepared_folder"])
    labels = [row["label"] for row in read_manifest(folder / "train.csv")]
    counts = Counter(labels)
    shares = {
        "_unknown_": hparams["unknown_percentage"] / 100,
        "_silence_": hparams["silence_percentage"] / 100,
    }
    shares = {x: share for x, share in shares.items() if counts[x]}
    rest = (1 - sum(shares.values())) / (len(counts) - len(shares))
    options["shuffle"] = False
    options["sampler"] = ReproducibleWeightedRandomSampler(
        [shares.get(x, rest) / counts[x] for x in labels],
        hparams["epoch_clips"],
        replacement=True,
        seed=hparams["seed"],
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
    """Prepare, train, evaluate, and save the trained folder."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hyperparameters(hparams_file, overrides, KEYS, OPTIONAL)
    if run_opts["debug"] or run_opts["debug_persistently"]:
        overrides = apart(hparams["output_folder"], overrides)
        hparams = load_hyperparameters(hparams_file, overrides, KEYS, OPTIONAL)
    check(hparams)
    thin = len(hparams["model"].depths) - 1
    if hparams.get("thin_depths", thin) < thin:
        # Depths that are not drawn leave norms without a gradient.
        hparams["find_unused_parameters"] = True
    output = Path(hparams["output_folder"])
    prepared = Path(hparams["prepared_folder"])
    now = settings(hparams_file, overrides)
    resuming = bool(hparams["checkpointer"].list_checkpoints())
    if resuming:
        # Before anything of the run's is replaced.
        check_same_run(output, now, FREE | {"clips"})
    sb.create_experiment_directory(output, hparams_file, overrides)
    run_on_main(prepare, args=[prepared, hparams])
    now["clips"] = read_seal(prepared)["clips"]
    if resuming:
        check_same_run(output, now, FREE)
    run_on_main(note_run, args=[output, prepared, now])
    noise = None
    if hparams["wav_augment"] is not None:
        noise = read_noise(prepared / "noise.csv", hparams["sample_rate"])
        if noise is None:
            logger.warning("the data have no noise to train with")
    teacher = None
    distilled = needs_teacher(hparams["distillation"])
    if distilled or hparams.get("start_from_teacher"):
        teachers = load_teachers(hparams["teacher"], hparams["teacher_folder"])
        teacher = Ensemble(teachers) if len(teachers) > 1 else teachers[0]
    if hparams.get("start_from_teacher"):
        hparams["model"].copy_weights(teachers[0])
    device = run_opts["device"] or sb.utils.distributed.infer_device()
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
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=train_loader(hparams),
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
    others = [
        line
        for line in overrides.splitlines()
        if not line.startswith("output_folder:")
    ]
    return "\n".join([*others, f"output_folder: {folder}/debug"]) + "\n"


def check(hparams):
    """Find wrong settings before any work is done."""
    for key in POSITIVE:
        if hparams[key] <= 0:
            raise ValueError(f"--{key} must be positive, not {hparams[key]}")
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
    if not 1 <= hparams.get("thin_depths", 1) <= max(thin, 1):
        raise ValueError(
            f"--thin_depths must be from 1 to {thin}, the number of depths "
            f"but for the deepest, not {hparams['thin_depths']}"
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
    protocol = asked["protocol"]["name"]
    facts = {
        **{key: hparams[key] for key in FACTS if key in hparams},
        # As prepared: with skip_prep the YAML may say otherwise.
        "protocol": protocol,
        "words": labels if protocol == "words" else None,
        **{key: asked[key] for key in (*GENERATED, *SHARES)},
        "epochs": hparams["number_of_epochs"],
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
        draw(output, labels, results)
    except ImportError:
        print("no pictures: pip install matplotlib draws them")


def draw(output, labels, results):
    """Training curves and the confusion matrix of the deepest network."""
    history = json.loads((output / "history.json").read_text())
    plot_curves(history, output / "curves.png")
    depth, row = next(iter(results["depths"].items()))
    plot_confusion(
        labels,
        row["confusion"],
        f"{results['protocol']} test clips, depth {depth}, %",
        output / "confusion.png",
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
