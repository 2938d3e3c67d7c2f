"""Every value of the published presets against the files they come from, and against the table in docs/published.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from editlab.config.recipe import Recipe
from editlab.config.run import load_run, read_layers

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EDITLAB_TEST_DATA", ROOT.parent / "shared" / "data")) / "published" / "hyperparameters.json"
KEYS = {  # of their files -> ours
    "layers": "layers",
    "v_num_grad_steps": "steps",
    "num_steps": "steps",
    "v_lr": "lr",
    "lr": "lr",
    "clamp_norm_factor": "clamp",
    "v_weight_decay": "weight_decay",
    "kl_factor": "kl_factor",
    "mom2_update_weight": "second_moment_weight",
    "mom2_adjustment": "mom2_adjustment",
    "nullspace_threshold": "null_space_threshold",
    "L2": "l2",
    "neuron_threshold": "neuron_share",
    "alpha": "alpha",
    "upper_bound": "upper_bound",
    "max_iterations": "max_iterations",
    "emmet_lambda": "ridge",
    "update_norm_lambda": "update_norm_weight",
    "norm_constraint": "norm_constraint",
}
# No file of anyone names it: RECT's and PRUNE's own values stand in their papers' code, NSE has no file for Llama 2.
SOURCES = {
    "gpt2_xl": {
        "rome": ("kmeng01/memit", "ROME/gpt2-xl.json"),
        "memit": ("kmeng01/memit", "MEMIT/gpt2-xl.json"),
        "prune": ("jianghoucheng/AlphaEdit", "MEMIT/gpt2-xl.json"),
        "rect": ("jianghoucheng/AlphaEdit", "MEMIT/gpt2-xl.json"),
        "nse": ("jianghoucheng/AlphaEdit", "NSE/gpt2-xl.json"),
        "alphaedit": ("jianghoucheng/AlphaEdit", "AlphaEdit/gpt2-xl.json"),
        "ft": ("jianghoucheng/AlphaEdit", "FT/gpt2-xl_constr.json"),
        "emmet": ("scalable-model-editing/unified-model-editing", "EMMET/gpt2-xl.json"),
        "encore": ("scalable-model-editing/encore", "ENCORE/gpt2-xl.json"),
    },
    "gptj_6b": {
        "rome": ("kmeng01/memit", "ROME/EleutherAI_gpt-j-6B.json"),
        "memit": ("kmeng01/memit", "MEMIT/EleutherAI_gpt-j-6B.json"),
        "prune": ("jianghoucheng/AlphaEdit", "MEMIT/EleutherAI_gpt-j-6B.json"),
        "rect": ("jianghoucheng/AlphaEdit", "MEMIT/EleutherAI_gpt-j-6B.json"),
        "nse": ("jianghoucheng/AlphaEdit", "NSE/EleutherAI_gpt-j-6B.json"),
        "alphaedit": ("jianghoucheng/AlphaEdit", "AlphaEdit/EleutherAI_gpt-j-6B.json"),
        "ft": ("jianghoucheng/AlphaEdit", "FT/EleutherAI_gpt-j-6B_constr.json"),
        "emmet": ("scalable-model-editing/unified-model-editing", "EMMET/EleutherAI_gpt-j-6B.json"),
    },
    "llama2_7b": {
        "rome": ("zjunlp/EasyEdit", "ROME/llama-7b.yaml"),
        "memit": ("zjunlp/EasyEdit", "MEMIT/llama-7b.yaml"),
        "prune": ("zjunlp/EasyEdit", "MEMIT/llama-7b.yaml"),
        "rect": ("zjunlp/EasyEdit", "MEMIT/llama-7b.yaml"),
        "alphaedit": ("scalable-model-editing/encore", "AlphaEdit/llama2-7b.json"),
        "ft": ("zjunlp/EasyEdit", "FT/llama-7b.yaml"),
        "emmet": ("scalable-model-editing/unified-model-editing", "EMMET/llama2-7b.json"),
        "encore": ("scalable-model-editing/encore", "ENCORE/llama2-7b.json"),
    },
    "llama3_8b": {
        "rome": ("jianghoucheng/AlphaEdit", "ROME/Llama3-8B.json"),
        "memit": ("jianghoucheng/AlphaEdit", "MEMIT/Llama3-8B.json"),
        "prune": ("jianghoucheng/AlphaEdit", "MEMIT/Llama3-8B.json"),
        "rect": ("jianghoucheng/AlphaEdit", "MEMIT/Llama3-8B.json"),
        "nse": ("jianghoucheng/AlphaEdit", "NSE/Llama3-8B.json"),
        "alphaedit": ("jianghoucheng/AlphaEdit", "AlphaEdit/Llama3-8B.json"),
        "ft": ("jianghoucheng/AlphaEdit", "FT/Llama3-8B.json"),
        "emmet": ("scalable-model-editing/encore", "EMMET/llama3-8b.json"),
        "encore": ("scalable-model-editing/encore", "ENCORE/llama3-8b.json"),
    },
}
SHOWN = ("layers", "steps", "lr", "clamp", "weight_decay", "kl_factor")
CASES = [(preset, method) for preset, methods in SOURCES.items() for method in methods]


def preset(name: str) -> Any:
    return load_run(read_layers([ROOT / "config.yaml", ROOT / "runs" / f"published_{name}.yaml"])).edit


def theirs(name: str, method: str) -> dict[str, Any]:
    """What the file says, as far as the method of ours has such a value."""
    if not DATA.is_file():
        pytest.skip("needs ../shared/data/published")
    repository, file = SOURCES[name][method]
    given = json.loads(DATA.read_text())[repository][f"hparams/{file}"]
    found = {ours: given[key] for key, ours in KEYS.items() if key in given}
    return {k: float(v) if isinstance(v, str) else v for k, v in found.items()}


@pytest.mark.parametrize(("name", "method"), CASES)
def test_every_value_is_that_of_its_source(name, method):
    recipe: Recipe = preset(name).methods[method]
    fields = type(recipe).model_fields
    wanted = {k: v for k, v in theirs(name, method).items() if k in fields}
    assert len(wanted) >= 4
    for key, value in wanted.items():
        published = None if key == "norm_constraint" and value is False else value
        assert getattr(recipe, key) == published, f"{key}: {getattr(recipe, key)}, published {published}"
    # What the preset sets beyond their file is the protocol of the method itself.
    assert recipe.model_fields_set - set(wanted) <= {"solver", "null_space_share", "keep_share"}


def cell(value: Any) -> str:
    if isinstance(value, list):
        starts = [v for v in value if v - 1 not in value]
        ends = [v for v in value if v + 1 not in value]
        return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
    if value is None:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:g}"


@pytest.mark.parametrize(("name", "method"), CASES)
def test_the_table_in_the_docs_says_the_same(name, method):
    recipe: Recipe = preset(name).methods[method]
    repository, file = SOURCES[name][method]
    has_targets = "clamp" in type(recipe).model_fields
    shown = [cell(getattr(recipe, k)) if has_targets or k in ("layers", "steps", "lr") else "" for k in SHOWN]
    rows = (ROOT / "docs" / "published.md").read_text().splitlines()
    (row,) = [line for line in rows if line.startswith(f"| published_{name} | {method} |")]
    columns = [part.strip() for part in row.strip("|").split("|")]
    assert columns[2:8] == shown
    assert columns[9] == f"{repository} `{file}`"
    for entry in filter(None, columns[8].split(", ")):
        key, value = entry.split(" ")
        assert cell(getattr(recipe, key)) == value


@pytest.mark.parametrize("name", SOURCES)
def test_the_protocol_is_that_of_the_table(name):
    study = preset(name)
    plan = study.experiments["edit"]
    assert (plan.batch, plan.num_edits, plan.known_only) == ([100], 2000, False)
    assert study.statistics.samples == study.statistics.hub.texts == 100_000
    assert study.statistics.hub.characters >= 15_000 * study.statistics.samples  # no text of usual length is left out
    assert (study.contexts.per_length, study.contexts.lengths) == (5, [10])
    assert (study.contexts.rome.per_length, study.contexts.rome.lengths) == (10, [5, 10])
    assert study.evaluation.generation_tokens == 100
    in_table = {"rome", "memit", "prune", "rect", "alphaedit", "ft", "none"}
    assert in_table | ({"nse"} if name != "llama2_7b" else set()) <= set(plan.methods)
    if name.startswith("llama"):
        assert 5 not in {k for m in ("ft",) for k in study.methods[m].layers}
        assert not study.methods["rome"].reads_moment


@pytest.mark.parametrize("name", SOURCES)
def test_the_other_data_set_is_laid_over(name):
    files = [ROOT / "config.yaml", ROOT / "runs" / f"published_{name}.yaml", ROOT / "runs" / "zsre.yaml"]
    run = load_run(read_layers(files, {"run": f"published_{name}_zsre"}))
    assert (run.edit.dataset, run.edit.model, run.run) == ("zsre", name, f"published_{name}_zsre")


IN_EPOCHS = {  # arXiv 2509.22072 and 2602.15823: layers, lr, epochs, facts a step, loss that ends it, end of text, energy
    ("locft_llama3_8b", "locft"): ([22], 5e-4, 25, 100, 0.01, True, 0.0),
    ("locft_llama3_8b", "crispedit"): ([19, 20, 21, 22, 23], 5e-4, 25, 32, 0.01, True, 0.8),
    ("locft_qwen2_5_7b", "locft"): ([6], 5e-4, 25, 100, 0.01, True, 0.0),
}
OF_EPOCHS = ("layers", "lr", "epochs", "mini_batch", "stop_loss", "stop_token", "energy")


@pytest.mark.parametrize(("name", "method"), IN_EPOCHS)
def test_fine_tuning_in_epochs_is_as_published_in_the_run_and_in_the_docs(name, method):
    study = load_run(read_layers([ROOT / "config.yaml", ROOT / "runs" / f"{name}.yaml"])).edit
    recipe = study.methods[method]
    values = [getattr(recipe, key) for key in OF_EPOCHS]
    assert recipe.solver == "ft_epochs"
    assert values == list(IN_EPOCHS[name, method])
    rows = (ROOT / "docs" / "published.md").read_text().splitlines()
    (row,) = [line for line in rows if line.startswith(f"| {name} | {method} |")]
    assert [part.strip() for part in row.strip("|").split("|")][2:9] == [cell(value) for value in values]
    plan = study.experiments["edit"]
    assert (plan.batch, plan.num_edits, plan.known_only) == ([3000], 3000, False)
    assert study.curvature_layers() == (IN_EPOCHS[name, "crispedit"][0] if (name, "crispedit") in IN_EPOCHS else [])
    assert study.moment_layers() == []


BY_GRADIENTS = {  # arXiv 2505.14679 and 2605.11836: layers, lr, ridge, whitened
    ("ultra_gptj_6b", "ultra"): ([*range(18, 27)], 1e-6, 1, False),
    ("ultra_gptj_6b", "stableedit"): ([*range(7, 16), *range(18, 26)], 2e-6, 10, True),
    ("ultra_mistral_7b", "ultra"): ([29, 30], 1e-6, 1, False),
    ("ultra_mistral_7b", "stableedit"): ([28, 29, 30, 31], 1e-6, 10, True),
    ("ultra_llama3_8b", "stableedit"): ([11, 12, 22, 23, 28, 29, 30], 1e-6, 10, True),
    ("ultra_qwen2_5_7b", "stableedit"): ([*range(8, 15), *range(18, 26)], 2e-6, 10, True),
}


def test_every_run_by_gradients_is_here():
    files = {path.stem for path in (ROOT / "runs").glob("ultra_*.yaml")}
    assert files == {name for name, _ in BY_GRADIENTS}


@pytest.mark.parametrize(("name", "method"), BY_GRADIENTS)
def test_edits_by_gradients_are_as_published_in_the_run_and_in_the_docs(name, method):
    study = load_run(read_layers([ROOT / "config.yaml", ROOT / "runs" / f"{name}.yaml"])).edit
    recipe, wanted = study.methods[method], BY_GRADIENTS[name, method]
    assert recipe.solver == "ultra"
    assert (recipe.layers, recipe.lr, recipe.ridge, recipe.whiten) == wanted
    assert (recipe.passes, recipe.second_moment_weight, recipe.remember_keys, recipe.mini_batch) == (1, 0, False, 10)
    rows = (ROOT / "docs" / "published.md").read_text().splitlines()
    (row,) = [line for line in rows if line.startswith(f"| {name} | {method} |")]
    assert [part.strip() for part in row.strip("|").split("|")][2:6] == [cell(value) for value in wanted]
    assert study.experiments["edit"].batch == [100]
    assert study.moment_layers() == []
