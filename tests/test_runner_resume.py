"""`climb --resume`: a killed climb goes on where it was, ends with the same bytes, and loses nothing on the way."""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from pixels_to_resnet import checkpoints, climb, data, resume, runner
from pixels_to_resnet.checkpoints import Checkpoint, train_in_turns
from pixels_to_resnet.data import Digits, DigitSplits, load_digits
from pixels_to_resnet.layouts import LAYOUTS
from pixels_to_resnet.linear import LinearModel
from tools.kills import _forgetful, weights_in

N_TURNS = 8


class Training:
    """Fits a line with momentum, a turn a step. `taken` lists the turns; before turn `dies_at` the process "is killed"."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.dies_at = -1

    def __call__(self, train: Digits, epochs: int | None = None, seed: int = 0, checkpoint: Checkpoint | None = None) -> LinearModel:
        torch.manual_seed(seed)
        model, these = LinearModel(), torch.arange(0, len(train), 40)
        images, targets = train.images[these].float() / 255, (train.labels[these] == 7).float()
        speed = {f"optimizer.{name}": torch.zeros_like(p) for name, p in model.named_parameters()}

        def turn(k: int) -> None:
            if k == self.dies_at:
                raise KeyboardInterrupt
            self.taken.append(k)
            model.zero_grad()
            F.binary_cross_entropy_with_logits(model(images).squeeze(1), targets).backward()
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p -= 0.1 * speed[f"optimizer.{name}"].mul_(0.9).add_(p.grad)

        train_in_turns(N_TURNS, turn, lambda: {**dict(model.named_parameters()), **speed}, checkpoint)
        return model


@pytest.fixture
def first() -> Training:
    return Training()


@pytest.fixture
def second() -> Training:
    return Training()


@pytest.fixture
def go(first: Training, second: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """`climb` with the words given, over two rungs, a checkpoint after each turn; without the picture, which takes longest."""
    monkeypatch.setattr(resume, "SECONDS", 0)
    monkeypatch.setattr(runner, "_picture", lambda *ignored: b"PNG")
    digits = load_digits("mnist_sample", "standin", lambda line: None)
    monkeypatch.setattr(data, "load_digits", lambda *ignored: digits)
    rungs = [
        climb.Rung(name, "a line", "mnist_sample", fit, {}, make=("linear:LinearModel", (3, 7))) for name, fit in (("one", first), ("two", second))
    ]

    def climbing(*words: str, out: str = "out") -> int:
        return climb.main([*words, "--quiet", "--device", "cpu", "--data", "standin", "--out", str(tmp_path / out)], rungs)

    with torch.random.fork_rng(devices=[]):
        yield climbing


def report_in(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_a_killed_climb_goes_on_and_ends_with_the_same_bytes(
    go: Callable[..., int], first: Training, second: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert go(out="peace") == 0
    first.taken.clear(), second.taken.clear()
    for first.dies_at, second.dies_at in ((3, -1), (6, -1), (-1, 5)):
        assert go("--resume") == 130 and not (tmp_path / "out" / "report.json").exists()
    second.dies_at = -1
    capfd.readouterr()
    assert go("--resume") == 0
    assert first.taken == second.taken == list(range(N_TURNS)), "each turn is taken once, and a finished rung is not trained again"
    assert weights_in(tmp_path / "out") == weights_in(tmp_path / "peace")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.json", "scoreboard.png", "weights"]
    assert [rung["continued"] for rung in report_in(tmp_path / "out")["rungs"]] == [True, True]
    assert [rung["continued"] for rung in report_in(tmp_path / "peace")["rungs"]] == [False, False]
    assert "Continued after an interruption, with the seconds of all runs together: one, two." in capfd.readouterr().out


def test_what_the_optimizer_remembers_belongs_to_a_checkpoint(
    go: Callable[..., int], second: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint without it is what the comparison of weights must notice."""
    assert go(out="peace") == 0
    monkeypatch.setattr(checkpoints.Checkpoint, "save", _forgetful(checkpoints.Checkpoint.save))
    second.dies_at = 5
    assert go("--resume") == 130
    second.dies_at = -1
    assert go("--resume") == 0
    found, expected = weights_in(tmp_path / "out"), weights_in(tmp_path / "peace")
    assert {key.split()[0] for key in found if found[key] != expected[key]} == {"two"}


def test_the_seconds_of_all_lives_are_reported(go: Callable[..., int], first: Training, second: Training, tmp_path: Path) -> None:
    first.dies_at = 4
    assert go("--resume") == 130
    file = tmp_path / "out" / "checkpoint" / "one.safetensors"
    with safe_open(file, "pt") as f:
        about, tensors = f.metadata(), {name: f.get_tensor(name) for name in f.keys()}
    assert 0 < float(about["seconds"]) < 600
    save_file(tensors, file, {**about, "seconds": "5000.0"})
    first.dies_at, second.dies_at = -1, 2
    assert go("--resume") == 130
    second.dies_at = -1
    assert go("--resume") == 0
    assert 5000 < report_in(tmp_path / "out")["rungs"][0]["seconds"]["fit"] < 5600 > report_in(tmp_path / "out")["rungs"][1]["seconds"]["fit"]


