"""Training clips that nobody recorded.

Beside its keywords a data set has few words, and a network that trains its
unknown class on those takes any other word for a keyword. Two sources of more:

- spliced: the beginning of one recorded word and the end of another. Real
  voices, rooms and microphones, saying what is no word;
- spoken: a synthesizer says the words of ``words.txt`` in hundreds of voices.
  It says keywords too, so that a synthetic voice does not mean unknown.

And recordings are never as quiet as a microphone that is switched off, which
a network that has not heard it takes for anything: silences with next to
nothing in them.

Words of Speech Commands are not among those spoken, so whatever a protocol
keeps for validation or testing stays unheard.
"""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from speechbrain_bifsmn.data.audio import SAMPLE_RATE, DataError, read_audio
from speechbrain_bifsmn.data.manifest import Clip
from speechbrain_bifsmn.data.protocols import SILENCE, UNKNOWN
from speechbrain_bifsmn.data.synthesis import (
    ACCENTS,
    VARIANTS,
    Espeak,
    Speaker,
    gain,
    name_number,
    speak_clip,
)
from speechbrain_bifsmn.files import whole_file

# What can be generated, as settings call it.
GENERATED = (
    "spliced_unknowns",
    "spoken_unknowns",
    "spoken_keywords",
    "quiet_silences",
)
# Raised by whoever changes what the same settings give.
FORMAT = 2
# The beginning of one and the end of the other make one of them.
ALIKE = ({"no", "go"}, {"four", "forward"}, {"stop", "up"}, {"down", "no"})
# To find two clips in which a word stands out from the background.
ATTEMPTS = 100


def generate_clips(
    clips,
    keywords,
    folder,
    spliced_unknowns=0,
    spoken_unknowns=0,
    spoken_keywords=0,
    quiet_silences=0,
    sample_rate=SAMPLE_RATE,
):
    """Write generated clips of one second each, one file for each kind.

    The same arguments give the same clips. A file appears when it is whole,
    and is kept as long as what it was made from has the same names and lengths:
    whoever replaces recordings in place deletes it, and it is made again.

    Arguments
    ---------
    clips : list of Clip
        Training clips, to splice.
    keywords : sequence of str
        Labels to say as keywords; not said as unknown words.
    folder : str or Path
        Where the files are written.
    spliced_unknowns : int
        Clips spliced from two of ``clips`` with different words.
    spoken_unknowns : int
        Clips of words from ``words.txt``, said by a synthesizer.
    spoken_keywords : int
        Clips of keywords, said by a synthesizer.
    quiet_silences : int
        Silences at -80 to -20 dB of those in ``clips``, zeros, mains hum.
    sample_rate : int
        Hz.

    Returns
    -------
    list of Clip

    Raises
    ------
    DataError
        If a number is negative, there are no two words to splice, or no
        silences to make quieter, or the synthesizer is missing.
    """
    numbers = (
        *(spliced_unknowns, spoken_unknowns),
        *(spoken_keywords, quiet_silences),
    )
    if min(numbers) < 0:
        raise DataError(
            "--spliced_unknowns, --spoken_unknowns, --spoken_keywords and "
            f"--quiet_silences must not be negative: {numbers}"
        )
    if (spoken_unknowns or spoken_keywords) and sample_rate != SAMPLE_RATE:
        raise DataError(
            f"spoken clips have {SAMPLE_RATE} Hz, not {sample_rate}: pass "
            "--spoken_unknowns=0 --spoken_keywords=0"
        )
    folder = Path(folder)
    words = (files(__package__) / "words.txt").read_text("utf-8").split()
    words = [word for word in words if word not in keywords]
    keywords = list(keywords)
    speech = [clip for clip in clips if clip.label != SILENCE]
    silences = [clip for clip in clips if clip.label == SILENCE]
    generated = []
    for name, count, source, make in (
        ("spliced", spliced_unknowns, speech, _splices),
        ("spoken", spoken_unknowns, words, _sayings),
        ("spoken_keywords", spoken_keywords, keywords, _sayings),
        ("quiet", quiet_silences, silences, _quiet),
    ):
        if not count:
            continue
        if any(Path(clip.id).parent.name == name for clip in clips):
            raise DataError(
                f"generated clips are called {name}, and so is a word of "
                "yours: give its folder another name"
            )
        facts = [FORMAT, count, sample_rate, [str(x) for x in source]]
        facts = json.dumps(facts)
        digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
        path = (folder / f"{name}-{digest}.wav").resolve()
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            audio = make(source, count, sample_rate)
            audio = tqdm(audio, f"Making {name}", count, unit=" clips")
            _write(path, audio, sample_rate)
        labels = {"quiet": [SILENCE], "spoken_keywords": keywords}
        labels = labels.get(name, [UNKNOWN])
        generated += [
            Clip(
                f"{name}/{k}",
                str(path),
                labels[k % len(labels)],
                k * sample_rate,
                (k + 1) * sample_rate,
            )
            for k in range(count)
        ]
    return generated


