"""`torchrun ... climb`: several processes are one climb, with one report and one voice, and end together when one of them dies."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pixels_to_resnet import climb
from tools.course import ROOT

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch cannot join processes"),
    pytest.mark.skipif(os.name == "nt", reason="signals work differently on Windows"),
]

WORKER = """
import os, pathlib, sys
from pixels_to_resnet import climb, fast_path, resume
here, fit = pathlib.Path(sys.argv.pop(1)), fast_path.fit_mlp
resume.SECONDS = 0.1
def fit_and_tell(train, epochs=None, seed=0, checkpoint=None):
    (here / os.environ["RANK"]).write_text(str(os.getpid()))
    return fit(train, epochs, seed, checkpoint=checkpoint)
fast_path.fit_mlp = fit_and_tell
sys.exit(climb.main())
"""


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def two(*words: str) -> list[str]:
    """The command that starts two processes with `words`."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]


def of_climb(said: str) -> list[str]:
    """The lines of `said` that are the command's own, not those of the program that started it."""
    return [line for line in said.splitlines() if line.startswith("climb: ")]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_two_processes_make_one_climb_with_the_weights_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--rungs", "linear", "mlp", "--data", "standin", "--device", "cpu", "--epochs", "2", "--quiet", "--resume"]
    options = ["--json", "--out", str(tmp_path / "two"), "--junit", str(tmp_path / "two" / "climb.xml")]
    done = subprocess.run(two("-m", "pixels_to_resnet.climb", *words, *options), capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "two" / "report.json").read_text(encoding="utf-8")) and report["processes"] == 2
    names = ["linear.safetensors", "manifest.json", "mlp.safetensors"]
    assert files(tmp_path / "two") == ["climb.xml", "report.json", "scoreboard.png", *(f"weights/{name}" for name in names)]
    assert climb.main([*words, "--out", str(tmp_path / "one")]) == 0
    alone = json.loads((tmp_path / "one" / "report.json").read_text(encoding="utf-8"))
    assert [r["name"] for r in report["rungs"]] == ["linear", "mlp"] and alone["processes"] == 1
    for both, single in zip(report["rungs"], alone["rungs"]):
        assert both["accuracy"] == pytest.approx(single["accuracy"], abs=2 / 2038)
        found, expected = (load_file(tmp_path / n / "weights" / f"{single['name']}.safetensors") for n in ("two", "one"))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, rtol=0, atol=1e-4), f"{single['name']}: {name}"


def test_a_bad_request_is_told_once_and_all_end_with_its_status(tmp_path: Path) -> None:
    done = subprocess.run(
        two("-m", "pixels_to_resnet.climb", "--rungs", "better", "--out", str(tmp_path / "out")),
        capture_output=True, text=True, timeout=240, cwd=ROOT,
    )  # fmt: skip
    told = of_climb(done.stderr)
    assert done.returncode != 0 and len(told) == 1 and "There is no rung 'better'" in told[0]
    assert done.stderr.count("exitcode  : 2 ") == 2, done.stderr
    assert done.stdout == "" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_dies_ends_the_others_with_one_sentence(rank: int, tmp_path: Path) -> None:
    out, pids, worker = tmp_path / "out", tmp_path / "pids", tmp_path / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    pids.mkdir()
    out.mkdir()
    (out / "report.json").write_text("an old report", encoding="utf-8")
    words = ["--rungs", "mlp", "--data", "standin", "--device", "cpu", "--epochs", "2000", "--resume", "--quiet", "--out", str(out)]
    with open(tmp_path / "said.txt", "w+", encoding="utf-8") as said:
        process = subprocess.Popen(two(str(worker), str(pids), *words), stdout=said, stderr=said, text=True, cwd=ROOT)
        try:
            begun = time.monotonic()
            while not (out / "checkpoint" / "mlp.safetensors").exists():
                assert process.poll() is None and time.monotonic() - begun < 200, Path(said.name).read_text(encoding="utf-8")
                time.sleep(0.05)
            numbers = {n: int((pids / str(n)).read_text()) for n in range(2)}
            os.kill(numbers[rank], signal.SIGKILL)
            assert process.wait(timeout=60) != 0
        finally:
            process.terminate()
            process.wait(timeout=60)
    told = of_climb(Path(said.name).read_text(encoding="utf-8"))
    assert len(told) == 1 and "nother process of this run has ended" in told[0]
    with pytest.raises(ProcessLookupError):
        os.kill(numbers[1 - rank], 0)
    assert (out / "report.json").read_text(encoding="utf-8") == "an old report"
    assert files(out) == ["checkpoint/mlp.safetensors", "report.json"]
