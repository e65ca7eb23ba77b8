"""``bifsmn export --package``: a folder that another C project drops in.

The library is assembled here from csrc/, so that it is kept once: one ``.c``
with every kernel, one ``.h``, the model as a file and as a C array, golden
vectors, small programs for a PC and for a device and a Makefile.
"""

import re
from importlib import resources

from speechbrain_bifsmn import __version__
from speechbrain_bifsmn.data.protocols import PROTOCOLS
from speechbrain_bifsmn.export.fold import ExportError
from speechbrain_bifsmn.export.golden import golden_header
from speechbrain_bifsmn.files import whole_file
from speechbrain_bifsmn.spotting import window_step

INCLUDE = re.compile(r'^#include "(\w+\.h)"\n', re.MULTILINE)

MAKEFILE = """\
# make         ./spot says which keyword a recording holds,
#              ./listen which ones a stream holds, as they are heard
# make firmware   ./firmware does so as a device would, which it tests first
# make check   does this build give the golden vectors?
#
# For another machine: make clean
#                      make CC=aarch64-linux-gnu-gcc LDFLAGS=-static
#                      make check RUN=qemu-aarch64
# and make clean again.

CC = cc
CFLAGS = -O3 -Wall -Wextra
STANDARD = -std=c99
RUN =

all: spot listen check_golden

spot: spot.c bifsmn.c bifsmn.h
\t$(CC) $(CFLAGS) $(STANDARD) $(LDFLAGS) spot.c bifsmn.c -lm -o $@

listen: listen.c bifsmn.c bifsmn.h
\t$(CC) $(CFLAGS) $(STANDARD) $(LDFLAGS) listen.c bifsmn.c -lm -o $@

firmware: firmware.c selftest.c golden.h model.h bifsmn.c bifsmn.h
\t$(CC) -DBIFSMN_PORTABLE $(CFLAGS) $(STANDARD) $(LDFLAGS) \\
\t    firmware.c selftest.c bifsmn.c -lm -o $@

check_golden: check.c bifsmn.c bifsmn.h
\t$(CC) $(CFLAGS) $(STANDARD) $(LDFLAGS) check.c bifsmn.c -lm -o $@

check: check_golden
\t$(RUN) ./check_golden model.bifsmn golden.txt golden.bin

clean:
\trm -f spot listen firmware check_golden

.PHONY: all check clean
"""

README = """\
# A keyword spotter in C99

    make && ./spot model.bifsmn clip.wav
    arecord -q -t raw -f S16_LE -r 16000 | ./listen model.bifsmn
    make check

`bifsmn.h` is the whole interface, `bifsmn.c` the library with every kernel;
it needs libc and libm and allocates nothing. `model.bifsmn` is the model, and
`model.h` the same bytes as a C array. `golden.bin` holds what every stage gives
for four clips, `golden.txt` where each lies; bits in two planes are there one
plane after the other.

## On a device without files

`firmware.c` is a whole one, of static arrays whose sizes are in `model.h`; it
runs on a PC, too (`make firmware`), and two functions are yours to write.

Take `bifsmn.c`, `bifsmn.h`, `model.h` and, to see whether your device with your
compiler computes the same, `selftest.c`, `selftest.h` and `golden.h`:
`bifsmn_selftest(net, pcm, features, scores)` takes the buffers of the stream
and is NULL, or the name of the first stage that differs. The other .c files are
programs for a PC. Compile them optimized, without `-ffast-math`, and, if not by
gcc or clang, so that no product and sum are fused; have 3 KB of stack free on
32-bit ARM, 7 KB elsewhere. `-O2` is faster; `-Os` takes the least flash: 18 KB
on a Cortex-M4, some 28 with what it needs of newlib, and the model.

The workspace that `bifsmn_open` takes differs between machines. A little more
than a device needs is told by

    make clean && make check CFLAGS="-O2 -DBIFSMN_PORTABLE"

and what 32-bit ARM does, and whether it computes the same, by

    make clean
    make check CC=arm-linux-gnueabihf-gcc LDFLAGS=-static RUN=qemu-arm

It is the same for all depths: exporting some of them saves flash.

Exporting to this folder again renews the library and the model; `spot.c`,
`listen.c`, `firmware.c`, `Makefile` and this file stay as they are. Apache-2.0,
see LICENSE; `model.h` tells labels, depths and what the model was trained on.
"""
# Of a model that was trained on it.
ATTRIBUTION = """\
 * Trained on Speech Commands by Pete Warden, Google
 * (https://arxiv.org/abs/1804.03209), CC BY 4.0
 * (https://creativecommons.org/licenses/by/4.0/).
"""
EXAMPLES = (
    *("check.c", "spot.c", "listen.c", "firmware.c"),
    *("selftest.c", "selftest.h"),
)
# What a project makes its own, once it has it.
THEIRS = ("spot.c", "listen.c", "firmware.c", "Makefile", "README.md")


