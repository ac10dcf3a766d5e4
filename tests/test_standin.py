"""The stand-in digits: MNIST's shapes and counts, the same bytes everywhere, no original on both sides."""
from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pixels_to_resnet import standin
from pixels_to_resnet.standin import STANDIN_COUNTS, draw_digits, enlarged_digits, make_standin, measure_ink, standin_originals, standin_sha256

SPLITS = ("train", "test")


@pytest.fixture(scope="session")
def reports():
    return []


@pytest.fixture(scope="session")
def digits(reports):
    return make_standin(0, progress=lambda *numbers: reports.append(numbers))


@pytest.fixture(scope="session")
def fine():
    return enlarged_digits()


@pytest.mark.parametrize("split", SPLITS)
def test_shapes_and_counts_are_those_of_mnist(digits, split):
    images, labels = digits[split]
    assert images.shape == (sum(STANDIN_COUNTS[split]), 28, 28) and images.dtype == np.uint8
    assert labels.shape == (len(images),) and labels.dtype == np.uint8
    assert tuple(np.bincount(labels)) == STANDIN_COUNTS[split]


def test_counts_are_the_published_ones():
    assert [sum(STANDIN_COUNTS[split]) for split in SPLITS] == [60000, 10000]
    assert [STANDIN_COUNTS[split][digit] for split in SPLITS for digit in (3, 7)] == [6131, 6265, 1010, 1028]


def test_bytes_are_pinned(digits):
    assert standin.STANDIN_VERSION == 1, "a new version needs a new checksum"
    assert standin_sha256(digits) == standin.STANDIN_SHA256


def test_checksum_sees_one_changed_label_and_one_changed_pixel(digits):
    (images, labels), test = digits["train"], digits["test"]
    labels, images = labels.copy(), images.copy()
    labels[5] += 1
    assert standin_sha256({"train": (images, labels), "test": test}) != standin.STANDIN_SHA256
    labels[5] -= 1
    images[7, 14, 14] ^= 1
    assert standin_sha256({"train": (images, labels), "test": test}) != standin.STANDIN_SHA256


def test_another_seed_gives_other_pictures(fine, digits):
    originals = standin_originals(1)["train"][:50]
    assert not np.array_equal(originals, standin_originals(0)["train"][:50])
    rng = np.random.RandomState([1, 0])
    draws = rng.random_sample((50, 39)) * 2 - 1
    assert not np.array_equal(draw_digits(fine[0], originals, draws), digits["train"][0][:50])


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_no_original_is_on_both_sides(seed, fine):
    originals = standin_originals(seed)
    assert not set(originals["train"]) & set(originals["test"])
    assert len(set(originals["train"]) | set(originals["test"])) == 1797
    for split in SPLITS:
        assert tuple(np.bincount(fine[1][originals[split]])) == STANDIN_COUNTS[split]


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_those_of_the_originals(digits, fine, split):
    np.testing.assert_array_equal(digits[split][1], fine[1][standin_originals(0)[split]])


def test_originals_of_a_class_are_used_equally(fine):
    used = np.bincount(standin_originals(0)["train"], minlength=1797)
    for digit in range(10):
        times = used[(fine[1] == digit) & (used > 0)]
        assert times.max() - times.min() <= 1


@pytest.mark.parametrize("split", SPLITS)
def test_order_is_shuffled(digits, split):
    labels = digits[split][1].astype(int)
    assert len(set(labels[:100])) == 10
    assert 0.05 < (labels[1:] == labels[:-1]).mean() < 0.15


def test_ink_is_255_on_0_and_in_mnists_frame(digits):
    images = digits["train"][0][:5000]
    assert images.min() == 0 and (images.max((1, 2)) > 200).all()
    assert 0.1 < images.mean() / 255 < 0.2
    assert (images[:, [0, -1]].mean((1, 2)) < 30).all(), "the border holds no ink to speak of"
    side, centre = measure_ink(images)
    assert np.median(side) == 20 and np.percentile(np.abs(centre), 99) < 1.5


def test_no_two_training_pictures_are_the_same(digits):
    images = digits["train"][0].reshape(60000, -1)
    assert len({image.tobytes() for image in images[:20000]}) == 20000


def test_progress_counts_up_to_the_total(digits, reports):
    assert [made for made, _ in reports] == sorted({made for made, _ in reports})
    assert reports[-1] == (70000, 70000) and len(reports) == 140


def test_threads_and_the_size_of_a_batch_do_not_matter(digits, fine):
    from threadpoolctl import threadpool_limits
    originals = standin_originals(0)["test"]
    rng = np.random.RandomState([0, 1])
    rng.random_sample(len(originals))
    part, draws = originals[:300], rng.random_sample((300, 39)) * 2 - 1
    for threads in (1, 4):
        with threadpool_limits(threads):
            some = np.concatenate([draw_digits(fine[0], part[i:i + 7], draws[i:i + 7]) for i in range(0, 300, 7)])
        np.testing.assert_array_equal(some, digits["test"][0][:300])


def test_nearest_mean_is_in_its_band_and_leaves_room_above(digits):
    (images, labels), (test_images, test_labels) = digits["train"], digits["test"]
    mean3, mean7 = (images[labels == digit].mean(0) for digit in (3, 7))

    def is_3(x):
        return np.abs(x - mean3).mean((1, 2)) < np.abs(x - mean7).mean((1, 2))

    right3, right7 = is_3(test_images[test_labels == 3]).mean(), 1 - is_3(test_images[test_labels == 7]).mean()
    assert (round(right3 * 1010), round(right7 * 1028)) == (789, 996)
    assert 0.84 < (right3 + right7) / 2 < 0.90


def test_importing_it_imports_neither_sklearn_nor_scipy():
    code = "import sys, pixels_to_resnet.standin; print([m for m in ('sklearn', 'scipy', 'torch', 'matplotlib') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
