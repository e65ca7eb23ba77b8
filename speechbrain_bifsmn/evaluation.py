"""Accuracy of a model file on clips, from PCM."""

import tempfile
from pathlib import Path

import soundfile
from tqdm import tqdm

from speechbrain_bifsmn.data.audio import DataError, check_audio
from speechbrain_bifsmn.data.manifest import check_same_labels, read_manifest
from speechbrain_bifsmn.data.prepare import (
    SHARES,
    prepare_speech_commands,
    read_seal,
)
from speechbrain_bifsmn.data.protocols import SILENCE, get_protocol
from speechbrain_bifsmn.metrics import summarize
from speechbrain_bifsmn.spotting import Spotter, clip_features


def evaluate_file(path, rows):
    """Run a model file on clips.

    Arguments
    ---------
    path : str or Path
        Model file.
    rows : list of dict
        Manifest rows.

    Returns
    -------
    dict
        ``clips``, ``engine``, and ``depths``: what ``metrics.summarize``
        gives, at each depth.

    Raises
    ------
    ValueError
        If a clip has a label that the model does not know.
    """
    spotter = Spotter(path)
    model, run = spotter.model, spotter.engine
    labels = model.labels
    for row in rows:
        if row["label"] not in labels:
            raise ValueError(
                f"{row['wav']} is labelled {row['label']!r}; {path} knows "
                f"{', '.join(labels)}"
            )
    truth = [labels.index(row["label"]) for row in rows]
    predictions = {depth: [] for depth in model.depths}
    progress = tqdm(rows, desc="clips", leave=False)
    for features in clip_features(run, model, progress):
        for depth in model.depths:
            scores = run.scores(features, depth)
            predictions[depth].append(int(scores.argmax()))
    return {
        "clips": len(rows),
        "engine": type(run).__name__,
        "depths": {
            str(depth): summarize(labels, truth, found)
            for depth, found in predictions.items()
        },
    }


def labelled_clips(folder, model):
    """All sound files in folders that are called as a model's labels are.

    Arguments
    ---------
    folder : str or Path
        With a folder for some labels at least.
    model : Model
        What is to hear them.

    Returns
    -------
    list of dict
        Rows as of a manifest: ``wav``, ``start``, ``stop``, ``label``.

    Raises
    ------
    DataError
        If there is no such file, or one cannot be used: it is longer than
        the model's window, for example.
    """
    # By the endings of their files, of which some have several.
    formats = {*soundfile.available_formats(), "AIF", "OGA", "OPUS"}
    rows = []
    for label in model.labels:
        for path in sorted(Path(folder, label).glob("*")):
            # Such as begin with a point are a file manager's.
            if path.suffix[1:].upper() not in formats or path.name[0] == ".":
                continue
            stop = check_audio(path, model.config.sample_rate)
            _check_length(path, stop, model)
            row = {"wav": str(path), "start": 0, "stop": stop, "label": label}
            rows.append(row)
    if not rows:
        raise DataError(
            f"{folder}: has no recordings in folders that are called "
            + ", ".join(model.labels)
        )
    return rows


def _check_length(path, length, model):
    """Refuse a recording of which the model would hear the beginning only."""
    if length > model.config.samples:
        raise DataError(
            f"{path}: {length} samples, but the model hears "
            f"{model.config.samples}: cut it to the word, or give it to "
            "bifsmn spot"
        )


def protocol_clips(data, model, protocol=None, words=None, split="test"):
    """Clips of a protocol for a model, split as for its training.

    Arguments
    ---------
    data : str or Path
        Speech Commands folder.
    model : Model
        The model file.
    protocol : str, optional
        The one that it was trained on, if not given.
    words : list of str, optional
        Labels of an own task instead.
    split : str
        "train", "valid" or "test".

    Returns
    -------
    str
        Name of the protocol.
    str
        Where its test clips are from.
    list of dict
        Manifest rows.

    Raises
    ------
    ValueError
        If the data do not allow it, its labels are not the model's, or no
        protocol is given and the model does not tell of one.
    DataError
        If a recording is longer than the model's window.
    """
    trained = model.meta
    if words:
        protocol = "words"
    elif not protocol:
        protocol, words = trained.get("protocol"), trained.get("words")
        if not protocol:
            raise ValueError(
                "the model does not tell what it was trained on: give "
                "--protocol or --words, or --all for every recording"
            )
    shares = {key: trained[key] for key in SHARES if key in trained}
    labels = get_protocol(protocol, words).labels
    check_same_labels("the model", model.labels, labels)
    with tempfile.TemporaryDirectory() as folder:
        try:
            prepare_speech_commands(
                data,
                folder,
                protocol,
                words=words,
                sample_rate=model.config.sample_rate,
                samples=model.config.samples,
                **shares,
            )
        except DataError as error:
            raise DataError(
                f"{error}. Or measure all recordings in folders that are "
                "called as labels: --all"
            ) from error
        rows = read_manifest(Path(folder) / f"{split}.csv")
        for row in rows:
            # Silences are cut in whole seconds.
            if row["label"] != SILENCE:
                length = int(row["stop"]) - int(row["start"])
                _check_length(row["wav"], length, model)
        return protocol, read_seal(folder)["asked"]["test"], rows
