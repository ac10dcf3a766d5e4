"""The fast resnet18: its values, statistics and steps against the chapter's network, its results, and the measurement of both."""
from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from bench import resnet as bench
from pixels_to_resnet import fast_resnet, resnet
from pixels_to_resnet.batches import Batches
from pixels_to_resnet.checkpoints import Checkpoint
from pixels_to_resnet.compact import live_taps
from pixels_to_resnet.data import Digits
from pixels_to_resnet.fast_resnet import LiveConv2d, LiveResNet18, ResNet18Trainer, fit_resnet18, store_weights, training_dtype, window
from pixels_to_resnet.learner import Learner
from pixels_to_resnet.linear import seeded
from pixels_to_resnet.multiclass import cross_entropy
from pixels_to_resnet.pixel_similarity import predict
from pixels_to_resnet.schedules import OneCycle

KINDS = [(7, 1, 3), (7, 2, 3), (7, 2, 1), (4, 1, 3), (4, 2, 3), (4, 2, 1), (2, 1, 3), (2, 2, 3), (2, 2, 1), (1, 1, 3), (3, 1, 3), (6, 2, 5)]


def some_digits(n: int, classes: tuple[int, ...] = (3, 7), seed: int = 0) -> Digits:
    """Random images; each class has a dark band at a height of its own."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(len(classes), (n,), generator=generator)
    places[: len(classes)] = torch.arange(min(n, len(classes)))
    images = torch.randint(0, 100, (n, 28, 28), generator=generator)
    for i, place in enumerate(places.tolist()):
        images[i, 2 + place * 24 // len(classes) :][:3] += 150
    return Digits(images.to(torch.uint8), torch.tensor(classes)[places])


def twins(classes: tuple[int, ...] = (3, 7), n_channels: int = 3, widest: int = 2) -> tuple[resnet.ResNet18, resnet.ResNet18, LiveResNet18]:
    """A network in 64 bits with scales of both signs, a copy of it, and the copy's fast twin."""
    with seeded(0):
        model = resnet.ResNet18(classes, n_channels).double()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
    shared = copy.deepcopy(model)
    return model, shared, LiveResNet18(shared, torch.float64, widest)


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).detach().abs().max().item()


