"""The small network: its shapes, its steps, its training runs; and the measurement of the seconds to 99 %."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import ninety_nine
from pixels_to_resnet import small_net
from pixels_to_resnet.checkpoints import Checkpoint
from pixels_to_resnet.data import Digits, DigitSplits
from pixels_to_resnet.linear import seeded
from pixels_to_resnet.pixel_similarity import predict
from pixels_to_resnet.schedules import one_cycle
from pixels_to_resnet.small_net import Recipe, SmallNet, SmallNetTrainer, fit_small_net, orthogonalised, shifted_logits

BENCH = Path(__file__).resolve().parent.parent / "bench"
FLOAT = torch.float32


def some_digits(n: int, seed: int = 0, classes: tuple[int, ...] = tuple(range(10))) -> Digits:
    """Noise with a bright bar whose row tells the class."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.arange(n) % len(classes)
    images = torch.randint(0, 80, (n, 28, 28), generator=generator)
    images[torch.arange(n), 4 + 2 * places, 6:22] = 255
    return Digits(images.to(torch.uint8), torch.tensor(classes)[places])


def weights(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b)))


def share(model: nn.Module, digits: Digits) -> float:
    return (predict(model, digits) == digits.labels).float().mean().item()


@pytest.mark.parametrize("epochs", [2, 3])
def test_it_learns_which_row_is_bright(epochs: int) -> None:
    model = fit_small_net(some_digits(2560), epochs, dtype=FLOAT)
    assert share(model, some_digits(500, seed=1)) > 0.9
    assert not model.training and model.classes == tuple(range(10))


def test_labels_that_are_taught_wrongly_are_learnt_wrongly() -> None:
    digits = some_digits(2560)
    model = fit_small_net(Digits(digits.images, (digits.labels + 1) % 10), 2, dtype=FLOAT)
    assert share(model, digits) < 0.1


def test_two_classes_get_two_logits_and_their_names() -> None:
    digits = some_digits(1024, classes=(3, 7))
    model = fit_small_net(digits, 8, dtype=FLOAT)
    assert model.classes == (3, 7) and model(digits.floats()[:5]).shape == (5, 2)
    assert share(model, some_digits(200, seed=1, classes=(3, 7))) > 0.95


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    digits, state = some_digits(600), torch.random.get_rng_state()
    a, b, c = (fit_small_net(digits, 1, seed=seed, dtype=FLOAT) for seed in (4, 4, 5))
    assert same(a, b) and not same(a, c)
    assert torch.equal(state, torch.random.get_rng_state())


def test_no_epoch_gives_the_first_weights() -> None:
    with seeded(3):
        first = SmallNet()
    assert same(fit_small_net(some_digits(50), 0, seed=3), first)


RUNS = [(600, 1, 256, 3), (600, 0.5, 100, 3), (600, 2, 256, 5), (5, 2, 256, 2), (512, 1.5, 256, 3), (10, 0.7, 2, 4)]


