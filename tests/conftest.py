"""One environment for every test: no download, one thread, one cache folder for all workers and notebooks."""
from __future__ import annotations

import os
import shutil
import tempfile

import pytest

from tools.course import digits_in_force

MADE_HERE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before the workers start, so that they and their kernels inherit it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PIXELS_TO_RESNET_OFFLINE", "1")
    if "PIXELS_TO_RESNET_HOME" not in os.environ and not hasattr(config, "workerinput"):
        config.stash[MADE_HERE] = os.environ["PIXELS_TO_RESNET_HOME"] = tempfile.mkdtemp(prefix="pixels_to_resnet_tests_")


def pytest_report_header() -> str:
    """Say which digits the tests run on."""
    return "digits in force: " + {"mnist": "real MNIST", "standin": "the stand-in"}[digits_in_force()]


@pytest.fixture(scope="session")
def data_in_force() -> str:
    """'mnist' or 'standin': the digits that the notebooks and `climb` find."""
    return digits_in_force()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete the cache folder made here, and count what passed and failed in the last line."""
    if hasattr(config, "workerinput"):
        return
    made = config.stash.get(MADE_HERE, None)
    if made:
        shutil.rmtree(made, ignore_errors=True)
        os.environ.pop("PIXELS_TO_RESNET_HOME", None)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not config.option.collectonly:
        count = {name: len(reports) for name, reports in reporter.stats.items()}
        failed = count.get("failed", 0) + count.get("error", 0) + count.get("xpassed", 0)
        passed, skipped = count.get("passed", 0), count.get("skipped", 0) + count.get("xfailed", 0)
        print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first, so that the other workers do the rest meanwhile."""
    items.sort(key=lambda item: "nbdev_test_passes" not in item.name)