@pytest.mark.parametrize("size, stride, n_taps", KINDS)
def test_windows_and_live_taps_are_what_the_convolution_uses(size: int, stride: int, n_taps: int) -> None:
    line, kernel = torch.ones(1, 1, size).double(), torch.zeros(1, 1, n_taps, dtype=torch.float64, requires_grad=True)
    out = nn.functional.conv1d(line, kernel, stride=stride, padding=n_taps // 2)
    for place in range(out.shape[-1]):
        used = torch.autograd.grad(out[0, 0, place], kernel, retain_graph=True)[0][0, 0]
        pixels, taps = window(place, size, stride, n_taps)
        assert used.nonzero().flatten().tolist() == list(range(taps.start, taps.stop))
        assert pixels.stop - pixels.start == taps.stop - taps.start and 0 <= pixels.start < pixels.stop <= size
    alive = torch.autograd.grad(out.sum(), kernel)[0][0, 0].nonzero().flatten().tolist()
    assert alive == list(live_taps(size, n_taps, stride, n_taps // 2))
    live = LiveConv2d(nn.Conv2d(1, 1, n_taps, stride, n_taps // 2, bias=False), size).live
    assert alive == list(range(live.start, live.stop))


@pytest.mark.parametrize("widest", [0, 1, 2, 7])
@pytest.mark.parametrize("size, stride, n_taps", KINDS)
def test_a_convolution_has_the_values_and_gradients_of_pytorchs(size: int, stride: int, n_taps: int, widest: int) -> None:
    with seeded(size):
        conv = nn.Conv2d(3, 5, n_taps, stride, n_taps // 2, bias=False).double()
        x = torch.randn(4, 3, size, size, dtype=torch.float64, requires_grad=True)
    fast = LiveConv2d(conv, size, widest)
    theirs, ours = conv(x), fast(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert ours.shape == theirs.shape and furthest(ours, theirs) < 1e-12
    slope = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_theirs, w_theirs = torch.autograd.grad(theirs, (x, conv.weight), slope)
    x_ours, w_ours = torch.autograd.grad(ours, (x, fast.taps), slope)
    assert furthest(x_ours, x_theirs) < 1e-12
    living = w_theirs[..., fast.live, fast.live].permute(2, 3, 1, 0) if fast.by_place else w_theirs
    assert furthest(w_ours, living) < 1e-12 and abs(w_ours.abs().sum() - w_theirs.abs().sum()) < 1e-9
    fast.store(conv)
    assert furthest(conv(x), theirs) < 1e-12


@pytest.mark.parametrize("classes, n_channels, widest", [((3, 7), 3, 2), (tuple(range(10)), 3, 2), ((3, 7), 1, 2), ((3, 7), 3, 0), ((3, 7), 3, 4)])
def test_in_64_bits_outputs_and_statistics_are_those_of_the_chapter(classes: tuple[int, ...], n_channels: int, widest: int) -> None:
    model, shared, fast = twins(classes, n_channels, widest)
    images = some_digits(24, classes).floats().double()
    for training in (True, False):
        for net in (model, shared, fast):
            net.train(training)
        assert furthest(fast(images), model(images)) < 1e-10
        for (name, ours), theirs in zip(shared.named_buffers(), model.buffers()):
            assert furthest(ours.double(), theirs.double()) < 1e-12, name
    assert fast.classes == model.classes and model(images).std(0).min() > 1e-3, "logits that differ between images"


def one_step(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    net.train()
    optimizer.zero_grad()
    cross_entropy(net(images), labels).backward()
    optimizer.step()


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=0.01, fused=True)])
def test_a_step_gives_the_live_weights_that_the_chapter_gets(make: object) -> None:
    model, shared, fast = twins()
    first, digits = copy.deepcopy(model.state_dict()), some_digits(24)
    for net in (model, fast):
        one_step(net, digits.floats().double(), resnet.class_targets(digits.labels, (3, 7)), make(net.parameters()))
    store_weights(fast, shared)
    theirs = model.state_dict()
    for name, ours in shared.state_dict().items():
        living = ours != 0
        assert furthest(ours[living].double(), theirs[name][living].double()) < 1e-9, name
        if name.endswith("weight"):
            assert furthest(ours[living], first[name][living]) > 1e-6, f"{name} has not moved"
    assert furthest(shared.eval()(digits.floats().double()), model.eval()(digits.floats().double())) < 1e-6


def test_only_live_weights_are_trained_and_dead_ones_are_zero() -> None:
    model, shared, fast = twins()
    n_live = sum(p.numel() for p in fast.parameters())
    assert n_live == 4_230_722 and sum(p.numel() for p in model.parameters()) == 11_177_538
    store_weights(fast, shared)
    assert sum(int((p != 0).sum()) for p in shared.parameters()) == n_live
    assert int((shared.layer4[1].conv1.weight != 0).sum()) == 512 * 512
    assert furthest(shared.eval()(some_digits(5).floats().double()), model.eval()(some_digits(5).floats().double())) < 1e-10


def test_a_gradient_that_forgets_a_place_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    places = fast_resnet._places
    monkeypatch.setattr(fast_resnet, "_places", lambda *a: places(*a)[:-1] + places(*a)[-2:-1] if len(places(*a)) > 1 else places(*a))
    with pytest.raises(AssertionError):
        test_a_convolution_has_the_values_and_gradients_of_pytorchs(2, 1, 3, 2)


def plain_fit(digits: Digits, epochs: int, seed: int, learning_rate: float, batch_size: int) -> resnet.ResNet18:
    """The chapter's network, trained in the chapter's way."""
    classes = digits.labels.unique().tolist()
    with seeded(seed):
        model = resnet.ResNet18(classes)
    batches = Batches(digits.images, resnet.class_targets(digits.labels, classes), batch_size, shuffle=True, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    Learner(model, batches, loss_function=cross_entropy, optimizer=optimizer, callbacks=[OneCycle(learning_rate)]).fit(epochs)
    return model.eval()


def test_a_fit_ends_near_the_chapters_in_32_bits_and_learns_in_16() -> None:
    digits, how = some_digits(96), {"epochs": 1, "seed": 3, "learning_rate": 1e-4, "batch_size": 32}
    state = torch.random.get_rng_state()
    plain, fast = plain_fit(digits, **how), fit_resnet18(digits, **how, dtype=torch.float32)
    rounded, other = fit_resnet18(digits, **how, dtype=torch.bfloat16), fit_resnet18(digits, **{**how, "seed": 4})
    assert torch.equal(state, torch.random.get_rng_state())
    expected, *found = (model(digits.floats()) for model in (plain, fast, rounded, other))
    gaps = [furthest(logits, expected) for logits in found]
    assert gaps[0] < 0.005 and gaps[1] < 0.05 < gaps[2], gaps
    assert type(fast) is resnet.ResNet18 and fast.classes == (3, 7) and not fast.training
    assert [(k, v.shape, v.dtype, v.is_contiguous()) for k, v in fast.state_dict().items()] == [
        (k, v.shape, v.dtype, True) for k, v in plain.state_dict().items()
    ]


def test_it_learns_three_classes_and_names_them() -> None:
    train, valid = some_digits(200, (1, 4, 9)), some_digits(60, (1, 4, 9), seed=1)
    model = fit_resnet18(train, epochs=3, batch_size=20)
    assert model.classes == (1, 4, 9)
    assert (predict(model, valid) == valid.labels).float().mean() > 0.8
    assert torch.equal(predict(LiveResNet18(model).eval(), valid), predict(model, valid))


TWO, TEN = (3, 7), tuple(range(10))
STEPS = [(20, TWO, None, 128, 1), (20, TEN, None, 128, 3), (20, TWO, 5, 128, 5), (20, TWO, 2, 8, 5), (17, TWO, 1, 8, 3), (3, TWO, 1.5, 2, 3)]


@pytest.mark.parametrize("n, classes, epochs, batch_size, n_steps", STEPS)
def test_batches_are_full_and_their_number_depends_on_epochs_and_classes(
    n: int, classes: tuple[int, ...], epochs: float | None, batch_size: int, n_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of one image, which has no variance, never occurs."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(ResNet18Trainer, "step", lambda self, images, targets, row: seen.append(targets))
    digits = some_digits(n, classes)
    fit_resnet18(digits, epochs, batch_size=batch_size)
    assert [len(targets) for targets in seen] == [min(n, batch_size)] * n_steps
    assert torch.equal(torch.cat(seen)[:n].sort().values, resnet.class_targets(digits.labels, classes).sort().values), "a pass shows every image once"


def test_too_few_images_are_refused() -> None:
    assert fit_resnet18(some_digits(2), epochs=1).classes == (3, 7)
    for n, batch_size in ((1, 8), (20, 1), (20, 0)):
        with pytest.raises(ValueError, match="at least 2 of each"):
            fit_resnet18(some_digits(n), epochs=1, batch_size=batch_size)


def test_a_saved_run_goes_on_and_a_finished_one_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits, file, steps = some_digits(40), tmp_path / "checkpoint", ResNet18Trainer.step
    whole = fit_resnet18(digits, 6, batch_size=10)
    taken: list[int] = []

    def interrupted(self: ResNet18Trainer, *batch: object) -> torch.Tensor:
        if len(taken) == 21:
            raise KeyboardInterrupt
        taken.append(1)
        return steps(self, *batch)

    monkeypatch.setattr(ResNet18Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_resnet18(digits, 6, batch_size=10, checkpoint=Checkpoint(file, {"run": "1"}, seconds=0))
    monkeypatch.setattr(ResNet18Trainer, "step", lambda self, *batch: taken.append(1) or steps(self, *batch))
    for n in (21 + 4, 21 + 4):
        resumed = fit_resnet18(digits, 6, batch_size=10, checkpoint=Checkpoint(file, {"run": "1"}, seconds=0))
        assert len(taken) == n
        assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))


def test_divergence_and_other_sizes_get_a_sentence() -> None:
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        fit_resnet18(some_digits(40), epochs=2, batch_size=10, learning_rate=1e30)
    with pytest.raises(ValueError, match="for other sizes use ResNet18"):
        twins()[2](torch.rand(2, 32, 32).double())


SAYS = [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)]


@pytest.mark.parametrize("says, expected", SAYS)
def test_the_processor_decides_on_16_bits(says: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: says, raising=False)
    assert training_dtype(torch.device("cpu")) is expected
    assert training_dtype(torch.device("mps")) is torch.float32


def test_a_pytorch_that_does_not_say_trains_with_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert training_dtype(torch.device("cpu")) is torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_network() -> None:
    model, _, fast = twins()
    images = some_digits(24).floats().double()
    assert furthest(fast.cuda()(images.cuda()).cpu(), model(images)) < 1e-8
    assert fit_resnet18(some_digits(40).to("cuda"), epochs=1).conv1.weight.is_cuda


# ---- bench/resnet.py


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of a few digits, in the layout of mnist_sample."""
    for part, n in (("train", 150), ("valid", 20)):
        digits = some_digits(n)
        for i, (image, label) in enumerate(zip(digits.images, digits.labels.tolist())):
            place = tmp_path / "few" / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.numpy()).save(place / f"{i}.png")
    return tmp_path / "few"


@pytest.mark.filterwarnings("ignore")
def test_the_measurement_runs_and_writes_its_three_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, dict]] = []
    monkeypatch.setattr(bench, "IMAGES", 16)
    rates = {"reading": 10.0, "fp32 products": 100.0, "fp32 products by oneDNN": 200.0, "bfloat16 products": 400.0}
    monkeypatch.setattr(bench, "rates", lambda: rates)
    monkeypatch.setattr(bench, "by_tutorial", lambda folder, seed, **how: calls.append((seed, how)) or 0.5)
    threads = torch.get_num_threads()
    assert bench.main(["--seeds", "2", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)], folder) == 0
    assert torch.get_num_threads() == threads
    report = json.loads((tmp_path / "resnet.json").read_text(encoding="utf-8"))
    page = (tmp_path / "resnet.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page and "Digits: few" in page and "150 to learn from and 20 to test on" in page
    assert (tmp_path / "resnet.png").read_bytes().startswith(b"\x89PNG")
    assert [seed for seed, _ in calls] == [0, 0, 0, 1] and calls[1][1] == {"num_workers": 0}
    assert [len(way["accuracy"]) for way in report["end_to_end"].values()] == [2, 2]
    assert len(report["rows"]) == 8 and all(r["median"] > 0 and r["way"] in page for r in report["rows"])


@pytest.mark.filterwarnings("ignore")
def test_the_tutorials_call_trains_and_gives_an_accuracy(folder: Path) -> None:
    assert 0 <= bench.by_tutorial(folder, 0, num_workers=0, bs=50) <= 1


def test_the_floor_counts_what_a_counting_convolution_counts() -> None:
    """Ones everywhere: each convolution then says how many taps met a pixel at each place."""
    total, size, entering = 0, 28, 7
    for name, layer in resnet.ResNet18(n_channels=1).named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        counting = nn.Conv2d(1, 1, layer.kernel_size, layer.stride, layer.padding, bias=False)
        nn.init.ones_(counting.weight)
        if name.endswith("0.conv1"):
            entering = size
        met = counting(torch.ones(1, 1, *2 * [entering if "downsample" in name else size]))
        size = 7 if name == "conv1" else met.shape[-1]
        total += 2 * layer.in_channels * layer.out_channels * round(met.sum().item())
    assert bench.useful_operations()[1] == total


@pytest.mark.parametrize("ratio, ours, said", [(3.4, 0.9, "missed"), (3.6, 0.9, "goal"), (5.1, 0.9, "stretch"), (5.1, 0.7, "missed")])
def test_the_goal_wants_both_speed_and_accuracy(ratio: float, ours: float, said: str) -> None:
    found = {bench.ANCHOR: {"seconds": [ratio] * 3, "accuracy": [0.8] * 3}, bench.OURS: {"seconds": [1.0] * 3, "accuracy": [ours] * 3}}
    assert bench.judged(found)["reached"] == said
