#!/usr/bin/env python3
"""Put a trained 1-bit network into the package, with its model card.

    python release.py results/GSC-10/bifsmn_best/1

Give it, of a row's seeds, the one that errs least on validation clips. It
writes speechbrain_bifsmn/pretrained/gsc10: the trained folder without what only
this machine knows, the exported file, README.md and pictures. Every figure in
the card is measured here, on the file, through the C library.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

# First, so that torchaudio can be imported beside a CPU torch.
import speechbrain_bifsmn  # noqa: F401  isort: skip
import numpy as np
from stream import measure

from speechbrain_bifsmn.data.generated import GENERATED
from speechbrain_bifsmn.data.manifest import read_manifest
from speechbrain_bifsmn.data.prepare import OWN_DRAW, read_seal
from speechbrain_bifsmn.data.protocols import SILENCE, UNKNOWN
from speechbrain_bifsmn.evaluation import evaluate_file
from speechbrain_bifsmn.export.folder import (
    LOCAL_FACTS,
    export_folder,
    fold_trained,
    training_facts,
)
from speechbrain_bifsmn.inference import KeywordSpotter, trained_folder
from speechbrain_bifsmn.plots import plot_confusion, plot_curves, plot_det
from speechbrain_bifsmn.pretrained import FOLDER, THRESHOLD
from speechbrain_bifsmn.programs import one_line_errors

PROTOCOL = "GSC-10"
MOST_BYTES = 98_000
CARD = """# Eight English keywords, 1 bit

yes, no, up, down, left, right, stop, go; `_unknown_` for any other word and
`_silence_`. One second of 16 kHz mono in, ten scores out, at {depths} layers.

| | |
|---|---|
| `model.bifsmn` | what `bifsmn spot` runs, with front end: {bytes:,} bytes |
| the other files | trained folder, for `KeywordSpotter`, `bifsmn export` |

## Figures

Test accuracy in percent of `model.bifsmn`, in C, from PCM; {clips:,} clips, the
part at hand of the official Speech Commands V2 test archive without on and off
(GSC-10). Test silences are cuts of the noise recordings that everybody trains
with, so the second row leaves them out.

| depth | {depths_row} |
|---|{rule}
| all | {all_row} |
| without silence | {spoken_row} |
| bytes, with that depth alone | {alone_row} |

The last row is what `bifsmn export --depths N` writes, for a device that always
runs the same depth.

Recall at depth {deepest}:

| {labels_row} |
|{label_rule}
| {recall_row} |

![confusion matrix](confusion.png)

The test clips one after the other without a pause, a word a second, with the
windows, posteriors and threshold ({threshold}, chosen on validation clips) of
`bifsmn listen`, by `stream.py`:

| depth | {depths_row} |
|---|{rule}
| keywords missed, % | {missed_row} |
| false alarms an hour | {alarms_row} |

![keywords missed against false alarms](det.png)

This is one network, seed {seed}, which erred least of its row's on validation
clips; the recipe's README has mean and deviation over seeds, other networks,
and intervals.

## How it was trained

`hparams/bifsmn_best.yaml`, {epochs} epochs, from a full-precision network of
its shape (`hparams/dfsmn_best.yaml`) and taught by three such, on the part of
Speech Commands V2 that was at hand ({train:,} clips, cuts of its noise
among them, three other words as unknown), and on generated clips:
{spliced_unknowns:,} pseudo-words spliced from
two recordings, {spoken_unknowns:,} other words and {spoken_keywords:,} keywords
said by eSpeak NG, and {quiet_silences:,} silences with next to no sound.
Checkpoint and settings were chosen on validation clips: keywords by other
speakers, and unknown words none of which was trained on, most of them by
speakers who were.

![training curves](curves.png)

Rerun:

```sh
cd recipes/SpeechCommands
python results.py --data_folder=DATA --rows best
python release.py results/GSC-10/bifsmn_best/{seed}
bifsmn eval DATA
```

## Limits

- English words by mostly North American speakers, one a second, near a
  microphone. Nothing is known of other languages, children, far microphones.
- An unknown word is taken for a keyword in {taken:.0f} of 100 cases, and more
  often if it sounds like one. Averaging over windows and a threshold, as above,
  make it fewer. Not for rooms where people talk all day.
- Not for anything where a mistake harms somebody.

## Data and licence

