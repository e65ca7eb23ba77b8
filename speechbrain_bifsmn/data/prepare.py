"""Speech Commands as SpeechBrain manifests, the same ones every time.

Which clip goes where depends on names alone: never on a random number, on the
order of a directory or on the machine.
"""

import csv
import hashlib
import io
import json
import logging
import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from speechbrain_bifsmn import __version__
from speechbrain_bifsmn.data.audio import (
    SAMPLE_RATE,
    DataError,
    check_audio,
    check_name,
)
from speechbrain_bifsmn.data.download import ARCHIVES
from speechbrain_bifsmn.data.download import download as download_archive
from speechbrain_bifsmn.data.generated import generate_clips
from speechbrain_bifsmn.data.manifest import Clip
from speechbrain_bifsmn.data.protocols import (
    SILENCE,
    UNKNOWN,
    V2_ONLY,
    get_protocol,
    which_split,
)
from speechbrain_bifsmn.files import whole_file

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
NOISE = "_background_noise_"
# What, beside data and protocol, decides which clips are test clips.
SHARES = (
    "unknown_percentage",
    "silence_percentage",
    "validation_percentage",
    "testing_percentage",
)
# What test clips are called where the official archive is missing.
OWN_DRAW = "own draw"


def prepare_speech_commands(
    data_folder,
    save_folder,
    protocol="GSC-10",
    words=None,
    unknown_percentage=10,
    silence_percentage=10,
    validation_percentage=10,
    testing_percentage=10,
    test_folder=None,
    download=False,
    skip_prep=False,
    sample_rate=SAMPLE_RATE,
    samples=SAMPLE_RATE,
    spliced_unknowns=0,
    spoken_unknowns=0,
    spoken_keywords=0,
    quiet_silences=0,
):
    """Write the manifests of a protocol.

    ``train.csv``, ``valid.csv`` and ``test.csv`` have the columns ID,
    duration, wav, start, stop (in samples) and label, and so has ``noise.csv``,
    noise to train with; ``labels.txt`` has the labels in the order of the
    network's outputs; ``prepare.json`` tells what was asked and what came of
    it. All is left as it is when it was made with
    the same arguments from the same files.

    Arguments
    ---------
    data_folder : str
        The folder of word folders, or one that has it as ``speech_commands*``.
    save_folder : str
        Where to write.
    protocol : str
        A key of ``PROTOCOLS``.
    words : list of str, optional
        Labels of an own task instead of a protocol, ``_unknown_`` and
        ``_silence_`` among them if wanted.
    unknown_percentage : float
        Share of a split that is unknown words. Where there are fewer, all.
    silence_percentage : float
        Share of a split that is silence.
    validation_percentage : float
        Share of speakers to validate on, where the data have no lists.
    testing_percentage : float
        Share of speakers to test on, where the data have no lists.
    test_folder : str, optional
        The official 12-class test archive, unpacked. When not given it is
        looked for in and beside the data folder.
    download : bool
        Whether to fetch what is missing.
    skip_prep : bool
        Whether to do nothing at all.
    sample_rate : int
        The rate that the clips must have, in Hz.
    samples : int
        Of the network's window; silences are as long, in whole seconds.
    spliced_unknowns, spoken_unknowns, spoken_keywords, quiet_silences : int
        Clips to generate for training beyond those of the data, see
        ``generate_clips``. Of the first three a protocol without an unknown
        class gets none, of the last one without silence.

    Raises
    ------
    DataError
        If the data do not allow it; the message says what is missing.

    Example
    -------
    >>> prepare_speech_commands("data", "save", "V2-35")  # doctest: +SKIP
    """
    if skip_prep:
        return
    protocol = get_protocol(protocol, words)
    _check_shares(
        unknown_percentage, silence_percentage, "unknown_", "silence_"
    )
    _check_shares(
        validation_percentage, testing_percentage, "validation_", "testing_"
    )
    generated = _allowed(
        protocol,
        spliced_unknowns=spliced_unknowns,
        spoken_unknowns=spoken_unknowns,
        spoken_keywords=spoken_keywords,
        quiet_silences=quiet_silences,
    )
    data_folder = Path(os.path.abspath(data_folder))
    root = _find_data(data_folder, protocol, download)
    test_root = _find_test(data_folder, root, protocol, test_folder, download)
    stock = {d.name: _scan(d) for d in sorted(root.iterdir()) if d.is_dir()}
    lists = _read_lists(root)
    official = {}
    if test_root:
        official = {x: _scan(test_root / x) for x in protocol.labels}

    shares = validation_percentage, testing_percentage
    if test_root and not lists and shares != (10, 10):
        raise DataError(
            f"{test_root}: the official test archive belongs to 10 and 10 "
            "percent of the speakers; leave --validation_percentage and "
            "--testing_percentage out"
        )

    seconds = -(-samples // sample_rate)
    asked = {
        "version": __version__,
        "protocol": asdict(protocol),
        "data": str(root),
        "test": str(test_root) if test_root else OWN_DRAW,
        "unknown_percentage": unknown_percentage,
        "silence_percentage": silence_percentage,
        "validation_percentage": validation_percentage,
        "testing_percentage": testing_percentage,
        "sample_rate": sample_rate,
        "silence_seconds": seconds,
        **generated,
        "listing_sha256": _sha256(json.dumps([stock, lists, official])),
    }
    # Tuples become lists, as they are in the file that it is compared with.
    asked = json.loads(json.dumps(asked))
    save_folder = Path(save_folder)
    if _is_prepared(save_folder, asked):
        logger.info("%s: already prepared", save_folder)
        return
    parts = _split(stock, lists, validation_percentage, testing_percentage)
    _check_words(parts, protocol, root)
    if protocol.official_test and not test_root:
        logger.warning(
            "%s is tested on an own draw from the testing speakers, not on "
            "the official test archive: put that beside the data or fetch it "
            "with --download",
            protocol,
        )
    noises = _noises(
        *(root, stock.get(NOISE, {}), sample_rate, seconds, protocol.silence)
    )
    manifests = _draw(
        *(protocol, root, parts, noises, seconds, sample_rate),
        *(unknown_percentage, silence_percentage),
    )
    if test_root:
        manifests["test"] = [
            _clip(test_root, label, name, "test/")
            for label in protocol.labels
            for name in official[label]
        ]
    counts = {
        split: _count(split, clips, protocol)
        for split, clips in manifests.items()
    }
    manifests = _measure(manifests, sample_rate, samples)
    clips = generate_clips(
        manifests["train"],
        protocol.keywords,
        save_folder,
        **generated,
        sample_rate=sample_rate,
    )
    manifests["train"] += clips
    counts["train"] = _count("train", manifests["train"], protocol)
    manifests["noise"] = _noise(
        *(manifests["train"], noises, seconds, sample_rate, silence_percentage)
    )
    files = sorted({clip.path for clip in clips})
    _write(save_folder, manifests, protocol, asked, counts, files)


def read_seal(folder):
    """What a prepared folder says of itself.

    Arguments
    ---------
    folder : str or Path
        With ``prepare.json``.

    Returns
    -------
    dict
        ``asked``, what it was made of; ``counts``, clips by split and label;
        ``clips``, a hash by split that is the same wherever the files lie.

    Raises
    ------
    DataError
        If there is none, or it is damaged or of an earlier version.
    """
    path = Path(folder) / "prepare.json"
    sealed = {}
    if path.is_file():
        try:
            sealed = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}): delete it") from None
    if "clips" not in sealed:
        raise DataError(
            f"{folder} is not prepared, or by an earlier version: leave "
            f"--skip_prep out, or run prepare.py --save_folder {folder}"
        )
    return sealed


