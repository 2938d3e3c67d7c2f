"""The block ``vision:``: every mistake is one line that names the key, the value and what is allowed."""

from __future__ import annotations

import copy

import pytest

from editlab.config.base import validated
from editlab.config.run import load_run, read_layers
from editlab.config.vision import AlphaEdit, VisionStudy, varied
from editlab.errors import ConfigError

BLOCK = {
    "datasets": {"digits": {"kind": "digits", "model": "tiny"}},
    "models": {"tiny": {"source": "scratch"}},
    "methods": {"alphaedit": {"method": "alphaedit"}, "churn": {"method": "churn"}, "retrain": {"method": "retrain"}},
    "seeds": [1, 2],
    "draws": 3,
    "search": {"axes": {"ridge": [0.01, 0.1], "max_edits": [5, 10]}},
}


def load(**changes):
    block = copy.deepcopy(BLOCK)
    for path, value in changes.items():
        place = block
        *parents, last = path.split("__")
        for parent in parents:
            place = place[parent]
        place[last] = value
    return validated(VisionStudy, block, "vision")


def test_cells_and_grid():
    study = load()
    assert [len(study.cells("digits", 1, m)) for m in ("alphaedit", "churn", "retrain")] == [3, 1, 1]
    assert study.grid() == [{"ridge": r, "max_edits": m} for r in (0.01, 0.1) for m in (5, 10)]
    assert load(search=None).grid() == [{}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets__digits__model": "other"}, "datasets.digits.model: 'other'"),
        ({"datasets__digits__ft_train_ratio": 1.0}, "ft_train_ratio: 1.0"),
        ({"datasets__digits__kind": "nodigits"}, "datasets.digits"),
        ({"datasets__digits__test_ratio": 0.95}, r"test_ratio \+ val_ratio"),
        ({"datasets__digits": {"kind": "medmnist", "model": "tiny", "name": "chestmnist", "path": "x"}}, "name: 'chestmnist'"),
        ({"datasets__digits": {"kind": "medmnist", "model": "tiny", "name": "pathmnist", "path": "x",
                               "url": "https://x"}}, "md5: required"),
        ({"datasets__digits": {"kind": "medmnist", "model": "tiny", "name": "pathmnist", "path": "x", "md5": "z"}}, "md5: 'z'"),
        ({"models__tiny__image_size": 9}, r"image_size: 9 is not allowed; a multiple of patch \(2\)"),
        ({"models__tiny__heads": 3}, "width: 64"),
        ({"models__tiny__device": "gpu"}, "device: 'gpu'"),
        ({"methods__alphaedit__nullspace_threshold": 0}, "nullspace_threshold: 0"),
        ({"methods__alphaedit__ridge": -1}, "ridge: -1"),
        ({"methods__alphaedit__layers": [4]}, r"layers: \[4\] is not allowed; the model has layers 0..3"),
        ({"methods__alphaedit__layers": [1, 1]}, "distinct layers"),
        ({"methods__alphaedit__layers": "first"}, "layers: 'first'"),
        ({"methods__alphaedit__second_moment_weight": 1}, "second_moment_weight: unknown key"),
        ({"methods__alphaedit__control": "nothing"}, "control: 'nothing'"),
        ({"seeds": [1, 1]}, "holds a value twice"),
        ({"draws": 0}, "draws: 0"),
        ({"locating": {"trial": "churn"}}, "locating.trial: 'churn'"),
        ({"search__method": "other"}, "search.method: 'other'"),
        ({"search__axes": {"rigde": [1]}}, "search.axes: 'rigde'"),
        ({"search__axes": {"ridge": [-1]}}, "search.axes: ridge: -1"),
        ({"search__axes": {"max_edits": [0]}}, "search.axes.max_edits: 0"),
        ({"search__seeds": [7]}, r"search.seeds: \[7\]"),
        ({"search__seeds": [1, 1]}, r"search.seeds: \[1, 1\] holds a value twice"),
        ({"search__axes": {"ridge": []}}, r"search.axes.ridge: \[\] is not allowed"),
        ({"search__axes": {"layers": [[3], [4]]}}, r"search.axes.layers: \[4\] is not allowed; the model has layers 0..3"),
        ({"search__method": "churn"}, "search.method: 'churn' is not allowed; an alphaedit or memit recipe"),
        ({"methods__alphaedit__control": "random"}, "search.method: 'alphaedit' is not allowed; .* no control"),
        ({"search__baselines": ["nothing"]}, "search.baselines: 'nothing'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(**changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("vision")


def test_a_varied_recipe_is_validated():
    recipe, edits = varied(AlphaEdit(method="alphaedit", ridge=0.2), {"clamp": 0.5, "max_edits": 7}, "search")
    assert (recipe.ridge, recipe.clamp, edits) == (0.2, 0.5, 7)
    with pytest.raises(ConfigError, match="clamp"):
        varied(recipe, {"clamp": -1}, "search")


def test_a_file_can_be_named_on_the_command_line(tmp_path):
    values = read_layers(["config.yaml", "runs/vision_medmnist.yaml"])
    run = load_run({**values, "data_path": str(tmp_path / "mine.npz")})
    assert run.vision.datasets["retinamnist"].path == str(tmp_path / "mine.npz")
    with pytest.raises(ConfigError, match="data_path"):
        load_run({**read_layers(["config.yaml", "runs/vision.yaml"]), "data_path": "mine.npz"})
