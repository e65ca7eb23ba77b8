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
import sys
from pathlib import Path

# First, so that torchaudio can be imported beside a CPU torch.
import speechbrain_bifsmn  # noqa: F401  isort: skip
import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import run_on_main

from speechbrain_bifsmn.brain import BRAIN_KEYS, KeywordBrain, load_teacher
from speechbrain_bifsmn.data.features import (
    CachedFeatures,
    read_clip,
    read_noise,
)
from speechbrain_bifsmn.data.prepare import prepare_speech_commands
from speechbrain_bifsmn.hyperparameters import load_hyperparameters
from speechbrain_bifsmn.inference import save_trained
from speechbrain_bifsmn.metrics import plot_confusion, plot_curves

PREPARE_KEYS = {
    "data_folder",
    "protocol",
    "words",
    "unknown_percentage",
    "silence_percentage",
    "download",
    "skip_prep",
}
KEYS = {
    *BRAIN_KEYS,
    *PREPARE_KEYS,
    "cache_features",
    "checkpointer",
    "classes",
    "feature_copies",
    "feature_step",
    "licence",
    "features_folder",
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


def dataio_prepare(hparams, noise):
    """The three datasets, with items id, target and feats or sig.

    Returns
    -------
    dict of str to DynamicItemDataset
    list of str
        Class names, by index.
    """
    folder = Path(hparams["prepared_folder"])
    labels = (folder / "labels.txt").read_text().split()
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
        audio = audio_pipeline(hparams, manifest, split, noise)
        data.add_dynamic_item(audio)
        data.add_dynamic_item(target_pipeline)
        data.set_output_keys(["id", *audio.provides, "target"])
        datasets[split] = data
    return datasets, labels


def audio_pipeline(hparams, manifest, split, noise):
    """Cached features, or waveforms for features on the fly."""
    if not hparams["cache_features"]:

        @sb.utils.data_pipeline.takes("wav", "start", "stop")
        @sb.utils.data_pipeline.provides("sig")
        def sig_pipeline(wav, start, stop):
            row = {"wav": wav, "start": start, "stop": stop}
            return read_clip(row, hparams["samples"], hparams["sample_rate"])

        return sig_pipeline

    train = split == "train"
    cache = CachedFeatures(
        manifest,
        hparams["features_folder"],
        hparams["log_mel"],
        hparams["samples"],
        hparams["feature_step"],
        hparams["feature_copies"],
        hparams["wav_augment"] if train else None,
        noise,
        hparams["seed"],
    )
    counter = hparams["epoch_counter"]

    @sb.utils.data_pipeline.takes("id")
    @sb.utils.data_pipeline.provides("feats")
    def feats_pipeline(clip_id):
        return cache.get(clip_id, counter.current)

    return feats_pipeline


def main(arguments):
    """Prepare, train, evaluate, and save the trained folder."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hyperparameters(hparams_file, overrides, KEYS)
    sb.create_experiment_directory(
        hparams["output_folder"], hparams_file, overrides
    )
    run_on_main(
        prepare_speech_commands,
        kwargs={
            "save_folder": hparams["prepared_folder"],
            **{key: hparams[key] for key in PREPARE_KEYS},
        },
    )
    train_csv = Path(hparams["prepared_folder"]) / "train.csv"
    noise = None
    if hparams["wav_augment"] is not None:
        noise = read_noise(train_csv, hparams["sample_rate"])
    datasets, labels = dataio_prepare(hparams, noise)

    teacher = None
    if hparams.get("distillation") or hparams.get("start_from_teacher"):
        folder = Path(hparams["teacher_folder"])
        teacher = load_teacher(hparams["teacher"], folder / "model/model.ckpt")
    if hparams.get("start_from_teacher"):
        hparams["model"].copy_weights(teacher)

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
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=hparams["train_dataloader_opts"],
        valid_loader_kwargs=hparams["valid_dataloader_opts"],
    )
    brain.evaluate(
        datasets["test"],
        min_key="error",
        test_loader_kwargs=hparams["valid_dataloader_opts"],
    )
    run_on_main(report, args=[brain, hparams, hparams_file, overrides, labels])


def report(brain, hparams, hparams_file, overrides, labels):
    """Write the trained folder, results.json and the pictures."""
    output = Path(hparams["output_folder"])
    prepared = json.loads(
        (Path(hparams["prepared_folder"]) / "prepare.json").read_text()
    )
    results = {
        "protocol": hparams["protocol"],
        "seed": hparams["seed"],
        "epochs": hparams["epoch_counter"].current,
        "test": prepared["asked"]["test"],
        "depths": brain.results(),
    }
    (output / "results.json").write_text(json.dumps(results, indent=1))
    history = json.loads((output / "history.json").read_text())
    plot_curves(history, output / "curves.png")
    first = str(brain.depths[0])
    plot_confusion(
        labels,
        results["depths"][first]["confusion"],
        f"{hparams['protocol']} test clips, depth {first}, %",
        output / "confusion.png",
    )
    facts = {
        "licence": hparams["licence"],
        "protocol": hparams["protocol"],
        "seed": hparams["seed"],
        "epochs": hparams["number_of_epochs"],
        "data": prepared["asked"]["data"],
        "test_manifest": str(
            Path(hparams["prepared_folder"]).resolve() / "test.csv"
        ),
        "test_accuracy": {
            depth: row["accuracy"] for depth, row in results["depths"].items()
        },
    }
    save_trained(
        output / "model",
        hparams_file,
        overrides,
        hparams["model"],
        labels,
        facts,
    )
    for depth, row in results["depths"].items():
        print(f"depth {depth}: {row['accuracy']:.2f} % of the test clips")
    print(f"trained folder: {output / 'model'}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