Trained on Speech Commands V2 by Pete Warden, Google
(<https://arxiv.org/abs/1804.03209>), CC BY 4.0,
<https://creativecommons.org/licenses/by/4.0/>. No recording is in this folder.
The weights are {licence}.
"""


def release(folder, target=FOLDER):
    """Write the released folder.

    Arguments
    ---------
    folder : str or Path
        Trained folder of a 1-bit network, its data still in place.
    target : Path
        Where to write; what is there is replaced when all is done.

    Raises
    ------
    ValueError
        If it is of another protocol than the package's, was not tested on
        the official clips, or the file is too large to be shipped.
    """
    source, target = trained_folder(folder), Path(target)
    training = training_facts(source)
    if training["protocol"] != PROTOCOL:
        raise ValueError(
            f"{source} was trained on {training['protocol']}, the network in "
            f"the package is one of {PROTOCOL}"
        )
    if "test_manifest" not in training:
        raise ValueError(
            f"{source} does not say what it was tested on: it is a copy; "
            "release the folder that train.py wrote"
        )
    seal = read_seal(Path(training["test_manifest"]).parent)
    if seal["asked"]["test"] == OWN_DRAW:
        raise ValueError(
            f"{source} was tested on an {OWN_DRAW}, the card is of the "
            "official test archive: fetch that and train again"
        )
    counts = seal["counts"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        out = Path(temporary) / target.name
        out.mkdir()
        exported = export_folder(source, Path(temporary) / "exported")
        if exported["bytes"] > MOST_BYTES:
            raise ValueError(
                f"{exported['file']} has {exported['bytes']:,} bytes, more "
                f"than the {MOST_BYTES:,} that are shipped"
            )
        shutil.copy(exported["file"], out)
        for name in ("hyperparams.yaml", "model.ckpt", "labels.txt"):
            shutil.copy(source / name, out)
        facts = {k: v for k, v in training.items() if k not in LOCAL_FACTS}
        (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
        rows = read_manifest(training["test_manifest"])
        report = evaluate_file(out / "model.bifsmn", rows)
        spotter = KeywordSpotter.from_hparams(source)
        alone = [
            fold_trained(spotter.mods.model.thinned([int(n)]), spotter, facts)
            for n in report["depths"]
        ]
        sizes = [exported["bytes"], *(len(m.to_bytes()) for m in alone)]
        curves = measure(out / "model.bifsmn", rows)
        plot_det(curves, THRESHOLD, out / "det.png")
        text = card(report, facts, sizes, counts["train"], curves)
        (out / "README.md").write_text(text)
        first, row = next(iter(report["depths"].items()))
        plot_confusion(
            list(row["recall"]),
            row["confusion"],
            f"GSC-10 test clips, depth {first}, %",
            out / "confusion.png",
        )
        history = json.loads((source.parent / "history.json").read_text())
        plot_curves(history, out / "curves.png")
        if target.exists():
            target.rename(Path(temporary) / "before")
        out.rename(target)
    return report


def card(report, facts, sizes, train, curves):
    """The model card, Markdown; sizes of the file, and of each depth's own."""
    depths = report["depths"]
    deepest, row = next(iter(depths.items()))
    generated = {key: facts.get(key, 0) for key in GENERATED}

    def cells(values):
        return " | ".join(f"{value:.2f}" for value in values)

    recall = row["recall"]
    others = [label not in (UNKNOWN, SILENCE) for label in recall]
    said = np.array(row["confusion"])[list(recall).index(UNKNOWN)]
    heard = [
        next(row for row in curve if row["threshold"] == THRESHOLD)
        for curve in curves.values()
    ]
    return CARD.format(
        **generated,
        depths=", ".join(depths),
        bytes=sizes[0],
        alone_row=" | ".join(f"{size:,}" for size in sizes[1:]),
        clips=report["clips"],
        depths_row=" | ".join(depths),
        rule="---|" * len(depths),
        all_row=cells(r["accuracy"] for r in depths.values()),
        spoken_row=cells(
            r["accuracy_without_silence"] for r in depths.values()
        ),
        deepest=deepest,
        labels_row=" | ".join(recall),
        label_rule="---|" * len(recall),
        recall_row=cells(recall.values()),
        seed=facts["seed"],
        epochs=facts["epochs"],
        train=sum(train.values()) - sum(generated.values()),
        taken=100 * said[others].sum() / said.sum(),
        threshold=THRESHOLD,
        missed_row=" | ".join(f"{row['missed']:.1f}" for row in heard),
        alarms_row=" | ".join(f"{row['false_alarms']:.0f}" for row in heard),
        licence=facts["licence"],
    )


def main():
    """Release, then say what was released."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="trained folder, or its parent")
    arguments = parser.parse_args()
    report = release(arguments.folder)
    for depth, row in report["depths"].items():
        print(f"depth {depth}: {row['accuracy']:.2f} % of the test clips")
    print(f"released in {FOLDER}")


if __name__ == "__main__":
    with one_line_errors():
        main()
