"""Accuracy of a model file on clips, from PCM."""

from pathlib import Path

from tqdm import tqdm

from speechbrain_bifsmn.data.audio import DataError, check_audio
from speechbrain_bifsmn.data.manifest import read_labels
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


def labelled_clips(folder, labels, sample_rate):
    """All sound files in folders that are called as labels are.

    Arguments
    ---------
    folder : str or Path
        With a folder for some labels at least.
    labels : list of str
        Of a model.
    sample_rate : int
        Hz that the files must have.

    Returns
    -------
    list of dict
        Rows as of a manifest: ``wav``, ``start``, ``stop``, ``label``.

    Raises
    ------
    DataError
        If there is no such file, or one cannot be used.
    """
    files = [
        (label, str(path))
        for label in labels
        for path in sorted(Path(folder, label).glob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]
    if not files:
        raise DataError(
            f"{folder}: has no recordings in folders that are called "
            + ", ".join(labels)
        )
    return [
        {
            "wav": path,
            "start": 0,
            "stop": check_audio(path, sample_rate),
            "label": label,
        }
        for label, path in files
    ]


def protocol_labels(prepared, name, known):
    """Labels of a prepared folder, which must be a network's.

    Arguments
    ---------
    prepared : Path
        Folder with ``labels.txt``.
    name : str or Path
        What to call the network.
    known : list of str
        Its labels.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If they differ.
    """
    labels = read_labels(prepared / "labels.txt")
    if labels != known:
        raise ValueError(
            f"{name} knows {', '.join(known)}; the protocol asks for "
            f"{', '.join(labels)}"
        )
    return labels