def _write(path, audio, rate):
    """Clips of a second, end to end."""
    with (
        whole_file(path) as part,
        soundfile.SoundFile(part, "w", rate, 1, "PCM_16", format="WAV") as f,
    ):
        for clip in audio:
            f.write(clip)


def _sayings(words, count, _rate):
    """The words one after the other, each time in another voice."""
    espeak = Espeak(0)
    for k in range(count):
        word = words[k % len(words)]
        random = np.random.default_rng(name_number("say", word, k))
        speaker = Speaker(
            random.choice(ACCENTS),
            random.choice(VARIANTS),
            int(random.integers(10, 91)),
            int(random.integers(110, 211)),
        )
        yield speak_clip(espeak, speaker, word, random)


def _quiet(clips, count, rate):
    """Every fourth clip is zeros, every fourth mains hum, the rest noise."""
    if not clips:
        raise DataError(
            "there are no silences to make quieter: pass --quiet_silences=0"
        )
    seconds = np.arange(rate) / rate
    for k in range(count):
        random = np.random.default_rng(name_number("quiet", k))
        clip = clips[random.integers(len(clips))]
        audio = read_audio(clip.path, clip.start, clip.stop, rate)[:rate]
        audio = np.pad(audio, (0, rate - len(audio)))
        audio = audio * gain(random.uniform(-80, -20))
        if k % 4 == 0:
            audio = np.zeros(rate)
        if k % 4 == 1:
            hertz, phase = random.choice([50, 60]), random.uniform(0, 2 * np.pi)
            hum = np.sin(2 * np.pi * hertz * seconds + phase)
            audio = audio + hum * gain(random.uniform(-80, -20))
        yield audio


def _splices(clips, count, rate):
    """Halves of two clips with different words, drawn anew until they fit."""
    words = {}
    for clip in clips:
        words.setdefault(Path(clip.id).parent.name, []).append(clip)
    names = sorted(words)
    pairs = [
        (a, b) for a in names for b in names if a != b and {a, b} not in ALIKE
    ]
    if not pairs:
        raise DataError(
            f"splicing needs recordings of two different words, there are "
            f"those of {', '.join(names) or 'none'}: pass --spliced_unknowns=0"
        )
    for k in range(count):
        random = np.random.default_rng(name_number("splice", k))
        for _ in range(ATTEMPTS):
            pair = pairs[random.integers(len(pairs))]
            chosen = [words[n][random.integers(len(words[n]))] for n in pair]
            first, second = (
                read_audio(c.path, c.start, c.stop, rate) for c in chosen
            )
            spliced = _splice(first, second, rate, random)
            if spliced is not None:
                break
        else:
            raise DataError(
                f"{chosen[0].path}, {chosen[1].path} and {ATTEMPTS - 1} pairs "
                "before them have no word of 0.1 to 0.9 seconds to splice: "
                "pass --spliced_unknowns=0"
            )
        yield spliced


def _splice(first, second, rate, random):
    """A second of audio, or None where no word stands out."""
    a, b = _speech(first, rate), _speech(second, rate)
    lengths = np.array([a[1] - a[0], b[1] - b[0]])
    if (lengths < 0.1 * rate).any() or (lengths > 0.9 * rate).any():
        return None
    fade = rate // 100
    join = a[0] + int(lengths[0] * random.uniform(0.3, 0.65))
    rest = b[1] - int(lengths[1] * random.uniform(0.35, 0.7))
    start, end = first[:join], second[rest:]
    words = first[a[0] : a[1]], second[b[0] : b[1]]
    loudness = [np.sqrt(np.mean(word**2)) for word in words]
    end = end * np.clip(loudness[0] / loudness[1], 0.2, 5)
    ramp = np.linspace(0, 1, fade)
    mixed = start[-fade:] * (1 - ramp) + end[:fade] * ramp
    audio = np.concatenate([start[:-fade], mixed, end[fade:]])
    # What is too much goes from both sides, as long as it is not speech.
    stop = len(audio) - (len(second) - b[1])
    cut = min(max((len(audio) - rate) // 2, stop - rate, 0), a[0])
    audio = audio[cut : cut + rate]
    return np.pad(audio, (0, rate - len(audio)))


def _speech(audio, rate):
    """First and last sample of what is loud, to 10 ms."""
    hop = rate // 100
    frames = audio[: len(audio) // hop * hop].reshape(-1, hop)
    if len(frames) < 5:
        return 0, 0
    level = np.sqrt((frames**2).mean(1))
    level = np.convolve(level, np.full(5, 0.2), "same")
    loud = np.flatnonzero(level > 0.1 * level.max())
    return (loud[0] * hop, (loud[-1] + 1) * hop) if len(loud) else (0, 0)
