"""``bifsmn export``: a trained folder to a model file, proved and measured."""

import json
import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speechbrain_bifsmn.data.audio import DataError
from speechbrain_bifsmn.data.manifest import read_manifest
from speechbrain_bifsmn.export.check import check_one_bit
from speechbrain_bifsmn.export.fold import ExportError, fold
from speechbrain_bifsmn.export.golden import golden_clips, write_golden
from speechbrain_bifsmn.export.package import check_free, write_package
from speechbrain_bifsmn.export.parity import (
    compare_accuracy,
    compare_engines,
    compare_front_end,
    compare_graph,
    without_ties,
)
from speechbrain_bifsmn.export.reference import TorchEngine
from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.inference import KeywordSpotter, trained_folder
from speechbrain_bifsmn.kernels import open_engine
from speechbrain_bifsmn.spotting import clip_features

logger = logging.getLogger(__name__)

# Facts about the machine that trained, which mean nothing elsewhere.
LOCAL_FACTS = ("data", "test_manifest")


def export_folder(
    folder,
    output,
    manifest=None,
    package=False,
    parity_clips=64,
    depths=None,
):
    """Write ``model.bifsmn`` and golden vectors, and measure both.

    Arguments
    ---------
    folder : str or Path
        Trained folder.
    output : str or Path
        Where to write.
    manifest : str or Path, optional
        Clips to measure on; the test clips that training used, if not given
        and they are still there.
    package : bool
        Whether to write the C library and a Makefile too.
    parity_clips : int
        At most so many clips, beside the golden ones, are compared stage by
        stage, scores included; accuracy is measured on all.
    depths : list of int, optional
        The depths that the file can run, all if not given. Layers that none
        of them runs are left out.

    Returns
    -------
    dict
        ``folder`` that was exported, ``file``, ``bytes``, ``binary_layers``,
        ``parity`` and, with clips, ``accuracy`` by depth.

    Raises
    ------
    NotOneBitError
        Naming the first layer that is not 1-bit.
    ExportError
        If the network does not fit the format, naming the layer; if two
        implementations disagree, naming the stage; if the trained network or
        front end computes otherwise than a file can; if the labels are not
        those of the clips; if ``output`` is a file; or if a package would
        replace somebody's README or Makefile. Nothing is written in any case.
    ValueError
        If the network cannot run at ``depths`` alone.
    FileNotFoundError
        If there is no trained folder, or no such manifest.
    """
    source, output = trained_folder(folder), Path(output)
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file: name a folder to write into")
    if package:
        check_free(output)
    if manifest is not None and not Path(manifest).is_file():
        raise FileNotFoundError(f"no manifest {manifest}")
    facts = training_facts(source)
    spotter = KeywordSpotter.from_hparams(source)
    network = spotter.mods.model
    check_one_bit(network)
    network = network.thinned(network.depths if depths is None else depths)
    binary = check_one_bit(network)
    model = fold_trained(network, spotter, facts)
    data = model.to_bytes()
    engine, reference = open_engine(data), TorchEngine(data)
    golden = list(golden_clips(model.config.samples).values())
    step = network.conv1.step
    compare_front_end(spotter.mods.log_mel, step, engine, golden)
    clips = [engine.features(clip) for clip in golden]
    graph = without_ties(network)
    exact = fold_trained(graph, spotter, facts, np.float32)
    compare_graph(graph, TorchEngine(exact.to_bytes()), clips)

    used = Path(manifest or facts.get("test_manifest") or "")
    rows = read_manifest(used) if used.is_file() else []
    if manifest is not None and not rows:
        raise ExportError(f"{manifest} has no clips: give another manifest")
    check_clips(rows, used, model.labels)
    try:
        progress = tqdm(rows, desc="features")
        features = list(clip_features(engine, model, progress))
    except DataError as error:
        if manifest is not None:
            raise
        logger.warning("accuracy is not measured: %s", error)
        rows, features = [], []
    every = -(-len(rows) // parity_clips) or 1
    parity = compare_engines(reference, engine, clips + features[::every])
    accuracy = {}
    if rows:
        accuracy = compare_accuracy(spotter, engine, model, rows, features)

    output.mkdir(parents=True, exist_ok=True)
    write_golden(output, reference)
    if package:
        write_package(output, reference, data)
    path = output / "model.bifsmn"
    with whole_file(path) as part:
        part.write_bytes(data)
    report = {
        "folder": str(source),
        "file": str(path),
        "bytes": len(data),
        "binary_layers": len(binary),
        "engine": type(engine).__name__,
        "parity": parity,
    }
    return {**report, "accuracy": accuracy} if rows else report


def training_facts(folder):
    """What training.json tells of a trained folder.

    Arguments
    ---------
    folder : str or Path
        Trained folder.

    Returns
    -------
    dict

    Raises
    ------
    ExportError
        If the file is damaged.
    """
    path = trained_folder(folder) / "training.json"
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError(f"{path} is damaged: {error}") from error
    if not isinstance(facts, dict):
        raise ExportError(f"{path} is damaged: it holds no JSON object")
    return facts


def fold_trained(network, spotter, facts, real=np.float16):
    """The model file of a trained folder.

    Arguments
    ---------
    network : BiFSMN
        The spotter's, or a thinned copy of it.
    spotter : KeywordSpotter
        The trained folder, for its front end and labels.
    facts : dict
        See ``training_facts``; what only concerns the machine that trained,
        or depths that the network does not run at, is left out.
    real : type
        See ``fold``.

    Returns
    -------
    Model
    """
    meta = {k: v for k, v in facts.items() if k not in LOCAL_FACTS}
    if isinstance(accuracy := meta.get("test_accuracy"), dict):
        names = [str(depth) for depth in network.depths]
        meta["test_accuracy"] = {n: accuracy[n] for n in names if n in accuracy}
    return fold(
        network,
        spotter.mods.log_mel,
        spotter.hparams.samples,
        spotter.labels,
        meta,
        real,
    )


def check_clips(rows, manifest, labels):
    """Refuse clips of no label.

    Arguments
    ---------
    rows : list of dict
        Manifest rows.
    manifest : Path
        Where they come from, for the message.
    labels : list of str
        Of the network.

    Raises
    ------
    ExportError
        Naming the label.
    """
    for row in rows:
        if row["label"] not in labels:
            raise ExportError(
                f"{manifest} has the label {row['label']!r}, the network only "
                f"{', '.join(labels)}: give --manifest with clips of these, "
                "or put the name right in labels.txt"
            )