def write_package(folder, engine, data):
    """Write everything but the model file and its golden vectors in files.

    What a project may have changed is written only where there is none.

    Arguments
    ---------
    folder : Path
        The package, where ``model.bifsmn`` lies.
    engine : Engine
        The reference.
    data : bytes
        The model file.
    """
    csrc = resources.files("speechbrain_bifsmn.csrc")
    texts = {
        "bifsmn.h": (csrc / "include/bifsmn.h").read_text(encoding="utf-8"),
        "bifsmn.c": amalgamate(csrc / "src"),
        "LICENSE": (csrc / "LICENSE").read_text(encoding="utf-8"),
        "model.h": c_array(engine.model, data),
        "golden.h": golden_header(engine),
        "Makefile": MAKEFILE,
        "README.md": README,
    }
    for name in EXAMPLES:
        example = csrc / "examples" / name
        texts[name] = example.read_text(encoding="utf-8")
    for name, text in texts.items():
        if name in THEIRS and (folder / name).exists():
            continue
        with whole_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def check_free(folder):
    """Refuse a folder that has files of somebody else's by a package's names.

    Arguments
    ---------
    folder : Path
        Where a package is wanted.

    Raises
    ------
    ExportError
        Naming the file that would be lost.
    """
    # What is written first: a package, perhaps an interrupted one.
    if (folder / "bifsmn.h").exists():
        return
    library = "bifsmn.c", "LICENSE", "model.h", "golden.h"
    for name in (*library, *EXAMPLES, *THEIRS):
        if (folder / name).exists():
            raise ExportError(
                f"{folder} has a {name} and is no package yet: a package "
                "takes a folder of its own"
            )


def amalgamate(src):
    """All sources as one translation unit.

    Arguments
    ---------
    src : Traversable
        csrc/src.

    Returns
    -------
    str
        The sources in alphabetical order, each of their own headers written
        out where it is first included.
    """
    written = set()

    def inline(match):
        name = match.group(1)
        if name == "bifsmn.h":
            return match.group(0)
        if name in written:
            return ""
        written.add(name)
        text = (src / name).read_text(encoding="utf-8")
        return INCLUDE.sub(inline, text)

    sources = sorted(
        (entry for entry in src.iterdir() if entry.name.endswith(".c")),
        key=lambda entry: entry.name,
    )
    parts = [
        "/* SPDX-License-Identifier: Apache-2.0\n * bifsmn.c: csrc/src of "
        f"speechbrain_bifsmn {__version__} in one file.\n"
        " * Change it there, not here. */\n"
    ]
    for source in sources:
        text = source.read_text(encoding="utf-8")
        parts.append(INCLUDE.sub(inline, text))
    return "\n".join(parts)


def c_array(model, data):
    """A header with the model file as a constant array.

    Arguments
    ---------
    model : Model
        The model file, parsed.
    data : bytes
        The model file.

    Returns
    -------
    str
    """
    config = model.config
    step = window_step(config)
    hops, rest = divmod(step, config.hop_length)
    sizes = "".join(
        f"    BIFSMN_MODEL_{name} = {value}, /* {what} */\n"
        for name, value, what in [
            ("RATE", config.sample_rate, "Hz"),
            ("SAMPLES", config.samples, "of a window"),
            ("STEP", step, "samples, to the next window of a stream"),
            ("HOPS", config.frames if rest else hops, "the same, in frames"),
            ("FEATURES", config.frames * config.n_mels, "of a window"),
            ("CLASSES", config.classes, "scores"),
        ]
    )
    depths = ", ".join(map(str, model.depths))
    # Nothing in a name may end the comment.
    labels = "".join(f" *     {x}\n" for x in model.labels).replace("*/", "*_/")
    rows = [
        "    " + "".join(f"{byte}," for byte in data[i : i + 20])
        for i in range(0, len(data), 20)
    ]
    return (
        "/* model.bifsmn as an array: bifsmn_open(bifsmn_model, sizeof\n"
        " * bifsmn_model, ...). Include it in one file.\n"
        + ATTRIBUTION * (model.meta.get("protocol") in PROTOCOLS)
        + f" * Depths: {depths}. Labels:\n{labels} */\n"
        + "/* What bifsmn_info tells, for static arrays. */\n"
        f"enum {{\n{sizes}}};\n\n"
        f"static const unsigned char bifsmn_model[{len(data)}] = {{\n"
        + "\n".join(rows)
        + "\n};\n"
    )
