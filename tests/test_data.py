import contextlib
import csv
import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import runpy
import signal
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_bifsmn.data import download, prepare
from speechbrain_bifsmn.data.audio import DataError, read_audio, read_pcm
from speechbrain_bifsmn.data.augment import ClipAugment
from speechbrain_bifsmn.data.generated import _splice, generate_clips
from speechbrain_bifsmn.data.manifest import Clip
from speechbrain_bifsmn.data.prepare import (
    NOISE,
    prepare_speech_commands,
    read_seal,
)
from speechbrain_bifsmn.data.protocols import (
    PROTOCOLS,
    SILENCE,
    UNKNOWN,
    speaker_of,
    which_split,
)
from speechbrain_bifsmn.data.synthesis import (
    Espeak,
    make_speakers,
    synthesize,
)

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "valid", "test")
V1_WORDS = PROTOCOLS["V1-30"].keywords
V2_WORDS = PROTOCOLS["V2-35"].keywords


def speakers(train=4, valid=1, test=1):
    """Speaker names that the official rule puts where they are wanted."""
    wanted = {"train": train, "valid": valid, "test": test}
    names = []
    for i in range(1000):
        name = f"{i:08x}"
        if wanted[which_split(name)]:
            wanted[which_split(name)] -= 1
            names.append(name)
    return names


@functools.cache
def silent_wav(samples, rate, channels):
    file = io.BytesIO()
    zeros = np.zeros((samples, channels), np.int16)
    soundfile.write(file, zeros, rate, format="WAV")
    return file.getvalue()


