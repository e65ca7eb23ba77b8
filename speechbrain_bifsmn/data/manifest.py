"""Manifests: which clips a split has, one CSV row each, and the labels."""

import csv
from dataclasses import dataclass
from pathlib import Path

from speechbrain_bifsmn.data.audio import DataError

# What is read of every row.
COLUMNS = "wav", "start", "stop", "label"


@dataclass(frozen=True)
class Clip:
    """A row of a manifest.

    Arguments
    ---------
    id : str
        Unlike any other in the manifest.
    path : str
        Sound file.
    label : str
        Class name.
    start, stop : int
        Samples; ``stop`` is None until the file was looked at.
    """

    id: str
    path: str
    label: str
    start: int = 0
    stop: int = None


def read_manifest(path):
    """Rows of a manifest.

    Arguments
    ---------
    path : str or Path
        CSV written by ``prepare_speech_commands``.

    Returns
    -------
    list of dict of str to str
        With ``ID``, ``duration`` (seconds), ``wav``, ``start`` and ``stop``
        (samples), ``label``.

    Raises
    ------
    DataError
        If the file is no manifest.
    """
    try:
        # Spreadsheets put a mark before UTF-8.
        with open(path, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            columns, rows = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no manifest: {error}") from None
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise DataError(
            f"{path} is no manifest as prepare.py writes them: it has no "
            f"column {', '.join(missing)}"
        )
    for i, row in enumerate(rows):
        if None in row.values():
            raise DataError(f"{path}: row {i + 1} is cut short")
        if not (row["start"].isdecimal() and row["stop"].isdecimal()):
            raise DataError(
                f"{path}: row {i + 1} starts and stops at {row['start']!r} and "
                f"{row['stop']!r}, which are no numbers of samples"
            )
    return rows


def read_labels(path):
    """Class names, by index.

    Arguments
    ---------
    path : str or Path
        ``labels.txt``: UTF-8, one label a line.

    Returns
    -------
    list of str

    Raises
    ------
    DataError
        If the file is no such text, or a label is empty or there twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from None
    # Not splitlines, for which a label may hold a line's end or two.
    labels = text.removesuffix("\n").split("\n")
    check_labels(labels, path)
    return labels


def check_labels(labels, name):
    """Refuse labels that cannot be told apart or be a line each.

    Arguments
    ---------
    labels : list of str
    name : str or Path
        Where they come from, for the message.

    Raises
    ------
    DataError
        Naming the label.
    """
    for i, label in enumerate(labels):
        if not label.strip() or label in labels[:i]:
            raise DataError(
                f"{name}: label {label!r}, number {i + 1}, is empty or there "
                "twice; give every class a name of its own"
            )
        if "\n" in label or "\r" in label:
            raise DataError(f"{name}: label {label!r} has a line break")


def check_same_labels(name, known, labels):
    """Refuse labels that are not a network's.

    Arguments
    ---------
    name : str or Path
        What to call the network.
    known, labels : list of str
        Its labels, and those of the protocol.

    Raises
    ------
    ValueError
        If they differ.
    """
    if labels != known:
        raise ValueError(
            f"{name} knows {', '.join(known)}; the protocol asks for "
            f"{', '.join(labels)}"
        )
