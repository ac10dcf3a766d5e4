"""The fast path: its gradients against autograd's, its results against the chapters', and the measurement of both."""
from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from recording import CannotBeRecorded, recorded
from test_graphs import recording_on_cpu
from torch import nn
from torch.nn import functional as F

from bench import training
from pixels_to_resnet import fast_calls, fast_path, fast_ten, graphs, linear, mlp, multiclass, processes
from pixels_to_resnet.batches import Batches
from pixels_to_resnet.data import Digits, DigitSplits

FITS = {"linear": (fast_path.fit_linear, linear.fit_linear), "mlp": (fast_path.fit_mlp, mlp.fit_mlp)}


def some_digits(n: int, seed: int = 0, blank: float = 0.5) -> Digits:
    """Random digits, 3s and 7s, of which a 3 is darker above and a 7 below; a share `blank` of the pixels is blank in all."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.where(torch.rand(n, generator=generator) < 0.5, 3, 7)
    images = torch.randint(0, 120, (n, 28, 28), generator=generator)
    images[labels == 3, :14] += 60
    images[labels == 7, 14:] += 60
    images[:, torch.rand(28, 28, generator=generator) < blank] = 0
    return Digits(images.to(torch.uint8), labels)


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def autograd(model: nn.Module, digits: Digits) -> list[torch.Tensor]:
    """The gradients of the loss on all digits, in float64."""
    targets = linear.binary_targets(digits.labels).double()
    return list(torch.autograd.grad(linear.sigmoid_l1_loss(model(digits.images.double() / 255), targets), list(model.parameters())))


def stepped(model: nn.Module, digits: Digits, slope: Callable = fast_path.sigmoid_l1_slope, learning_rate: float = 1.0) -> list[torch.Tensor]:
    """How much one step on all digits takes away from the weights: with the learning rate 1, the gradient."""
    before = [p.detach().clone() for p in model.parameters()]
    signs = 1 - 2 * linear.binary_targets(digits.labels).double()
    fast_path.train_fast(fast_path.FastTrainer(linear_layers(model), digits.images, signs, slope, learning_rate, len(digits)))
    return [b - p.detach() for b, p in zip(before, model.parameters())]


def furthest(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """The largest difference, as a share of the largest number in b."""
    return max(((x - y).abs().max() / y.abs().max().clamp_min(1e-30)).item() for x, y in zip(a, b))


def a_model(sizes: tuple[int, ...], seed: int = 0) -> mlp.MLP:
    with linear.seeded(seed):
        return mlp.MLP(sizes).double()


@pytest.mark.parametrize("seed", range(40))
def test_gradients_are_autograds_for_random_depths_and_widths(seed: int) -> None:
    chance = random.Random(seed)
    hidden = [chance.choice([1, 2, 7, 15, 16, 17, 30, 31, 32, 50]) for _ in range(chance.randint(0, 4))]
    digits = some_digits(chance.choice([1, 2, 3, 8, 63, 108, 256]), seed, chance.choice([0.0, 0.3, 0.9]))
    model = a_model((784, *hidden, 1), seed)
    expected = autograd(model, digits)
    for found, wanted in zip(stepped(model, digits), expected):
        assert (found - wanted).abs().max() < 1e-10, f"widths {hidden}"


@pytest.mark.parametrize("trainer", [fast_path.FastTrainer, fast_ten.SplitTrainer])
def test_ten_classes_with_cross_entropy_need_only_another_slope(trainer: type[fast_path.FastTrainer]) -> None:
    digits = some_digits(100)
    labels = torch.arange(100) % 10
    with linear.seeded(0):
        model = mlp.MLP((784, 50, 10), classes=range(10)).double()
    loss = nn.functional.cross_entropy(model(digits.images.double() / 255), labels)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    one_hot = nn.functional.one_hot(labels, 10).double()
    fast_path.train_fast(trainer(linear_layers(model), digits.images, one_hot, fast_ten.cross_entropy_slope, 1.0, 100))
    for b, p, wanted in zip(before, model.parameters(), expected):
        assert (b - p.detach() - wanted).abs().max() < 1e-10


def sign_flipped(logits: torch.Tensor, signs: torch.Tensor, out: torch.Tensor) -> None:
    fast_path.sigmoid_l1_slope(logits, -signs, out)


def without_one_factor(logits: torch.Tensor, signs: torch.Tensor, out: torch.Tensor) -> None:
    torch.mul(signs, logits.sigmoid(), out=out)


@pytest.mark.parametrize("wrong", [sign_flipped, without_one_factor])
def test_a_wrong_slope_is_noticed(wrong: Callable) -> None:
    model, digits = a_model((784, 30, 1)), some_digits(64)
    expected = autograd(model, digits)
    assert furthest(stepped(model, digits, wrong), expected) > 0.1


def test_an_unscaled_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    descend = fast_calls._descend
    monkeypatch.setattr(fast_calls, "_descend", lambda matrix, a, slope, size: descend(matrix, a, slope, size * len(a)))
    model, digits = a_model((784, 30, 1)), some_digits(64)
    expected = autograd(model, digits)
    assert furthest(stepped(model, digits), expected) > 0.1


def test_a_forgotten_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = fast_path.backward_calls
    monkeypatch.setattr(fast_path, "backward_calls", lambda *a: [c for c in backward(*a) if getattr(getattr(c, "func", c), "__name__", "") != "mul_"])
    model, digits = a_model((784, 30, 1)), some_digits(64)
    expected = autograd(model, digits)
    assert furthest(stepped(model, digits), expected) > 0.1


def after(fit: Callable, digits: Digits, **how: object) -> list[torch.Tensor]:
    return [p.detach() for p in fit(digits, **how).parameters()]


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("n, batch_size", [(700, 256), (512, 256), (100, 256), (300, 7)])
def test_the_weights_are_those_of_the_chapter(kind: str, n: int, batch_size: int) -> None:
    fast, chapter = FITS[kind]
    digits = some_digits(n)
    for seed in (0, 1):
        ours, theirs = (after(fit, digits, epochs=3, seed=seed, batch_size=batch_size) for fit in (fast, chapter))
        assert max((a - b).abs().max().item() for a, b in zip(ours, theirs)) < 1e-4
    assert max((a - b).abs().max().item() for a, b in zip(ours, after(fast, digits, epochs=3, seed=0))) > 1e-3, "another seed, other weights"


@pytest.mark.parametrize("kind", FITS)
def test_in_64_bits_the_weights_agree_to_nine_digits(kind: str) -> None:
    digits, (fast, _) = some_digits(700), FITS[kind]
    with linear.seeded(3):
        model = (linear.LinearModel() if kind == "linear" else mlp.MLP()).double()
    optimizer = linear.BasicOptim(model.parameters(), 1.0 if kind == "linear" else 0.1)
    batches = Batches(digits.images, linear.binary_targets(digits.labels).double(), 256, shuffle=True, seed=3)
    for _ in range(4):
        images, targets = batches.permuted()
        pairs = [(x.double() / 255, y) for x, y in zip(images.split(256), targets.split(256))]
        linear.train_epoch(model, pairs, linear.sigmoid_l1_loss, optimizer)
    ours = fast(digits, epochs=4, seed=3, dtype=torch.float64)
    assert max((p - q).detach().abs().max().item() for p, q in zip(ours.parameters(), model.parameters())) < 1e-9


def test_the_defaults_are_those_of_the_chapters(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = some_digits(60)
    for fast, chapter in FITS.values():
        ours, theirs = (after(fit, digits) for fit in (fast, chapter))
        assert max((a - b).abs().max().item() for a, b in zip(ours, theirs)) < 1e-4


def test_no_epoch_leaves_the_first_weights_and_the_generator_of_others_alone() -> None:
    digits = some_digits(50)
    state = torch.random.get_rng_state()
    model = fast_path.fit_mlp(digits, epochs=0, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    for p, q in zip(model.parameters(), mlp.fit_mlp(digits, epochs=0, seed=5).parameters()):
        assert torch.allclose(p, q, atol=1e-8)


@pytest.mark.parametrize("inked", [[], [0], [783], list(range(784)), [3, 4, 5, 20, 21, 400]])
def test_rows_of_bytes_hold_the_pixels_asked_for(inked: list[int]) -> None:
    images = some_digits(9, blank=0.0).images
    where = torch.tensor(inked, dtype=torch.int64)
    rows = fast_path.byte_rows(images, where)
    assert rows.dtype == torch.uint8 and rows.shape[1] % 16 == 0 and rows.shape[1] > len(inked)
    assert torch.equal(rows[:, : len(inked)], images.flatten(1)[:, where])
    assert rows[:, len(inked)].eq(255).all() and rows[:, len(inked) + 1 :].eq(0).all()


def test_pixels_that_training_never_saw_keep_their_weights_and_count_in_the_answer() -> None:
    digits, other = some_digits(300, blank=0.6), some_digits(40, seed=1, blank=0.0)
    model = fast_path.fit_mlp(digits, epochs=2)
    with linear.seeded(0):
        first = mlp.MLP()
    blank = digits.images.amax(0).flatten() == 0
    assert torch.equal(linear_layers(model)[0].weight[:, blank], linear_layers(first)[0].weight[:, blank])
    rows = fast_path.byte_rows(other.images, torch.arange(784))
    for batch_size in (7, 512):
        assert torch.allclose(fast_path.fast_logits(linear_layers(model), rows, batch_size), model(other.floats()).detach(), atol=1e-5)


def test_blank_images_do_no_harm() -> None:
    blank = Digits(torch.zeros(5, 28, 28, dtype=torch.uint8), torch.tensor([3, 3, 7, 3, 7]))
    ours, theirs = (after(fit, blank, epochs=2) for fit in FITS["mlp"])
    assert max((a - b).abs().max().item() for a, b in zip(ours, theirs)) < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", FITS)
def test_a_gpu_gives_the_same_weights(kind: str) -> None:
    digits = some_digits(700)
    on_cpu, on_gpu = (after(FITS[kind][0], digits.to(device), epochs=3, dtype=torch.float64) for device in ("cpu", "cuda"))
    assert max((a - b.cpu()).abs().max().item() for a, b in zip(on_cpu, on_gpu)) < 1e-9


# ---- ten digits


def ten_kinds(n: int, seed: int = 0, blank: float = 0.3) -> Digits:
    """Random digits of ten classes with much paper: a row of full ink says which; some pixels have ink in one image of twenty, some in half."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (n,), generator=generator)
    often = torch.where(torch.rand(28, 28, generator=generator) < 0.5, 0.05, 0.5)
    images = torch.randint(1, 200, (n, 28, 28), generator=generator) * (torch.rand(n, 28, 28, generator=generator) < often)
    images[torch.arange(n), 2 * labels + 4, 5:20] = 255
    images[:, torch.rand(28, 28, generator=generator) < blank] = 0
    return Digits(images.to(torch.uint8), labels)