def write(path, samples=160, rate=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(silent_wav(samples, rate, channels))


def make_archive(root, words, names=None, noise_seconds=12):
    for word in words:
        for name in names or speakers():
            write(root / word / f"{name}_nohash_0.wav")
    for noise in ("hum", "rain"):
        write(root / NOISE / f"{noise}.wav", noise_seconds * 16000)
    (root / NOISE / "README.md").write_text("not a recording")
    return root


def make_official_test(folder, labels):
    for label in (*labels, UNKNOWN, SILENCE):
        for i in range(2):
            write(folder / label / f"{i}.wav", 16000)
    return folder


def read(save):
    rows = {}
    for split in SPLITS:
        with open(Path(save) / f"{split}.csv", newline="") as file:
            rows[split] = list(csv.DictReader(file))
    return rows


def words_of(rows, label):
    return {Path(r["wav"]).parent.name for r in rows if r["label"] == label}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_on_the_official_layout(tmp_path, name):
    protocol = PROTOCOLS[name]
    words = V1_WORDS if protocol.version == "v0.01" else V2_WORDS
    root = make_archive(tmp_path / f"speech_commands_{protocol.version}", words)
    # The archive's lists win over the rule: here they swap two parts.
    names = {which_split(x): f"{x}_nohash_0.wav" for x in speakers()}
    for file, split in {"validation": "test", "testing": "valid"}.items():
        lines = [f"{word}/{names[split]}\n" for word in words]
        (root / f"{file}_list.txt").write_text("".join(lines))
    official = make_official_test(
        tmp_path / f"speech_commands_test_set_{protocol.version}",
        PROTOCOLS["V1-12"].keywords,
    )
    prepare_speech_commands(tmp_path, tmp_path / "save", name)

    labels = (tmp_path / "save/labels.txt").read_text().split()
    assert labels == protocol.labels
    assert len(labels) == int(name.strip("w").split("-")[1])
    rows = read(tmp_path / "save")
    for split in SPLITS:
        assert {r["label"] for r in rows[split]} == set(labels)
        assert len({r["ID"] for r in rows[split]}) == len(rows[split])
    assert Path(rows["test"][0]["wav"]).is_relative_to(
        official if protocol.official_test else root
    )
    if protocol.official_test:
        assert len(rows["test"]) == 2 * len(labels)
    else:
        assert rows["test"][0]["wav"].endswith(names["valid"])
    assert rows["train"][0]["stop"] == "160"
    assert rows["train"][0]["duration"] == "0.01"
    for row in rows["train"]:
        assert row["label"] in (UNKNOWN, Path(row["wav"]).parent.name, SILENCE)


def test_gsc10_is_validated_on_words_it_never_trains_on(tmp_path):
    make_archive(tmp_path / "speech_commands", V2_WORDS)
    prepare_speech_commands(tmp_path, tmp_path / "few")
    prepare_speech_commands(tmp_path, tmp_path / "all", unknown_percentage=80)
    few, every = read(tmp_path / "few"), read(tmp_path / "all")
    unknown = [r for r in few["train"] if r["label"] == UNKNOWN]
    assert len(unknown) == 4  # 10 % of 32 keyword clips, 4, 4
    assert words_of(every["train"], UNKNOWN) == {"bed", "cat", "happy"}
    unknown = [r for r in every["train"] if r["label"] == UNKNOWN]
    assert len(unknown) == 12
    silence = [r for r in every["train"] if r["label"] == SILENCE]
    assert len(silence) == 5  # 10 % of 49
    trained = {"bed", "cat", "happy", "on", "off"}
    for rows in few, every:
        assert not words_of(rows["valid"], UNKNOWN) & trained
        unknown = [r for r in rows["valid"] if r["label"] == UNKNOWN]
        assert len(unknown) == 8  # of 110: no more than keywords
        assert not words_of(rows["test"], UNKNOWN) & {"on", "off"}
    sealed = json.loads((tmp_path / "few/prepare.json").read_text())
    assert sealed["asked"]["test"] == "own draw"


def test_own_words(tmp_path):
    root = make_archive(tmp_path, ("lamp", "off", "other"))
    prepare_speech_commands(
        root, tmp_path / "closed", "words", words=["off", "lamp"]
    )
    assert (tmp_path / "closed/labels.txt").read_text() == "off\nlamp\n"
    words = [SILENCE, "off", UNKNOWN, "lamp"]
    prepare_speech_commands(root, tmp_path / "open", "words", words=words)
    labels = (tmp_path / "open/labels.txt").read_text().split()
    assert labels == ["off", "lamp", UNKNOWN, SILENCE]
    assert words_of(read(tmp_path / "open")["train"], UNKNOWN) == {"other"}


def test_who_says_who_is_where_is_heeded(tmp_path, caplog):
    """Of three speakers the hash rule may put none where one is needed."""
    root = tmp_path / "own"
    for word in "lamp", "bulb":
        for name in "tom", "eva", "max":
            write(root / word / f"{name}_nohash_0.wav")
    for name, file in ("eva", "validation"), ("max", "testing"):
        lines = [f"{word}/{name}_nohash_0.wav\n" for word in ("lamp", "bulb")]
        (root / f"{file}_list.txt").write_text("".join(lines))
    prepare_speech_commands(
        root, tmp_path / "save", "words", words=["lamp", "bulb"], samples=100
    )
    for split, name in ("train", "tom"), ("valid", "eva"), ("test", "max"):
        rows = read(tmp_path / "save")[split]
        assert {Path(row["wav"]).name for row in rows} == {
            f"{name}_nohash_0.wav"
        }
    assert "5 other clips are longer than 100 samples" in caplog.text


def test_directory_order_changes_nothing(tmp_path, monkeypatch):
    root = make_archive(tmp_path / "data", V2_WORDS)
    prepare_speech_commands(root, tmp_path / "one", "V2-12")
    scandir, iterdir = os.scandir, Path.iterdir

    @contextlib.contextmanager
    def backwards(path):
        with scandir(path) as entries:
            yield reversed(list(entries))

    monkeypatch.setattr(os, "scandir", backwards)
    monkeypatch.setattr(Path, "iterdir", lambda p: reversed([*iterdir(p)]))
    prepare_speech_commands(root, tmp_path / "two", "V2-12")
    monkeypatch.undo()
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_speakers_and_seconds_of_noise_stay_in_one_split(tmp_path):
    root = make_archive(tmp_path / "data", V2_WORDS, speakers(20, 4, 4))
    prepare_speech_commands(root, tmp_path / "save", "V2-12")
    rows = read(tmp_path / "save")
    voices, seconds = {}, {}
    for split in SPLITS:
        for row in rows[split]:
            start, stop = int(row["start"]), int(row["stop"])
            if row["label"] != SILENCE:
                voice = Path(row["wav"]).name.split("_nohash_")[0]
                voices.setdefault(voice, set()).add(split)
                continue
            assert stop - start == 16000
            for second in range(start // 16000, (stop - 1) // 16000 + 1):
                seconds.setdefault((row["wav"], second), set()).add(split)
    assert {len(x) for x in voices.values()} == {1}
    assert {len(x) for x in seconds.values()} == {1}
    assert set().union(*seconds.values()) == set(SPLITS)


def test_all_clips_of_a_speaker_are_in_one_split(tmp_path):
    names = speakers(6, 3, 3)
    for word, name, k in itertools.product(("yes", "no"), names, range(3)):
        write(tmp_path / "data" / word / f"{name}_nohash_{k}.wav")
    save = tmp_path / "save"
    prepare_speech_commands(tmp_path / "data", save, **own("yes", "no"))
    found = {}
    for split, rows in read(save).items():
        for row in rows:
            found.setdefault(Path(row["wav"]).name[:8], set()).add(split)
    assert found == {name: {which_split(name)} for name in names}


def test_the_split_rule_is_the_published_one():
    """By hand: SHA-1 of the speaker, modulo 2^27, of 2^27 - 1, in percent."""
    for i in range(200):
        name = f"{i:08x}"
        digest = int(hashlib.sha1(name.encode()).hexdigest(), 16)
        percent = 100 * (digest % 2**27) / (2**27 - 1)
        split = ("valid", "test")[percent >= 10] if percent < 20 else "train"
        assert which_split(f"{name}_nohash_{i % 5}.wav") == split
    assert speaker_of("yes/0a7c2a8d_nohash_3") == "0a7c2a8d"
    # Nobody said what was generated: each clip is one of its own.
    assert speaker_of("spliced/3") == "spliced/3"


def test_the_official_test_set_needs_the_official_shares(tmp_path):
    make_archive(tmp_path / "data", V2_WORDS, speakers(1))
    labels = PROTOCOLS["V2-12"].keywords
    make_official_test(tmp_path / "speech_commands_test_set_v0.02", labels)
    folders = tmp_path / "data", tmp_path / "save"
    with pytest.raises(DataError, match="belongs to 10 and 10"):
        prepare_speech_commands(*folders, "V2-12", testing_percentage=20)
    assert not (tmp_path / "save").exists()


def remove(*paths):
    def change(root):
        for path in paths:
            for file in sorted(root.glob(path), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()

    return change


BAD = "yes/00000000_nohash_9.wav"


def own(*words):
    """Arguments of an own task."""
    return {"protocol": "words", "words": list(words)}


@pytest.mark.parametrize(
    "change, arguments, message",
    [
        (None, {"data_folder": "nowhere"}, "nowhere: there is no such folder"),
        (
            None,
            {"data_folder": "data/yes"},
            "none of GSC-10's words .*or words",
        ),
        (None, own("lamp", "bulb"), "none of the word list's words"),
        (None, {"protocol": "V3-12"}, "no protocol 'V3-12'; there are V1-12"),
        (None, {"protocol": "V1-12"}, "is v0.02 .* defined on v0.01"),
        (None, own("yes"), "at least two different labels"),
        (None, own("yes", "yes", "no"), "none of them twice"),
        (None, own("yes", "lamp"), "folders that are not .*: lamp"),
        (None, {"unknown_percentage": 95}, "stay below 100"),
        (None, {"testing_percentage": -1}, "neither may be negative"),
        (None, {"testing_percentage": math.nan}, "neither may be negative"),
        (
            None,
            {"unknown_percentage": 0},
            "train split has 9 .*10 labels.*: raise --unknown_percentage$",
        ),
        (
            None,
            {"validation_percentage": 0},
            "valid split has 0 of.*: raise .*; and have more speakers, or say",
        ),
        (
            lambda root: (root / "testing_list.txt").write_text("yes/a.wav"),
            {},
            "has testing_list.txt, but of .* both, or none",
        ),
        (None, {"test_folder": "nowhere"}, "nowhere: there is no such folder"),
        (None, {"test_folder": "data"}, "not the official test archive"),
        (None, {"test_folder": "data", "protocol": "V2-35"}, "leave --test_"),
        (remove("happy/*", "happy"), {}, "not there: happy; .* --words"),
        (remove("go/*"), {}, "go: no training clips in it"),
        (remove(f"{NOISE}/*", NOISE), {}, "silence needs noise recordings"),
        (lambda root: write(root / BAD, rate=8000), {}, f"{BAD}: 8000 Hz"),
        (lambda root: write(root / BAD, channels=2), {}, "2 channel.*ffmpeg"),
        (lambda root: write(root / BAD, samples=0), {}, f"{BAD}: no samples"),
        (
            lambda root: [write(root / f"yes/a.{x}") for x in ("wav", "WAV")],
            {},
            "a.WAV and a.wav would be the same clip",
        ),
        (
            lambda root: write(root / os.fsdecode(b"yes/\xe9.wav")),
            {},
            r"yes/\\xe9.wav: its name is not UTF-8",
        ),
        (
            lambda root: (root / BAD).write_bytes(b"RIFF"),
            {},
            f"{BAD}: not a readable sound file",
        ),
    ],
)
def test_errors_name_the_thing(
    tmp_path, monkeypatch, change, arguments, message
):
    monkeypatch.chdir(tmp_path)
    make_archive(tmp_path / "data", V2_WORDS, speakers(2))
    if change:
        change(tmp_path / "data")
    with pytest.raises(DataError, match=message) as error:
        prepare_speech_commands(
            **{"data_folder": "data", "save_folder": "save", **arguments}
        )
    assert "\n" not in str(error.value)
    assert not Path("save").exists()


def test_two_releases_need_a_choice(tmp_path):
    make_archive(tmp_path / "speech_commands_a", ("yes", "no"))
    make_archive(tmp_path / "speech_commands_b", ("yes", "no"))
    arguments = {"save_folder": tmp_path / "s", **own("yes", "no")}
    with pytest.raises(DataError, match="_a and .*_b: say which"):
        prepare_speech_commands(tmp_path, **arguments)
    (tmp_path / "speech_commands_a").rename(tmp_path / "speech_commands_v0.02")
    prepare_speech_commands(tmp_path, **arguments)


def test_an_archive_of_the_other_version_is_not_taken(tmp_path, monkeypatch):
    make_archive(tmp_path / "speech_commands_v0.01", V1_WORDS, speakers(2))
    arguments = {"save_folder": tmp_path / "s", "protocol": "V2-12"}
    with pytest.raises(DataError, match="has .*v0.01, but V2-12 is of .*v0.02"):
        prepare_speech_commands(tmp_path, **arguments)

    def fetch(name, folder):
        raise DataError(f"fetching {name}")

    place = "speechbrain_bifsmn.data.prepare.download_archive"
    monkeypatch.setattr(place, fetch)
    with pytest.raises(DataError, match="fetching .*v0.02"):
        prepare_speech_commands(tmp_path, download=True, **arguments)


def test_interruption_leaves_nothing_half_written(tmp_path, monkeypatch):
    root = make_archive(tmp_path / "data", ("yes", "no"))
    save = tmp_path / "save"
    calls = []

    def interrupted(path, rate):
        calls.append(path)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return 160

    monkeypatch.setattr(prepare, "check_audio", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_speech_commands(root, save, "words", words=["yes", "no"])
    assert not save.exists()
    monkeypatch.undo()

    prepare_speech_commands(root, save, "words", words=["yes", "no"])
    before = (save / "train.csv").read_bytes()
    replace = os.replace

    def full_disk(source, target):
        if Path(target).name == "valid.csv":
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        prepare_speech_commands(root, save, "words", words=["no", "yes"])
    monkeypatch.undo()
    assert not (save / "prepare.json").exists()
    prepare_speech_commands(root, save, "words", words=["yes", "no"])
    assert (save / "train.csv").read_bytes() == before


def test_prepares_again_only_when_something_changed(tmp_path, monkeypatch):
    root = make_archive(tmp_path / "data", ("yes", "no"))
    save = tmp_path / "save"
    drawn = []
    measure = prepare._measure
    monkeypatch.setattr(
        prepare, "_measure", lambda *a: drawn.append(1) or measure(*a)
    )

    def again(**arguments):
        before = len(drawn)
        prepare_speech_commands(
            root, save, "words", words=["yes", "no"], **arguments
        )
        return len(drawn) > before

    assert not again(skip_prep=True) and not save.exists()
    assert again() and not again()
    assert again(validation_percentage=12)
    (save / "test.csv").write_text("edited")
    assert again(validation_percentage=12)
    write(root / "yes" / f"{speakers()[0]}_nohash_1.wav")
    assert again(validation_percentage=12)
    assert not again(validation_percentage=12)


def test_prepares_again_when_generated_clips_are_gone(tmp_path):
    root = make_archive(tmp_path / "data", ("yes", "no"))
    save, words = tmp_path / "save", ["yes", "no", SILENCE]
    for _ in range(2):
        prepare_speech_commands(
            root, save, "words", words=words, quiet_silences=4
        )
        (made,) = save.glob("quiet-*.wav")
        assert soundfile.info(made).frames == 4 * 16000
        made.unlink()


def test_what_a_run_trains_on_is_the_same_wherever_it_lies(tmp_path):
    seals = []
    for place in "here", "there":
        root = make_archive(tmp_path / place / "data", ("yes", "no"))
        save = tmp_path / place / "save"
        prepare_speech_commands(root, save, "words", words=["yes", "no"])
        seals.append(read_seal(save)["clips"])
    assert seals[0] == seals[1]
    assert set(seals[0]) == {*SPLITS, "noise"}


@pytest.mark.parametrize("words", [["yes", "no"], ["yes", "no", SILENCE]])
def test_there_is_noise_to_train_with_silence_class_or_not(tmp_path, words):
    root = make_archive(tmp_path / "data", ("yes", "no"))
    save = tmp_path / "save"
    prepare_speech_commands(root, save, "words", words=words)
    noise = list(csv.DictReader((save / "noise.csv").open()))
    silences = [r for r in read(save)["train"] if r["label"] == SILENCE]
    assert noise and (silences == noise if SILENCE in words else not silences)
    # The last seconds of a recording are others' to test and validate with.
    last = max(int(row["stop"]) for row in noise)
    assert last <= soundfile.info(root / NOISE / "hum.wav").frames - 2 * 16000


def test_silences_are_as_long_as_the_window(tmp_path):
    root = make_archive(tmp_path / "data", ("yes", "no"))
    words = ["yes", "no", SILENCE]
    prepare_speech_commands(
        root, tmp_path / "save", "words", words=words, samples=30000
    )
    for rows in read(tmp_path / "save").values():
        cuts = [row for row in rows if row["label"] == SILENCE]
        assert {int(r["stop"]) - int(r["start"]) for r in cuts} == {32000}
    for row in cuts:
        assert int(row["stop"]) <= soundfile.info(row["wav"]).frames
    with pytest.raises(DataError, match="at least 15 s"):
        prepare_speech_commands(
            root, tmp_path / "long", "words", words=words, samples=80000
        )


def test_what_no_class_wants_is_not_claimed(tmp_path, caplog):
    root = make_archive(tmp_path / "data", ("yes", "no"))
    asked = {"spliced_unknowns": 5, "quiet_silences": 5}
    prepare_speech_commands(
        root, tmp_path / "save", "words", words=["yes", "no", SILENCE], **asked
    )
    sealed = prepare.read_seal(tmp_path / "save")["asked"]
    assert [sealed[key] for key in asked] == [0, 5]
    assert "the word list has no class for spliced_unknowns" in caplog.text


def test_words_without_training_clips_are_told_what_they_have(tmp_path):
    for k in range(3):
        write(tmp_path / "yes" / f"{speakers(1, 0, 0)[0]}_nohash_{k}.wav")
        write(tmp_path / "no" / f"{speakers(0, 1, 0)[0]}_nohash_{k}.wav")
    with pytest.raises(DataError, match="no: no training clips in it, 3 to"):
        prepare_speech_commands(
            tmp_path, tmp_path / "save", "words", words=["yes", "no"]
        )


def pack(path, names, link=None):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_download_checks_what_it_got(tmp_path, monkeypatch):
    name = "speech_commands_v0.02"
    served, data = tmp_path / "served", tmp_path / "data"
    served.mkdir()
    digest = pack(served / f"{name}.tar.gz", ["./yes/a.wav", "LICENSE"])
    monkeypatch.setattr(download, "URL", served.as_uri())
    with pytest.raises(DataError, match="SHA-256 differs.*; try again"):
        download.download(name, data)
    assert not list(data.iterdir())
    monkeypatch.setitem(download.ARCHIVES, name, digest)
    assert download.download(name, data) == data / name
    assert [p.name for p in data.iterdir()] == [name]
    assert (data / name / "yes/a.wav").is_file()
    # What is there is not fetched again, and what is not says so.
    (served / f"{name}.tar.gz").unlink()
    download.download(name, data)
    with pytest.raises(DataError, match="not reachable .*put it into"):
        download.download(name, tmp_path / "other")
    (tmp_path / f"other/{name}.tar.gz").write_bytes(b"half")
    with pytest.raises(DataError, match="not the published archive"):
        download.download(name, tmp_path / "other")


def test_prepare_fetches_only_what_is_missing(tmp_path, monkeypatch):
    def fetch(name, folder):
        assert name == "speech_commands_test_set_v0.02"
        return make_official_test(folder / name, PROTOCOLS["V2-12"].keywords)

    monkeypatch.setattr(prepare, "download_archive", fetch)
    make_archive(tmp_path / "speech_commands_v0.02", V2_WORDS)
    prepare_speech_commands(tmp_path, tmp_path / "save", download=True)
    assert len(read(tmp_path / "save")["test"]) == 20


@pytest.mark.parametrize(
    "name, link", [("../evil", None), ("a/../../evil", None), ("evil", "/etc")]
)
def test_unsafe_archives_are_refused(tmp_path, name, link):
    pack(tmp_path / "a.tar.gz", ["fine"])
    pack(tmp_path / "b.tar.gz", [name], link)
    (tmp_path / "in").mkdir()
    download.unpack(tmp_path / "a.tar.gz", tmp_path / "in/fine")
    with pytest.raises(DataError, match="b.tar.gz: cannot unpack"):
        download.unpack(tmp_path / "b.tar.gz", tmp_path / "in/evil")
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["fine"]
    assert not (tmp_path / "evil").exists()


def test_audio_is_the_same_samples_everywhere(tmp_path):
    pcm = np.array([0, 1, -1, 32767, -32768, 123], np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, 16000)
    soundfile.write(tmp_path / "b.wav", pcm / 32768, 16000, "FLOAT")
    for name in "a.wav", "b.wav":
        np.testing.assert_array_equal(read_pcm(tmp_path / name), pcm)
        audio = read_audio(tmp_path / name, 1, 4)
        assert audio.dtype == np.float32
        np.testing.assert_array_equal(audio * 32768, pcm[1:4])
    with pytest.raises(DataError, match="4 to 9 were asked for, it has 6"):
        read_pcm(tmp_path / "a.wav", 4, 9)
    with pytest.raises(DataError, match="there is no such file"):
        read_pcm(tmp_path / "c.wav")
    with pytest.raises(DataError, match="but 8000 Hz mono is needed"):
        read_pcm(tmp_path / "a.wav", sample_rate=8000)


def test_what_is_no_whole_recording_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    write(path, 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    with pytest.raises(DataError, match="cut off after 4956 of its 32000"):
        read_pcm(path)
    # Length unknown, as of what was written to a pipe.
    for length in b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f", b"\x00\x00\x00\x80":
        path.write_bytes(whole[:40] + length + whole[44:])
        assert len(read_pcm(path)) == 16000
    samples = np.zeros(16000, np.float32)
    samples[7] = np.nan
    soundfile.write(path, samples, 16000, "FLOAT")
    with pytest.raises(DataError, match="no numbers"):
        read_pcm(path)
    samples[7] = 3000
    soundfile.write(path, samples, 16000, "FLOAT")
    with pytest.raises(DataError, match="divide them by 32768"):
        read_pcm(path)


def test_synthetic_speech(tmp_path):
    pytest.importorskip("espeakng_loader")
    arguments = (["yes", "no"], ["house"], 10, 10)
    synthesize(tmp_path / "a", *arguments)
    synthesize(tmp_path / "b", *arguments)
    files = sorted(p for p in (tmp_path / "a").glob("**/*") if p.is_file())
    for path in files:
        twin = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == twin.read_bytes()
    assert len(files) == 3 * 10 + 4 + 1
    clip = read_pcm(tmp_path / "a/yes" / os.listdir(tmp_path / "a/yes")[0])
    assert len(clip) == 16000 and np.abs(clip.astype(int)).max() > 1000
    synthesize(tmp_path / "b", *arguments)
    with pytest.raises(DataError, match="is there already"):
        synthesize(tmp_path / "b", *arguments, seed=1)

    words = ["yes", "no", UNKNOWN, SILENCE]
    prepare_speech_commands(
        tmp_path / "a", tmp_path / "save", "words", words=words
    )
    rows = read(tmp_path / "save")
    voices = {speaker.id: speaker for speaker in make_speakers(10)}
    pairs = {}
    for split in SPLITS:
        for row in rows[split]:
            if row["label"] != SILENCE:
                voice = voices[Path(row["wav"]).name.split("_nohash_")[0]]
                pair = (voice.accent, voice.variant)
                pairs.setdefault(pair, set()).add(split)
    assert len(pairs) == 10 and {len(x) for x in pairs.values()} == {1}


def test_nothing_that_is_said_is_lost_to_a_signal():
    pytest.importorskip("espeakng_loader")

    def interrupt(*_):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for milliseconds in range(1, 6):
            espeak = Espeak(0)
            espeak.say("first", "en-us", 50, 150)
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
            with pytest.raises(InterruptedError):
                for _ in range(200):
                    espeak.say("interruption", "en-us", 50, 150)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_synthesis_without_its_parts(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="from 3 to"):
        synthesize(tmp_path / "a", ["yes"], speakers=2)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DataError, match=r"speechbrain_bifsmn\[demo\]"):
        synthesize(tmp_path / "a", ["yes"])
    assert not list(tmp_path.iterdir())


def recorded(folder, words, clips=3):
    """Words of one tone each, with silence around them."""
    made = []
    for i, word in enumerate(words):
        (folder / word).mkdir(parents=True)
        for k in range(clips):
            t = np.arange(16000) / 16000
            tone = np.sin(2 * np.pi * (300 + 900 * i + k) * t)
            audio = 0.3 * tone * (np.abs(t - 0.5) < 0.25)
            path = folder / word / f"{k}.wav"
            soundfile.write(path, audio, 16000, "PCM_16")
            made.append(Clip(f"{word}/{k}", str(path), word, 0, 16000))
    return made


def test_spliced_words_have_one_word_s_beginning_and_another_s_end(tmp_path):
    clips = recorded(tmp_path / "data", ["yes", "no", "go"])
    arguments = clips, ["yes", "no", "go"]
    made = generate_clips(*arguments, tmp_path / "a", 12)
    again = generate_clips(*arguments, tmp_path / "b", 12)
    for one, two in zip(made, again, strict=True):
        assert one.label == UNKNOWN and one.stop - one.start == 16000
        audio = read_audio(one.path, one.start, one.stop)
        np.testing.assert_array_equal(
            audio, read_audio(two.path, two.start, two.stop)
        )
        sound = np.flatnonzero(np.abs(audio) > 0.05)

        def word(part):
            spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 16000))
            return (spectrum.argmax() - 300) // 900

        pair = [
            ["yes", "no", "go"][word(part)]
            for part in (audio[sound[0] :][:800], audio[: sound[-1]][-800:])
        ]
        # Half of "no" before half of "go" would be "go".
        assert "yes" in pair and len(set(pair)) == 2
    assert len({m.id for m in made} | {c.id for c in clips}) == 12 + 9
    with pytest.raises(DataError, match="two different words.*those of yes"):
        generate_clips(clips[:3], ["yes"], tmp_path / "c", 5)
    with pytest.raises(DataError, match="have no word of 0.1 to 0.9 s"):
        write(tmp_path / "silent.wav", 16000)
        silent = [
            Clip(f"{word}/0", str(tmp_path / "silent.wav"), word, 0, 16000)
            for word in ("yes", "no")
        ]
        generate_clips(silent, ["yes", "no"], tmp_path / "c", 5)
    with pytest.raises(DataError, match="and so is a word of yours"):
        named = [replace(clips[0], id="spliced/0"), *clips]
        generate_clips(named, ["yes", "no", "go"], tmp_path / "c", 5)
    assert not list((tmp_path / "c").glob("*"))


def test_a_splice_is_cut_where_nothing_is_said():
    first, second = np.zeros(16000), np.zeros(16000)
    first[6400:14400] = second[1600:15200] = 0.1
    # The very end of the word stands out.
    second[15199] = 0.9
    for seed in range(20):
        random = np.random.default_rng(seed)
        audio = _splice(first, second, 16000, random)
        assert len(audio) == 16000
        assert np.abs(audio).max() > 0.8


def test_a_click_is_no_word_to_splice():
    click, word = np.full(80, 0.5), np.full(16000, 0.1)
    random = np.random.default_rng(0)
    assert _splice(click, word, 16000, random) is None
    assert _splice(word, click, 16000, random) is None


def test_spoken_words_are_none_of_speech_commands(tmp_path):
    pytest.importorskip("espeakng_loader")
    words = (ROOT / "speechbrain_bifsmn/data/words.txt").read_text().split()
    assert len(words) == len(set(words)) > 600
    assert not set(words) & {*V2_WORDS, *V1_WORDS}
    keywords = ["yes", "window"]
    made = generate_clips([], keywords, tmp_path, 0, 6, 4)
    assert [m.label for m in made] == 6 * [UNKNOWN] + 2 * keywords
    for clip in made:
        assert np.abs(read_pcm(clip.path, clip.start, clip.stop)).max() > 1000
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    generate_clips([], keywords, tmp_path / "again", 0, 6, 4)
    for path, content in files.items():
        assert (tmp_path / "again" / path.name).read_bytes() == content
    with pytest.raises(DataError, match="16000 Hz, not 8000"):
        generate_clips([], keywords, tmp_path, 0, 6, 4, sample_rate=8000)
    with pytest.raises(DataError, match="must not be negative"):
        generate_clips([], keywords, tmp_path, -1)


def test_quiet_silences_are_quiet_and_some_are_nothing(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000, "PCM_16")
    path = str(tmp_path / "noise.wav")
    clips = [Clip("noise", path, SILENCE, 0, 16000)]
    made = generate_clips(clips, [], tmp_path, quiet_silences=40)
    audio = [read_audio(m.path, m.start, m.stop) for m in made]
    assert {m.label for m in made} == {SILENCE}
    assert max(a.std() for a in audio) < 0.1
    assert sum(not a.any() for a in audio) >= 10
    with pytest.raises(DataError, match="no silences to make quieter"):
        generate_clips([], [], tmp_path, quiet_silences=1)


def test_recipe_command(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        script = ROOT / "recipes/SpeechCommands/prepare.py"
        arguments = ["--save_folder", tmp_path / "save", *arguments]
        monkeypatch.setattr(sys, "argv", [script.name, *map(str, arguments)])
        runpy.run_path(str(script), run_name="__main__")

    with pytest.raises(SystemExit) as stop:
        run("--data_folder", tmp_path / "nowhere")
    # A message instead of a number: Python prints it and exits with 1.
    assert re.fullmatch("error: .*nowhere: there is .*", stop.value.code)
    make_archive(tmp_path / "data", ("yes", "no"))
    run("--data_folder", tmp_path / "data", "--words", "yes", "no")
    assert "yes                4       1       1" in capsys.readouterr().out


def test_own_words_need_their_protocol(tmp_path):
    root = make_archive(tmp_path, ("yes", "no"))
    with pytest.raises(DataError, match="give --protocol=words too"):
        prepare_speech_commands(root, tmp_path / "save", words=["yes", "no"])
    with pytest.raises(DataError, match="must be a list"):
        prepare_speech_commands(root, tmp_path / "save", "words", words="yes")


def test_silent_noise_makes_no_nan():
    clips = torch.zeros(8, 1600)
    augment = ClipAugment(noise_probability=1.0)
    assert torch.isfinite(augment(clips, torch.zeros(3200))).all()


OFF = {"speed": 0.0, "shift": 0.0, "gain": 0.0, "noise_probability": 0.0}


def test_gain_and_noise_have_the_levels_asked_for():
    def db(a, b):
        return 10 * (a.square().mean(1) / b.square().mean(1)).log10()

    torch.manual_seed(0)
    x = 0.1 * torch.rand(200, 400)
    found = db(ClipAugment(**OFF | {"gain": 6.0})(x), x)
    assert 5.5 < found.max() < 6.01 and -6.01 < found.min() < -5.5
    x = 0.1 * torch.randn(300, 800)
    noisy = {"noise_probability": 0.25, "snr_low": 5.0, "snr_high": 15.0}
    y = ClipAugment(**OFF | noisy)(x, torch.randn(3000))
    chosen = (y != x).any(1)
    assert abs(chosen.float().mean() - 0.25) < 0.08
    found = db(x, y - x)[chosen]
    assert 4.8 < found.min() < 6 and 14 < found.max() < 15.2


def test_speed_is_around_the_middle_and_shift_is_seconds():
    torch.manual_seed(0)
    x = torch.zeros(200, 2000)
    x[:, 500] = x[:, 1500] = 1.0

    def peaks(**options):
        y = ClipAugment(**OFF | options, sample_rate=1000)(x)
        return y[:, :1000].argmax(1), 1000 + y[:, 1000:].argmax(1)

    moved = peaks(shift=0.1)[0] - 500
    assert 90 < moved.abs().max() <= 101
    first, last = peaks(speed=0.2)
    speeds = 1000 / (last - first)
    assert 0.79 < speeds.min() < 0.82 and 1.18 < speeds.max() < 1.21
    assert ((first + last) / 2 - 1000).abs().max() <= 1


def test_augmented_clips_stay_within_one():
    clips = torch.rand(8, 1600) * 2 - 1
    augment = ClipAugment()
    for noise in (None, torch.randn(3200)):
        assert augment(clips, noise).abs().max() == 1
    with pytest.raises(ValueError, match="1599 samples is shorter .* 1600"):
        augment(clips, torch.randn(1599))
