"""The smaller network: each step alone and all together against the layers they replace, and what quantisation may and may not do."""
from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from pixels_to_resnet.compact import (
    FORMATS,
    CompactBlock,
    CompactResNet,
    compact_head,
    drop_dead_taps,
    fold_batch_norm,
    fold_into_next,
    live_taps,
    n_bytes,
    output_size,
    pack_parameter,
    quantise,
    stored,
    sum_inputs,
    unpack_parameter,
)


def generator(seed: int = 0) -> torch.Generator:
    """Seeded."""
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal random numbers in 64 bits."""
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def used(norm: nn.BatchNorm1d | nn.BatchNorm2d, seed: int = 0) -> nn.Module:
    """`norm` with statistics, scales and shifts that are not those of the start; in 64 bits and evaluation mode."""
    for part in (norm.running_mean, norm.weight.data, norm.bias.data):
        part.normal_(generator=generator(seed))
    norm.running_var.uniform_(0.1, 3, generator=generator(seed))
    return norm.double().eval()


def close(a: torch.Tensor, b: torch.Tensor, share: float = 1e-10) -> bool:
    """Whether no number differs by more than `share` of the largest."""
    return bool((a - b).abs().max() <= share * b.abs().max())


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """torchvision's resnet18 whose batch normalisations have a past, in 64 bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = resnet18(num_classes=10).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            used(module)
    return net


def parts(net: nn.Module) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
    """Stem, its batch normalisation, blocks."""
    return net.conv1, net.bn1, [block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage]


@pytest.fixture(scope="module")
def small(net: nn.Module) -> CompactResNet:
    """The same network, compact."""
    return CompactResNet(*parts(net), [net.fc], range(10))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(4, 6, 1)])
def test_a_batch_norm_folds_into_the_convolution_before_it(layer: nn.Conv2d, bias: bool) -> None:
    layer, norm = copy.deepcopy(layer).double(), used(nn.BatchNorm2d(6))
    if not bias:
        layer.bias = None
    before = {name: p.clone() for name, p in layer.named_parameters()}
    x = noise(3, 4, 9, 9)
    assert close(fold_batch_norm(layer, norm)(x), norm(layer(x)))
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters()), "what was given must stay as it is"


@pytest.mark.parametrize("bias", [False, True])
def test_a_batch_norm_folds_into_the_linear_layer_before_or_behind_it(bias: bool) -> None:
    linear, behind, before = nn.Linear(6, 5, bias=bias).double(), used(nn.BatchNorm1d(5)), used(nn.BatchNorm1d(6))
    x = noise(7, 6)
    assert close(fold_batch_norm(linear, behind)(x), behind(linear(x)))
    assert close(fold_into_next(before, linear)(x), linear(before(x)))


def test_a_batch_norm_without_scale_and_shift_folds_too() -> None:
    conv, norm = nn.Conv2d(2, 3, 3).double(), nn.BatchNorm2d(3, affine=False).double()
    norm.running_mean.normal_(generator=generator())
    x = noise(2, 2, 5, 5)
    assert close(fold_batch_norm(conv, norm)(x), norm.eval()(conv(x)))


def test_a_batch_norm_of_other_channels_or_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="6 outputs and a batch normalisation of 5"):
        fold_batch_norm(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(5))
    with pytest.raises(ValueError, match="6 inputs and a batch normalisation of 5"):
        fold_into_next(nn.BatchNorm1d(5), nn.Linear(6, 2))
    with pytest.raises(ValueError, match="track_running_stats=True"):
        fold_batch_norm(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False))


def test_folded_layers_keep_their_type() -> None:
    folded = fold_batch_norm(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6).eval())
    assert folded.weight.dtype == folded.bias.dtype == torch.float32 and folded.weight.requires_grad


