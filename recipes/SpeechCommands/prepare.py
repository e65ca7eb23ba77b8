#!/usr/bin/env python3
"""Write the manifests of a Speech Commands protocol.

Protocols:
  V1-12, V2-12  ten keywords, unknown, silence; the official test archive
  V1-30, V2-35  all words, the archive's own lists
  GSC-10        yes no up down left right stop go, unknown, silence; unknown
                trains on bed, cat and happy and is tested on 25 words
  GSC-11w       those eight words, bed, cat and happy: a closed set

Own words: --words yes no makes a closed set; --words yes no _unknown_
_silence_ adds a class for all other words in the data folder and one for
noise. The data folder has a folder of 16 kHz mono wav files for each word,
named SPEAKER_nohash_N.wav: speakers are kept apart.

Examples:
  python recipes/SpeechCommands/prepare.py --data_folder data \\
      --save_folder results/GSC-10/save --download
  python recipes/SpeechCommands/prepare.py --data_folder recordings \\
      --save_folder results/own/save --words lamp heating _unknown_
"""

import argparse
import logging

from speechbrain_bifsmn.data.prepare import (
    prepare_speech_commands,
    read_seal,
)
from speechbrain_bifsmn.data.protocols import PROTOCOLS
from speechbrain_bifsmn.programs import one_line_errors


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data_folder",
        required=True,
        help="the folder of word folders, or the one that has (or, with "
        "--download, is to have) it as speech_commands*",
    )
    parser.add_argument(
        "--save_folder",
        required=True,
        help="where train.csv, valid.csv, test.csv, labels.txt and "
        "prepare.json go",
    )
    task = parser.add_mutually_exclusive_group()
    task.add_argument(
        "--protocol",
        default="GSC-10",
        metavar="NAME",
        help=f"one of {', '.join(PROTOCOLS)} (default: GSC-10)",
    )
    task.add_argument(
        "--words",
        nargs="+",
        metavar="WORD",
        help="the labels of an own task instead",
    )
    for share, what in {
        "unknown": "of a split that is unknown words; what there is, if less",
        "silence": "of a split that is silence",
        "validation": "of speakers to validate on, if the data have no lists",
        "testing": "of speakers to test on, if the data have no lists",
    }.items():
        parser.add_argument(
            f"--{share}_percentage",
            type=float,
            default=10,
            metavar="P",
            help=f"share {what} (default: 10)",
        )
    for kind, what in {
        "spliced_unknowns": "unknown words spliced from two recordings",
        "spoken_unknowns": "unknown words that a synthesizer says",
        "spoken_keywords": "keywords that it says",
        "quiet_silences": "silences with next to no sound",
    }.items():
        parser.add_argument(
            f"--{kind}",
            type=int,
            default=0,
            metavar="N",
            help=f"training clips to generate: {what} (default: 0)",
        )
    parser.add_argument(
        "--test_folder",
        help="the official 12-class test archive, unpacked; otherwise "
        "speech_commands_test_set_v0.0* is looked for near the data",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch what is missing (v0.02: 2.4 GB)",
    )
    arguments = parser.parse_args()
    if arguments.words:
        arguments.protocol = "words"
    return arguments


def main():
    """Prepare, then show how many clips there are of each label."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prepare_speech_commands(**vars(arguments))
    sealed = read_seal(arguments.save_folder)
    counts = sealed["counts"]
    print(f"{'label':12}" + "".join(f"{split:>8}" for split in counts))
    for label in counts["train"]:
        row = "".join(f"{counts[split][label]:8}" for split in counts)
        print(f"{label:12}{row}")
    print(f"test set: {sealed['asked']['test']}")


if __name__ == "__main__":
    with one_line_errors():
        main()
