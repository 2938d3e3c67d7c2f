"""The configuration: every bad value is one line that names key, value and what is allowed; cells appear once."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.config.base import validated
from editlab.config.recipe import RECIPES, Recipe
from editlab.config.solvers import SOLVERS
from editlab.config.study import Study, check_files, load_study
from editlab.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
BASE: dict[str, Any] = {
    "study": "test",
    "model": "small",
    "dataset": "facts",
    "datasets": {
        "facts": {"kind": "facts", "size": 200, "seed": 1},
        "file": {"kind": "counterfact", "path": "data.json"},
    },
    "models": {
        "small": {"source": "substrate", "dataset": "facts", "layers": 3},
        "big": {"source": "hub", "id": "some/model"},
    },
    "methods": {
        "memit": {"solver": "memit", "layers": [0]},
        "rome": {"solver": "rome", "layers": [0]},
        "lora": {"solver": "memit", "layers": [0], "backend": "lora"},
        "none": {"solver": "none", "layers": [0]},
        "random": {"solver": "random", "layers": [0]},
    },
    "experiments": {"edit": {"methods": ["memit", "rome", "none"], "batch": [1, 8], "seeds": [1, 2], "num_edits": 16}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The base with one value set (``...`` deletes it)."""
    values = copy.deepcopy(BASE)
    *homes, last = path.split("/")
    home: Any = values
    for part in homes:
        home = home.setdefault(part, {}) if isinstance(home, dict) else home[int(part)]
    if value is ...:
        del home[last]
    else:
        home[last] = value
    return values