def by_chapter(digits: Digits, epochs: int, seed: int, learning_rate: float, batch_size: int, sizes: tuple[int, ...]) -> list[torch.Tensor]:
    """What `multiclass.fit_multiclass` does, in float64."""
    with linear.seeded(seed):
        model = multiclass.he_start(mlp.MLP(sizes, range(10))).double()
    optimizer = linear.BasicOptim(model.parameters(), learning_rate)
    batches = Batches(digits.images, digits.labels, batch_size, shuffle=True, seed=seed)
    for _ in range(epochs):
        for x, y in zip(*(part.split(batch_size) for part in batches.permuted())):
            multiclass.cross_entropy(model(x.double() / 255), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("sizes", [(784, 500, 10), (784, 10), (784, 17, 30, 10)])
@pytest.mark.parametrize("n, batch_size", [(700, 256), (512, 256), (100, 1000), (30, 7)])
def test_ten_digits_in_64_bits_agree_with_the_chapter_to_nine_digits(sizes: tuple[int, ...], n: int, batch_size: int) -> None:
    digits = ten_kinds(n)
    ours = after(fast_ten.fit_multiclass, digits, epochs=4, seed=3, learning_rate=0.2, batch_size=batch_size, sizes=sizes, dtype=torch.float64)
    theirs = by_chapter(digits, 4, 3, 0.2, batch_size, sizes)
    assert max((a - b).abs().max().item() for a, b in zip(ours, theirs)) < 1e-9
    assert max((a - b).abs().max().item() for a, b in zip(by_chapter(digits, 0, 3, 0.2, batch_size, sizes), theirs)) > 1e-2, "it has learned"


def test_the_defaults_for_ten_digits_are_those_of_the_chapter() -> None:
    digits = ten_kinds(60)
    ours, theirs = fast_ten.fit_multiclass(digits), multiclass.fit_multiclass(digits)
    assert ours.classes == theirs.classes == tuple(range(10))
    assert max((a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters())) < 1e-3
    state = torch.random.get_rng_state()
    start = after(fast_ten.fit_multiclass, digits, epochs=0, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(start, after(multiclass.fit_multiclass, digits, epochs=0, seed=5)))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("blank", [0.0, 0.9, 1.0])
def test_where_the_list_begins_changes_nothing(share: float, blank: float) -> None:
    digits, found = ten_kinds(200, blank=blank), []
    for make in (fast_path.FastTrainer, lambda *a: fast_ten.SplitTrainer(*a, share=share)):
        model = a_model((784, 20, 1))
        layers, targets = linear_layers(model), (digits.labels < 5).double().unsqueeze(1)
        fast_path.train_fast(make(layers, digits.images, 1 - 2 * targets, fast_path.sigmoid_l1_slope, 1.0, 64, 1), 3)
        found.append([p.detach() for p in model.parameters()])
    assert max((a - b).abs().max().item() for a, b in zip(*found)) < 1e-12


def test_rare_ink_is_what_is_there_in_every_order() -> None:
    images, pixels = ten_kinds(101).images, torch.arange(0, 784, 3)
    ink = fast_ten.RareInk(images, pixels, 25, torch.float64)
    table, slopes = torch.randn(len(pixels), 6, dtype=torch.float64), torch.randn(101, 6, dtype=torch.float64)
    for order in (torch.arange(101), torch.randperm(101), torch.arange(101).flip(0)):
        ink.arrange(order)
        for number, (rows, slope) in enumerate(zip(images[order].flatten(1)[:, pixels].double().split(25), slopes.split(25))):
            out, weights = torch.ones(len(rows), 6, dtype=torch.float64), table.clone()
            fast_ten.add_ink(ink, table, number, out)
            fast_ten.descend_ink(ink, weights, number, slope, 0.5)
            assert torch.allclose(out, 1 + rows @ table, atol=1e-9) and torch.allclose(weights, table - 0.5 * rows.t() @ slope, atol=1e-9)


def test_a_list_left_in_the_old_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    digits, how = ten_kinds(300), {"epochs": 2, "batch_size": 100, "sizes": (784, 20, 10), "dtype": torch.float64}
    right = after(fast_ten.fit_multiclass, digits, **how)
    monkeypatch.setattr(fast_ten.SplitTrainer, "shuffle", fast_path.FastTrainer.shuffle)
    assert max((a - b).abs().max().item() for a, b in zip(right, after(fast_ten.fit_multiclass, digits, **how))) > 1e-3


def test_ten_digits_refuse_what_does_not_fit() -> None:
    digits = ten_kinds(50)
    for sizes in ((784, 8, 2), (728, 30, 10), (784,), (), (784, 0, 10)):
        with pytest.raises(ValueError, match=r"; .*\.$"):
            fast_ten.fit_multiclass(digits, 1, sizes=sizes)
    with pytest.raises(ValueError, match="batch_size is 0"):
        fast_ten.fit_multiclass(digits, 1, batch_size=0)
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        fast_ten.fit_multiclass(digits, 3, learning_rate=1e30)


def test_cross_entropy_has_its_slope_even_for_huge_logits() -> None:
    logits = 1000 * torch.randn(40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, out = torch.arange(40) % 10, torch.empty(40, 10, dtype=torch.float64)
    wanted = torch.autograd.grad(F.cross_entropy(logits.requires_grad_(), labels, reduction="sum"), logits)[0]
    fast_ten.cross_entropy_slope(logits.detach(), F.one_hot(labels, 10), out)
    assert torch.allclose(out, wanted, atol=1e-12) and out.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_weights_for_ten_digits() -> None:
    digits = ten_kinds(700)
    on_cpu, on_gpu = (after(fast_ten.fit_multiclass, digits.to(device), epochs=3, dtype=torch.float64) for device in ("cpu", "cuda"))
    assert max((a - b.cpu()).abs().max().item() for a, b in zip(on_cpu, on_gpu)) < 1e-9


# ---- an epoch as a recording, without data, in shares


def a_trainer(
    digits: Digits, sizes: tuple[int, ...] = (784, 20, 1), make: type = fast_path.FastTrainer, batch_size: int = 64
) -> fast_path.FastTrainer:
    with linear.seeded(0):
        layers = linear_layers(mlp.MLP(sizes, classes=range(max(2, sizes[-1]))).to(digits.images.device))
    targets = F.one_hot(digits.labels, 10).float() if sizes[-1] == 10 else 1 - 2 * linear.binary_targets(digits.labels)
    slope = fast_ten.cross_entropy_slope if sizes[-1] == 10 else fast_path.sigmoid_l1_slope
    return make(layers, digits.images, targets, slope, 0.5, batch_size, 3)


def weights_after(trainer: fast_path.FastTrainer, n_epochs: int) -> list[torch.Tensor]:
    fast_path.train_fast(trainer, n_epochs)
    return [p.detach() for layer in trainer.layers for p in layer.parameters()]


@pytest.mark.parametrize("sizes", [(784, 1), (784, 20, 1), (784, 20, 10)])
def test_a_recorded_epoch_gives_the_weights_of_the_calls(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    digits = ten_kinds(200)
    called, wanted = a_trainer(digits, sizes), weights_after(a_trainer(digits, sizes), 4)
    monkeypatch.setattr(graphs, "_recording", recording_on_cpu)
    monkeypatch.setattr(fast_path, "Replayed", lambda work, device, state, record, n_warm: graphs.Replayed(work, device, state, True))
    trainer = a_trainer(digits, sizes)
    assert all(torch.equal(a, b) for a, b in zip(weights_after(trainer, 4), wanted, strict=True))
    assert trainer.replayed.repeat.__self__.operations and trainer.replayed.seconds > 0
    weights_after(called, 1)
    monkeypatch.setattr(fast_path.FastTrainer, "state", lambda self: {"x": self.matrices[0].new_zeros(1)})
    assert not torch.equal(weights_after(a_trainer(digits, sizes), 1)[0], called.layers[0].weight), "a weight that the runs before have moved"


@torch.no_grad()
def test_an_epoch_asks_nothing_of_the_host_but_the_list_of_rare_ink_does() -> None:
    digits = ten_kinds(200)
    for sizes in ((784, 1), (784, 20, 1), (784, 20, 10)):
        trainer = a_trainer(digits, sizes)
        orders = trainer.orders(2)
        recorded(partial(trainer.epoch, orders[1]))
    split = a_trainer(digits, (784, 20, 10), fast_ten.SplitTrainer)
    with pytest.raises(CannotBeRecorded):
        recorded(lambda: split.epoch(split.orders(1)[0]))
    assert not split.replayable and fast_path.FastTrainer.replayable


@torch.no_grad()
def test_a_learning_rate_that_python_changes_is_frozen_by_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = a_trainer(ten_kinds(64), (784, 1))
    trainer.shuffle(trainer.orders(1)[0])
    before = trainer.matrices[0].clone()
    recording = recorded(trainer.take_steps)
    step = trainer.matrices[0] - before
    trainer.matrices[0].copy_(before)
    trainer.learning_rate = 5.0
    recording.replay()
    assert torch.equal(trainer.matrices[0] - before, step) and step.any()


@pytest.mark.parametrize("sizes", [(784, 1), (784, 20, 1), (784, 20, 10)])
@torch.no_grad()
def test_an_epoch_runs_without_data(sizes: tuple[int, ...]) -> None:
    """On the device meta every operation checks shapes and types, and whatever asks for a number fails."""
    images, inked = torch.empty(200, 28, 28, dtype=torch.uint8, device="meta"), torch.arange(100, 500)
    layers = linear_layers(mlp.MLP(sizes, classes=range(max(2, sizes[-1]))).to("meta"))
    slope = fast_ten.cross_entropy_slope if sizes[-1] == 10 else fast_path.sigmoid_l1_slope
    trainer = fast_path.FastTrainer(layers, images, torch.empty(200, sizes[-1], device="meta"), slope, 0.5, 64, 3, inked)
    assert len(trainer.calls) > 4 * len(sizes) and trainer.orders(2).device.type == "meta"
    fast_path.train_fast(trainer, 2)
    with pytest.raises((RuntimeError, NotImplementedError)):
        fast_path.FastTrainer(layers, images, torch.empty(200, sizes[-1], device="meta"), slope, 0.5)


def test_orders_are_those_of_batches_whatever_is_asked_for_at_once() -> None:
    digits = some_digits(700)
    batches, at_once, singly = Batches(torch.arange(700, dtype=torch.uint8).view(-1, 1, 1), torch.arange(700), 256, shuffle=True, seed=3), *(
        a_trainer(digits) for _ in range(2)
    )  # fmt: skip
    orders = at_once.orders(3)
    assert orders.dtype == torch.int32
    for order in orders:
        assert order.tolist() == batches.permuted()[1].tolist() == singly.orders(1)[0].tolist()


def as_one_of(size: int, mine: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends to be one of several processes."""
    monkeypatch.setattr(processes, "rank", lambda: mine)
    for module in (processes, fast_path, fast_ten):
        monkeypatch.setattr(module, "world_size", lambda: size)


@pytest.mark.parametrize("n, batch_size, size", [(200, 64, 2), (201, 64, 3), (65, 64, 2), (5, 2, 3), (7, 100, 4)])
def test_the_shares_of_an_order_do_not_overlap_and_make_the_batches(n: int, batch_size: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = some_digits(n)
    whole, shares = a_trainer(digits, batch_size=batch_size).orders(2), []
    for mine in range(size):
        as_one_of(size, mine, monkeypatch)
        trainer = a_trainer(digits, batch_size=batch_size)
        widths = [len(p[processes.part(len(p))]) for p in torch.arange(n).split(batch_size)]
        shares.append([order.split(widths) for order in trainer.orders(2)])
        assert len(trainer.permuted[0]) == sum(widths) and trainer.sizes == [len(p) for p in torch.arange(n).split(batch_size)]
    for order, parts in zip(whole, zip(*shares)):
        for batch, found in zip(order.split(batch_size), zip(*parts), strict=True):
            assert torch.equal(torch.cat(found), batch)


@pytest.mark.parametrize("sizes", [(784, 1), (784, 20, 1), (784, 17, 30, 10)])
@torch.no_grad()
def test_the_gradients_of_the_shares_add_up(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes in turn, each up to the message: the sum of what they would send is the step of a single one."""
    digits, sent = ten_kinds(62), []
    alone = a_trainer(digits, sizes)
    before = [m.clone() for m in alone.matrices]
    alone.epoch(alone.orders(1)[0])
    monkeypatch.setattr(fast_calls, "add_up", lambda sums: sent.append(sums.clone()))
    for mine in range(3):
        as_one_of(3, mine, monkeypatch)
        trainer = a_trainer(digits, sizes)
        trainer.epoch(trainer.orders(1)[0])
    total = sum(sent).split([m.numel() for m in before])
    for i, (matrix, was, gradient) in enumerate(zip(alone.matrices, before, total)):
        assert torch.allclose(was - matrix, gradient.view(matrix.shape) * 0.5 / 62 / (1 if i else 255**2), atol=1e-6)
    with pytest.raises(ValueError, match="SplitTrainer is for a single process; use FastTrainer"):
        a_trainer(digits, sizes, fast_ten.SplitTrainer)


def test_several_processes_and_gpus_do_not_use_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    digits, made = ten_kinds(50), []
    monkeypatch.setattr(fast_ten, "FastTrainer", lambda *how: made.append("dense") or fast_path.FastTrainer(*how))
    monkeypatch.setattr(fast_ten, "SplitTrainer", lambda *how: made.append("list") or fast_path.FastTrainer(*how))
    fast_ten.fit_multiclass(digits, 1, sizes=(784, 10))
    monkeypatch.setattr(fast_ten, "world_size", lambda: 2)
    fast_ten.fit_multiclass(digits, 1, sizes=(784, 10))
    assert made == ["list", "dense"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [(784, 1), (784, 20, 1), (784, 20, 10)])
def test_on_a_gpu_a_recorded_epoch_gives_the_weights_of_the_calls(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    digits = ten_kinds(700).to("cuda")
    wanted = weights_after(a_trainer(digits, sizes), 4)
    trainer = a_trainer(digits, sizes)
    monkeypatch.setattr(trainer, "replayable", False)
    for a, b in zip(weights_after(trainer, 4), wanted):
        assert torch.allclose(a, b, atol=1e-5)
    orders = trainer.orders(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.no_grad():
            trainer.epoch(orders[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- bench/training.py


@pytest.fixture
def splits() -> DigitSplits:
    return DigitSplits(some_digits(600), some_digits(100, seed=1), "some digits", "a test")


@pytest.fixture
def ten() -> DigitSplits:
    return DigitSplits(ten_kinds(600), ten_kinds(100, seed=1), "some digits", "a test")


def test_the_measurement_runs_and_writes_its_three_files(
    splits: DigitSplits, ten: DigitSplits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision
    assert training.main(["--rounds", "1", "--threads", "1", "--no-compile", "--out", str(tmp_path)], splits, ten) == 0
    assert (torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision) == before
    report = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    page = (tmp_path / "training.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page and "Digits: some digits" in page
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    assert {r["model"] for r in report["rows"]} == {"linear", "MLP", "ten digits"} and len(report["rows"]) == 30
    assert [g["name"] for g in report["goals"]] == list(training.GOALS)
    assert all(r["median"] > 0 and r["way"] in page for r in report["rows"])


def half_of_it(logits: torch.Tensor, one_hot: torch.Tensor, out: torch.Tensor) -> None:
    fast_ten.cross_entropy_slope(logits, one_hot, out)
    out.div_(2)


@pytest.mark.parametrize("kind, wrong", [("linear", sign_flipped), ("MLP", sign_flipped), ("ten digits", half_of_it)])
def test_the_measurement_stops_if_a_way_computes_something_else(
    kind: str, wrong: Callable, splits: DigitSplits, ten: DigitSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(training.TASKS, kind, replace(training.TASKS[kind], slope=wrong))
    with pytest.raises(SystemExit, match="weights differ by .* a way computes something else"):
        training.main(["--rounds", "1", "--threads", "1", "--no-compile", "--out", str(tmp_path)], splits, ten)
    assert not list(tmp_path.iterdir())


def test_the_setting_for_products_is_put_back_after_an_error() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(RuntimeError, match="stop"), training.onednn():
        raise RuntimeError("stop")
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_without_the_setting_products_go_where_they_always_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch 2.11 and newer may lack it."""
    for missing in (object(), None):
        monkeypatch.setattr(torch.backends.mkldnn, "matmul", missing)
        with training.onednn():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).eq(2).all()


def test_the_setting_is_not_used_where_its_error_is_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor with units for 16 bits the products are rounded; here we pretend."""
    setting, real = torch.backends.mkldnn.matmul, torch.Tensor.__matmul__
    before = setting.fp32_precision

    def rounding(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return real(a.bfloat16().float(), b.bfloat16().float()) if a.dtype == torch.float32 and setting.fp32_precision == "bf16" else real(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    with training.onednn():
        assert setting.fp32_precision == before
    assert setting.fp32_precision == before


def test_the_fast_path_refuses_what_the_chapters_refuse() -> None:
    images, labels = torch.randint(0, 256, (50, 28, 28), dtype=torch.uint8), torch.tensor([3, 7]).repeat(25)
    digits = Digits(images, labels)
    for sizes in ((784, 8, 2), (728, 30, 1), (800, 30, 1)):
        if sizes[-1] == 1:
            with pytest.raises(ValueError):
                mlp.fit_mlp(digits, 1, sizes=sizes)
        with pytest.raises(ValueError):
            fast_path.fit_mlp(digits, 1, sizes=sizes)
    with pytest.raises(ValueError, match="batch_size is 0"):
        fast_path.fit_linear(digits, 1, batch_size=0)
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        fast_path.fit_mlp(digits, 3, learning_rate=1e30)


def test_a_batch_larger_than_the_set_needs_no_memory_of_its_size() -> None:
    images, labels = torch.randint(0, 256, (50, 28, 28), dtype=torch.uint8), torch.tensor([3, 7]).repeat(25)
    model = fast_path.fit_linear(Digits(images, labels), 2, batch_size=10**9)
    again = fast_path.fit_linear(Digits(images, labels), 2, batch_size=50)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), again.parameters()))
