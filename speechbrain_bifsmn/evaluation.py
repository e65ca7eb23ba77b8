"""Accuracy of a model file on prepared clips, from PCM."""

from pathlib import Path

from tqdm import tqdm

from speechbrain_bifsmn.data.manifest import read_labels, read_manifest
from speechbrain_bifsmn.metrics import summarize
from speechbrain_bifsmn.spotting import Spotter, clip_features


def evaluate_file(path, prepared, engine=None):
    """Run a model file on the test clips of a prepared folder.

    Arguments
    ---------
    path : str or Path
        Model file.
    prepared : str or Path
        Folder with ``test.csv`` and ``labels.txt``.
    engine : type, optional
        An engine class, see ``Spotter``.

    Returns
    -------
    dict
        ``clips``, ``engine``, and ``depths``: what ``metrics.summarize``
        gives, at each depth.

    Raises
    ------
    ValueError
        If the protocol's labels are not the model's.
    """
    spotter = Spotter(path, **({"engine": engine} if engine else {}))
    model, run = spotter.model, spotter.engine
    prepared = Path(prepared)
    labels = protocol_labels(prepared, path, model.labels)
    rows = read_manifest(prepared / "test.csv")
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
