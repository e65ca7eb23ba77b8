"""A small spoken data set from a synthesizer, in Speech Commands' layout.

Real enough to show every step from data to device in minutes and without a
download; no figure measured on it says anything about real speech. The voices
are those of eSpeak NG, which the pip package ``espeakng_loader`` carries.
"""

import ctypes
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchaudio.transforms import Resample
from tqdm import tqdm

from speechbrain_bifsmn.data.audio import SAMPLE_RATE, DataError
from speechbrain_bifsmn.data.protocols import which_split

ACCENTS = (
    "en",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-x-rp",
    "en-us",
    "en-us-nyc",
)
# Those that sound like people: neither robots nor whispers.
_PEOPLE = (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Henrique Hugo Jacky Lee "
    "Marco Mario Michael Mike Nguyen Reed adam anika announcer antonio aunty "
    "belinda benjamin boris caleb david ed edward f1 f2 f3 f4 f5 grandma "
    "grandpa gustave ian iven john kaukovalta linda m1 m2 m3 m4 m5 m6 m7 m8 "
    "marcelo max michel miguel norbert pablo paul pedro quincy rob robert "
    "sandro shelby steph travis victor zac"
)
VARIANTS = tuple(_PEOPLE.split())
NOISE_SECONDS = 60
# None of the usual keywords: babble must not be a spotted word.
BABBLE = (
    "People were talking about the weather while several children played "
    "between the tables, and somebody remembered where the music had come from."
)


@dataclass(frozen=True)
class Speaker:
    """A voice: no two speakers share both accent and variant.

    Arguments
    ---------
    accent : str
        A language of eSpeak NG.
    variant : str
        One of its voice variants.
    pitch : int
        0 to 100.
    rate : int
        Words a minute.
    """

    accent: str
    variant: str
    pitch: int
    rate: int

    @property
    def id(self):
        """Eight hexadecimal digits, which also decide the speaker's split."""
        return hashlib.sha1(repr(self).encode()).hexdigest()[:8]


def make_speakers(count, seed=0):
    """Choose speakers, one in ten to validate on and one in ten to test on.

    Arguments
    ---------
    count : int
        How many, at least 3.
    seed : int
        Another seed chooses others.

    Returns
    -------
    list of Speaker

    Raises
    ------
    DataError
        If there are not so many voices, or too few for three splits.
    """
    pairs = list(itertools.product(ACCENTS, VARIANTS))
    if not 3 <= count <= len(pairs):
        raise DataError(
            f"{count} speakers: there can be from 3 to {len(pairs)} of them"
        )
    pairs.sort(key=lambda pair: name_number(seed, *pair))
    speakers = []
    for i, pair in enumerate(pairs[:count]):
        split = {0: "valid", 1: "test"}.get(i % 10, "train")
        for attempt in itertools.count():
            number = name_number(seed, *pair, attempt)
            speaker = Speaker(*pair, 25 + number % 51, 130 + number % 71)
            # The split follows from the hash, as for real speakers: vary
            # pitch and rate until it is the one that this voice is meant for.
            if which_split(speaker.id) == split:
                break
        speakers.append(speaker)
    return speakers


def synthesize(
    folder, words, unknown_words=(), speakers=100, clips_per_word=200, seed=0
):
    """Write a speech set that ``prepare_speech_commands`` can read.

    The same arguments give the same bytes. The folder appears when it is
    complete, and is left as it is when it was made with the same arguments.

    Arguments
    ---------
    folder : str or Path
        What to write: a folder of one-second clips for each word, and
        ``_background_noise_``.
    words : list of str
        Keywords.
    unknown_words : list of str
        Other words, for an unknown class.
    speakers : int
        Number of voices; a tenth validates and a tenth tests.
    clips_per_word : int
        Clips of each word, spread evenly over the speakers.
    seed : int
        Another seed gives other voices and takes.

    Raises
    ------
    DataError
        If the synthesizer is missing, the folder is there with other
        contents, or there are not so many voices.

    Example
    -------
    >>> synthesize("demo", ["yes", "no"], ["up"])  # doctest: +SKIP
    """
    folder = Path(os.path.abspath(folder))
    asked = json.dumps(
        {
            "words": [*words],
            "unknown_words": [*unknown_words],
            "speakers": speakers,
            "clips_per_word": clips_per_word,
            "seed": seed,
        },
        indent=2,
    )
    record = folder / "synthesis.json"
    if record.is_file() and record.read_text() == asked:
        return
    if folder.exists():
        raise DataError(
            f"{folder}: is there already and is not this synthetic set: "
            f"remove it or choose another folder"
        )
    voices = make_speakers(speakers, seed)
    espeak = Espeak(seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}."
    ) as temporary:
        target = Path(temporary) / folder.name
        (target / "_background_noise_").mkdir(parents=True)
        for name, noise in _noises(espeak, seed):
            _save(target / "_background_noise_" / f"{name}.wav", noise)
        for word in tqdm([*words, *unknown_words], "Speaking", unit=" words"):
            (target / word).mkdir()
            for k in range(clips_per_word):
                speaker, take = voices[k % speakers], k // speakers
                path = target / word / f"{speaker.id}_nohash_{take}.wav"
                random = np.random.default_rng(
                    name_number(seed, word, path.name)
                )
                _save(path, speak_clip(espeak, speaker, word, random))
        (target / record.name).write_text(asked)
        os.replace(target, folder)


