import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_bench_times_and_checks_the_c_library(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/bench.py"]
    options = ["--only", "ours", "--rounds", "2", "--json"]
    done = subprocess.run(
        [*command, *options, "--output", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == report
    assert not report["not_measured"]
    times = {(r["what"], r["contender"]): r["us"] for r in report["times"]}
    assert times["8 layers", report["base"]] > times["1 layer", report["base"]]
    assert times["front end", report["base"]] > 0
    assert times["front end, next window of a stream", report["base"]] > 0
    assert all(check["argmax_agreement"] == 1 for check in report["checks"])


def test_bench_refuses_names_that_nobody_has():
    command = [sys.executable, ROOT / "benchmarks/bench.py"]
    done = subprocess.run(
        [*command, "--only", "ours, C, scalar", "nosuch"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "--only nosuch" in done.stderr


@pytest.mark.parametrize("program", ["bench", "packed", "training"])
def test_no_rounds_are_refused(program, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module(program)
    command = ["--rounds", "0"]
    monkeypatch.setattr(sys, "argv", [program, *command])
    with pytest.raises(SystemExit):
        module.main(*[command] * (program == "training"))
    assert "--rounds must be positive" in capsys.readouterr().err


def test_bench_names_a_contender_that_computes_something_else(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import torch
    from bench import Bench
    from contenders import torch_eager

    bench, x = Bench(), torch.ones(1, 3)
    cases = [("right", torch.nn.Identity(), x, None)]
    bench.prepare("honest", torch_eager, cases)
    cases = [("wrong", torch.nn.Identity(), x, lambda clip: clip + 1)]
    bench.prepare("cheat", torch_eager, cases)
    assert list(bench.bursts) == [("right", "honest")]
    assert "wrong by 1" in bench.missing["cheat"]


def test_a_contender_that_fails_half_way_does_not_lose_the_tables(
    monkeypatch, capsys
):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from bench import FRONT_END, print_tables

    times = {"us": 1.0, "us_least": 1.0, "us_most": 1.0}
    report = {"cpu": "some", "rounds": 1, "base": "ours", "checks": []}
    report["times"] = [{"what": FRONT_END, "contender": "eager"} | times]
    print_tables(report | {"not_measured": {"eager": "out of memory"}})
    assert "not measured: eager: out of memory" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["readme", "floor"])
def test_table_of_a_report_that_is_not_there(program, tmp_path):
    script = ROOT / f"benchmarks/{program}.py"
    for report in (tmp_path / "no.json", tmp_path, ROOT / "README.md"):
        done = subprocess.run(
            [sys.executable, script, report], capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"{report}: ")
        assert done.stderr.count("\n") == 1


def test_a_table_needs_its_place(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from readme import put

    page, marks = tmp_path / "page.md", ("<!-- a -->\n", "\n<!-- end -->")
    page.write_text(f"one\n{marks[0]}old{marks[1]}\ntwo\n")
    put("new", marks, page)
    assert page.read_text() == "one\n<!-- a -->\nnew\n<!-- end -->\ntwo\n"
    with pytest.raises(SystemExit, match=r"page\.md has no <!-- b -->"):
        put("new", ("<!-- b -->\n", marks[1]), page)


def test_floor_and_its_picture(monkeypatch):
    """Counted by hand; and a kernel at its floor is 1.00 times its floor."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import floor

    stages = floor.floors(floor.MACHINES["neon"])
    assert stages["pointwise1"] == 6272
    assert stages["pointwise2"] == stages["fc"] == 8192
    assert floor.floors(floor.MACHINES["avx512"])["conv2"] == 4800
    operations = {
        "memory": "b1_memory_real__neon",
        "pointwise1": "b1_gemm_bits__neon",
        "pointwise2": "b1_gemm_real__neon_8x4",
    }
    once = {
        "i8_conv_bits__neon": stages["conv1"],
        "head__neon": stages["head"],
    }
    runs = {}
    for depth in (8, 4, 2, 1):
        runs[str(depth)] = counts = dict(once)
        for stage, name in operations.items():
            counts[name] = depth * stages[stage]
        counts["b1_gemm_bits__neon"] += stages["conv2"]
        counts["b1_gemm_real__neon_8x4"] += stages["fc"]
    arm = {"instructions": {"neon": runs, "neon_dot": runs}}
    report = {"cpu": "any", "arm": arm, "times": []}
    found = floor.compare(report, ghz=1)
    assert list(found) == ["neon", "neon_dot"]
    assert all(a == b for a, b in found["neon"].values())
    assert floor.picture(found).count(">1.00<") >= 9