def message(values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_study(values)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def test_the_base_is_good():
    study = load_study(BASE)
    assert study.methods["memit"].steps == 25
    assert study.methods["rome"].second_moment_weight == 15000


BAD = [
    # (path, value, key in the message, value in the message, part of what is allowed)
    ("studdy", "x", "studdy", "unknown key", "study"),
    ("study", ..., "study", "missing", ""),
    ("study", "../evil", "study", "'../evil'", "match"),
    ("study", 3, "study", "3", "string"),
    ("model", "tiny", "model", "'tiny'", "big, small"),
    ("dataset", "nothing", "dataset", "'nothing'", "facts, file"),
    ("datasets/facts/kind", "csv", "datasets.facts", "csv", "counterfact"),
    ("datasets/facts/size", 11, "datasets.facts.size", "11", "12"),
    ("datasets/facts/size", "many", "datasets.facts.size", "'many'", "integer"),
    ("datasets/facts/size", 2.5, "datasets.facts.size", "2.5", "integer"),
    ("datasets/facts/size", True, "datasets.facts.size", "True", "switch"),
    ("datasets/facts/sise", 50, "datasets.facts.sise", "did you mean 'size'", "seed, sha256, size"),
    ("datasets/file/url", "https://a.b/c.json", "datasets.file.sha256", "required", "url"),
    ("datasets/file/url", "http://a.b/c.json", "datasets.file.url", "http://a.b", "https"),
    ("datasets/file/sha256", "abc", "datasets.file.sha256", "'abc'", "match"),
    ("datasets/file/path", ..., "datasets.file.path", "missing", ""),
    ("datasets/a b", {"kind": "facts"}, "datasets.a b", "a b", "match"),
    ("models/small/source", "s3", "models.small", "s3", "substrate"),
    ("models/small/architecture", "bert", "models.small.architecture", "'bert'", "gpt2"),
    ("models/small/dataset", "other", "models.small.dataset", "'other'", "facts, file"),
    ("models/small/width", 130, "models.small.width", "130", "multiple of heads (4)"),
    ("models/small/layers", 0, "models.small.layers", "0", "1"),
    ("models/small/recall_gate", 1.5, "models.small.recall_gate", "1.5", "1"),
    ("models/big/dtype", "int8", "models.big.dtype", "'int8'", "bfloat16"),
    ("models/big/id", "", "models.big.id", "''", "1 character"),
    ("models/small/lr", math.nan, "models.small.lr", "nan", "finite"),
    ("methods/memit/solver", "memitt", "methods.memit.solver", "'memitt'", "alphaedit"),
    ("methods/memit/solver", ["memit"], "methods.memit.solver", "['memit']", "string"),
    ("methods/memit/solver", ..., "methods.memit.solver", "missing", ""),
    ("methods/memit/clampp", 2, "methods.memit.clampp", "did you mean 'clamp'", "layers"),
    ("methods/memit/clamp", 0, "methods.memit.clamp", "0", "greater than 0"),
    ("methods/memit/lr", math.inf, "methods.memit.lr", "inf", "finite"),
    ("methods/memit/lr", "fast", "methods.memit.lr", "'fast'", "number"),
    ("methods/memit/lr", True, "methods.memit.lr", "True", "switch"),
    ("methods/memit/steps", 2.5, "methods.memit.steps", "2.5", "integer"),
    ("methods/memit/steps", True, "methods.memit.steps", "True", "switch"),
    ("methods/memit/norm_anchor", "perhaps", "methods.memit.norm_anchor", "'perhaps'", "boolean"),
    ("methods/memit/kl_factor", -1, "methods.memit.kl_factor", "-1", "0"),
    ("methods/memit/null_space_share", 0.5, "methods.memit.null_space_share", "unknown key for memit", "second_moment"),
    ("methods/memit/condition_limit", 1, "methods.memit.condition_limit", "1", "greater than 1"),
    ("methods/memit/layers", [], "methods.memit.layers", "", "at least one"),
    ("methods/memit/layers", [0, 0], "methods.memit.layers", "", "distinct"),
    ("methods/memit/layers", [-1], "methods.memit.layers", "-1", "0"),
    ("methods/memit/layers", "all", "methods.memit.layers: 'all'", "'all'", "list"),
    ("methods/memit/layers", 1, "methods.memit.layers: 1", "1", "list"),
    ("methods/memit/layers", [True], "methods.memit.layers", "True", "switch"),
    ("methods/memit/layers", [3], "methods.memit.layers", "[3]", "0..2"),
    ("methods/rome/layers", [0, 1], "methods.rome.layers", "[0, 1]", "exactly one"),
    ("methods/memit/backend", "gguf", "methods.memit.backend", "'gguf'", "raw"),
    ("methods/memit/greedy", {"steps": 2}, "methods.memit.greedy", "raw", "lora"),
    ("methods/none/backend", "lora", "methods.none.backend", "'lora'", "raw"),
    ("methods/memit/replay_capacity", 0, "methods.memit.replay_capacity", "0", "1"),
    ("methods/memit/replay_strategy", "best", "methods.memit.replay_strategy", "'best'", "priority"),
    ("methods/memit", "memit", "methods.memit", "'memit'", ""),
    ("methods", [], "methods", "[]", "dictionary"),
    ("experiments/edit/methods", ["memit", "mend"], "experiments.edit.methods", "'mend'", "memit"),
    ("experiments/edit/methods", [], "experiments.edit.methods", "[]", "1"),
    ("experiments/edit/methods", "memit", "experiments.edit.methods", "'memit'", "list"),
    ("experiments/edit/methods", ["memit", "memit"], "experiments.edit.methods", "memit", "twice"),
    ("experiments/edit/batch", [8, 8], "experiments.edit.batch", "[8, 8]", "twice"),
    ("experiments/edit/batch", [0], "experiments.edit.batch", "0", "1"),
    ("experiments/edit/batch", [True], "experiments.edit.batch", "True", "switch"),
    ("experiments/edit/batch", 8, "experiments.edit.batch", "8", "list"),
    ("experiments/edit/replay", [-0.1], "experiments.edit.replay", "-0.1", "0"),
    ("experiments/edit/replay", [0, 0.0], "experiments.edit.replay", "0.0", "twice"),
    ("experiments/edit/replay", [math.nan], "experiments.edit.replay", "nan", "finite"),
    ("experiments/edit/seeds", [1, 1], "experiments.edit.seeds", "[1, 1]", "twice"),
    ("experiments/edit/seeds", [-1], "experiments.edit.seeds", "-1", "0"),
    ("experiments/edit/seeds", ["a"], "experiments.edit.seeds", "'a'", "integer"),
    ("experiments/edit/rank", [8], "experiments.edit.rank", "[8]", "LoRA"),
    ("experiments/edit/num_edits", 201, "experiments.edit.num_edits", "201", "200 facts"),
    ("experiments/edit/num_edits", ..., "experiments.edit.num_edits", "missing", ""),
    ("experiments/edit/capacity", [], "experiments.edit.capacity", "[]", "1"),
    ("experiments/edit/strategy", ["random", "old"], "experiments.edit.strategy", "'old'", "priority"),
    ("evaluation/snapshot_every", 0, "evaluation.snapshot_every", "0", "1"),
    ("statistics/tokens_per_dimension", 0, "statistics.tokens_per_dimension", "0", "greater"),
    ("contexts/lengths", [0], "contexts.lengths", "0", "1"),
    ("tracing/noise", -3, "tracing.noise", "-3", "greater"),
    ("resources/default/mem_mb", "2GB", "resources.default.mem_mb", "'2GB'", "integer"),
    ("allow_missing", 7, "allow_missing", "7", "boolean"),
    ("sweep/axes", {"mend": {"clamp": [1]}}, "sweep.axes", "'mend'", "memit"),
    ("sweep/axes", {"memit": {"clampp": [1]}}, "sweep.axes.memit", "clampp", "clamp"),
    ("sweep/axes", {"memit": {"clamp": [1, -1]}}, "sweep.axes.memit", "-1", "greater"),
]


@pytest.mark.parametrize(("path", "value", "key", "shown", "allowed"), BAD, ids=[f"{b[0]}={b[1]!r}" for b in BAD])
def test_a_bad_value_is_one_line(path, value, key, shown, allowed):
    text = message(changed(path, value))
    assert text.startswith("config: ")
    assert "constrained" not in text  # no words of the validator's own
    for part in (key, shown, allowed):
        assert part in text, text


@pytest.mark.parametrize("values", [None, [], "study", 3, {}, {1: 2}, {None: None}], ids=str)
def test_what_is_no_mapping_is_one_line(values):
    assert message(values).startswith("config: ")


def test_numbers_as_yaml_1_1_reads_them():
    """PyYAML reads 5e-4 (no dot) as text; it is still a number."""
    assert load_study(changed("methods/memit/lr", yaml.safe_load("5e-4"))).methods["memit"].lr == 5e-4
    assert load_study(changed("methods/memit/clamp", 2)).methods["memit"].clamp == 2.0


def test_long_and_hostile_values_stay_one_short_line():
    assert len(message(changed("model", "x" * 10_000))) < 400
    assert "\n" not in message(changed("methods/memit/lr", "a\nb"))
    assert "\n" not in message(changed("model", "a\nb"))
    message(changed("a\nb", 1))
    message(changed("methods/memit/lr", 10**400))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def places(values: Any, path: str = "") -> list[str]:
    found = [path] if path else []
    if isinstance(values, dict):
        for key, value in values.items():
            found += places(value, f"{path}/{key}" if path else key)
    return found


@given(JSON)
@settings(deadline=None, max_examples=150)
def test_any_value_gives_a_study_or_a_config_error(values):
    study_or_line(values)


@given(
    st.sampled_from(sorted([*places(BASE), *(f"methods/memit/{name}" for name in RECIPES["memit"].model_fields)])), JSON
)
@settings(deadline=None, max_examples=400)
def test_any_value_in_any_place_gives_a_study_or_a_config_error(place, value):
    study_or_line(changed(place, value))


@given(st.dictionaries(st.sampled_from(sorted(Study.model_fields)), JSON, max_size=6))
@settings(deadline=None, max_examples=200)
def test_any_sections_give_a_study_or_a_config_error(values):
    study_or_line({**copy.deepcopy(BASE), **values})


def study_or_line(values: Any) -> None:
    study = line = None
    try:
        study = load_study(values)
    except ConfigError as error:
        line = str(error)
    if study is None:
        assert line
        assert len(line.splitlines()) == 1
        return
    for name in study.experiments:
        cells = [tuple(sorted(c.items())) for c in study.cells(name)]
        assert len(set(cells)) == len(cells)


def test_null_drops_an_experiment_of_the_base_study():
    plan = BASE["experiments"]["edit"]
    study = load_study({**BASE, "experiments": {"edit": plan, "other": None}})
    assert list(study.experiments) == ["edit"]
    with pytest.raises(ConfigError, match="experiments"):
        load_study({**BASE, "experiments": None})


# ---- files ---------------------------------------------------------------------------------------------------------


def test_missing_files_are_named_before_any_job(tmp_path):
    check_files(load_study(BASE))
    with pytest.raises(ConfigError, match=r"datasets\.file\.path: 'data\.json' is not a file"):
        check_files(load_study({**BASE, "dataset": "file"}))
    data = tmp_path / "x.json"
    data.write_text("[]")
    check_files(load_study({**BASE, "dataset": "file", "data_path": str(data)}))
    with pytest.raises(ConfigError, match=r"statistics\.text: 'no\.txt' is not a file"):
        check_files(load_study(changed("statistics/text", "no.txt")))
    for identifier in ("./nowhere", str(tmp_path / "nowhere")):
        values = {**changed("models/big/id", identifier), "model": "big"}
        with pytest.raises(ConfigError, match=r"models\.big\.id: .* is not a directory"):
            check_files(load_study(values))
    with pytest.raises(ConfigError, match=r"statistics\.text: required for a hub model"):
        check_files(load_study({**BASE, "model": "big"}))


@pytest.mark.parametrize(
    "path", [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))], ids=lambda p: p.stem
)
def test_every_study_of_the_repository_is_valid(path):
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    study = load_study(merged(values, yaml.safe_load(path.read_text())))
    assert all(study.cells(name) for name in study.experiments)


