#!/usr/bin/env python3
"""Write the table of README.md from a report of `make bench`.

python benchmarks/readme.py benchmarks/results/PROCESSOR.json
"""

import argparse
import json
import re
from contextlib import contextmanager
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
MARKS = "<!-- make bench -->\n", "\n<!-- end -->"
DEPTHS = "8 layers", "2 layers"


def table(report):
    """The table and what it is of, in Markdown."""
    rows = {}
    for row in report["times"]:
        if row["what"] in DEPTHS:
            rows.setdefault(row["contender"], {})[row["what"]] = row
    columns = [c for depth in DEPTHS for c in (f"{depth}, µs", "ratio")]
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "--:|" * 4]
    for contender, cells in rows.items():
        values = []
        for depth in DEPTHS:
            row = cells[depth]
            values.append(
                f"{row['us']:.3g}" if row["us"] < 1e3 else f"{row['us']:,.0f}"
            )
            ratio = row.get("ratio")
            values.append("" if ratio is None else f"{ratio:.3g}")
        lines.append(f"| {contender} | " + " | ".join(values) + " |")
    arm = report["arm"] and report["arm"]["instructions"]
    notes = (
        f"{report['cpu']}, {report['date']}, one thread, one clip, features "
        f"given, medians of {report['rounds']} interleaved rounds; the ratio "
        f"is to {report['base']}, within each round. The fp32 and int8 "
        "networks have the same shape in full precision, batch norms folded."
    )
    if arm:
        counts = ", ".join(
            f"{sum(arm[name]['8'].values()):,} and "
            f"{sum(arm[name]['2'].values()):,} with {name}"
            for name in ("neon_dot", "neon")
        )
        notes += (
            " On ARM nothing is timed: the network executes "
            f"{counts} instructions at 8 and 2 layers, counted under qemu."
        )
    return "\n".join([*lines, "", notes])


@contextmanager
def reading(path):
    """The report in a file; what is none ends the program in one line."""
    try:
        yield json.loads(path.read_text())
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "no report of make bench"
        raise SystemExit(f"{path}: {reason}") from None


def put(written, marks, page):
    """Replace what is between the marks of a page."""
    text, found = re.subn(
        f"(?s){marks[0]}.*{marks[1]}",
        lambda _: written.join(marks),
        page.read_text(),
    )
    if not found:
        raise SystemExit(f"{page} has no {marks[0].strip()}")
    page.write_text(text)


def main():
    """Replace what is between the marks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("report", type=Path)
    arguments = parser.parse_args()
    with reading(arguments.report) as report:
        written = table(report)
    put(written, MARKS, README)
    print(written)


if __name__ == "__main__":
    main()
