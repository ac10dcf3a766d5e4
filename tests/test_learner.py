"""The Learner against bare loops, to the last bit; its callbacks, records and schedules; and that it survives interruptions."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from pixels_to_resnet.batches import Batches
from pixels_to_resnet.callbacks import Progress, Recorder, ToDevice
from pixels_to_resnet.learner import EVENTS, EarlyStopping, Learner, StopFit
from pixels_to_resnet.linear import BasicOptim, LinearModel, binary_accuracy, seeded, sigmoid_l1_loss, train_epoch
from pixels_to_resnet.schedules import OneCycle, find_learning_rate, learning_rate_of, one_cycle, set_learning_rate

N_TRAIN, N_VALID, BATCH = 300, 90, 64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are added up in one order only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`n` images of noise, uint8, of which those with target 1 have more ink in the upper half."""
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, 1, generator=generator) > 0.5).float()
    images = torch.rand(n, 28, 28, generator=generator) * 128
    images[:, :14] += targets[:, :, None] * 40
    return images.to(torch.uint8), targets


def train_batches(seed: int = 0) -> Batches:
    return Batches(*noise(N_TRAIN, 0), BATCH, shuffle=True, seed=seed)


def valid_batches() -> Batches:
    return Batches(*noise(N_VALID, 1), BATCH)


def linear() -> nn.Module:
    with seeded(0):
        return LinearModel()


def mlp() -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 1))


def normed() -> nn.Module:
    """A model that differs between training and evaluation, and has buffers."""
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 1))


def make(
    model: nn.Module, learning_rate: float = 0.3, optimizer: Callable = BasicOptim, kind: type[Learner] = Learner, **options: object
) -> Learner:
    parts = {"loss_function": sigmoid_l1_loss, "optimizer": optimizer(model.parameters(), learning_rate), **options}
    return kind(model, train_batches(), valid_batches(), **parts)


def by_loop(model: nn.Module, n_epochs: int, learning_rate: float = 0.3, optimizer: Callable = BasicOptim) -> nn.Module:
    batches, stepper = train_batches(), optimizer(model.parameters(), learning_rate)
    for _ in range(n_epochs):
        train_epoch(model, batches, sigmoid_l1_loss, stepper)
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# Equality