def test_a_checkpoint_of_another_training_is_named_and_not_used(
    go: Callable[..., int], first: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert go("--seed", "1", out="peace") == 0
    first.dies_at = 4
    assert go("--resume") == 130
    first.dies_at = -1
    assert go("--resume", "--seed", "1") == 0
    assert "one.safetensors belongs to another training (another seed); this training begins anew." in capfd.readouterr().err
    assert weights_in(tmp_path / "out") == weights_in(tmp_path / "peace") and report_in(tmp_path / "out")["rungs"][0]["continued"] is False


def test_a_damaged_checkpoint_is_named_and_not_used(
    go: Callable[..., int], first: Training, second: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert go(out="peace") == 0
    second.dies_at = 4
    assert go("--resume") == 130
    for name in ("one-finished", "two"):
        file = tmp_path / "out" / "checkpoint" / f"{name}.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    second.dies_at = -1
    assert go("--resume") == 0
    assert capfd.readouterr().err.count("is damaged; this training begins anew.") == 2
    assert weights_in(tmp_path / "out") == weights_in(tmp_path / "peace")


def test_without_resume_nothing_is_read_written_or_lost(
    go: Callable[..., int], first: Training, second: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    second.dies_at = 4
    assert go("--resume") == 130
    folder = tmp_path / "out" / "checkpoint"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    first.taken.clear()
    second.taken.clear()
    second.dies_at = -1
    capfd.readouterr()
    assert go() == 0
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "holds what an interrupted climb had reached; --resume goes on from it" in said[0]
    assert first.taken == second.taken == list(range(N_TURNS))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    shutil.rmtree(folder)
    assert go() == 0 and not folder.exists() and capfd.readouterr().err == ""


def test_only_the_checkpoints_of_this_climb_are_removed(go: Callable[..., int], second: Training, tmp_path: Path) -> None:
    second.dies_at = 4
    assert go("--resume") == 130
    assert go("--resume", "--rungs", "one") == 0
    assert [path.name for path in (tmp_path / "out" / "checkpoint").iterdir()] == ["two.safetensors"]
    second.dies_at = -1
    second.taken.clear()
    assert go("--resume", "--rungs", "two") == 0 and second.taken == [4, 5, 6, 7]
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_a_checkpoint_that_cannot_be_written_is_one_sentence_and_loses_nothing(
    go: Callable[..., int], first: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    assert go(out="peace") == 0
    first.dies_at = 3
    assert go("--resume") == 130
    file = tmp_path / "out" / "checkpoint" / "one.safetensors"
    kept, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    first.dies_at = -1
    capfd.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        status = go("--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capfd.readouterr()
    assert status == 2 and said.out == "" and said.err.count("\n") == 1 and "one.safetensors cannot be written (" in said.err
    assert file.read_bytes() == kept and [path.name for path in file.parent.iterdir()] == [file.name]
    assert go("--resume") == 0 and weights_in(tmp_path / "out") == weights_in(tmp_path / "peace")


def test_a_folder_that_cannot_be_used_is_found_out_before_the_climb(
    go: Callable[..., int], first: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint").write_text("precious")
    assert go("--resume") == 2 and first.taken == []
    assert "checkpoint cannot be used for the report" in capfd.readouterr().err and (tmp_path / "out" / "checkpoint").read_text() == "precious"


@pytest.mark.parametrize("rung", climb.RUNGS[1:4], ids=lambda rung: rung.name)
def test_a_rung_of_the_ladder_goes_on_in_the_middle(rung: climb.Rung, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load_digits(rung.task)
    these = torch.cat([(splits.train.labels == c).nonzero()[:30, 0] for c in LAYOUTS[rung.task].classes])
    few = Digits(splits.train.images[these], splits.train.labels[these])
    splits, cpu = DigitSplits(few, few, splits.dataset, "here"), torch.device("cpu")
    _, _, expected = runner.examine(rung, splits, cpu, epochs=5)
    save, saved = Checkpoint.save, []

    def save_and_die(self: Checkpoint, state: dict[str, torch.Tensor], n_done: int) -> None:
        save(self, state, n_done)
        saved.append(n_done)
        if len(saved) in (2, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_die)
    monkeypatch.setattr(resume, "SECONDS", 0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            runner.examine(rung, splits, cpu, epochs=5, folder=tmp_path)
    record, _, model = runner.examine(rung, splits, cpu, epochs=5, folder=tmp_path)
    assert saved == [1, 2, 3, 4, 5, 1] and record["continued"]
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_all_that_fixes_the_weights_is_compared() -> None:
    def fit(train: object) -> None: ...

    def facts(**other: object) -> dict[str, str]:
        usual = {"name": "a", "fit": fit, "epochs": 1, "seed": 0, "checksum": "ab", "device": torch.device("cpu")}
        return resume.facts_of_training(**{**usual, **other})

    usual = facts()
    others = [facts(name="b"), facts(fit=len), facts(epochs=None), facts(seed=1), facts(checksum="cd"), facts(device=torch.device("meta"))]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        others.append(facts())
    finally:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        others.append(facts())
    finally:
        torch.use_deterministic_algorithms(False)
    assert facts() == usual and all(sum(other[key] != usual[key] for key in usual) == 1 for other in others)
    assert {str(torch.__version__), resume.__version__} <= set(usual.values())
