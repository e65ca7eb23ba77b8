"""What a result is measured on: labels, training words, test set.

Every row of a results table names one of these protocols.
"""

import hashlib
from dataclasses import dataclass

from speechbrain_bifsmn.data.audio import DataError

UNKNOWN = "_unknown_"
SILENCE = "_silence_"


def _words(text):
    return tuple(text.split())


_GSC8 = _words("yes no up down left right stop go")
_V12 = _words("yes no up down left right on off stop go")
_V30 = (
    *_V12,
    *_words("zero one two three four five six seven eight nine"),
    *_words("bed bird cat dog happy house marvin sheila tree wow"),
)
V2_ONLY = _words("backward forward follow learn visual")


@dataclass(frozen=True)
class Protocol:
    """A task on Speech Commands, or on a folder laid out like it.

    Arguments
    ---------
    name : str
        How results name it.
    keywords : tuple of str
        The words to spot, in label order.
    unknown : bool
        Whether there is a class for all other words.
    silence : bool
        Whether there is a class for noise.
    version : str
        The release of Speech Commands that it is defined on.
    official_test : bool
        Whether that release's own 12-class test archive is its test set.
    training_unknowns : tuple of str
        The only words that the unknown class trains on; it is then validated
        on the remaining ones. Empty: it trains on all of them.
    dropped : tuple of str
        Words whose clips are not used at all.
    """

    name: str
    keywords: tuple
    unknown: bool = False
    silence: bool = False
    version: str = "v0.02"
    official_test: bool = False
    training_unknowns: tuple = ()
    dropped: tuple = ()

    def __str__(self):
        """What messages call it."""
        return "the word list" if self.name == "words" else self.name

    @property
    def labels(self):
        """Class names, in the order of the network's outputs."""
        extra = [UNKNOWN] * self.unknown + [SILENCE] * self.silence
        return [*self.keywords, *extra]

    def unknowns(self, split, words):
        """Where a split's unknown class is drawn from.

        Arguments
        ---------
        split : str
            "train", "valid" or "test".
        words : iterable of str
            The words that there are.

        Returns
        -------
        tuple of (list of str, tuple of str)
            Words, and the parts of the data whose clips of them qualify.
        """
        others = sorted(set(words) - {*self.keywords, *self.dropped})
        if split == "test" or not self.training_unknowns:
            return others, (split,)
        trained = [word for word in others if word in self.training_unknowns]
        if split == "train":
            return trained, ("train",)
        # The test set has many words that training has not: only words that
        # training has never seen can choose a model for it.
        return sorted(set(others) - set(trained)), ("train", "valid")


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("V1-12", _V12, True, True, "v0.01", official_test=True),
        Protocol("V2-12", _V12, True, True, official_test=True),
        Protocol("V2-35", (*_V30, *V2_ONLY)),
        Protocol("V1-30", _V30, version="v0.01"),
        Protocol(
            "GSC-10",
            _GSC8,
            True,
            True,
            official_test=True,
            training_unknowns=("bed", "cat", "happy"),
            dropped=("on", "off"),
        ),
        Protocol("GSC-11w", (*_GSC8, "bed", "cat", "happy")),
    )
}


def get_protocol(name, words=None):
    """Look a protocol up, or make one for a word list.

    Arguments
    ---------
    name : str
        A key of ``PROTOCOLS``, or "words" with a word list.
    words : list of str, optional
        The labels of an own task. Keywords alone make a closed set;
        ``_unknown_`` and ``_silence_`` in the list ask for these classes.

    Returns
    -------
    Protocol

    Raises
    ------
    DataError
        If there is no such protocol, or the list makes no task.

    Example
    -------
    >>> get_protocol("GSC-10").labels[-3:]
    ['go', '_unknown_', '_silence_']
    >>> get_protocol("words", ["_unknown_", "yes", "no"]).labels
    ['yes', 'no', '_unknown_']
    """
    if words is None:
        if name not in PROTOCOLS:
            raise DataError(
                f"there is no protocol {name!r}; there are "
                f"{', '.join(PROTOCOLS)}, and --words for an own list"
            )
        return PROTOCOLS[name]
    if name != "words":
        raise DataError(
            f"--words makes an own task, not {name}: give --protocol=words too"
        )
    if isinstance(words, str) or not all(
        isinstance(word, str) and word for word in words
    ):
        raise DataError(f"--words must be a list such as [yes, no]: {words!r}")
    keywords = tuple(w for w in words if w not in (UNKNOWN, SILENCE))
    if len(set(words)) < max(2, len(words)) or not keywords:
        raise DataError(
            f"--words {' '.join(words)}: a task needs at least two different "
            f"labels, one of them a word, and none of them twice"
        )
    for word in keywords:
        if word.startswith(("_", ".")) or "\n" in word or "\r" in word:
            raise DataError(
                f"--words: {word!r} cannot be a word's folder: it begins with "
                "_ or ., or has a line break"
            )
    return Protocol("words", keywords, UNKNOWN in words, SILENCE in words)


def speaker_of(clip):
    """Who speaks in a clip.

    Arguments
    ---------
    clip : str
        Name of a file, or the ID of a clip in a manifest.

    Returns
    -------
    str
        What the name has before ``_nohash_``; or all of it, if that is not
        there: such a clip is a speaker of its own.

    Example
    -------
    >>> speaker_of("test/_unknown_/bed_28497c5b_nohash_0.wav")
    '28497c5b'
    >>> speaker_of("yes/anna_k_nohash_3")
    'anna_k'
    """
    folder, _, name = clip.rpartition("/")
    speaker, named, _ = name.partition("_nohash_")
    if not named:
        return clip
    # There the official test archive has the word in front.
    there = folder == f"test/{UNKNOWN}"
    return speaker.partition("_")[2] if there else speaker


def which_split(file_name, validation_percentage=10, testing_percentage=10):
    """The official split rule of Speech Commands.

    All clips of a speaker (what the name has before ``_nohash_``) fall into
    the same part, whatever else is added to the data.

    Arguments
    ---------
    file_name : str
        Name of a clip, without its folder.
    validation_percentage : float
        Share of the speakers to validate on.
    testing_percentage : float
        Share of the speakers to test on.

    Returns
    -------
    str
        "train", "valid" or "test".

    Example
    -------
    >>> which_split("0a7c2a8d_nohash_0.wav")
    'train'
    """
    number = (
        int(hashlib.sha1(speaker_of(file_name).encode()).hexdigest(), 16)
        % 2**27
    )
    percentage = number * 100 / (2**27 - 1)
    if percentage < validation_percentage:
        return "valid"
    if percentage < validation_percentage + testing_percentage:
        return "test"
    return "train"
