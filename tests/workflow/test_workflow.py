"""The workflow end to end on a tiny study: what runs, what reruns, what is refused, what is byte-identical."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from editlab.config.run import read_layers
from editlab.files.artifacts import read_provenance, record_of

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]
MATRIX = "results/ablation_matrix.csv"
CELL = "results/edit/edit/substrate/facts/method~{}/batch~{}/replay~{}/rank~0/seed~1"


def table(workflow, path: str = MATRIX) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(workflow.read(path)))


def test_the_matrix_has_every_cell_once(finished):
    matrix = table(finished)
    cells = matrix[["method", "batch", "replay", "rank", "seed"]].drop_duplicates()
    # Four methods and `auto` with 2 x 2 cells; ROME one batch size and no replay; random no replay; none one cell.
    assert cells.groupby("method").size().to_dict() == {
        "memit": 4,
        "emmet": 4,
        "alphaedit": 4,
        "ft": 4,
        "auto": 4,
        "rome": 1,
        "random": 2,
        "none": 1,
    }
    assert not matrix.duplicated(["method", "batch", "replay", "rank", "seed", "when", "protocol"]).any()
    success = matrix[matrix["protocol"] == "success"]
    for name in ("ES", "PS", "NS", "S"):
        assert success[name].between(0, 1).all()
        assert (success[f"{name}_low"] <= success[name] + 1e-9).all()
        assert (success[name] <= success[f"{name}_high"] + 1e-9).all()


def test_none_leaves_the_model_as_it_was(finished):
    matrix = table(finished).set_index("method")
    assert matrix.loc["none", "delta_norm"].eq(0).all()
    assert matrix.loc["memit", "delta_norm"].gt(0).all()


def test_a_cell_has_its_files_and_provenance(finished):
    folder = finished.root / CELL.format("memit", 4, 0.3)
    provenance = read_provenance(folder)
    assert sorted(p.name for p in folder.iterdir()) == sorted(provenance["files"])  # a person sees results alone
    assert set(provenance["files"]) == {"metrics.csv", "cases.csv", "curve.csv", "events.jsonl", "edit.safetensors"}
    assert {"plan", "inputs", "seconds", "peak_memory_mb", "versions"} <= set(provenance)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["replayed"] for event in events] == [0, 2]  # ceil(0.3 * 4) once there is something to replay


def test_a_second_run_does_nothing(finished):
    assert finished.jobs(MATRIX) == {}


def test_touching_a_file_reruns_nothing(copied):
    (copied.root / "editlab" / "algebra" / "solvers.py").touch()
    (copied.root / "editlab" / "config" / "run.py").touch()
    assert copied.jobs(MATRIX) == {}


def test_a_changed_hyper_parameter_reruns_its_cells_alone(copied):
    study = yaml.safe_load((copied.root / "tiny.yaml").read_text())
    study["edit"]["methods"]["emmet"]["clamp"] = 1.5
    (copied.root / "tiny.yaml").write_text(yaml.safe_dump(study))
    assert copied.jobs(MATRIX) == {"edit_cell": 4, "collect_table": 1}


def test_a_changed_line_of_the_solvers_reruns_what_depends_on_it(copied):
    solvers = copied.root / "editlab" / "algebra" / "solvers.py"
    solvers.write_text(solvers.read_text() + "\n# changed\n")
    jobs = copied.jobs(MATRIX)
    assert jobs == {"edit_cell": 24, "collect_table": 1}


def test_the_curvature_is_collected_where_a_recipe_reads_it(copied):
    study = yaml.safe_load((copied.root / "tiny.yaml").read_text())
    study["edit"]["methods"]["ft_epochs"] = {"solver": "ft_epochs", "layers": [0, 1], "epochs": 2}
    study["edit"]["experiments"]["edit"]["methods"].append("ft_epochs")
    (copied.root / "tiny.yaml").write_text(yaml.safe_dump(study))
    done = copied.run(MATRIX)
    assert copied.job_counts(done) == {"collect_curvature": 1, "edit_cell": 4, "collect_table": 1}
    folder = copied.root / "results" / "statistics" / "substrate"
    assert {p.name for p in folder.glob("*.safetensors")} >= {f"curvature-{k}.safetensors" for k in (0, 1)}
    assert not list(folder.glob("partial*"))
    matrix = table(copied).set_index("method")
    assert matrix.loc["ft_epochs", "delta_norm"].gt(0).all()
    assert copied.jobs(MATRIX) == {}


CELLS = {"edit_cell", "collect_table"}
TRACED = {"trace_layers", "choose_layers"}
MUTATED = {  # module: the rules whose jobs run again, with those that are made from their results
    "workflow_scripts/edit/find_known.py": {"find_known", *TRACED, *CELLS},
    "editlab/editing/cell.py": CELLS,
    "editlab/editing/keys.py": {"make_contexts", *CELLS},
    "editlab/training/muon.py": {
        "train_substrate",
        "make_contexts",
        "collect_statistics",
        "find_known",
        *TRACED,
        *CELLS,
    },
    "editlab/analysis/report/topic.py": {"collect_table"},
    "editlab/analysis/paper/typeset.py": set(),
    "editlab/unlearning/selection.py": set(),
}


@pytest.mark.slow
@pytest.mark.parametrize("module", MUTATED)
def test_a_changed_constant_reruns_the_jobs_that_reach_it_and_no_others(copied, module):
    path = copied.root / module
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    assert set(copied.jobs(MATRIX)) == MUTATED[module]


def test_a_deleted_cell_is_rebuilt_alone_and_the_same(copied):
    before = copied.read(MATRIX)
    metrics = copied.root / CELL.format("emmet", 1, 0) / "metrics.csv"
    kept = metrics.read_bytes()
    metrics.unlink()
    done = copied.run(MATRIX)
    assert copied.job_counts(done) == {"edit_cell": 1, "collect_table": 1}
    assert f"{MATRIX}: {metrics.relative_to(copied.root)} is missing; both will be made again" in done.stderr
    assert copied.jobs(MATRIX) == {}
    assert metrics.read_bytes() == kept
    assert copied.read(MATRIX) == before


LOOKS = (["--lint"], ["--list"], ["--summary", MATRIX], ["--unlock"], ["-n", MATRIX], ["-n"], ["--dag", "--", MATRIX])


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of the results with its date and bytes, but for those of other runs."""
    paths = [p for p in sorted((root / "results").rglob("*")) if "other" not in p.parts]
    return {str(p): (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths}


def test_who_only_looks_changes_no_file(copied):
    """With a cell that is missing, one that is altered, and an input with another date."""
    (copied.root / CELL.format("emmet", 1, 0) / "metrics.csv").unlink()
    flip(copied.root / CELL.format("memit", 4, 0) / "curve.csv")
    before = tree(copied.root)
    for arguments in (*LOOKS, ["--report", "page.html", MATRIX]):
        copied.run(*arguments, check=False)
        assert tree(copied.root) == before, arguments
    copied.run("--touch", MATRIX, check=False)  # is there to change dates, and changes nothing else
    assert {k: v[1] for k, v in tree(copied.root).items()} == {k: v[1] for k, v in before.items()}


@pytest.mark.slow
def test_another_run_leaves_the_default_run_as_it_was(copied):
    """Default, another run on its model and data, default again: nothing is trained twice, nothing is touched."""
    values = read_layers([copied.root / "config.yaml", copied.root / "tiny.yaml"])
    (copied.root / "config.yaml").write_text(yaml.safe_dump(values))
    plan = {"methods": ["emmet", "none"], "batch": [4], "seeds": [1], "num_edits": 8, "known_only": False}
    other = {"run": "other", "inputs_from": "default", "edit": {"experiments": {"edit": plan}}}
    (copied.root / "other.yaml").write_text(yaml.safe_dump(other))
    assert copied.jobs(MATRIX, configfile=None) == {}
    before = {k: v for k, v in tree(copied.root).items() if Path(k).is_file()}
    done = copied.run("results/other/ablation_matrix.csv", configfile="other.yaml")
    assert copied.job_counts(done) == {"edit_cell": 2, "collect_table": 1}
    assert copied.job_counts(copied.run(MATRIX, configfile=None)) == {}
    assert {k: v for k, v in tree(copied.root).items() if Path(k).is_file()} == before
    assert set(table(copied, "results/other/ablation_matrix.csv")["method"]) == {"emmet", "none"}
    other["edit"]["statistics"] = {"tokens_per_dimension": 9}
    (copied.root / "other.yaml").write_text(yaml.safe_dump(other))
    done = copied.run("-n", "results/other/ablation_matrix.csv", configfile="other.yaml", check=False)
    assert "config: inputs_from: 'default' is not allowed; edit.statistics.tokens_per_dimension is 9" in done.stderr


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_cores(finished, fresh):
    fresh.run(MATRIX, "--cores", "1")
    assert fresh.read(MATRIX) == finished.read(MATRIX)
    for cell in sorted((finished.root / "results" / "edit").rglob("metrics.csv")):
        folder = cell.parent.relative_to(finished.root)
        for name in ("metrics.csv", "cases.csv", "curve.csv", "events.jsonl", "edit.safetensors"):
            assert fresh.read(str(folder / name)) == finished.read(str(folder / name)), folder / name


def test_the_other_tables(copied):
    tables = ("results/quick_validation.csv", "results/baseline_comparison.csv", "results/replay_ablation.csv")
    copied.run(*tables)
    assert copied.jobs(*tables, MATRIX) == {}
    baseline = table(copied, "results/baseline_comparison.csv")
    assert sorted(baseline["method"].unique()) == ["emmet", "memit", "rome"]
    assert (baseline[["seconds", "peak_memory_mb"]] > 0).all().all()
    assert baseline.loc[baseline["method"] == "rome", "batch"].eq(1).all()
    replay = table(copied, "results/replay_ablation.csv")
    assert set(replay["strategy"]) == {"random", "priority"}
    assert len(replay.drop_duplicates(["replay", "capacity", "strategy"])) == 3


def test_the_sweep_and_the_costs(copied):
    copied.run("results/sweep/substrate/facts/best.csv", "results/costs.csv")
    points = table(copied, "results/sweep/substrate/facts/points.csv")
    assert set(points["method"]) == {"memit", "emmet", "alphaedit", "ft"}
    assert points["decision"].eq("accepted").all()
    assert not points.drop(columns=["ES", "PS", "NS", "S", "delta_norm"]).duplicated().any()
    assert (table(copied, "results/costs.csv")["cpu_targets"] >= 0).all()


def test_layers_chosen_by_tracing(copied):
    chosen = json.loads(copied.read("results/layers/substrate/facts/layers.json"))["layers"]
    assert len(chosen) == 1
    assert chosen[0] in (0, 1)
    copied.run("results/figures/layer_importance.png")


# ---- faults ------------------------------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_cell_is_named_with_the_command_that_rebuilds_it(copied, damage):
    metrics = copied.root / CELL.format("memit", 4, 0) / "metrics.csv"
    if damage == "flip":
        flip(metrics)
    else:
        metrics.write_bytes(metrics.read_bytes()[:40])
    (copied.root / MATRIX).unlink()
    done = copied.run(MATRIX, check=False)
    assert done.returncode
    assert "metrics.csv: altered since it was made; rebuild with: rm -f" in done.stderr
    assert not (copied.root / MATRIX).exists()


def test_a_failing_cell_lets_the_others_go_on(copied):
    copied.break_solver("emmet")
    study = yaml.safe_load((copied.root / "tiny.yaml").read_text())
    study["edit"]["experiments"]["edit"] |= {"methods": ["emmet", "memit"], "batch": [4], "replay": [0]}
    (copied.root / "tiny.yaml").write_text(yaml.safe_dump(study))
    (copied.root / MATRIX).unlink()
    before = (copied.root / CELL.format("memit", 4, 0) / "metrics.csv").stat().st_mtime
    done = copied.run(MATRIX, "--keep-going", check=False)
    assert done.returncode
    assert "error: solver emmet: broken on purpose" in done.stderr + done.stdout
    assert (copied.root / CELL.format("memit", 4, 0) / "metrics.csv").stat().st_mtime > before
    assert not (copied.root / MATRIX).exists()


def test_holes_only_when_allowed_and_then_listed(copied):
    cell = copied.root / CELL.format("rome", 1, 0)
    record_of(cell).unlink()
    (cell / "metrics.csv").unlink()
    (copied.root / MATRIX).unlink()
    copied.run(MATRIX, "--config", "allow_missing=true")
    assert "rome" not in set(table(copied)["method"])
    assert "method~rome" in (copied.root / "logs" / "collect_table" / "ablation_matrix.log").read_text()


PLAN = {"methods": ["memit"], "batch": [4], "seeds": [1], "num_edits": 8}
BAD = {
    "unknown key": (
        {"methods": {"memit": {"clampp": 2}}},
        "methods.memit.clampp: unknown key for memit; did you mean 'clamp'",
    ),
    "wrong type": ({"methods": {"memit": {"clamp": "big"}}}, "methods.memit.clamp: 'big' is not allowed"),
    "rank of raw": ({"experiments": {"edit": PLAN | {"rank": [-1]}}}, "edit.experiments.edit.rank"),
    "negative rate": (
        {"experiments": {"edit": PLAN | {"replay": [-0.1]}}},
        "experiments.edit.replay.0: -0.1 is not allowed",
    ),
    "model family": ({"models": {"substrate": {"architecture": "bert"}}}, "models.substrate.architecture: 'bert'"),
    "solver": ({"methods": {"memit": {"solver": "memmit"}}}, "methods.memit.solver: 'memmit' is not allowed; one of"),
    "missing file": (
        {"dataset": "mine", "datasets": {"mine": {"kind": "counterfact", "path": "no.json"}}},
        "datasets.mine.path: 'no.json' is not a file",
    ),
    "too many edits": ({"experiments": {"edit": PLAN | {"num_edits": 50000}}}, "num_edits: 50000 is not allowed"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_config_is_one_line_before_any_job(fresh, name):
    change, message = BAD[name]
    (fresh.root / "bad.yaml").write_text(yaml.safe_dump({"edit": change}))
    done = fresh.run(MATRIX, configfile="bad.yaml", check=False)
    assert done.returncode
    lines = [line for line in (done.stdout + done.stderr).splitlines() if message in line]
    assert len(lines) == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert not (fresh.root / "results").exists()


RUNS = ["full", "gpt2_xl", "gptj_6b", "llama2_7b", "llama3_8b", "counterfact", "counterfact500"]


def put_data(root: Path) -> None:
    """Files that the runs name, with as many records as they draw; planning does not read what is in them."""
    (root / "records.json").write_text(json.dumps([{"requested_rewrite": {}}] * 3500))
    (root / "data" / "liver").mkdir(parents=True)
    for name in ("imgs", "labs"):
        (root / "data" / "liver" / f"{name}.npy").touch()


@pytest.mark.parametrize("run", RUNS)
def test_every_run_plans(fresh, run):
    put_data(fresh.root)
    options = [] if run == "full" else ["--config", "data_path=records.json"]
    jobs = fresh.jobs(f"results/{run}/ablation_matrix.csv", *options, configfile=f"runs/{run}.yaml")
    assert jobs["edit_cell"] >= 14
    assert jobs["collect_table"] == 1


def test_paraphrases_are_told_apart_by_what_stands_before_them_where_a_file_has_them(fresh):
    put_data(fresh.root)
    asked = "--config", "data_path=records.json"
    planned = fresh.run("-n", "all", *asked, configfile="runs/counterfact500.yaml").stdout
    assert "results/counterfact500/tables/passages.csv" in planned
    assert "passages" not in fresh.run("-n", "all").stdout  # of a generated world all stand alone


def documented_commands() -> list[str]:
    """Every line of the README and of the runs that is a call of Snakemake and nothing else."""
    root = Path(__file__).parents[2]
    texts = [p.read_text(encoding="utf-8") for p in [root / "README.md", *sorted((root / "runs").glob("*.yaml"))]]
    lines = [line.lstrip("# ").strip() for text in texts for line in text.splitlines()]
    return sorted({line for line in lines if line.startswith("snakemake ")})


def put_own_run(root: Path) -> None:
    """The README's run on one's own model and data, with a file of requests and a text where it expects them."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (root / "mine.yaml").write_text(readme[readme.index("run: mine") :].split("```")[0])
    (root / "facts.json").write_bytes((root / "records.json").read_bytes())
    (root / "wikitext.txt").write_text("The tower is old.\n" * 20)


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_are_understood(fresh, command):
    """The first words are the target: options that take several words would swallow it."""
    put_data(fresh.root)
    put_own_run(fresh.root)
    words = command.replace("data_path=FILE", "data_path=records.json").split()[1:]
    if "profiles/slurm" in words:  # its executor needs a cluster's commands even to plan
        words = ["--cores", "2", *(w for w in words if w not in ("--profile", "profiles/slurm"))]
    assert fresh.jobs(*words, configfile=None)


def test_there_are_documented_commands():
    assert len(documented_commands()) >= 5