def merged(low: Any, high: Any) -> Any:
    """As Snakemake lays one configuration over another."""
    if not (isinstance(low, dict) and isinstance(high, dict)):
        return high
    return {
        k: merged(low[k], high[k]) if k in low and k in high else (high if k in high else low)[k]
        for k in {**low, **high}
    }


# ---- recipes and cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_has_a_recipe_with_its_defaults(solver):
    recipe = validated(Recipe, {"solver": solver, "layers": [0]}, "recipe")
    assert isinstance(recipe, SOLVERS[solver])
    assert recipe.model_dump().items() >= SOLVERS[solver]().model_dump().items()  # the library's defaults
    assert Study.model_validate(changed("methods/memit", {"solver": solver})).model_dump()["methods"]["memit"] == (
        recipe.model_dump() | {"layers": "auto"}
    )
    with pytest.raises(ValueError, match="frozen"):
        recipe.backend = "lora"


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_recipe_has_the_keys_of_its_solver_alone(solver):
    own = set(RECIPES[solver].model_fields)
    others = {name for other in RECIPES.values() for name in other.model_fields} - own
    for name in others:
        with pytest.raises(ConfigError) as caught:
            validated(Recipe, {"solver": solver, name: 1}, "recipe")
        assert str(caught.value).startswith(f"recipe: {name}: unknown key for {solver}; ")
        assert str(caught.value).endswith(f"allowed: {', '.join(sorted(own))}")
        assert len(str(caught.value).splitlines()) == 1


