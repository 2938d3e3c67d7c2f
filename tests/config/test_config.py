"""The configuration: every bad value is one line that names key, value and what is allowed; cells appear once."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from editlab.config.base import Section, validated
from editlab.config.edit import EditStudy
from editlab.config.recipe import RECIPES, Recipe
from editlab.config.run import Run, check_files, laid_over, load_run, read_layer, read_layers, source_of_inputs
from editlab.config.solvers import SOLVERS
from editlab.config.studies import STUDIES
from editlab.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
BASE: dict[str, Any] = {
    "run": "test",
    "edit": {
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
        "experiments": {
            "edit": {"methods": ["memit", "rome", "none"], "batch": [1, 8], "seeds": [1, 2], "num_edits": 16}
        },
    },
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
        load_run(values)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def test_the_base_is_good():
    run = load_run(BASE)
    assert list(run.studies) == ["edit"]
    assert run.edit.methods["memit"].steps == 25
    assert run.edit.methods["rome"].second_moment_weight == 15000


BAD = [
    # (path, value, key in the message, value in the message, part of what is allowed)
    ("runn", "x", "runn", "unknown key", "run"),
    ("run", ..., "run", "missing", ""),
    ("run", "../evil", "run", "'../evil'", "match"),
    ("run", 3, "run", "3", "string"),
    ("edit/model", "tiny", "model", "'tiny'", "big, small"),
    ("edit/dataset", "nothing", "dataset", "'nothing'", "facts, file"),
    ("edit/datasets/facts/kind", "csv", "datasets.facts", "csv", "counterfact"),
    ("edit/datasets/facts/size", 11, "datasets.facts.size", "11", "12"),
    ("edit/datasets/facts/size", "many", "datasets.facts.size", "'many'", "integer"),
    ("edit/datasets/facts/size", 2.5, "datasets.facts.size", "2.5", "integer"),
    ("edit/datasets/facts/size", True, "datasets.facts.size", "True", "valid"),
    ("edit/datasets/facts/sise", 50, "datasets.facts.sise", "did you mean 'size'", "seed, sha256, size"),
    ("edit/datasets/file/url", "https://a.b/c.json", "datasets.file.sha256", "required", "url"),
    ("edit/datasets/file/url", "http://a.b/c.json", "datasets.file.url", "http://a.b", "https"),
    ("edit/datasets/file/sha256", "abc", "datasets.file.sha256", "'abc'", "match"),
    ("edit/datasets/file/path", ..., "datasets.file.path", "missing", ""),
    ("edit/datasets/a b", {"kind": "facts"}, "datasets.a b", "a b", "match"),
    ("edit/models/small/source", "s3", "models.small", "s3", "substrate"),
    ("edit/models/small/architecture", "bert", "models.small.architecture", "'bert'", "gpt2"),
    ("edit/models/small/dataset", "other", "models.small.dataset", "'other'", "facts, file"),
    ("edit/models/small/width", 130, "models.small.width", "130", "multiple of heads (4)"),
    ("edit/models/small/layers", 0, "models.small.layers", "0", "1"),
    ("edit/models/small/recall_gate", 1.5, "models.small.recall_gate", "1.5", "1"),
    ("edit/models/big/dtype", "int8", "models.big.dtype", "'int8'", "bfloat16"),
    ("edit/models/big/id", "", "models.big.id", "''", "1 character"),
    ("edit/models/small/lr", math.nan, "models.small.lr", "nan", "finite"),
    ("edit/methods/memit/solver", "memitt", "methods.memit.solver", "'memitt'", "alphaedit"),
    ("edit/methods/memit/solver", ["memit"], "methods.memit.solver", "['memit']", "string"),
    ("edit/methods/memit/solver", ..., "methods.memit.solver", "missing", ""),
    ("edit/methods/memit/clampp", 2, "methods.memit.clampp", "did you mean 'clamp'", "layers"),
    ("edit/methods/memit/clamp", 0, "methods.memit.clamp", "0", "greater than 0"),
    ("edit/methods/memit/lr", math.inf, "methods.memit.lr", "inf", "finite"),
    ("edit/methods/memit/lr", "fast", "methods.memit.lr", "'fast'", "number"),
    ("edit/methods/memit/lr", True, "methods.memit.lr", "True", "valid"),
    ("edit/methods/memit/steps", 2.5, "methods.memit.steps", "2.5", "integer"),
    ("edit/methods/memit/steps", True, "methods.memit.steps", "True", "valid"),
    ("edit/methods/memit/norm_anchor", "perhaps", "methods.memit.norm_anchor", "'perhaps'", "boolean"),
    ("edit/methods/memit/kl_factor", -1, "methods.memit.kl_factor", "-1", "0"),
    (
        "edit/methods/memit/null_space_share",
        0.5,
        "methods.memit.null_space_share",
        "unknown key for memit",
        "second_moment",
    ),
    ("edit/methods/memit/condition_limit", 1, "methods.memit.condition_limit", "1", "greater than 1"),
    ("edit/methods/memit/layers", [], "methods.memit.layers", "", "at least one"),
    ("edit/methods/memit/layers", [0, 0], "methods.memit.layers", "", "distinct"),
    ("edit/methods/memit/layers", [-1], "methods.memit.layers", "-1", "0"),
    ("edit/methods/memit/layers", "all", "methods.memit.layers: 'all'", "'all'", "list"),
    ("edit/methods/memit/layers", 1, "methods.memit.layers: 1", "1", "list"),
    ("edit/methods/memit/layers", [True], "methods.memit.layers", "True", "valid"),
    ("edit/methods/memit/layers", [3], "methods.memit.layers", "[3]", "0..2"),
    ("edit/methods/rome/layers", [0, 1], "methods.rome.layers", "[0, 1]", "exactly one"),
    ("edit/methods/memit/backend", "gguf", "methods.memit.backend", "'gguf'", "raw"),
    ("edit/methods/memit/greedy", {"steps": 2}, "methods.memit.greedy", "raw", "lora"),
    ("edit/methods/none/backend", "lora", "methods.none.backend", "'lora'", "raw"),
    ("edit/methods/memit/replay_capacity", 0, "methods.memit.replay_capacity", "0", "1"),
    ("edit/methods/memit/replay_strategy", "best", "methods.memit.replay_strategy", "'best'", "priority"),
    ("edit/methods/memit", "memit", "methods.memit", "'memit'", ""),
    ("edit/methods", [], "methods", "[]", "dictionary"),
    ("edit/experiments/edit/methods", ["memit", "mend"], "experiments.edit.methods", "'mend'", "memit"),
    ("edit/experiments/edit/methods", [], "experiments.edit.methods", "[]", "1"),
    ("edit/experiments/edit/methods", "memit", "experiments.edit.methods", "'memit'", "list"),
    ("edit/experiments/edit/methods", ["memit", "memit"], "experiments.edit.methods", "memit", "twice"),
    ("edit/experiments/edit/batch", [8, 8], "experiments.edit.batch", "[8, 8]", "twice"),
    ("edit/experiments/edit/batch", [0], "experiments.edit.batch", "0", "1"),
    ("edit/experiments/edit/batch", [True], "experiments.edit.batch", "True", "valid"),
    ("edit/experiments/edit/batch", 8, "experiments.edit.batch", "8", "list"),
    ("edit/experiments/edit/replay", [-0.1], "experiments.edit.replay", "-0.1", "0"),
    ("edit/experiments/edit/replay", [0, 0.0], "experiments.edit.replay", "0.0", "twice"),
    ("edit/experiments/edit/replay", [math.nan], "experiments.edit.replay", "nan", "finite"),
    ("edit/experiments/edit/seeds", [1, 1], "experiments.edit.seeds", "[1, 1]", "twice"),
    ("edit/experiments/edit/seeds", [-1], "experiments.edit.seeds", "-1", "0"),
    ("edit/experiments/edit/seeds", ["a"], "experiments.edit.seeds", "'a'", "integer"),
    ("edit/experiments/edit/rank", [8], "experiments.edit.rank", "[8]", "LoRA"),
    ("edit/experiments/edit/num_edits", 201, "experiments.edit.num_edits", "201", "200 facts"),
    ("edit/experiments/edit/num_edits", ..., "experiments.edit.num_edits", "missing", ""),
    ("edit/experiments/edit/capacity", [], "experiments.edit.capacity", "[]", "1"),
    ("edit/experiments/edit/strategy", ["random", "old"], "experiments.edit.strategy", "'old'", "priority"),
    ("edit/evaluation/snapshot_every", 0, "evaluation.snapshot_every", "0", "1"),
    ("edit/statistics/tokens_per_dimension", 0, "statistics.tokens_per_dimension", "0", "greater"),
    ("edit/contexts/lengths", [0], "contexts.lengths", "0", "1"),
    ("edit/tracing/noise", -3, "tracing.noise", "-3", "greater"),
    ("resources/default/mem_mb", "2GB", "resources.default.mem_mb", "'2GB'", "integer"),
    ("allow_missing", 7, "allow_missing", "7", "boolean"),
    ("edit/sweep/axes", {"mend": {"clamp": [1]}}, "sweep.axes", "'mend'", "memit"),
    ("edit/sweep/axes", {"memit": {"clampp": [1]}}, "sweep.axes.memit", "clampp", "clamp"),
    ("edit/sweep/axes", {"memit": {"clamp": [1, -1]}}, "sweep.axes.memit", "-1", "greater"),
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


def test_numbers_without_a_dot_are_numbers(tmp_path):
    """PyYAML reads 5e-4 as text; in a file and on the command line it is a number."""
    (tmp_path / "a.yaml").write_text("edit: {methods: {memit: {lr: 5e-4, clamp: 2}}}")
    assert read_layers([tmp_path / "a.yaml"])["edit"]["methods"]["memit"] == {"lr": 5e-4, "clamp": 2}
    assert read_layers([], yaml.safe_load("{edit: {lr: [5e-4, 1.e+2]}}")) == {"edit": {"lr": [5e-4, 100.0]}}
    assert read_layers([], {"allow_missing": "true", "run": "truth"}) == {"allow_missing": True, "run": "truth"}
    assert load_run(changed("edit/methods/memit/clamp", 2)).edit.methods["memit"].clamp == 2.0


@pytest.mark.parametrize("value", ["4", 4.5, "5e-4"])
def test_a_number_of_another_type_is_refused(value):
    assert "valid integer" in message(changed("edit/methods/memit/steps", value))


def test_long_and_hostile_values_stay_one_short_line():
    assert len(message(changed("edit/model", "x" * 10_000))) < 400
    assert "\n" not in message(changed("edit/methods/memit/lr", "a\nb"))
    assert "\n" not in message(changed("edit/model", "a\nb"))
    message(changed("a\nb", 1))
    message(changed("edit/methods/memit/lr", 10**400))


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
def test_any_value_gives_a_run_or_a_config_error(values):
    run_or_line(values)


@given(
    st.sampled_from(sorted([*places(BASE), *(f"edit/methods/memit/{name}" for name in RECIPES["memit"].model_fields)])),
    JSON,
)
@settings(deadline=None, max_examples=400)
def test_any_value_in_any_place_gives_a_run_or_a_config_error(place, value):
    run_or_line(changed(place, value))


@given(st.dictionaries(st.sampled_from(sorted(EditStudy.model_fields)), JSON, max_size=6))
@settings(deadline=None, max_examples=200)
def test_any_sections_give_a_run_or_a_config_error(values):
    run_or_line({**BASE, "edit": {**copy.deepcopy(BASE["edit"]), **values}})


@given(st.dictionaries(st.sampled_from(sorted(Run.model_fields)), JSON, max_size=6))
@settings(deadline=None, max_examples=100)
def test_any_keys_of_the_frame_give_a_run_or_a_config_error(values):
    run_or_line({**copy.deepcopy(BASE), **values})


def run_or_line(values: Any) -> None:
    run = line = None
    try:
        run = load_run(values)
    except ConfigError as error:
        line = str(error)
    if run is None:
        assert line
        assert len(line.splitlines()) == 1
        return
    for name in run.edit.experiments:
        cells = [tuple(sorted(c.items())) for c in run.edit.cells(name)]
        assert len(set(cells)) == len(cells)


# ---- runs and layers -----------------------------------------------------------------------------------------------


def test_a_run_without_a_study_is_refused_and_null_leaves_one_out():
    assert "at least one study is required: edit" in message({"run": "test"})
    assert "at least one study" in message({**BASE, "edit": None})


@pytest.mark.parametrize("name", ["models", "figures", "edit"])
def test_no_run_is_called_like_a_folder_of_the_default_run(name):
    assert f"run: '{name}' is not allowed; results/{name} belongs to the default run" in message(changed("run", name))


def test_a_run_has_a_folder_and_the_default_run_has_none():
    assert (load_run(BASE).folder, load_run(changed("run", "default")).folder) == ("results/test", "results")
    assert load_run(changed("inputs_from", "default")).inputs == "results"


def test_a_run_lists_its_own_experiments():
    low = changed("edit/experiments/other", {"methods": ["memit"], "batch": [2], "seeds": [1], "num_edits": 4})
    high = {"edit": {"experiments": {"mine": BASE["edit"]["experiments"]["edit"]}, "methods": {"rome": {"steps": 3}}}}
    run = load_run(laid_over(low, high))
    assert list(run.edit.experiments) == ["mine"]
    assert run.edit.methods["rome"].steps == 3  # everything else is laid over key by key
    assert set(run.edit.methods) == set(BASE["edit"]["methods"])
    assert list(load_run(laid_over(low, {"run": "x"})).edit.experiments) == ["edit", "other"]


def test_a_run_that_lists_its_experiments_asks_for_what_goes_with_them():
    default = read_layer(ROOT / "config.yaml")
    assert default["edit"]["train_control"]
    assert default["edit"]["measure_speed"]
    mine = {"experiments": {"edit": default["edit"]["experiments"]["edit"]}}
    for high, wanted in (
        (mine, (False, False)),
        ({**mine, "train_control": True}, (False, True)),
        ({"evaluation": {"probe_cases": 4}}, (True, True)),
    ):
        study = load_run(laid_over(default, {"run": "x", "edit": high})).edit
        assert (study.measure_speed, study.train_control) == wanted


def test_layers_are_read_in_order_and_the_command_line_comes_last(tmp_path):
    for name, values in {"a": BASE, "b": {"run": "b", "allow_missing": True}, "c": {"run": "c"}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    files = [tmp_path / f"{name}.yaml" for name in "abc"]
    run = load_run(read_layers(files, {"allow_missing": False}))
    assert (run.run, run.allow_missing) == ("c", False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("run: a\nedit: {model: x,\n  model: y}\n", " (line 3): the key 'model' stands twice"),
        ("run: [", " (line 1): expected the node content"),
        ("- 1\n", ": must hold a mapping, got list"),
        ("", ": must hold a mapping, got NoneType"),
        ("run: !!python/object/apply:os.getcwd []\n", " (line 1): could not determine a constructor"),
        (b"run: \xff\n", ": not UTF-8 text"),
        (None, ": cannot be read (No such file or directory)"),
    ],
    ids=["twice", "broken", "list", "empty", "tag", "bytes", "missing"],
)
def test_a_bad_file_is_one_line(tmp_path, text, problem):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_layer(path)
    assert str(caught.value).startswith(f"{path}{problem}")
    assert "\n" not in str(caught.value)


def test_inputs_of_another_run_must_be_made_from_the_same_sections(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed("run", "default")))
    run = load_run({**changed("edit/evaluation", {"resamples": 7}), "inputs_from": "default"})
    assert source_of_inputs(run, tmp_path).run == "default"
    assert source_of_inputs(load_run(BASE), tmp_path).run == "test"
    for path, value, told in (
        ("edit/models/small/steps", 7, "edit.models.small.steps is 7 here and 500 there"),
        ("edit/models/more", {"source": "hub", "id": "x"}, "edit.models.more is {'source': 'hub'"),
        ("edit/statistics", {"max_length": 9}, "edit.statistics.max_length is 9 here and 256 there"),
        ("inputs_from", "elsewhere", "'elsewhere' is not allowed; there is no runs/elsewhere.yaml"),
    ):
        with pytest.raises(ConfigError) as caught:
            source_of_inputs(load_run({"inputs_from": "default", **changed(path, value)}), tmp_path)
        assert told in str(caught.value)
        assert str(caught.value).startswith("config: inputs_from: ")
        assert "\n" not in str(caught.value)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_missing_files_are_named_before_any_job(tmp_path):
    check_files(load_run(BASE))
    with pytest.raises(ConfigError, match=r"edit\.datasets\.file\.path: 'data\.json' is not a file"):
        check_files(load_run(changed("edit/dataset", "file")))
    data = tmp_path / "x.json"
    data.write_text(json.dumps([{}] * 20))
    check_files(load_run({**changed("edit/dataset", "file"), "data_path": str(data)}))
    with pytest.raises(ConfigError, match=r"data_path: .* is not allowed; no study of this run reads a file"):
        load_run({**BASE, "data_path": str(data)})
    with pytest.raises(ConfigError, match=r"edit\.statistics\.text: 'no\.txt' is not a file"):
        check_files(load_run(changed("edit/statistics/text", "no.txt")))
    for identifier in ("./nowhere", str(tmp_path / "nowhere")):
        values = changed("edit/models/big/id", identifier)
        values["edit"]["model"] = "big"
        with pytest.raises(ConfigError, match=r"edit\.models\.big\.id: .* is not a directory"):
            check_files(load_run(values))
    with pytest.raises(ConfigError, match=r"edit\.statistics\.text: required for a hub model"):
        check_files(load_run(changed("edit/model", "big")))


@pytest.mark.parametrize("path", sorted((ROOT / "runs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_run_of_the_repository_is_valid_and_called_like_its_file(path):
    run = load_run(read_layers([ROOT / "config.yaml", path]))
    # A run may not be called like a study; its file may.
    assert run.run == path.stem or (run.run.startswith(f"{path.stem}_") and path.stem in STUDIES)
    assert source_of_inputs(run, ROOT)
    assert run.edit is None or all(run.edit.cells(name) for name in run.edit.experiments)


# ---- recipes and cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_has_a_recipe_with_its_defaults(solver):
    recipe = validated(Recipe, {"solver": solver, "layers": [0]}, "recipe")
    assert isinstance(recipe, SOLVERS[solver])
    assert recipe.model_dump().items() >= SOLVERS[solver]().model_dump().items()  # the library's defaults
    inside = load_run(changed("edit/methods/memit", {"solver": solver, "layers": [0]})).model_dump()
    assert inside["edit"]["methods"]["memit"] == recipe.model_dump()
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
    return load_run(changed("edit/experiments/edit", plan)).edit.cells("edit")


@pytest.mark.parametrize(
    "recipe", [{"solver": "memit", "layers": [0], "backend": "memory"}, {"solver": "text_lookup", "layers": [0]}]
)
def test_a_gate_to_be_calibrated_needs_reserved_facts(recipe):
    values = changed("edit/methods/memit", recipe)
    load_run(values)
    values["edit"]["datasets"]["facts"]["sweep_facts"] = 1
    assert "datasets.facts.sweep_facts: 1 is not allowed; the gate of memit is calibrated on reserved" in message(
        values
    )
    values["edit"]["methods"]["memit"]["gate"] = 0.9
    load_run(values)


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
    own = [{"methods": ["lora", "rome"], "batch": [32]}]
    found = cells(methods=["memit", "lora"], batch=[1, 8], rank=[4], own_axes=own)
    assert {(c["method"], c["batch"]) for c in found} == {("memit", "1"), ("memit", "8"), ("lora", "32")}


def test_methods_may_have_replay_rates_of_their_own():
    plan = {"methods": ["memit", "lora"], "batch": [2, 32], "replay": [0, 0.3], "replay_from": 32, "rank": [4]}
    own = [{"methods": ["memit"], "replay": [1]}, {"methods": ["memit"], "batch": [4]}]
    without = {(c["method"], c["batch"], c["replay"]) for c in cells(**plan)}
    found = {(c["method"], c["batch"], c["replay"]) for c in cells(**plan, own_axes=own)}
    assert {place for place in found if place[0] == "memit"} == {("memit", "4", "1")}
    assert {place for place in found if place[0] == "lora"} == {place for place in without if place[0] == "lora"}


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ([{"methods": ["memitt"], "batch": [4]}], "experiments.edit.own_axes: 'memitt'"),
        ([{"methods": ["memit"]}], "have no axis of their own; give batch or replay"),
        ([{"methods": ["memit"], "batch": [4, 4]}], "batch: [4, 4] holds a value twice"),
        (
            [{"methods": ["memit"], "batch": [4]}, {"methods": ["memit"], "batch": [8]}],
            "memit has two entries for batch",
        ),
        ([{"methods": ["none"], "replay": [1]}], "replay [1.0] is not allowed; none replays nothing"),
    ],
)
def test_mistakes_in_axes_of_their_own_are_refused(own, told):
    plan = {"methods": ["memit", "none"], "batch": [8], "seeds": [1], "num_edits": 16}
    assert told in message(changed("edit/experiments/edit", {**plan, "own_axes": own}))


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


def test_every_key_is_documented_with_its_meaning():
    """docs/configuration.md has a row for every key of the sections that it describes, and none for others."""
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    known = _subclasses(Section)
    parts = [part.split("\n", 1) for part in text.split("\n## ")[1:]]
    described = [(name, body) for name, body in parts if name in {c.__name__ for c in known}]
    assert len(described) > 30
    for name, body in described:  # two studies may have sections of one name
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", body, re.MULTILINE)
        fields = [{k: f.description or "" for k, f in c.model_fields.items()} for c in known if c.__name__ == name]
        assert {key: meaning for key, _, meaning in rows} in fields, name


def _subclasses(base: type) -> list[type]:
    return [c for one in base.__subclasses__() for c in (one, *_subclasses(one))]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"solver": "evoedit", "sphere": 0.5}, "sphere: 0.5 is not allowed with evoedit"),
        ({"solver": "nse", "sphere": 0.5}, "sphere: 0.5 is not allowed with nse"),
        ({"solver": "evoedit", "backend": "lora"}, "backend: 'lora' is not allowed with evoedit"),
        ({"solver": "ultra", "replay_targets": "recomputed"}, "replay_targets: 'recomputed' is not allowed with ultra"),
        ({"solver": "ft_epochs", "replay_strategy": "target_loss"}, "replay_strategy: 'target_loss' is not allowed"),
    ],
)
def test_an_option_that_would_break_a_promise_or_do_nothing_is_refused(values, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        validated(Recipe, {"layers": [0], **values}, "recipe")
    assert not SOLVERS["evoedit"].replay