def _check_shares(first, second, first_name, second_name):
    """Two percentages that leave something for the rest."""
    # Put so that NaN is refused as well.
    if not (first >= 0 and second >= 0 and first + second < 100):
        raise DataError(
            f"--{first_name}percentage {first} and --{second_name}percentage "
            f"{second}: neither may be negative, together they have to stay "
            f"below 100"
        )


def _allowed(protocol, **generated):
    """Clips to generate, none where the protocol has no class for them."""
    for kind, count in generated.items():
        silent = kind == "quiet_silences"
        if count and not (protocol.silence if silent else protocol.unknown):
            logger.warning("%s has no class for %s", protocol, kind)
            generated[kind] = 0
    return generated


def _find_data(data_folder, protocol, download):
    """The folder of word folders."""

    def has_words(folder):
        return any((folder / word).is_dir() for word in protocol.keywords)

    name = f"speech_commands_{protocol.version}"
    if has_words(data_folder):
        return data_folder
    found = [
        folder
        for folder in sorted(data_folder.glob("speech_commands*"))
        if has_words(folder) and "test_set" not in folder.name
    ]
    # An archive of the other version is other data than the protocol's.
    other = [
        folder
        for folder in found
        if folder.name in ARCHIVES
        and folder.name != name
        and protocol.name != "words"
    ]
    found = [folder for folder in found if folder not in other]
    exact = [folder for folder in found if folder.name == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        raise DataError(
            f"{data_folder}: has {' and '.join(f.name for f in found)}: say "
            f"which, by giving that folder"
        )
    if download:
        return download_archive(name, data_folder)
    if other:
        raise DataError(
            f"{data_folder}: has {other[0].name}, but {protocol} is of "
            f"{name}: prepare.py --download fetches that"
        )
    if not data_folder.is_dir():
        raise DataError(
            f"{data_folder}: there is no such folder: give that of Speech "
            f"Commands; prepare.py --download fetches it"
        )
    raise DataError(
        f"{data_folder}: none of {protocol}'s words has a folder here "
        f"({', '.join(protocol.keywords[:4])} ...): give the folder of Speech "
        f"Commands, or another protocol or words; prepare.py --download "
        f"fetches the data"
    )


def _find_test(data_folder, root, protocol, test_folder, download):
    """The official test archive, or None for an own draw."""
    if not protocol.official_test:
        if test_folder:
            raise DataError(
                f"{test_folder}: {protocol} is tested on the data's own "
                f"testing speakers: leave --test_folder out"
            )
        return None
    name = f"speech_commands_test_set_{protocol.version}"
    places = [root.parent / name, root / name, data_folder / name]
    if test_folder:
        places = [Path(os.path.abspath(test_folder))]
    for place in places:
        if not place.is_dir():
            continue
        missing = [x for x in protocol.labels if not (place / x).is_dir()]
        if missing:
            raise DataError(
                f"{place}: has no {', '.join(missing)}: it is not the "
                f"official test archive of {protocol}"
            )
        return place
    if test_folder:
        raise DataError(f"{test_folder}: there is no such folder")
    return download_archive(name, data_folder) if download else None


def _scan(folder):
    """Sizes of the clips in a folder, by name, in order."""
    with os.scandir(folder) as entries:
        sizes = {
            entry.name: entry.stat().st_size
            for entry in sorted(entries, key=lambda entry: entry.name)
            if entry.name.lower().endswith(".wav")
            and not entry.name.startswith(".")
        }
    names = {}
    for name in sizes:
        check_name(folder / name)
        other = names.setdefault(_stem(name), name)
        if other != name:
            raise DataError(
                f"{folder}: {other} and {name} would be the same clip: rename "
                "one of them"
            )
    return sizes


def _read_lists(root):
    """The archive's own split, {word/name: split}; empty without lists."""
    files = {
        "valid": root / "validation_list.txt",
        "test": root / "testing_list.txt",
    }
    there = [path.name for path in files.values() if path.is_file()]
    if len(there) == 1:
        raise DataError(
            f"{root}: has {there[0]}, but of validation_list.txt and "
            "testing_list.txt it needs both, or none"
        )
    if not there:
        return {}
    return {
        name: split
        for split, path in files.items()
        for name in path.read_text(encoding="utf-8").splitlines()
    }


def _split(stock, lists, validation_percentage, testing_percentage):
    """Names of the clips, {split: {word: [name]}}."""
    words = [word for word in stock if not word.startswith(("_", "."))]
    parts = {split: {word: [] for word in words} for split in SPLITS}
    for word in words:
        for name in stock[word]:
            if lists:
                split = lists.get(f"{word}/{name}", "train")
            else:
                split = which_split(
                    name, validation_percentage, testing_percentage
                )
            parts[split][word].append(name)
    return parts


def _check_words(parts, protocol, root):
    """Every word that training needs is there, of the right release."""
    if protocol.version == "v0.01" and set(V2_ONLY) & set(parts["train"]):
        raise DataError(
            f"{root}: is v0.02 of Speech Commands, {protocol} is defined "
            f"on v0.01: choose another --protocol"
        )
    needed = protocol.keywords + protocol.training_unknowns
    missing = [word for word in needed if word not in parts["train"]]
    if missing:
        raise DataError(
            f"{root}: {protocol} needs folders that are not there: "
            f"{', '.join(missing)}; choose another --protocol, or --words"
        )
    for word in needed:
        if parts["train"][word]:
            continue
        others = sum(len(parts[split][word]) for split in SPLITS)
        raise DataError(
            f"{root / word}: no training clips in it, {others} to validate "
            "and test: only .wav files are clips, and those of a speaker, "
            "SPEAKER_nohash_N.wav, stay together; record some, or choose "
            "another --protocol, or --words"
        )


def _draw(protocol, root, parts, noises, seconds, rate, unknown, silence):
    """The clips of each split, {split: [Clip]}; shares in percent."""
    unknown *= protocol.unknown
    silence *= protocol.silence
    manifests = {}
    for split in SPLITS:
        clips = [
            _clip(root, word, name)
            for word in protocol.keywords
            for name in parts[split][word]
        ]
        if protocol.unknown:
            words, sources = protocol.unknowns(split, parts[split])
            pool = [
                _clip(root, word, name)
                for source in sources
                for word in words
                for name in parts[source][word]
            ]
            pool.sort(key=lambda clip: hashlib.sha1(clip.id.encode()).digest())
            # Words that are only validated on are all used, up to a balance.
            own = sources == (split,)
            wanted = len(clips)
            if own:
                wanted = math.ceil(wanted * unknown / (100 - unknown - silence))
            clips += [replace(clip, label=UNKNOWN) for clip in pool[:wanted]]
        wanted = math.ceil(len(clips) * silence / (100 - silence))
        clips += _silences(noises, seconds, rate, split, wanted)
        manifests[split] = clips
    return manifests


def _clip(root, word, name, prefix=""):
    """A whole file, labelled as its folder is named."""
    path = str(root / word / name)
    return Clip(f"{prefix}{word}/{_stem(name)}", path, word)


def _stem(name):
    """The name of a clip without .wav, or .WAV."""
    return name[: -len(".wav")]


def _noises(root, names, rate, seconds, needed):
    """Whole seconds of the noise recordings, by path."""
    paths = [root / NOISE / name for name in names]
    noises = {str(path): check_audio(path, rate) // rate for path in paths}
    least = len(SPLITS) * seconds
    noises = {path: n for path, n in noises.items() if n >= least}
    if needed and not noises:
        raise DataError(
            f"{root / NOISE}: silence needs noise recordings of at least "
            f"{least} s there; --words without {SILENCE} makes a task "
            f"without it"
        )
    return noises


def _silences(noises, seconds, rate, split, wanted):
    """Cuts, evenly spread over a split's own seconds of noise."""
    clips = []
    for i, (path, length) in enumerate(sorted(noises.items())):
        tenth = max(seconds, length // 10)
        first, last = {
            "train": (0, length - 2 * tenth),
            "valid": (length - 2 * tenth, length - tenth),
            "test": (length - tenth, length),
        }[split]
        count = len(range(i, wanted, len(noises)))
        room = (last - first - seconds) * rate
        starts = {
            first * rate + room * k // max(1, count - 1) for k in range(count)
        }
        clips += [
            Clip(
                f"{SILENCE}/{Path(path).stem}_{start}",
                path,
                SILENCE,
                start,
                start + seconds * rate,
            )
            for start in sorted(starts)
        ]
    return clips


def _noise(clips, noises, seconds, rate, percentage):
    """The silences trained with; where there is no such class, as many."""
    silences = [clip for clip in clips if clip.label == SILENCE]
    wanted = math.ceil(len(clips) * percentage / (100 - percentage))
    return silences or _silences(noises, seconds, rate, "train", wanted)


def _count(split, clips, protocol):
    """Clips of each label, none of which may be missing."""
    counts = Counter(clip.label for clip in clips)
    missing = [label for label in protocol.labels if not counts[label]]
    if missing:
        shares = {UNKNOWN: "--unknown_percentage"}
        shares[SILENCE] = "--silence_percentage"
        raised = [shares[x] for x in missing if x in shares]
        ways = [f"raise {' and '.join(raised)}"] if raised else []
        if len(missing) > len(raised):
            ways.append(
                "have more speakers, or say yourself who is where: beside the "
                "word folders, in validation_list.txt and testing_list.txt, a "
                "line WORD/FILE.wav for each clip that does not train"
            )
        raise DataError(
            f"the {split} split has {len(counts)} of {protocol}'s "
            f"{len(protocol.labels)} labels, no clip of {', '.join(missing)}: "
            f"{'; and '.join(ways)}"
        )
    return {label: counts[label] for label in protocol.labels}


def _measure(manifests, rate, samples):
    """Look at every file once; fill in where it stops."""
    whole = {
        clip.path
        for clips in manifests.values()
        for clip in clips
        if clip.stop is None
    }
    paths = sorted(whole)
    with ThreadPoolExecutor(4) as pool:
        frames = pool.map(lambda path: check_audio(path, rate), paths)
        frames = tqdm(frames, "Checking clips", len(paths), unit=" clips")
        stops = dict(zip(paths, frames, strict=True))
    longer = [path for path in paths if stops[path] > samples]
    if longer:
        logger.warning(
            "%s and %d other clips are longer than %d samples: cut them to the "
            "word, or train with a longer window (--samples)",
            longer[0],
            len(longer) - 1,
            samples,
        )
    return {
        split: [
            replace(clip, stop=clip.stop or stops[clip.path]) for clip in clips
        ]
        for split, clips in manifests.items()
    }


def _write(save_folder, manifests, protocol, asked, counts, generated):
    """Write everything; ``prepare.json`` comes last and seals the rest."""
    texts = {"labels.txt": "".join(f"{x}\n" for x in protocol.labels)}
    for split, clips in manifests.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["ID", "duration", "wav", "start", "stop", "label"])
        writer.writerows(
            (
                clip.id,
                (clip.stop - clip.start) / asked["sample_rate"],
                clip.path,
                clip.start,
                clip.stop,
                clip.label,
            )
            for clip in clips
        )
        texts[f"{split}.csv"] = text.getvalue()
    sealed = {
        "asked": asked,
        "counts": counts,
        "sha256": {name: _sha256(text) for name, text in texts.items()},
        "clips": {split: _identity(x) for split, x in manifests.items()},
        "generated": generated,
    }
    save_folder.mkdir(parents=True, exist_ok=True)
    (save_folder / "prepare.json").unlink(missing_ok=True)
    texts["prepare.json"] = json.dumps(sealed, indent=2) + "\n"
    for name, text in texts.items():
        with whole_file(save_folder / name) as part:
            part.write_text(text, encoding="utf-8")
    for split in SPLITS:
        logger.info("%s: %d clips", split, sum(counts[split].values()))


def _is_prepared(save_folder, asked):
    """Whether the manifests are there, intact, and those asked for."""
    try:
        sealed = json.loads((save_folder / "prepare.json").read_text())
        return (
            sealed["asked"] == asked
            and all(map(os.path.isfile, sealed["generated"]))
            and all(
                _sha256((save_folder / name).read_text("utf-8")) == digest
                for name, digest in sealed["sha256"].items()
            )
        )
    except (OSError, ValueError, KeyError):
        return False


def _identity(clips):
    """A hash of clips, wherever their files lie."""
    rows = [
        (clip.id, Path(clip.path).name, clip.start, clip.stop, clip.label)
        for clip in clips
    ]
    return _sha256(json.dumps(rows))


def _sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()