def test_defaults_that_the_papers_set_apart():
    def default(solver: str, field: str) -> Any:
        return getattr(validated(Recipe, {"solver": solver}, "recipe"), field)

    assert (default("memit", "second_moment_weight"), default("emmet", "second_moment_weight")) == (15000.0, 1.0)
    assert (default("ft", "lr"), default("ft", "stop_loss"), default("memit", "stop_loss")) == (5e-4, 0.01, 0.05)
    assert (default("encore", "stop"), default("memit", "stop")) == ("most_probable", "loss")
    assert (default("nse", "rewind"), default("memit", "rewind")) == (True, False)
    assert not validated(Recipe, {"solver": "nse", "rewind": False}, "recipe").rewind


def cells(**experiment: Any) -> list[dict[str, str]]:
    plan = {"methods": ["memit"], "batch": [8], "seeds": [1], "num_edits": 16, **experiment}
    return load_study(changed("experiments/edit", plan)).cells("edit")


def test_cells_are_the_product_of_the_axes():
    found = cells(methods=["memit"], batch=[1, 8], replay=[0, 0.3], seeds=[1, 2, 3])
    assert len(found) == 12
    assert found[0] == {"method": "memit", "batch": "1", "replay": "0", "rank": "0", "seed": "1"}
    assert {c["replay"] for c in found} == {"0", "0.3"}


