"""The speedrun: runs from scratch in the same memory, what is inside the clock, the report, the check; and the choice of its recipe."""
from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median

import pytest
import torch
from torch import nn

from bench import ninety_nine
from pixels_to_resnet import small_net, speedrun, trials
from pixels_to_resnet.data import Digits, DigitSplits
from pixels_to_resnet.small_net import Recipe, fit_small_net
from pixels_to_resnet.trials import Trials, measured, seconds_of

BENCH = Path(__file__).resolve().parent.parent / "bench"
TINY = Recipe(epochs=1.0, batch_size=100, reach=1, shifts=1)


def some_digits(n: int, seed: int = 0) -> Digits:
    """Noise with a bright bar whose row tells the class."""
    generator, places = torch.Generator().manual_seed(seed), torch.arange(n) % 10
    images = torch.randint(0, 80, (n, 28, 28), generator=generator)
    images[torch.arange(n), 4 + 2 * places, 6:22] = 255
    return Digits(images.to(torch.uint8), places)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b))


def splits_called(name: str) -> DigitSplits:
    return DigitSplits(some_digits(600), some_digits(100, seed=1), name, "a test")


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small digits that say they are MNIST."""
    monkeypatch.setattr("pixels_to_resnet.data.load_digits", lambda *ignored: splits_called("MNIST"))


def run(out: Path, *words: str, wanted: float = 0.5, recipe: Recipe = TINY) -> int:
    return speedrun.main(["--quiet", "--device", "cpu", "--target", "99", "--out", str(out), *words], {"99": (wanted, recipe), "99.5": (2.0, recipe)})


def report_in(out: Path) -> dict:
    return json.loads((out / "speedrun.json").read_text(encoding="utf-8"))


# ---- trials


def test_every_run_is_from_scratch_whatever_ran_before() -> None:
    digits = some_digits(600)
    used, fresh = Trials(digits, TINY), Trials(digits, TINY)
    for seed in (3, 1, 1):
        used.run(seed)
    fresh.run(1)
    assert equal(weights(used.trainer.model), weights(fresh.trainer.model))
    assert equal(weights(used.trainer.model), weights(fit_small_net(digits, seed=1, recipe=TINY)))
    fresh.run(2)
    assert not equal(weights(used.trainer.model), weights(fresh.trainer.model))


def test_all_runs_use_the_same_memory_so_that_a_recording_serves_them() -> None:
    made = Trials(some_digits(600), TINY)
    before = {name: tensor.data_ptr() for name, tensor in made.trainer.steps.state().items()}
    tables = [tensor.data_ptr() for tensor in (made.trainer.steps.orders, *made.trainer.steps.tables.values())]
    for seed in (5, 6):
        made.run(seed)
        made.accuracy(some_digits(100))
    assert before == {name: tensor.data_ptr() for name, tensor in made.trainer.steps.state().items()}
    assert tables == [tensor.data_ptr() for tensor in (made.trainer.steps.orders, *made.trainer.steps.tables.values())]


def test_answers_are_named_by_the_classes_of_the_digits() -> None:
    digits = some_digits(640)
    shifted = Digits(digits.images[digits.labels < 4], digits.labels[digits.labels < 4] + 5)
    made = Trials(shifted, Recipe(epochs=12, batch_size=64))
    made.run(0)
    assert made.accuracy(shifted) > 0.9


def test_validation_is_never_inside_of_the_clock_and_training_never_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Watch(trials.Stopwatch):
        def __enter__(self) -> Watch:
            seen.append("start")
            return super().__enter__()

        def __exit__(self, *error: object) -> None:
            super().__exit__(*error)
            seen.append("stop")

    made, real_logits = Trials(some_digits(600), TINY), trials.shifted_logits
    real_train, real_restart = small_net.SmallNetTrainer.train, small_net.SmallNetTrainer.restart
    monkeypatch.setattr(trials, "Stopwatch", Watch)
    monkeypatch.setattr(trials, "shifted_logits", lambda *a: seen.append("validate") or real_logits(*a))
    monkeypatch.setattr(small_net.SmallNetTrainer, "train", lambda self: seen.append("train") or real_train(self))
    monkeypatch.setattr(small_net.SmallNetTrainer, "restart", lambda self, seed: seen.append(f"draw {seed}") or real_restart(self, seed))
    measured("x", None, made, some_digits(50), 2)
    one = ["start", "draw {}", "stop", "start", "train", "stop", "validate"]
    assert seen == [word.format(seed) for seed in (0, 1) for word in one]


def test_the_marks_of_a_gpu_stand_between_the_works_and_are_read_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing

        def record(self) -> None:
            self.place = len(seen)
            seen.append("mark")

        def synchronize(self) -> None:
            seen.append("wait")

        def elapsed_time(self, end: Event) -> float:
            assert seen[-1] == "wait"
            return 1000.0 * (end.place - self.place)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: seen.append("wait before"))
    found = seconds_of(torch.device("cuda"), lambda: seen.append("a"), lambda: seen.append("b") or seen.append("c"))
    assert seen == ["wait before", "mark", "a", "mark", "b", "c", "mark", "wait"] and found == [2.0, 3.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_runs_the_same_trials() -> None:
    digits = some_digits(2560).to("cuda")
    made = Trials(digits, Recipe(epochs=3))
    first = made.run(0)
    once = weights(made.trainer.model)
    made.run(1)
    made.run(0)
    assert made.once["record"] > 0 and min(first.values()) > 0
    assert max((a - b).abs().max().item() for a, b in zip(once, weights(made.trainer.model)) if a.is_floating_point()) < 0.1
    assert made.accuracy(some_digits(500, seed=1).to("cuda")) > 0.9


# ---- the command


@pytest.mark.parametrize("words, n", [((), 10), (("--seeds", "3"), 3)])
def test_the_report_has_every_seed_and_what_follows_from_them(words: tuple[str, ...], n: int, mnist: None, tmp_path: Path) -> None:
    assert run(tmp_path, *words) == 0
    report = report_in(tmp_path)
    [one] = report["runs"]
    assert report["seeds"] == list(range(n)) and len(one["accuracy"]["each"]) == len(one["seconds"]["each"]) == n
    for key, numbers in (("accuracy", one["accuracy"]), ("seconds", one["seconds"])):
        assert (numbers["least"], numbers["most"]) == (min(numbers["each"]), max(numbers["each"])), key
    assert one["accuracy"]["mean"] == pytest.approx(fmean(one["accuracy"]["each"])) and one["seconds"]["median"] == median(one["seconds"]["each"])
    assert one["recipe"] == asdict(TINY) and one["n_steps"] == 6 and set(one["once"]) == {"make", "record", "warm_up"}
    assert set(report) == {"data", "data_to_device_seconds", "runs", "device", "seeds", "versions", "finished"}
    assert report["data"]["n_train"] == 600 and set(report["data"]["checksum"]) == {"train", "valid"}


def test_the_check_fails_if_a_recipe_cannot_reach_its_target(mnist: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hopeless = replace(TINY, learning_rate=0.0, matrix_learning_rate=0.0)
    assert run(tmp_path, "--seeds", "2", "--check", wanted=0.5, recipe=hopeless) == 1
    said = capsys.readouterr()
    assert " NO" in said.out and "not reached, or nothing asked: 99 %" in said.err and report_in(tmp_path)["runs"][0]["reached"] is False
    assert run(tmp_path, "--seeds", "2", wanted=0.5, recipe=hopeless) == 0, "without --check it is told and not judged"
    good = replace(TINY, epochs=5.0)
    assert run(tmp_path, "--seeds", "2", "--check", wanted=0.5, recipe=good) == 0 and report_in(tmp_path)["runs"][0]["reached"] is True


def test_the_mean_counts_and_not_the_best(mnist: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([0.999, 0.985, 0.985])
    monkeypatch.setattr(Trials, "accuracy", lambda self, digits: next(found))
    assert run(tmp_path, "--seeds", "3", "--check", wanted=0.99) == 1


def test_of_other_digits_nothing_is_asked_and_the_check_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pixels_to_resnet.data.load_digits", lambda *ignored: splits_called("stand-in"))
    assert run(tmp_path, "--seeds", "1", "--check", wanted=0.0) == 1
    said = capsys.readouterr()
    assert "of stand-in nothing is asked" in said.out and "nothing asked" in said.err and report_in(tmp_path)["runs"][0]["reached"] is None


def test_json_is_the_report_and_nothing_else(mnist: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--seeds", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == report_in(tmp_path)


def test_all_targets_are_run_one_after_the_other(mnist: None, tmp_path: Path) -> None:
    assert run(tmp_path, "--seeds", "1", "--target", "all", "--check") == 1
    assert [(r["name"], r["reached"] is True) for r in report_in(tmp_path)["runs"]][1] == ("99.5", False)


@pytest.mark.parametrize("words", [("--seeds", "0"), ("--seeds", "ten"), ("--target", "98"), ("--data", "nowhere/at/all"), ("--device", "abacus")])
def test_a_bad_word_gets_a_sentence_and_the_status_2(words: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, *words)
    assert stop.value.code == 2 and words[1] in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_gets_one_sentence(mnist: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--device", "cuda") == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("speedrun: PyTorch finds no cuda device") and "\n" not in said and list(tmp_path.iterdir()) == []


FAILURES = [
    (torch.OutOfMemoryError("CUDA out of memory."), 2, "not enough memory"),
    (FloatingPointError("The weights are not finite."), 2, "training with seed 0 failed"),
    (KeyboardInterrupt(), 130, "interrupted"),
]


@pytest.mark.parametrize("error, status, said", FAILURES)
def test_what_goes_wrong_is_one_sentence_and_the_old_report_stays(
    error: BaseException, status: int, said: str, mnist: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "speedrun.json").write_text("the old one", encoding="utf-8")

    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr(small_net.SmallNetTrainer, "train", fail)
    assert run(tmp_path) == status
    found = capsys.readouterr().err.strip()
    assert said in found and "\n" not in found
    assert [p.name for p in tmp_path.iterdir()] == ["speedrun.json"] and (tmp_path / "speedrun.json").read_text(encoding="utf-8") == "the old one"


def test_a_place_that_cannot_be_written_is_noticed_before_the_first_run(mnist: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "run", lambda *ignored: pytest.fail("it trained"))
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    assert run(tmp_path / "taken") == 2
    (tmp_path / "speedrun.json").mkdir()
    assert run(tmp_path) == 2


def test_help_does_without_pytorch() -> None:
    code = "import sys; from pixels_to_resnet import speedrun; speedrun.make_parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_fault_of_ours_keeps_its_traceback(mnist: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "accuracy", lambda self, digits: {}["a"])
    with pytest.raises(KeyError):
        run(tmp_path)


# ---- the recipe and its choice


def test_the_targets_are_recipes_of_small_net() -> None:
    assert {name: wanted for name, (wanted, _) in speedrun.TARGETS.items()} == {"99": 0.99, "99.5": 0.995}
    assert all(isinstance(getattr(small_net, recipe), Recipe) for _, recipe in speedrun.TARGETS.values())


@pytest.mark.skipif(not (BENCH / "ninety_nine_half_choice.json").exists(), reason="the choice has not been saved")
def test_the_recipe_for_99_5_is_the_one_that_was_chosen() -> None:
    report = json.loads((BENCH / "ninety_nine_half_choice.json").read_text(encoding="utf-8"))
    recipes = {row["way"]: row["recipe"] for row in report["rows"]}
    assert recipes[report["chosen"]] == asdict(small_net.TO_99_5)
    assert report["least"] == pytest.approx(ninety_nine.least_half(report["rows"][0]["mean"]))
    assert ninety_nine.chosen(report["rows"], report["least"]) == report["chosen"]
    assert (report["n_train"], report["n_valid"], report["dataset"]) == (50_000, 10_000, "MNIST")
    assert recipes == {ninety_nine.ANCHOR: None} | {way: asdict(recipe) for way, recipe in ninety_nine.CANDIDATES_HALF.items()}


def test_errors_scale_as_those_of_the_anchor() -> None:
    assert ninety_nine.least_half(ninety_nine.PUBLISHED) == pytest.approx(0.9955)
    assert 1 - ninety_nine.least_half(1 - 2 * (1 - ninety_nine.PUBLISHED)) == pytest.approx(0.009)


def test_of_good_settings_the_fewest_operations_win() -> None:
    rows = [{"way": way, "recipe": {"epochs": epochs}, "mean": mean, "operations": work}
            for way, epochs, mean, work in (("a", 3, 0.996, 900), ("b", 3, 0.995, 500), ("c", 2, 0.995, 800), ("d", 1, 0.99, 100))]  # fmt: skip
    assert [ninety_nine.chosen(rows, least) for least in (0.995, 0.9955, 0.98, 0.999)] == ["b", "a", "d", None]


def test_the_choice_for_99_5_never_sees_the_test_digits_and_keeps_what_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(ninety_nine, "CANDIDATES_HALF", {"first": TINY, "second": replace(TINY, epochs=2.0)})
    monkeypatch.setattr(ninety_nine, "accuracy", lambda model, digits: seen.append(digits.images) or 0.5)
    monkeypatch.setattr(ninety_nine, "shifted_accuracy", lambda model, digits, reach: seen.append(digits.images) or 0.6)
    splits, words = splits_called("some digits"), ["--choose", "99.5", "--threads", "1", "--out", str(tmp_path)]
    assert ninety_nine.main([*words, "--seeds", "2"], splits) == 0
    before = json.loads((tmp_path / "ninety_nine_half_choice.json").read_text(encoding="utf-8"))
    tested = set(map(bytes, splits.valid.images.flatten(1).numpy()))
    assert len(seen) == 6 and not any(bytes(i) in tested for images in seen for i in images.flatten(1).numpy())
    assert before["kept"] == [] and [row["mean"] for row in before["rows"]] == [0.5, 0.6, 0.6]
    monkeypatch.setattr(ninety_nine, "shifted_accuracy", lambda model, digits, reach: 0.7)
    assert ninety_nine.main([*words, "--seeds", "1", "--only", "second"], splits) == 0
    after = json.loads((tmp_path / "ninety_nine_half_choice.json").read_text(encoding="utf-8"))
    assert [row["mean"] for row in after["rows"]] == [0.5, 0.6, 0.7] and after["kept"] == [ninety_nine.ANCHOR, "first"]
    assert "kept (`--only`)" in (tmp_path / "ninety_nine_half_choice.md").read_text(encoding="utf-8")
