"""What demo, study and results share: train.py in a process, time in C."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
HPARAMS = HERE.parents[1] / "hparams"
# Of a training. One thread: so small a network gains little from a second one,
# and loses much when the machine has other work. And glibc keeps what is freed,
# else each step gives memory back and gets it again, zeroed.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
}


# Trainings that go on.
running = set()


def stop(*_):
    """A signal handler: ends the trainings, then this program."""
    for child in running.copy():
        child.terminate()
    sys.exit(143)


def train(yaml, output, settings, log):
    """Run train.py, one thread, with its output in a file.

    Arguments
    ---------
    yaml : str
        Name in hparams/.
    output : Path
        The run's folder.
    settings : dict
        What to override in the YAML.
    log : Path
        Where the output goes, after what is there.

    Raises
    ------
    ValueError
        If the training fails, naming the log.
    """
    settings = {**settings, "output_folder": str(output)}
    command = [
        sys.executable,
        str(HERE / "train.py"),
        str(HPARAMS / yaml),
        "--noprogressbar",
        # What follows the first = is YAML, of which JSON is a part.
        *(f"--{key}={json.dumps(value)}" for key, value in settings.items()),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**ENVIRONMENT, **os.environ}
    with (
        open(log, "a") as out,
        subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT
        ) as child,
    ):
        running.add(child)
        failed = child.wait()
        running.remove(child)
    if failed:
        raise ValueError(f"{output}: training failed, see the end of {log}")


def microseconds(logits, clips, depths):
    """Median time of one clip by depth; let nothing else run.

    Arguments
    ---------
    logits : callable
        A network: features of a clip and a depth to logits.
    clips : list
        Features; the first 50 are used, four times each.
    depths : list of int

    Returns
    -------
    dict of str to float
    """
    times = {}
    for depth in depths:
        laps = []
        for features in clips[:50] * 4:
            started = time.perf_counter()
            logits(features, depth)
            laps.append(time.perf_counter() - started)
        times[str(depth)] = 1e6 * statistics.median(laps)
    return times