def test_axes_that_do_not_apply_collapse():
    assert [c["batch"] for c in cells(methods=["rome"], batch=[1, 8, 32], replay=[0, 0.3])] == ["1"]
    assert [c["batch"] for c in cells(methods=["rome"], batch=[8, 32])] == ["1"]
    assert [(c["batch"], c["replay"]) for c in cells(methods=["none"], batch=[8, 32], replay=[0, 0.3])] == [("1", "0")]
    assert [(c["batch"], c["replay"]) for c in cells(methods=["random"], batch=[8, 32], replay=[0.1, 0.3])] == [
        ("8", "0"),
        ("32", "0"),
    ]
    assert {c["rank"] for c in cells(methods=["memit", "lora"], rank=[4, 8])} == {"0", "4", "8"}
    assert len(cells(methods=["memit", "lora"], rank=[4, 8])) == 3


def test_methods_may_have_batch_sizes_of_their_own():
    own = [{"methods": ["lora", "elsewhere"], "batch": [32]}]
    found = cells(methods=["memit", "lora"], batch=[1, 8], rank=[4], own_batches=own)
    assert {(c["method"], c["batch"]) for c in found} == {("memit", "1"), ("memit", "8"), ("lora", "32")}


def test_without_replay_capacity_and_strategy_collapse():
    found = cells(replay=[0, 0.3], capacity=[50, 100], strategy=["random", "priority"])
    assert len(found) == 1 + 4
    assert sum(c["replay"] == "0" for c in found) == 1
    assert all({"capacity", "strategy"} <= set(c) for c in found)


def test_close_replay_rates_stay_two_cells():
    found = cells(replay=[0.1234567, 0.1234568, 1e-7, 1, 20])
    assert [c["replay"] for c in found] == ["0.1234567", "0.1234568", "0.0000001", "1", "20"]


@given(
    st.fixed_dictionaries(
        {
            "methods": st.lists(st.sampled_from(["memit", "rome", "none", "random"]), min_size=1, unique=True),
            "batch": st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True),
            "replay": st.lists(st.floats(0, 2), min_size=1, max_size=3, unique=True),
            "seeds": st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
        }
    )
)
@settings(deadline=None, max_examples=60)
def test_no_cell_twice_and_every_combination_reached(axes):
    found = cells(**axes)
    assert len({tuple(c.values()) for c in found}) == len(found)
    for method in axes["methods"]:
        mine = [c for c in found if c["method"] == method]
        traits = SOLVERS[method]
        sizes = {min(b, traits.max_batch or b) if traits.edits else 1 for b in axes["batch"]}
        rates = set(axes["replay"]) if traits.replay else {0.0}
        assert len(mine) == len(sizes) * len(rates) * len(axes["seeds"])
        assert {float(c["replay"]) for c in mine} == rates
