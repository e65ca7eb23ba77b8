"""``bifsmn export --package``: a folder that another C project drops in.

The library is assembled here from csrc/, so that it is kept once: one ``.c``
with every kernel, one ``.h``, the model as a file and as a C array, golden
vectors, two small programs and a Makefile.
"""

import re
from importlib import resources

from speechbrain_bifsmn import __version__
from speechbrain_bifsmn.export.fold import ExportError
from speechbrain_bifsmn.files import whole_file

INCLUDE = re.compile(r'^#include "(\w+\.h)"\n', re.MULTILINE)

MAKEFILE = """\
# make         ./spot says which keyword a recording holds
# make check   does this build give the golden vectors?
#
# For another machine: make CC=aarch64-linux-gnu-gcc LDFLAGS=-static
#                      make check RUN=qemu-aarch64

CC = cc
CFLAGS = -O3 -std=c99 -ffp-contract=off -Wall -Wextra
RUN =

all: spot check_golden

spot: spot.c bifsmn.c bifsmn.h
\t$(CC) $(CFLAGS) $(LDFLAGS) spot.c bifsmn.c -lm -o $@

check_golden: check.c bifsmn.c bifsmn.h
\t$(CC) $(CFLAGS) $(LDFLAGS) check.c bifsmn.c -lm -o $@

check: check_golden
\t$(RUN) ./check_golden model.bifsmn golden.txt golden.bin

clean:
\trm -f spot check_golden

.PHONY: all check clean
"""

README = """\
# A keyword spotter in C99

    make && ./spot model.bifsmn clip.wav
    make check

`bifsmn.h` is the whole interface, `bifsmn.c` the library with every kernel;
it needs libc and libm and allocates nothing. `model.bifsmn` is the model, and
`model.h` the same bytes as a C array, for a device without files. `golden.bin`
holds what every stage gives for four clips, `golden.txt` where each lies; bits
in two planes are there one plane after the other.

Keywords: {labels}. Depths: {depths}. Written by speechbrain_bifsmn {version};
Apache-2.0.
"""


def write_package(folder, model, data):
    """Write everything but the model file and the golden vectors.

    Arguments
    ---------
    folder : Path
        The package, where ``model.bifsmn`` lies.
    model : Model
        The model file, parsed.
    data : bytes
        The model file.
    """
    csrc = resources.files("speechbrain_bifsmn.csrc")
    examples = csrc / "examples"
    texts = {
        "bifsmn.h": (csrc / "include/bifsmn.h").read_text(encoding="utf-8"),
        "bifsmn.c": amalgamate(csrc / "src"),
        "model.h": c_array(data),
        "spot.c": (examples / "spot.c").read_text(encoding="utf-8"),
        "check.c": (examples / "check.c").read_text(encoding="utf-8"),
        "Makefile": MAKEFILE,
        "README.md": README.format(
            labels=", ".join(model.labels),
            depths=", ".join(map(str, model.depths)),
            version=__version__,
        ),
    }
    for name, text in texts.items():
        with whole_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def check_free(folder):
    """Refuse a folder that has a README or Makefile of somebody else's.

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
    for name in ("README.md", "Makefile"):
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
        f"/* bifsmn.c: csrc/src of speechbrain_bifsmn {__version__} in one "
        "file.\n * Change it there, not here. */\n"
    ]
    for source in sources:
        text = source.read_text(encoding="utf-8")
        parts.append(INCLUDE.sub(inline, text))
    return "\n".join(parts)


def c_array(data):
    """A header with the model file as a constant array.

    Arguments
    ---------
    data : bytes
        The model file.

    Returns
    -------
    str
    """
    rows = [
        "    " + "".join(f"{byte}," for byte in data[i : i + 20])
        for i in range(0, len(data), 20)
    ]
    return (
        "/* model.bifsmn as an array: bifsmn_open(bifsmn_model, sizeof\n"
        " * bifsmn_model, ...). Include it in one file. */\n"
        f"static const unsigned char bifsmn_model[{len(data)}] = {{\n"
        + "\n".join(rows)
        + "\n};\n"
    )