@pytest.mark.parametrize("optimizer", [BasicOptim, torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("model", [linear, mlp, normed])
def test_a_bare_loop_and_the_learner_end_with_identical_weights(model: Callable, optimizer: Callable) -> None:
    learner = make(model(), optimizer=optimizer)
    learner.fit(2)
    learner.fit(1)
    assert same(learner.model, by_loop(model(), 3, optimizer=optimizer))
    assert not same(learner.model, model())


@pytest.mark.parametrize("model", [linear, mlp])
def test_fastais_learner_ends_with_the_same_weights_bit_for_bit(model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastai.callback.progress  # noqa: F401
    from fastai import torch_core
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner as FastaiLearner
    from fastai.optimizer import SGD

    monkeypatch.setattr(torch_core.defaults, "use_cuda", False)
    learn = FastaiLearner(DataLoaders(train_batches(), valid_batches()), model(), loss_func=sigmoid_l1_loss, opt_func=SGD, metrics=binary_accuracy)
    learn.recorder.add_time = False
    with learn.no_bar(), learn.no_logging():
        learn.fit(3, lr=0.3)
    own = make(model())
    own.fit(3)
    assert same(own.model, learn.model)
    for record, theirs in zip(own.history, learn.recorder.values, strict=True):
        assert record["valid_loss"] == pytest.approx(theirs[1], abs=1e-6) and record["accuracy"] == pytest.approx(theirs[2], abs=1e-6)


class Forgetful(BasicOptim):
    """Does not empty the gradients."""

    def zero_grad(self) -> None: ...


class Rounding(BasicOptim):
    """The same step on paper, rounded more often, on every processor."""

    @torch.no_grad()
    def step(self) -> None:
        for p in self.parameters:
            p.copy_((p / self.learning_rate - p.grad) * self.learning_rate)


class Unshuffled(Learner):
    """Walks through the batches in another order."""

    def _train_epoch(self) -> float:
        self.train.shuffle = False
        return super()._train_epoch()


@pytest.mark.parametrize("broken", [{"optimizer": Forgetful}, {"optimizer": Rounding}, {"kind": Unshuffled}])
def test_the_comparison_notices_what_is_broken(broken: dict) -> None:
    learner = make(mlp(), **broken)
    learner.fit(3)
    assert not same(learner.model, by_loop(mlp(), 3))


def test_watching_callbacks_change_nothing() -> None:
    watchers = [ToDevice("cpu"), Recorder(), Progress([].append), EarlyStopping("train_loss", patience=10)]
    learner = make(mlp(), callbacks=watchers)
    learner.fit(3)
    assert same(learner.model, by_loop(mlp(), 3))


def test_any_loader_will_do() -> None:
    images, targets = noise(N_TRAIN, 0)
    loader = DataLoader(TensorDataset(images / 255, targets), BATCH)
    models = []
    for train in (loader, list(loader), Batches(images, targets, BATCH)):
        model = mlp()
        Learner(model, train, loss_function=sigmoid_l1_loss, optimizer=BasicOptim(model.parameters(), 0.3)).fit(2)
        models.append(model)
    assert same(models[0], models[1]) and same(models[0], models[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_learner_on_a_gpu() -> None:
    learner = make(mlp(), callbacks=[ToDevice("cuda")])
    assert learner.validate()["loss"] > 0
    learner.fit(3)
    expected = by_loop(mlp(), 3)
    assert all(torch.allclose(p.cpu(), q, atol=1e-5) for p, q in zip(learner.model.parameters(), expected.parameters()))


def test_before_the_first_fit_batches_go_to_where_the_model_is() -> None:
    learner = make(mlp(), callbacks=[ToDevice("meta")])
    assert math.isfinite(learner.validate()["loss"])
    learner.call("before_fit")
    learner.batch = next(iter(learner.train))
    learner.call("before_batch")
    assert [part.device.type for part in learner.batch] == ["meta", "meta"] and learner.model[1].weight.is_meta


# The record


class Unweighted(Learner):
    """Averages batches, not items."""

    def validate(self, batches: object = None) -> dict[str, float]:
        return {
            name: sum(Learner.validate(self, [batch])[name] for batch in self.valid) / len(self.valid) for name in ("loss", *self.metrics)
        }


@pytest.mark.parametrize("kind, right", [(Learner, True), (Unweighted, False)])
def test_the_record_holds_means_over_items(kind: type[Learner], right: bool) -> None:
    learner = make(mlp(), kind=kind)
    learner.fit(2)
    images, targets = noise(N_VALID, 1)
    with torch.no_grad():
        logits = learner.model(images / 255)
    record = learner.history[-1]
    hits = int(((logits > 0) == (targets > 0.5)).sum())
    assert (abs(record["accuracy"] - hits / N_VALID) < 1e-7) is right
    assert (abs(record["valid_loss"] - sigmoid_l1_loss(logits, targets).item()) < 1e-6) is right


def test_the_training_loss_is_the_mean_over_the_steps() -> None:
    recorder = Recorder()
    learner = make(mlp(), callbacks=[recorder])
    learner.fit(1)
    sizes = [64, 64, 64, 64, 44]
    assert learner.history[0]["train_loss"] == pytest.approx(sum(v * n for v, n in zip(recorder.losses, sizes, strict=True)) / N_TRAIN, abs=1e-9)


def test_epochs_are_counted_on_and_the_record_has_its_names() -> None:
    learner = make(mlp(), metrics={"accuracy": binary_accuracy, "mean": lambda logits, targets: logits.mean().item()})
    learner.fit(2)
    learner.fit(0)
    learner.fit(1)
    assert [list(record) for record in learner.history] == [["epoch", "train_loss", "valid_loss", "accuracy", "mean"]] * 3
    assert [record["epoch"] for record in learner.history] == [1, 2, 3]
    assert all(isinstance(value, (int, float)) for record in learner.history for value in record.values())


def test_without_validation_the_record_is_short() -> None:
    model = mlp()
    learner = Learner(model, train_batches(), loss_function=sigmoid_l1_loss, optimizer=BasicOptim(model.parameters(), 0.3))
    learner.fit(1)
    assert list(learner.history[0]) == ["epoch", "train_loss"]


@pytest.mark.parametrize("n_batches", [2, 5])
def test_numbers_are_read_once_an_epoch_and_not_once_a_batch(n_batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *a, name=name, original=original, **k: reads.append(name) or original(self, *a, **k))
    model, batches = mlp(), list(train_batches())[:n_batches]
    learner = Learner(model, batches, batches, loss_function=F.mse_loss, optimizer=BasicOptim(model.parameters(), 0.01), callbacks=[Recorder()])
    learner.fit(3)
    assert reads == ["tolist"] * (3 * 3 + 1), "an epoch: training loss, validation loss, accuracy; at the end the recorder"


# Modes


class Modes:
    def __init__(self) -> None:
        self.seen: list[tuple] = []

    def before_batch(self, learner: Learner) -> None:
        self.seen.append((learner.training, learner.model.training, torch.is_grad_enabled()))


@pytest.mark.parametrize("was_training", [True, False])
def test_training_and_evaluation_mode(was_training: bool) -> None:
    modes = Modes()
    learner = make(normed(), callbacks=[modes])
    learner.model.train(was_training)
    learner.fit(2)
    assert modes.seen == ([(True, True, True)] * 5 + [(False, False, False)] * 2) * 2
    assert learner.model.training is was_training
    learner.validate()
    assert learner.model.training is was_training


def test_a_metric_that_fails_leaves_the_mode_as_it_was() -> None:
    def fails(logits: torch.Tensor, targets: torch.Tensor) -> float:
        raise ZeroDivisionError

    learner = make(normed(), metrics={"fails": fails})
    with pytest.raises(ZeroDivisionError):
        learner.validate()
    assert learner.model.training and torch.is_grad_enabled()


# Callbacks


class Log:
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def __getattr__(self, event: str) -> Callable:
        if event not in EVENTS:
            raise AttributeError(event)
        return lambda learner: self.seen.append(f"{self.name} {event}")


def test_events_come_in_order_and_callbacks_in_theirs() -> None:
    seen: list[str] = []
    model, batches = mlp(), list(train_batches())
    learner = Learner(
        model, batches[:2], batches[2:3], loss_function=sigmoid_l1_loss, optimizer=BasicOptim(model.parameters(), 0.3), callbacks=[Log("a", seen)]
    )
    learner.fit(1, [Log("b", seen)])
    step = ["before_batch", "after_backward", "after_batch"]
    events = ["before_fit", "before_epoch", *step, *step, "before_batch", "after_epoch", "after_fit"]
    assert seen == [f"{name} {event}" for event in events for name in "ab"]
    seen.clear()
    learner.fit(1)
    assert seen == [f"a {event}" for event in events], "callbacks of one fit do not stay"


def test_a_callback_can_change_the_batch_the_gradient_and_the_record() -> None:
    class Meddler:
        def before_batch(self, learner: Learner) -> None:
            learner.batch = (torch.zeros_like(learner.batch[0]), learner.batch[1])

        def after_backward(self, learner: Learner) -> None:
            assert learner.model[1].weight.grad.abs().max() == 0, "no ink, no gradient of the weights"
            learner.model[3].bias.grad.zero_()

        def after_epoch(self, learner: Learner) -> None:
            learner.history[-1]["extra"] = learner.validate(learner.train)["accuracy"]

    learner = make(mlp(), callbacks=[Meddler()])
    bias = learner.model[3].bias.clone()
    learner.fit(2)
    assert torch.equal(learner.model[3].bias, bias) and "extra" in learner.history[-1]


def thrower(event: str, error: type[BaseException]) -> object:
    """A callback that raises `error` at `event`."""
    return type("Thrower", (), {event: lambda self, learner: (_ for _ in ()).throw(error())})()


@pytest.mark.parametrize("event", EVENTS)
def test_stop_fit_ends_the_fit_quietly(event: str) -> None:
    seen: list[str] = []
    learner = make(mlp(), callbacks=[Log("log", seen)])
    learner.fit(3, [thrower(event, StopFit)])
    assert seen[-1] == ("log before_fit" if event == "before_fit" else "log after_fit")
    assert len(learner.history) == {"after_epoch": 1, "after_fit": 3}.get(event, 0)


@pytest.mark.parametrize("error", [StopFit, KeyboardInterrupt])
@pytest.mark.parametrize("event", EVENTS)
def test_callbacks_of_a_fit_that_was_broken_off_do_not_stay(event: str, error: type[BaseException]) -> None:
    seen: list[str] = []
    learner = make(normed())
    learner.model.eval()
    with nullcontext() if error is StopFit else pytest.raises(error):
        learner.fit(1, [Log("log", seen), thrower(event, error)])
    seen.clear()
    learner.validate()
    assert seen == [] and not learner.model.training


class Raises:
    """Raises `error` when `event` comes for the `n`th time."""

    def __init__(self, event: str, n: int, error: type[BaseException]) -> None:
        self.n, self.error = n, error
        setattr(self, event, self.count)

    def count(self, learner: Learner) -> None:
        self.n -= 1
        if self.n == 0:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(
    "event, n", [("before_epoch", 2), ("before_batch", 9), ("before_batch", 13), ("after_backward", 8), ("after_batch", 8), ("after_epoch", 2)]
)
def test_an_interrupted_fit_leaves_a_usable_learner(event: str, n: int, error: type[BaseException]) -> None:
    seen: list[str] = []
    recorder = Recorder()
    learner = make(normed(), callbacks=[Log("log", seen), recorder])
    learner.model.eval()
    with pytest.raises(error):
        learner.fit(5, [Raises(event, n, error)])
    assert seen.count("log after_fit") == 1 and seen[-1] == "log after_fit"
    assert [record["epoch"] for record in learner.history] == ([1, 2] if event == "after_epoch" else [1])
    assert all(isinstance(loss, float) for loss in recorder.losses) and not learner.model.training and torch.is_grad_enabled()
    learner.fit(1)
    assert learner.history[-1]["epoch"] == len(learner.history) and math.isfinite(learner.history[-1]["train_loss"])


@pytest.mark.parametrize("forgets", [False, True])
def test_a_gradient_left_by_an_interruption_is_not_in_the_next_step(forgets: bool) -> None:
    model = mlp()
    batches = list(train_batches())[:1]
    learner = Learner(model, batches, loss_function=sigmoid_l1_loss, optimizer=BasicOptim(model.parameters(), 0.3))
    with pytest.raises(KeyboardInterrupt):
        learner.fit(1, [Raises("after_backward", 1, KeyboardInterrupt)])
    assert model[1].weight.grad is not None
    if forgets:
        learner.optimizer.zero_grad = lambda: None
    learner.fit(1)
    expected = mlp()
    train_epoch(expected, batches, sigmoid_l1_loss, BasicOptim(expected.parameters(), 0.3))
    assert same(model, expected) is not forgets


def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy() -> None:
    learner = make(mlp(), 1e6, loss_function=F.mse_loss)
    with pytest.raises(FloatingPointError, match="training loss of epoch 1 is .*smaller learning rate"):
        learner.fit(5)
    assert len(learner.history) == 1


def test_no_callback_hides_a_loss_that_is_not_finite() -> None:
    for callback in (EarlyStopping(patience=1), thrower("after_epoch", StopFit)):
        learner = make(mlp(), 1e6, loss_function=F.mse_loss)
        with pytest.raises(FloatingPointError, match="training loss of epoch 1"):
            learner.fit(5, [callback])


def test_batches_that_can_be_walked_through_only_once() -> None:
    model = mlp()
    learner = Learner(model, iter(list(train_batches())), loss_function=sigmoid_l1_loss, optimizer=BasicOptim(model.parameters(), 0.3))
    with pytest.raises(ValueError, match="train gave no batches; .*again and again"):
        learner.fit(2)
    assert len(learner.history) == 1
    with pytest.raises(ValueError, match="valid gave no batches"):
        learner.validate([])


# Early stopping


class Planned:
    """Writes planned values into the record, and keeps the weights of each epoch."""

    def __init__(self, values: list[float]) -> None:
        self.values, self.weights = values, []

    def after_epoch(self, learner: Learner) -> None:
        learner.history[-1]["valid_loss"] = self.values[len(learner.history) - 1]
        self.weights.append({name: tensor.clone() for name, tensor in learner.model.state_dict().items()})


@pytest.mark.parametrize(
    "values, patience, largest, n, best",
    [
        ([5, 4, 3, 4, 4, 4, 4], 2, False, 5, 3),
        ([5, 4, 3, 3, 3, 3, 3], 3, False, 6, 3),
        ([5, 4, 3, 2, 1, 0, -1], 1, False, 7, 7),
        ([1, 2, 3, 2, 3, 2, 9], 2, True, 5, 3),
        ([math.nan, 4, math.nan, 3, math.nan, 4, 4], 2, False, 6, 4),
    ],
)
def test_early_stopping_ends_in_time_and_gives_the_best_weights_back(values: list, patience: int, largest: bool, n: int, best: int) -> None:
    planned, stopping = Planned(values), EarlyStopping(patience=patience, largest=largest)
    learner = make(normed(), callbacks=[planned, stopping])
    learner.fit(len(values))
    assert len(learner.history) == n and stopping.best_epoch == best
    assert all(torch.equal(tensor, planned.weights[best - 1][name]) for name, tensor in learner.model.state_dict().items())
    if best < n:
        assert not torch.equal(learner.model[2].weight, planned.weights[-1]["2.weight"]), "the last weights would be others"


def test_early_stopping_begins_anew_with_each_fit_and_restores_after_an_interruption() -> None:
    planned, stopping = Planned([1, 2, 3, 9, 8, 9, 9, 9]), EarlyStopping(patience=2)
    learner = make(mlp(), callbacks=[planned, stopping])
    learner.fit(10)
    assert len(learner.history) == 3
    with pytest.raises(KeyboardInterrupt):
        learner.fit(3, [Raises("before_epoch", 3, KeyboardInterrupt)])
    assert stopping.best_epoch == 5 and torch.equal(learner.model[1].weight, planned.weights[4]["1.weight"])


def test_early_stopping_names_what_is_recorded() -> None:
    with pytest.raises(ValueError, match="watches loss, which is not recorded; choose one of epoch, train_loss, valid_loss, accuracy"):
        make(mlp(), callbacks=[EarlyStopping("loss")]).fit(1)


# Progress and recording


def test_progress_says_a_line_an_epoch_and_closes_its_bar() -> None:
    lines: list[str] = []
    progress = Progress(lines.append)
    make(mlp(), callbacks=[progress]).fit(2)
    assert len(lines) == 2 and lines[0].startswith("epoch 1  train_loss 0.") and "accuracy" in lines[1]
    with pytest.raises(KeyboardInterrupt):
        make(mlp(), callbacks=[progress]).fit(2, [Raises("after_batch", 3, KeyboardInterrupt)])
    assert progress.bar.disable or progress.bar.n == 2


def test_the_recorder_has_every_step() -> None:
    recorder = Recorder()
    learner = make(mlp(), callbacks=[recorder])
    learner.fit(2)
    assert len(recorder.losses) == len(recorder.learning_rates) == 10 and set(recorder.learning_rates) == {0.3}


# Schedules


def sgd(parameters: Iterator, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, learning_rate, momentum=0.9)


class Settings:
    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def after_batch(self, learner: Learner) -> None:
        group = learner.optimizer.param_groups[0]
        self.seen.append([group["lr"], group["betas"][0] if "betas" in group else group["momentum"]])


@pytest.mark.parametrize("optimizer", [sgd, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("n_epochs, warm_up", [(1, 0.3), (4, 0.3), (4, 0.5), (3, 0.1)])
def test_one_cycle_is_pytorchs(optimizer: Callable, n_epochs: int, warm_up: float) -> None:
    settings, learner = Settings(), make(mlp(), 0.01, optimizer)
    before = [dict(group, params=None) for group in learner.optimizer.param_groups]
    learner.fit(n_epochs, [OneCycle(0.2, warm_up), settings])
    assert [dict(group, params=None) for group in learner.optimizer.param_groups] == before, "its own settings again"
    theirs, stepper = [], optimizer(mlp().parameters(), 0.01)
    scheduler = OneCycleLR(stepper, 0.2, total_steps=5 * n_epochs, pct_start=warm_up)
    for i in range(5 * n_epochs):
        group = stepper.param_groups[0]
        theirs.append([group["lr"], group["betas"][0] if "betas" in group else group["momentum"]])
        stepper.step()
        if i < 5 * n_epochs - 1:
            scheduler.step()
    assert len(settings.seen) == 5 * n_epochs
    assert all(a == pytest.approx(b, rel=1e-9) for a, b in zip(settings.seen, theirs, strict=True))


def test_one_cycle_gives_the_weights_of_pytorchs_scheduler() -> None:
    learner = make(mlp(), 0.01, sgd)
    learner.fit(3, [OneCycle(0.2)])
    model, batches = mlp(), train_batches()
    optimizer = sgd(model.parameters(), 0.01)
    scheduler = OneCycleLR(optimizer, 0.2, total_steps=15)
    for _ in range(3):
        for x, y in batches:
            sigmoid_l1_loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if scheduler.last_epoch < 14:
                scheduler.step()
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(learner.model.parameters(), model.parameters()))


def test_one_cycle_with_our_optimizer_and_after_an_interruption() -> None:
    learner, recorder = make(mlp(), 0.7), Recorder()
    with pytest.raises(KeyboardInterrupt):
        learner.fit(4, [OneCycle(0.2), recorder, Raises("after_batch", 8, KeyboardInterrupt)])
    assert recorder.learning_rates[0] == pytest.approx(0.2 / 25) and learning_rate_of(learner.optimizer) == 0.7


def test_one_cycle_at_its_edges() -> None:
    assert one_cycle(0, 10, 1, 5, 0) == pytest.approx(1) and one_cycle(2, 10, 1, 5, 0) == pytest.approx(5)
    assert one_cycle(9, 10, 1, 5, 0) == pytest.approx(0)
    assert all(math.isfinite(one_cycle(step, n, 1, 5, 0)) for n in range(1, 8) for step in range(n))
    with pytest.raises(ValueError, match="warm_up is 1"):
        OneCycle(1.0, warm_up=1)


def test_a_learning_rate_is_set_in_every_group() -> None:
    model = mlp()
    optimizer = torch.optim.SGD([{"params": model[1].parameters()}, {"params": model[3].parameters(), "lr": 1.0}], 0.1)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5] and learning_rate_of(optimizer) == 0.5


@pytest.mark.parametrize("optimizer", [BasicOptim, sgd, torch.optim.Adam])
def test_the_range_test_leaves_no_trace(optimizer: Callable) -> None:
    tested, untouched = make(normed(), 0.01, optimizer), make(normed(), 0.01, optimizer)
    for learner in (tested, untouched):
        learner.fit(1)
    history = [dict(record) for record in tested.history]
    found = find_learning_rate(tested, 1e-5, 10.0, 40)
    assert len(found.learning_rates) == len(found.losses) > 10
    assert same(tested.model, untouched.model) and tested.history == history and tested.model.training
    assert all(p.grad is None or not p.grad.any() for p in tested.model.parameters())
    tested.train, untouched.train = train_batches(7), train_batches(7)
    for learner in (tested, untouched):
        learner.fit(2)
    assert same(tested.model, untouched.model), "momenta and learning rate as before"


def test_the_range_test_restores_after_an_interruption() -> None:
    learner = make(mlp())
    real = learner.loss_function
    calls = []

    def interrupted(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(logits, targets)

    learner.loss_function = interrupted
    with pytest.raises(KeyboardInterrupt):
        find_learning_rate(learner, 1e-2, 10.0, 20)
    assert same(learner.model, mlp()) and learning_rate_of(learner.optimizer) == 0.3


def test_the_range_test_stops_when_the_loss_explodes() -> None:
    learner = make(mlp(), loss_function=F.mse_loss)
    found = find_learning_rate(learner, 1e-4, 1e6, 100, smoothing=0.5)
    assert 3 < len(found.losses) < 90 and all(math.isfinite(loss) for loss in found.losses)
    assert 1e-4 < found.steepest < 10 and same(learner.model, mlp())


@pytest.mark.parametrize("lowest, highest, n_batches", [(0.0, 1.0, 10), (1.0, 0.1, 10), (0.1, 1.0, 2)])
def test_the_range_test_refuses_senseless_ranges(lowest: float, highest: float, n_batches: int) -> None:
    with pytest.raises(ValueError, match="0 < lowest < highest and at least 3"):
        find_learning_rate(make(mlp()), lowest, highest, n_batches)


def test_a_range_test_without_batches_says_so_and_does_not_search_for_ever() -> None:
    model = nn.Linear(2, 1)
    learner = Learner(model, [], loss_function=nn.functional.mse_loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), metrics={})
    with pytest.raises(ValueError, match="train gave no batches"):
        find_learning_rate(learner)
    with pytest.raises(ValueError, match="smoothing is 1; give a share"):
        find_learning_rate(learner, smoothing=1)


def test_a_learner_refuses_metrics_and_validation_that_make_no_sense() -> None:
    model = nn.Linear(2, 1)

    def make(metrics: object) -> Learner:
        return Learner(model, [], loss_function=nn.functional.mse_loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), metrics=metrics)

    for metrics in ([nn.functional.l1_loss], {"loss": nn.functional.l1_loss}):
        with pytest.raises(ValueError, match="metrics are a dictionary"):
            make(metrics)
    with pytest.raises(ValueError, match="no validation batches"):
        make({}).validate()
