"""Fixtures that every test may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--second-device", action="store_true", help="run the library on a device that is not the CPU")


@pytest.fixture(scope="session", autouse=True)
def second_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``--second-device``, the suite runs there (tests/second_device.py)."""
    if not request.config.getoption("--second-device"):
        yield
        return
    import torch
    from second_device import DEVICE, Everywhere, Reachable, placed
    from transformers import PreTrainedModel

    from editlab.networks.vision import Classifier

    compared, load, move = torch.testing.assert_close, PreTrainedModel.from_pretrained.__func__, Classifier.to  # type: ignore[attr-defined]

    def loaded(cls: Any, *args: Any, **options: Any) -> Any:
        found = load(cls, *args, **options)
        return (placed(found[0]), *found[1:]) if isinstance(found, tuple) else placed(found)

    def moved(classifier: Any, device: Any) -> Any:
        placed(move(classifier, device).model)
        return classifier

    def applied(model: Any, change: Any, recurse: bool = True) -> Any:
        torch.nn.Module._apply(model, change, recurse)
        model.tie_weights()  # parameters are exchanged, see below, tied ones each for itself
        return model

    Everywhere.on = True
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # else model.double() changes the shell alone
    with pytest.MonkeyPatch.context() as patch, Reachable():
        patch.setattr(torch.testing, "assert_close", lambda a, b, **given: compared(_here(a), _here(b), **given))
        patch.setattr(PreTrainedModel, "from_pretrained", classmethod(loaded))
        patch.setattr(PreTrainedModel, "_apply", applied, raising=False)
        patch.setattr(Classifier, "to", moved)
        fused = "_get_fused_kernels_supported_devices"
        patch.setattr(sys.modules["torch.optim.optimizer"], fused, lambda: ["cpu", DEVICE.type])
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)
    Everywhere.on = False


def _here(value: Any) -> Any:
    return value.cpu() if hasattr(value, "cpu") else value


@pytest.fixture(autouse=True)
def tensors_of_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``--second-device``, what tests of the algebra make is there, for want of a model that could be."""
    if not request.config.getoption("--second-device") or request.path.parent.name != "algebra":
        yield
        return
    from second_device import Everywhere

    Everywhere.made = True
    yield
    Everywhere.made = False


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small matrices and several test processes: more threads only get into each other's way."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data files that are not part of the repository; tests that need it are skipped without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EDITLAB_TEST_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder} (set EDITLAB_TEST_DATA)")
    return folder