class Espeak:
    """eSpeak NG through ctypes, at the rate of Speech Commands.

    Arguments
    ---------
    seed : int
        Seed of the breath noise in the voices.
    """

    RATE, PITCH = 1, 3

    def __init__(self, seed):
        try:
            import espeakng_loader
        except ImportError:
            raise DataError(
                "synthetic speech needs eSpeak NG: "
                "pip install speechbrain_bifsmn[demo]"
            ) from None
        library = Path(espeakng_loader.get_library_path())
        # The library keeps state that not even espeak_Terminate resets. A
        # copy of the file is loaded anew, so that every set begins alike.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            copy = shutil.copy(library, folder)
            self.library = ctypes.CDLL(copy)
        data = espeakng_loader.get_data_path()
        synchronous, do_not_exit = 2, 0x8000
        rate = self.library.espeak_Initialize(
            synchronous, 0, data.encode(), do_not_exit
        )
        if rate <= 0:
            raise DataError(
                f"eSpeak NG does not start with its data in {data}: it allows "
                f"about 150 characters in that path"
            )
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self.chunks = []
        callback = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
        )
        # Held here: ctypes does not keep a callback alive for the library.
        self.callback = callback(self._receive)
        self.library.espeak_SetSynthCallback(self.callback)
        self.resample = Resample(rate, SAMPLE_RATE)
        # Signal handlers run in the main thread alone. What they raise would
        # be lost in the callback, with the sound that it was called with.
        self.thread = ThreadPoolExecutor(1)

    def _receive(self, samples, count, _events):
        if samples:
            self.chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text, voice, pitch, rate):
        """Speak.

        Arguments
        ---------
        text : str
            What to say.
        voice : str
            Accent, or accent+variant.
        pitch : int
            0 to 100.
        rate : int
            Words a minute.

        Returns
        -------
        np.ndarray
            float32 of shape [samples], without silence around the speech.
        """
        return self.thread.submit(self._say, text, voice, pitch, rate).result()

    def _say(self, text, voice, pitch, rate):
        self.chunks.clear()
        text, characters, utf8 = text.encode(), 1, 1
        failed = (
            self.library.espeak_SetVoiceByName(voice.encode())
            or self.library.espeak_SetParameter(self.PITCH, pitch, 0)
            or self.library.espeak_SetParameter(self.RATE, rate, 0)
            or self.library.espeak_Synth(
                text,
                ctypes.c_size_t(len(text) + 1),
                0,
                characters,
                0,
                utf8,
                None,
                None,
            )
            or self.library.espeak_Synchronize()
        )
        pcm = np.frombuffer(b"".join(self.chunks), np.int16)
        loud = np.flatnonzero(np.abs(pcm.astype(int)) > 100)
        if failed or not len(loud):
            raise DataError(f"eSpeak NG cannot say {text!r} as {voice}")
        speech = pcm[loud[0] : loud[-1] + 1].astype(np.float32) / 32768
        return self.resample(torch.from_numpy(speech)).numpy()


def speak_clip(espeak, speaker, word, random):
    """One second: a word near its middle, at some level, above some noise.

    Arguments
    ---------
    espeak : Espeak
        Synthesizer.
    speaker : Speaker
        Voice, from which pitch and rate depart a little.
    word : str
        What to say.
    random : np.random.Generator
        Decides pitch, rate, place and levels.

    Returns
    -------
    np.ndarray of float64, [SAMPLE_RATE]
    """
    speech = espeak.say(
        word,
        f"{speaker.accent}+{speaker.variant}",
        int(speaker.pitch + random.integers(-4, 5)),
        int(speaker.rate + random.integers(-12, 13)),
    )[:SAMPLE_RATE]
    room = SAMPLE_RATE - len(speech)
    # At most a quarter of a second off the middle.
    off = min(room // 2, SAMPLE_RATE // 4)
    start = room // 2 + random.integers(-off, off + 1)
    clip = random.standard_normal(SAMPLE_RATE) * gain(random.uniform(-75, -45))
    level = gain(random.uniform(-20, -2)) / np.abs(speech).max()
    clip[start : start + len(speech)] += level * speech
    return clip


def _noises(espeak, seed):
    """Yield a name and a minute of each kind of background noise."""
    samples = NOISE_SECONDS * SAMPLE_RATE
    random = np.random.default_rng(name_number(seed, "noise"))
    white = random.standard_normal(samples)
    spectrum = np.fft.rfft(white)
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1.0))
    seconds = np.arange(samples) / SAMPLE_RATE
    hum = 0.02 * white + sum(
        np.sin(2 * np.pi * 50 * k * seconds) / k for k in range(1, 8)
    )
    babble = np.zeros(samples)
    # Accents without a variant: no speaker has such a voice.
    for i, accent in enumerate(ACCENTS):
        speech = espeak.say(BABBLE, accent, 30 + 6 * i, 140 + 8 * i)
        babble += np.roll(np.resize(speech, samples), random.integers(samples))
    noises = {"white_noise": white, "pink_noise": pink, "mains_hum": hum}
    for name, noise in {**noises, "babble": babble}.items():
        yield name, noise * 0.1 / noise.std()


def _save(path, audio):
    """Write 16-bit samples, clipped at full scale."""
    pcm = np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)
    soundfile.write(path, pcm, SAMPLE_RATE, "PCM_16")


def gain(decibels):
    """A level as a factor."""
    return 10 ** (decibels / 20)


def name_number(*parts):
    """A large integer that depends on nothing but the arguments, as text."""
    text = "/".join(map(str, parts))
    return int(hashlib.sha1(text.encode()).hexdigest(), 16)
