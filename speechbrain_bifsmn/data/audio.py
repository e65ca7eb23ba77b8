"""Reading clips: 16-bit samples at one rate, or one line that says why not.

Every part of the package takes its samples from here, so that training, the
command line and the C engine hear the same numbers.
"""

import os
import re
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16000
CUT = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
# Who writes a WAV to a pipe does not know its length, and gives one as great.
UNKNOWN_LENGTH = 0x7FFF0000
# Of floats, whose full scale is 1; above it they were clipped or overdriven.
LOUDEST = 100


class DataError(ValueError):
    """The data are not what was asked for; the message says what to do."""


def check_name(path):
    """Refuse names that a manifest cannot hold.

    Arguments
    ---------
    path : str or Path

    Raises
    ------
    DataError
        If the name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        name = os.fsencode(path).decode(errors="backslashreplace")
        raise DataError(f"{name}: its name is not UTF-8: rename it") from None


def check_audio(path, sample_rate=SAMPLE_RATE):
    """Look at the header of a sound file without reading its samples.

    Arguments
    ---------
    path : str or Path
        A file in any format of libsndfile.
    sample_rate : int
        The rate it has to have, in Hz.

    Returns
    -------
    int
        Its length in samples.

    Raises
    ------
    DataError
        If it is missing, unreadable, empty, a WAV cut off, a pipe, not mono or
        at another rate.
    """
    check_name(path)
    if Path(path).is_fifo():
        raise DataError(
            f"{path}: a pipe, which cannot be read twice: save the recording, "
            "or pipe samples without a header to `bifsmn listen`"
        )
    try:
        info = soundfile.info(str(path), verbose=True)
    except TypeError:
        # What soundfile makes of a name in .raw.
        raise DataError(
            f"{path}: samples without a header are for `bifsmn listen`; "
            "convert them to a WAV"
        ) from None
    except soundfile.LibsndfileError as error:
        if not Path(path).exists():
            raise DataError(f"{path}: there is no such file") from None
        raise DataError(
            f"{path}: not a readable sound file ({error.error_string})"
        ) from None
    if (info.samplerate, info.channels) != (sample_rate, 1):
        raise DataError(
            f"{path}: {info.samplerate} Hz with {info.channels} channel(s), "
            f"but {sample_rate} Hz mono is needed: convert it with "
            f"`ffmpeg -i IN -ar {sample_rate} -ac 1 OUT.wav`"
        )
    if info.frames == 0:
        raise DataError(f"{path}: no samples in it")
    # libsndfile reads what there is of a WAV and leaves a note.
    cut = CUT.search(info.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < UNKNOWN_LENGTH:
        raise DataError(
            f"{path}: cut off after {cut[2]} of its {cut[1]} bytes of samples"
        )
    return info.frames


def read_pcm(path, start=0, stop=None, sample_rate=SAMPLE_RATE):
    """Read a sound file, or a part of it, as 16-bit samples.

    Arguments
    ---------
    path : str or Path
        A mono file in any format of libsndfile.
    start : int
        First sample.
    stop : int, optional
        One past the last sample; the end of the file when not given.
    sample_rate : int
        The rate it has to have, in Hz.

    Returns
    -------
    np.ndarray
        int16 of shape [samples].

    Raises
    ------
    DataError
        If it is missing, unreadable, empty, a WAV cut off, not mono or at
        another rate, or has no such samples, or some that are no numbers or
        far from ±1.
    """
    frames = check_audio(path, sample_rate)
    stop = frames if stop is None else stop
    if not 0 <= start < stop <= frames:
        raise DataError(
            f"{path}: samples {start} to {stop} were asked for, it has {frames}"
        )
    try:
        # Through float, since libsndfile does not scale float files to int16.
        audio, _ = soundfile.read(
            str(path), stop - start, start, dtype="float32"
        )
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"{path}: not a readable sound file ({error.error_string})"
        ) from None
    except MemoryError:
        raise DataError(
            f"{path}: says that it has {frames:,} samples, more than there is "
            "memory for: it is damaged, or has to be cut"
        ) from None
    if len(audio) < stop - start:
        raise DataError(f"{path}: ends after sample {start + len(audio)}")
    if not np.isfinite(audio).all():
        raise DataError(f"{path}: has samples that are no numbers")
    if np.abs(audio).max() > LOUDEST:
        raise DataError(
            f"{path}: its floats are not within ±1: divide them by 32768, if "
            "they were 16-bit samples"
        )
    return np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)


def read_audio(path, start=0, stop=None, sample_rate=SAMPLE_RATE):
    """Read a sound file, or a part of it, as floats in [-1, 1).

    Arguments
    ---------
    path : str or Path
        A mono file in any format of libsndfile.
    start : int
        First sample.
    stop : int, optional
        One past the last sample; the end of the file when not given.
    sample_rate : int
        The rate it has to have, in Hz.

    Returns
    -------
    np.ndarray
        float32 of shape [samples]: exactly ``read_pcm`` / 32768.

    Raises
    ------
    DataError
        As ``read_pcm`` does.
    """
    return read_pcm(path, start, stop, sample_rate) / np.float32(32768)


def read_window(row, samples, sample_rate=SAMPLE_RATE):
    """Read a manifest row as a window of fixed length.

    Arguments
    ---------
    row : dict
        With ``wav``, ``start`` and ``stop`` (samples).
    samples : int
        Length; shorter clips get zeros at the end, longer ones are cut.
    sample_rate : int
        Hz that the file must have.

    Returns
    -------
    np.ndarray
        int16 of shape [samples].

    Raises
    ------
    DataError
        As ``read_pcm`` does.
    """
    start, stop = int(row["start"]), int(row["stop"])
    pcm = read_pcm(row["wav"], start, stop, sample_rate)[:samples]
    return np.pad(pcm, (0, samples - len(pcm)))
