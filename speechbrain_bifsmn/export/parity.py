"""Whether a model file computes what the trained network does.

On golden clips every engine must give the same bits at every stage, and the
training graph the same logits up to float rounding; on a protocol's clips the
accuracies of both are told.
"""

import copy

import numpy as np
import torch
from tqdm import tqdm

from speechbrain_bifsmn.data.features import read_clip
from speechbrain_bifsmn.export.fold import ExportError
from speechbrain_bifsmn.metrics import summarize


def compare_front_end(log_mel, step, engine, clips, tolerance=0.05):
    """Refuse a front end that computes otherwise than the file's.

    Arguments
    ---------
    log_mel : LogMel
        That of the training graph.
    step : float
        Of the features, one of int8.
    engine : engine
        The model file.
    clips : list of np.ndarray of int16, [samples]
        PCM.
    tolerance : float
        On the mean difference, in int8 steps: a power may lie on the edge of
        two, and float32 tells them apart as it rounds.

    Raises
    ------
    ExportError
    """
    wavs = torch.from_numpy(np.stack(clips)).float() / 32768
    ours = (log_mel(wavs) / step).round().clamp(-128, 127).numpy()
    theirs = np.stack([engine.features(clip) for clip in clips])
    difference = np.abs(ours - theirs).mean()
    if not difference <= tolerance:
        raise ExportError(
            f"log_mel, a {type(log_mel).__name__}, differs from what a file "
            f"computes by {difference:.2f} int8 steps in the mean: export "
            "needs speechbrain_bifsmn.lobes.features.LogMel as it is"
        )


@torch.no_grad()
def without_ties(network, seed=0):
    """A copy none of whose activations lies on a threshold.

    Untrained norms put whole numbers there, which any rounding tips over.

    Arguments
    ---------
    network : nn.Module
    seed : int
        Of what is added to the norms' biases.

    Returns
    -------
    nn.Module
        In double precision and eval mode.
    """
    network = copy.deepcopy(network).cpu().double().eval()
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            noise = torch.randn(module.bias.shape, generator=generator)
            module.bias += 1e-3 * noise
    return network


@torch.no_grad()
def compare_graph(network, engine, clips, tolerance=1e-4):
    """Refuse a network that computes otherwise than its file.

    Arguments
    ---------
    network : BiFSMN
        The training graph, in double precision.
    engine : engine
        Its file, with float32 constants.
    clips : list of np.ndarray of int8, [frames, n_mels]
        Features.
    tolerance : float
        On the logits, relative to the largest of them. At each depth half of
        the clips may differ by more.

    Raises
    ------
    ExportError
        Naming the depth.
    """
    feats = torch.from_numpy(np.stack(clips)).double() * network.conv1.step
    for depth in engine.model.depths:
        logits = network(feats, depth=depth).numpy()
        scores = [engine.scores(clip, depth) for clip in clips]
        largest = np.abs(logits).max(1)
        differences = np.abs(logits - scores).max(1) / largest
        if not np.median(differences) <= tolerance:
            raise ExportError(
                f"the network, a {type(network).__name__}, computes something "
                f"else at depth {depth} than a file can: export needs the "
                "layers of speechbrain_bifsmn.lobes.bifsmn.BiFSMN as they are"
            )


def compare_engines(reference, engine, clips, tolerance=1e-4):
    """Compare every stage at every depth.

    Arguments
    ---------
    reference, engine : engines
        Two implementations of one model file.
    clips : list of np.ndarray of int8, [frames, n_mels]
        Features.
    tolerance : float
        On the scores, times the largest of them if that is above 1;
        everything before must be equal.

    Returns
    -------
    dict
        ``clips``, ``stages`` compared, ``largest_score_difference``.

    Raises
    ------
    ExportError
        Naming the stage that differs.
    """
    stages, largest = 0, 0.0
    for features in tqdm(clips, desc="parity"):
        for depth in reference.model.depths:
            ours = reference.trace(features, depth)
            theirs = engine.trace(features, depth)
            for stage, array in ours.items():
                if stage == "scores":
                    difference = np.abs(array - theirs[stage]).max()
                    largest = max(largest, float(difference))
                    same = difference <= tolerance * max(1, np.abs(array).max())
                else:
                    same = np.array_equal(array, theirs[stage])
                if not same:
                    raise ExportError(
                        f"{type(engine).__name__} and PyTorch disagree at "
                        f"depth {depth}, stage {stage}"
                    )
                stages += 1
    return {
        "clips": len(clips),
        "stages": stages,
        "largest_score_difference": largest,
    }


@torch.no_grad()
def compare_accuracy(spotter, engine, model, rows, features):
    """Accuracy of the training graph and of the file, same clips.

    Arguments
    ---------
    spotter : KeywordSpotter
        The training graph.
    engine : engine
        The model file.
    model : Model
        The same, parsed.
    rows : list of dict
        Manifest rows.
    features : list of np.ndarray of int8
        What the engine's front end makes of them.

    Returns
    -------
    dict of str to dict
        For each depth ``graph`` and ``file``, percent, and ``agreement``,
        percent of the clips on which both say the same.
    """
    index = {label: i for i, label in enumerate(model.labels)}
    truth = [index[row["label"]] for row in rows]
    samples, rate = model.config.samples, model.config.sample_rate
    graph = {depth: [] for depth in model.depths}
    for start in range(0, len(rows), 64):
        clips = [read_clip(r, samples, rate) for r in rows[start : start + 64]]
        feats = spotter.mods.log_mel(torch.stack(clips))
        outputs = spotter.mods.model(feats, depth=model.depths)
        for depth, (logits, _) in outputs.items():
            graph[depth] += logits.argmax(-1).tolist()
    table = {}
    for depth in model.depths:
        ours = [int(engine.scores(f, depth).argmax()) for f in features]
        table[str(depth)] = {
            "graph": summarize(model.labels, truth, graph[depth])["accuracy"],
            "file": summarize(model.labels, truth, ours)["accuracy"],
            "agreement": 100 * np.equal(ours, graph[depth]).mean(),
        }
    return table