@pytest.mark.parametrize("n, epochs, batch_size, n_steps", RUNS)
def test_the_number_of_steps_and_what_they_get(n: int, epochs: float, batch_size: int, n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[int] = []
    monkeypatch.setattr(SmallNetTrainer, "step", lambda self, images, targets, row: got.append(len(images)))
    fit_small_net(some_digits(n), epochs, recipe=Recipe(batch_size=batch_size), dtype=FLOAT)
    assert got == [min(n, batch_size)] * n_steps


def test_each_pass_shows_every_image_once_in_a_new_order(monkeypatch: pytest.MonkeyPatch) -> None:
    digits, seen = some_digits(500), []
    monkeypatch.setattr(SmallNetTrainer, "step", lambda self, images, targets, row: seen.append(images))
    fit_small_net(digits, 2, dtype=FLOAT)
    passes = torch.cat(seen)[:1000].split(500)
    everything = sorted(map(bytes, digits.images.flatten(1).numpy()))
    assert all(sorted(map(bytes, p.flatten(1).numpy())) == everything for p in passes) and not torch.equal(*passes)


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_shifts_stay_within_reach_and_use_all_of_it(reach: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    real = SmallNet.through_window
    monkeypatch.setattr(SmallNet, "through_window", lambda self, x: seen.append(x[0]) or real(self, x))
    digits = some_digits(4)
    digits = Digits(digits.images[:1].expand(4, -1, -1).contiguous(), digits.labels)
    trainer = SmallNetTrainer(digits.images, digits.labels, Recipe(epochs=100, batch_size=2, reach=reach), dtype=FLOAT)
    trainer.steps.train()
    cuts = {(down, right): digits.images[0, down : down + 24, right : right + 24] / 255 for down in range(5) for right in range(5)}
    found = {next(corner for corner, cut in cuts.items() if torch.equal(cut, x)) for x in seen}
    assert found == {(2 + a, 2 + b) for a in range(-reach, reach + 1) for b in range(-reach, reach + 1)}


def one_step(recipe: Recipe, digits: Digits) -> tuple[SmallNet, SmallNetTrainer, dict[str, torch.Tensor]]:
    """The network before, the trainer after the second of ten steps, and the order of its images and its rates."""
    recipe = replace(recipe, epochs=10, batch_size=len(digits))
    trainer = SmallNetTrainer(digits.images, digits.labels, recipe, 0, FLOAT, layout=torch.contiguous_format)
    with seeded(0):
        before = SmallNet()
    assert same(before, trainer.model) and trainer.steps.n_steps == 10
    trainer.steps.at.fill_(1)
    trainer.model.train()
    trainer.steps.take()
    return before, trainer, {"order": trainer.steps.orders[1], "rates": trainer.steps.tables["rates"][1]}


def test_rates_are_those_of_one_cycle() -> None:
    digits = some_digits(64)
    rates = one_step(Recipe(learning_rate=0.5, matrix_learning_rate=2.0), digits)[2]["rates"]
    assert rates.tolist() == pytest.approx([one_cycle(1, 10, 0.02, 0.5, 0.0), one_cycle(1, 10, 0.08, 2.0, 0.0)])


def test_a_step_without_muon_is_a_step_of_adamw() -> None:
    digits, recipe = some_digits(64), Recipe(orthogonal=False, label_smoothing=0.0)
    plain, trainer, how = one_step(recipe, digits)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=how["rates"][0].item(), betas=(0.9, 0.99))
    nn.functional.cross_entropy(plain(digits.floats()[how["order"]]), digits.labels[how["order"]]).backward()
    optimizer.step()
    assert max((a - b).abs().max().item() for a, b in zip(trainer.model.parameters(), plain.parameters())) < 1e-5


def test_a_step_moves_matrices_as_pytorchs_muon_does() -> None:
    """PyTorch's computes in bfloat16, so the steps agree in direction, to a few percent."""
    model, trainer, how = one_step(Recipe(momentum=0.9, n_iterations=5), some_digits(64))
    before = [p.detach().clone() for p in (model.conv1.weight, model.conv2.weight, model.fc1.weight)]
    copies = [nn.Parameter(b.flatten(1).clone()) for b in before]
    theirs = torch.optim.Muon(copies, lr=how["rates"][1].item(), momentum=0.9, weight_decay=0, ns_steps=5)
    for copy, matrix in zip(copies, trainer.matrices):
        copy.grad = matrix.grad.flatten(1).clone()
    theirs.step()
    for copy, matrix, was in zip(copies, trainer.matrices, before):
        ours, wanted = (matrix.detach() - was).flatten(), (copy.detach() - was.flatten(1)).flatten()
        assert (ours - wanted).norm() < 0.2 * wanted.norm()


def test_a_saved_run_goes_on_and_a_finished_one_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits, file, steps, taken = some_digits(100), tmp_path / "checkpoint", SmallNetTrainer.step, []
    how = {"epochs": 10, "recipe": Recipe(batch_size=20, reach=2), "dtype": FLOAT}
    whole = fit_small_net(digits, **how)

    def interrupted(self: SmallNetTrainer, *batch: object) -> torch.Tensor:
        if len(taken) == 41:
            raise KeyboardInterrupt
        taken.append(1)
        return steps(self, *batch)

    monkeypatch.setattr(SmallNetTrainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_small_net(digits, **how, checkpoint=Checkpoint(file, {"run": "1"}, seconds=0))
    monkeypatch.setattr(SmallNetTrainer, "step", lambda self, *batch: taken.append(1) or steps(self, *batch))
    for n in (41 + 10, 41 + 10):
        assert same(fit_small_net(digits, **how, checkpoint=Checkpoint(file, {"run": "1"}, seconds=0)), whole)
        assert len(taken) == n


@pytest.mark.parametrize("shape", [(16, 36), (36, 16), (1, 5), (5, 1), (8, 8)])
def test_orthogonalised_keeps_the_singular_vectors(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = orthogonalised(matrix, 5, torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ found @ v.T
    assert found.shape == matrix.shape and (inside - inside.diag().diag()).abs().max() < 1e-10
    assert inside.diag()[:-1].min() > 0.5 if min(shape) > 1 else inside.min() > 0.5
    assert inside.diag().max() < 1.3


def test_blank_images_and_a_zero_gradient_do_no_harm() -> None:
    blank = Digits(torch.zeros(64, 28, 28, dtype=torch.uint8), torch.arange(64) % 10)
    assert all(w.isfinite().all() for w in weights(fit_small_net(blank, 2, dtype=FLOAT)))


def test_16_bits_learn_as_well_and_leave_32_bit_weights() -> None:
    digits = some_digits(2560)
    model = fit_small_net(digits, 2, dtype=torch.bfloat16)
    assert share(model, digits) > 0.9 and all(p.dtype == torch.float32 for p in model.parameters())


def test_the_width_is_that_of_the_recipe() -> None:
    for width in (3, 16):
        model = fit_small_net(some_digits(20), 0, recipe=Recipe(width=width))
        assert (model.conv1.out_channels, model.conv2.out_channels, model.fc1.in_features) == (width, 2 * width, 32 * width)


def test_a_window_that_lies_elsewhere_is_a_shifted_image() -> None:
    with seeded(0):
        model = SmallNet().eval()
    images = some_digits(7).floats()
    inner = nn.functional.pad(images[:, 4:24, 4:24], (4, 4, 4, 4))
    for down in range(5):
        for right in range(5):
            assert torch.allclose(model(inner, down, right), model(inner.roll((2 - down, 2 - right), (1, 2))), atol=1e-5)


def test_answers_over_windows_are_the_mean_of_the_probabilities() -> None:
    digits = some_digits(30)
    model = fit_small_net(digits, 5, dtype=FLOAT)
    by_hand = torch.stack([model(digits.floats(), 2 + a, 2 + b).softmax(1) for a in (-1, 0, 1) for b in (-1, 0, 1)]).mean(0)
    assert torch.allclose(shifted_logits(model, digits.images, batch_size=7).exp(), by_hand.detach(), atol=1e-5)
    assert torch.equal(shifted_logits(model, digits.images, 0).argmax(1), model(digits.floats()).argmax(1))


NONSENSE = [
    ({"epochs": -1}, "0 or more"),
    ({"epochs": float("nan")}, "0 or more"),
    ({"batch_size": 1}, "at least 2"),
    ({"reach": 3}, "0, 1 or 2"),
    ({"shifts": 3}, "0, 1 or 2"),
    ({"width": 0}, "at least 1 filter"),
]


@pytest.mark.parametrize("recipe, match", NONSENSE)
def test_settings_that_make_no_sense_get_a_sentence(recipe: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Recipe(**recipe)
    with pytest.raises(ValueError, match="0 or more"):
        fit_small_net(some_digits(10), -1)
    with pytest.raises(ValueError, match="at least 2"):
        fit_small_net(some_digits(1))


def test_a_learning_rate_that_explodes_is_noticed() -> None:
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        fit_small_net(some_digits(600), 3, recipe=Recipe(learning_rate=1e30, matrix_learning_rate=1e30), dtype=FLOAT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_as_well() -> None:
    model = fit_small_net(some_digits(2560).to("cuda"), 2)
    assert model.fc2.weight.device.type == "cuda" and share(model, some_digits(500, seed=1).to("cuda")) > 0.9


# ---- bench/ninety_nine.py


@pytest.fixture
def splits() -> DigitSplits:
    return DigitSplits(some_digits(600), some_digits(100, seed=1), "some digits", "a test")


def test_the_measurement_runs_and_writes_its_three_files(splits: DigitSplits, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    assert ninety_nine.main(["--rounds", "1", "--seeds", "2", "--threads", "1", "--out", str(tmp_path)], splits) == 0
    assert torch.get_num_threads() == before
    report = json.loads((tmp_path / "ninety_nine.json").read_text(encoding="utf-8"))
    page = (tmp_path / "ninety_nine.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page and "Digits: some digits" in page
    assert (tmp_path / "ninety_nine.png").read_bytes().startswith(b"\x89PNG")
    assert [len(r["accuracies"]) for r in report["rows"]] == [2, 2, 2, 2] and all(r["median"] > 0 and r["way"] in page for r in report["rows"])
    assert len(report["steps"]) == 7 and report["floor"] > 0
    assert report["goals"][0]["name"] == "C6" and report["goals"][0]["reached"] == "missed", "a hundred digits after two steps are not 99 % right"


def test_the_choice_never_sees_the_test_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(ninety_nine, "CANDIDATES", {"a": Recipe(epochs=0.5), "b": Recipe(epochs=1.0)})
    monkeypatch.setattr(ninety_nine, "accuracy", lambda model, digits: seen.append(digits.images) or 0.5)
    splits = DigitSplits(some_digits(600), some_digits(100, seed=1), "some digits", "a test")
    assert ninety_nine.main(["--choose", "--seeds", "2", "--threads", "1", "--out", str(tmp_path)], splits) == 0
    report = json.loads((tmp_path / "ninety_nine_choice.json").read_text(encoding="utf-8"))
    assert (report["n_train"], report["n_valid"], report["chosen"]) == (500, 100, None)
    tested = set(map(bytes, splits.valid.images.flatten(1).numpy()))
    assert len(seen) == 6 and not any(bytes(i) in tested for images in seen for i in images.flatten(1).numpy())


def test_held_out_digits_are_not_learnt_from() -> None:
    digits = some_digits(600)
    learn, compare = (set(map(bytes, part.images.flatten(1).numpy())) for part in ninety_nine.held_out(digits))
    assert len(learn) == 500 and len(compare) == 100 and not learn & compare


def test_the_fewest_epochs_that_are_good_enough_are_chosen() -> None:
    def row(way: str, epochs: float | None, mean: float) -> dict:
        return {"way": way, "recipe": None if epochs is None else {"epochs": epochs}, "mean": mean}

    rows = [row("anchor", None, 0.999), row("a", 1.0, 0.99), row("b", 0.7, 0.985), row("c", 0.7, 0.986), row("d", 0.5, 0.97)]
    assert [ninety_nine.chosen(rows, least) for least in (0.98, 0.9865, 0.96, 0.995)] == ["c", "a", "d", None]


def test_the_anchor_is_the_published_recipe() -> None:
    model = ninety_nine.AnchorNet()
    assert sum(p.numel() for p in model.parameters()) == 24 * 26 + 32 * (24 * 9 + 1) + 256 * 801 + 10 * 257
    digits = some_digits(2560)
    trained = ninety_nine.AnchorAnswers(ninety_nine.fit_anchor(ninety_nine.anchor_data(digits), 0))
    assert ninety_nine.accuracy(trained, digits) > 0.5


def test_the_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    recipe, digits = Recipe(epochs=1.0, batch_size=64), some_digits(64)
    trainer = SmallNetTrainer(digits.images, digits.labels, recipe, dtype=FLOAT)
    with FlopCounterMode(display=False) as counter:
        trainer.steps.take()
    assert ninety_nine.operations(recipe, 64) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.skipif(not (BENCH / "ninety_nine_choice.json").exists(), reason="the choice has not been saved")
def test_the_recipe_is_the_one_that_was_chosen() -> None:
    report = json.loads((BENCH / "ninety_nine_choice.json").read_text(encoding="utf-8"))
    recipes: dict[str, dict] = {r["way"]: r["recipe"] for r in report["rows"]}
    assert Recipe(**recipes[report["chosen"]]) == small_net.TO_99


@pytest.mark.skipif(not (BENCH / "ninety_nine.json").exists(), reason="the measurement has not been saved")
def test_the_saved_measurement_is_of_this_recipe_and_reaches_the_goal() -> None:
    report = json.loads((BENCH / "ninety_nine.json").read_text(encoding="utf-8"))
    ours = next(r for r in report["rows"] if r["way"] == ninety_nine.OURS)
    assert Recipe(**report["recipe"]) == small_net.TO_99 and (report["n_train"], report["n_valid"]) == (60_000, 10_000)
    assert len(ours["accuracies"]) >= 10 and ours["mean"] >= ninety_nine.WANTED and ours["times_faster"] >= ninety_nine.GOAL
