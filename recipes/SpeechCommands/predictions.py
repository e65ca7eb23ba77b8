"""The file of what networks said to the test clips.

From it the results table can be computed again, beside other networks, without
training. ``cells`` are what ``comparison.summary`` takes.
"""

import json

from speechbrain_bifsmn.files import whole_file

# What all networks of a comparison share.
SHARED = ("labels", "clips", "truth")
# Of a class index in the file; after z, which is enough for any protocol, all
# up to the surrogates, which is for any words.
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
DIGITS += "".join(map(chr, range(128, 0xD800)))


def write_predictions(cells, protocol, path):
    """Keep what networks said, one character for each clip and depth.

    Arguments
    ---------
    cells : dict
        See ``comparison.summary``.
    protocol : str
    path : Path
        JSON file.
    """

    def text(indices):
        return "".join(DIGITS[i] for i in indices)

    def compact(cell):
        forms = {
            name: form
            | {"predicted": {d: text(p) for d, p in form["predicted"].items()}}
            for name, form in cell["forms"].items()
        }
        return {"parameters": cell["parameters"], "forms": forms}

    one = next(iter(next(iter(cells.values())).values()))
    data = {"protocol": protocol, **{key: one[key] for key in SHARED}}
    data["truth"] = text(data["truth"])
    data["networks"] = {
        row: {seed: compact(cell) for seed, cell in by_seed.items()}
        for row, by_seed in cells.items()
    }
    with whole_file(path) as part:
        part.write_text(json.dumps(data, indent=0))


def read_predictions(path, protocol):
    """What ``write_predictions`` kept.

    Arguments
    ---------
    path : Path
    protocol : str
        That it has to be of.

    Returns
    -------
    dict
        ``cells``, see ``comparison.summary``.

    Raises
    ------
    ValueError
        If it is no such file, or of another protocol.
    """
    try:
        data = json.loads(path.read_text())
        theirs = data["protocol"]
        cells = _cells(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not what results.py writes beside results.md, or damaged "
            f"({type(error).__name__}: {error})"
        ) from error
    if theirs != protocol:
        raise ValueError(f"{path}: is of {theirs}, not of {protocol}")
    return cells


def _cells(data):
    """Cells from the file's JSON, refusing what has another shape."""
    labels, clips = data["labels"], data["clips"]
    digits = DIGITS[: len(labels)]

    def need(condition, text):
        if not condition:
            raise ValueError(text)

    def indices(text):
        need(len(text) == len(clips), f"{len(text)} of {len(clips)} clips")
        return [digits.index(x) for x in text]

    def form(kept):
        predicted = {d: indices(x) for d, x in kept["predicted"].items()}
        sizes, times = kept["bytes"], kept["microseconds"]
        need(predicted and predicted.keys() == sizes.keys(), "bytes by depth")
        need(not times or predicted.keys() == times.keys(), "times by depth")
        return {"bytes": sizes, "microseconds": times, "predicted": predicted}

    def cell(kept):
        forms = {name: form(x) for name, x in kept["forms"].items()}
        return shared | {"parameters": int(kept["parameters"]), "forms": forms}

    shared = {"labels": labels, "clips": clips, "truth": indices(data["truth"])}
    cells = {
        row: {int(seed): cell(kept) for seed, kept in by_seed.items()}
        for row, by_seed in data["networks"].items()
    }
    need(clips and cells, "no clips or no networks")
    for row, by_seed in cells.items():
        shapes = [
            {name: list(x["predicted"]) for name, x in c["forms"].items()}
            for c in by_seed.values()
        ]
        need(shapes and shapes[0], f"{row} without seeds or forms")
        need(shapes == shapes[:1] * len(shapes), f"{row}'s seeds differ")
    return cells


def on_common_clips(cells):
    """Networks tested on different clips, on those that all have heard.

    Somebody's archive may have more, or fewer, of a protocol's clips.

    Arguments
    ---------
    cells : dict
        See ``comparison.summary``.

    Returns
    -------
    dict
        Likewise.

    Raises
    ------
    ValueError
        If no clip is common to all, or the classes differ.
    """
    every = [cell for by_seed in cells.values() for cell in by_seed.values()]
    if any(cell["labels"] != every[0]["labels"] for cell in every):
        raise ValueError("the networks know different classes")
    common = set.intersection(*(set(cell["clips"]) for cell in every))
    if not common:
        raise ValueError("there is no clip that all networks were tested on")

    def cut(cell):
        kept = sorted(
            (x, i) for i, x in enumerate(cell["clips"]) if x in common
        )

        def pick(values):
            return [values[i] for _, i in kept]

        forms = {
            name: form
            | {"predicted": {d: pick(p) for d, p in form["predicted"].items()}}
            for name, form in cell["forms"].items()
        }
        heard = {"clips": pick(cell["clips"]), "truth": pick(cell["truth"])}
        return cell | heard | {"forms": forms}

    return {
        row: {seed: cut(cell) for seed, cell in by_seed.items()}
        for row, by_seed in cells.items()
    }
