"""What demo, study and results share: trainings, one process each, and time."""

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from train import FREE

from speechbrain_bifsmn.data.prepare import read_seal
from speechbrain_bifsmn.hyperparameters import check_same_run, settings
from speechbrain_bifsmn.teachers import digests

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


@dataclass(eq=False)
class Run:
    """One training.

    Arguments
    ---------
    row : str
        What the table calls it.
    seed : int
    yaml : str
        Name in hparams/.
    settings : dict
        What it overrides in the YAML.
    folder : Path
        Where it goes.
    teachers : list of Run
        Those that it learns from.
    """

    row: str
    seed: int
    yaml: str
    settings: dict
    folder: Path
    teachers: list

    def __str__(self):
        """What messages call it."""
        return f"{self.row}, seed {self.seed}"


def is_trained(run):
    """Whether a run is finished; one of other settings is refused.

    Arguments
    ---------
    run : Run

    Returns
    -------
    bool

    Raises
    ------
    HyperparameterError
        Naming the setting, see ``check_same_run``.
    """
    if not (run.folder / "results.json").exists():
        return False
    overrides = {**run.settings, "output_folder": str(run.folder)}
    now = settings(HPARAMS / run.yaml, json.dumps(overrides))
    now["clips"] = read_seal(now["prepared_folder"])["clips"]
    # Of a finished run the number of epochs is not free.
    free = FREE - {"number_of_epochs"}
    try:
        teachers = digests([x.folder / "model" for x in run.teachers])
        now |= {"teachers": teachers} if teachers else {}
    except FileNotFoundError:
        # Nor are teachers needed any more.
        free |= {"teachers"}
    check_same_run(run.folder, now, free)
    return True


def train_all(runs, jobs):
    """Train what is not trained yet.

    Arguments
    ---------
    runs : list of Run
        Teachers first.
    jobs : int
        Trainings at once.

    Returns
    -------
    list of Run
        Those that are trained; of the others it is said why not.
    """

    def work(run, teachers):
        if any(teacher.exception() for teacher in teachers):
            raise ValueError("its teacher could not be trained")
        if not is_trained(run):
            log = run.folder / "train.log"
            train(run.yaml, run.folder, run.settings, log)

    # Teachers were handed in first, so whoever waits for one, it has a worker.
    futures, trained = {}, []
    pool = ThreadPoolExecutor(jobs)
    try:
        for run in runs:
            teachers = [futures[teacher] for teacher in run.teachers]
            futures[run] = pool.submit(work, run, teachers)
        runs_of = {future: run for run, future in futures.items()}
        done = as_completed(runs_of)
        for future in tqdm(done, "trained", total=len(runs), unit="run"):
            try:
                future.result()
                trained.append(runs_of[future])
            except (ValueError, OSError) as error:
                complain(runs_of[future], error)
    finally:
        # What waits is not begun when this is interrupted.
        pool.shutdown(cancel_futures=True)
    return [run for run in runs if run in trained]


def complain(run, error):
    """Say at once what failed; the others go on."""
    tqdm.write(f"error: {run}: {error}", file=sys.stderr)


def attempt(work, run):
    """What work gives for a run; None, after a complaint, if it fails."""
    try:
        return work(run)
    except (ValueError, OSError) as error:
        complain(run, error)
        return None


def microseconds(run, rounds=31, calls=20):
    """CPU time of one call in this thread: other programs hardly count.

    Arguments
    ---------
    run : callable
        A network on one clip, one thread.
    rounds, calls : int
        The median of so many rounds is taken, each of so many calls.

    Returns
    -------
    float
    """
    times = []
    for _ in range(rounds):
        started = time.thread_time_ns()
        for _ in range(calls):
            run()
        times.append((time.thread_time_ns() - started) / calls / 1000)
    return statistics.median(times)