@pytest.mark.parametrize("n_inputs", [1, 2, 3, 6])
def test_equal_inputs_are_summed(n_inputs: int) -> None:
    conv, linear = nn.Conv2d(6, 4, 3).double(), nn.Linear(6, 4).double()
    x, row = noise(2, n_inputs, 5, 5), noise(2, n_inputs)
    assert close(sum_inputs(conv, n_inputs)(x), conv(x.repeat(1, 6 // n_inputs, 1, 1)))
    assert close(sum_inputs(linear, n_inputs)(row), linear(row.repeat(1, 6 // n_inputs)))
    assert sum_inputs(conv, n_inputs).in_channels == sum_inputs(linear, n_inputs).in_features == n_inputs


def test_inputs_that_are_not_repeated_and_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="6 inputs are not 4 again and again"):
        sum_inputs(nn.Linear(6, 2), 4)
    with pytest.raises(ValueError, match="no groups"):
        sum_inputs(nn.Conv2d(6, 4, 3, groups=2))


CASES = [c for c in product(range(1, 8), range(1, 8), range(1, 4), range(4)) if c[3] < c[1] <= c[0] + 2 * c[3]]


def test_there_are_many_cases_with_dead_taps() -> None:
    assert len(CASES) > 300 and sum(len(live_taps(*case)) < case[1] for case in CASES) > 30


@pytest.mark.parametrize("size", range(1, 8))
def test_a_trimmed_convolution_gives_the_same_and_live_taps_reach_from_the_first_to_the_last_with_a_gradient(size: int) -> None:
    for _, kernel, stride, padding in (case for case in CASES if case[0] == size):
        conv = nn.Conv2d(2, 3, kernel, stride, padding).double()
        x, live = noise(2, 2, size, size), live_taps(size, kernel, stride, padding)
        y = conv(x)
        assert y.shape[-1] == output_size(size, kernel, stride, padding)
        trimmed = drop_dead_taps(conv, size)
        assert close(trimmed(x), y, 1e-12) and trimmed.kernel_size == (len(live), len(live)) == tuple(trimmed.weight.shape[2:])
        y.square().sum().backward()
        seen = conv.weight.grad.abs().amax((0, 1)) > 0
        for rows in (seen.any(1).nonzero().flatten().tolist(), seen.any(0).nonzero().flatten().tolist()):
            assert range(rows[0], rows[-1] + 1) == live


def test_filters_that_are_not_square_or_are_dilated_are_refused() -> None:
    for conv in (nn.Conv2d(1, 1, (3, 5)), nn.Conv2d(1, 1, 3, dilation=2), nn.Conv2d(1, 1, 3, (1, 2)), nn.Conv2d(1, 1, 3, padding="same")):
        with pytest.raises(ValueError, match="leave this layer as it is"):
            drop_dead_taps(conv, 4)


def test_a_filter_that_never_meets_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="give a larger picture or less padding"):
        live_taps(1, 1, stride=3, padding=1)


def test_a_block_without_and_with_a_new_shape(net: nn.Module) -> None:
    for block, size, channels in ((net.layer1[0], 7, 64), (net.layer2[0], 7, 64), (net.layer4[0], 2, 256), (net.layer4[1], 1, 512)):
        x = noise(2, channels, size, size).relu()
        compact = CompactBlock(block, size)
        assert close(compact(x), block(x)) and compact.size == block(x).shape[-1]


def test_the_whole_network_gives_the_same_logits_with_four_tenths_of_the_weights(net: nn.Module, small: CompactResNet) -> None:
    x = noise(5, 28, 28).sigmoid()
    with torch.no_grad():
        assert close(small(x), net(x.unsqueeze(1).expand(-1, 3, -1, -1)))
    counts = [sum(p.numel() for p in model.parameters()) for model in (net, small)]
    assert counts[0] == 11_181_642 and counts[1] == 4_223_754
    assert small.classes == tuple(range(10)) and not list(small.buffers())
    assert [block.conv2.kernel_size[0] for block in small.blocks] == [3] * 6 + [1, 1]
    assert [block.conv1.kernel_size[0] for block in small.blocks] == [3] * 6 + [2, 1]


def test_the_network_for_another_size_of_image(net: nn.Module) -> None:
    x = noise(2, 20, 20).sigmoid()
    with torch.no_grad():
        assert close(CompactResNet(*parts(net), [net.fc], range(10), size=20)(x), net(x.unsqueeze(1).expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match="give images of at most 32 x 32"):
        CompactResNet(*parts(net), [net.fc], range(10), size=64)


def test_images_of_another_shape_are_refused(small: CompactResNet) -> None:
    for shape in ((2, 32, 32), (2, 1, 28, 28), (28, 28)):
        with pytest.raises(ValueError, match="this network is for grey ones of 28 x 28"):
            small(torch.zeros(shape, dtype=torch.float64))


def test_a_head_with_two_poolings_two_batch_norms_and_dropout() -> None:
    norms = used(nn.BatchNorm1d(12)), used(nn.BatchNorm1d(5))
    layers = [norms[0], nn.Dropout(0.25), nn.Linear(12, 5, bias=False), nn.ReLU(), norms[1], nn.Dropout(0.5), nn.Linear(5, 3, bias=False)]
    head, x = nn.Sequential(*layers).double().eval(), noise(4, 6)
    small = compact_head([nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head], 6)
    assert close(small(x), head(torch.cat([x, x], 1)))
    assert [type(layer).__name__ for layer in small] == ["Linear", "ReLU", "Linear"] and small[0].in_features == 6


def test_a_head_in_another_order_is_refused() -> None:
    for head in ([nn.Linear(4, 4), nn.BatchNorm1d(4)], [nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4)]):
        with pytest.raises(ValueError, match="no linear layer follows a batch normalisation"):
            compact_head(head, 4)


@pytest.mark.parametrize("per_channel", [False, True])
def test_no_weight_moves_by_more_than_half_a_step_and_the_largest_stays(per_channel: bool) -> None:
    weights = noise(6, 4, 3, 3).float() * torch.logspace(-3, 2, 6).view(-1, 1, 1, 1)
    packed = quantise(weights, per_channel)
    assert packed.values.dtype == torch.int8 and packed.scales.shape == ((6,) if per_channel else (1,))
    steps = packed.scales.expand(6).view(-1, 1, 1, 1)
    assert ((packed.floats() - weights).abs() <= 0.501 * steps).all()
    assert packed.values.abs().amax() == 127 and (not per_channel or (packed.values.flatten(1).abs().amax(1) == 127).all())


def test_a_small_channel_survives_only_with_its_own_scale() -> None:
    weights = torch.cat([torch.ones(1, 8), torch.linspace(-1e-3, 1e-3, 8).unsqueeze(0)])
    assert (quantise(weights, per_channel=False).floats()[1] == 0).all()
    assert torch.allclose(quantise(weights).floats(), weights, atol=1e-5)


def test_zeros_stay_zeros_and_weights_that_are_not_finite_are_refused() -> None:
    for per_channel in (False, True):
        assert torch.equal(quantise(torch.zeros(3, 2), per_channel).floats(), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="the weights are not all finite"):
        quantise(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_packed_has_its_size_and_comes_back(kind: str) -> None:
    parameter = nn.Parameter(noise(8, 16).float())
    tensors = pack_parameter(parameter, kind)
    sizes = {"float32": 512, "float16": 256, "int8 per channel": 128 + 32, "int8 per tensor": 128 + 4}
    assert n_bytes(tensors) == sizes[kind] and unpack_parameter(tensors).dtype == torch.float32
    assert (unpack_parameter(tensors) - parameter).abs().max() <= {"float32": 0, "float16": 2e-3}.get(kind, 0.02)


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no format 'int4'; give one of float32, float16"):
        pack_parameter(torch.zeros(2), "int4")


def test_a_stored_model_counts_its_bytes_and_the_given_one_stays(small: CompactResNet) -> None:
    model, before = copy.deepcopy(small).float(), n_bytes(small.parameters())
    first = model.stem.weight.clone()
    back, size = stored(model, lambda name, p: "int8 per channel" if p.ndim == 4 else "float16")
    assert torch.equal(model.stem.weight, first) and not torch.equal(back.stem.weight, first)
    assert n_bytes(model.parameters()) * 2 == before and 0.25 < size / n_bytes(model.parameters()) < 0.27
    same, size = stored(model, lambda name, p: "float32")
    assert all(torch.equal(p, q) for p, q in zip(same.parameters(), model.parameters())) and size == n_bytes(model.parameters())


def test_a_head_with_a_layer_that_nobody_here_knows_is_refused_by_name() -> None:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)]
    with pytest.raises(ValueError, match="a head with GELU cannot be made compact"):
        compact_head(head, 4)
    assert len(compact_head([layer for layer in head if not isinstance(layer, nn.GELU)], 4)) == 2
