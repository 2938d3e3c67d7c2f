"""The published settings of the unlearning study are planned by the same rules as the small ones."""

from __future__ import annotations

import pytest

from editlab.config.run import load_run, read_layers

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("workflow")]


@pytest.mark.parametrize("name", ["unlearning_zephyr", "unlearning_llama3"])
def test_every_stage_of_a_full_size_run_is_planned(fresh, shared_data, name, monkeypatch):
    (fresh.root / "data").mkdir()
    for folder in (shared_data / "unlearning").iterdir():
        (fresh.root / "data" / folder.name).symlink_to(folder.resolve())
    (fresh.root / "data" / "wikitext.txt").write_text("A line of plain text.\n")
    jobs = fresh.jobs(configfile=f"runs/{name}.yaml")
    monkeypatch.chdir(fresh.root)
    study = load_run(read_layers(["config.yaml", f"runs/{name}.yaml"])).unlearning
    assert jobs["fetch_parent"] == jobs["make_questions"] == len(study.seeds)
    assert jobs.get("learn_facts", 0) == (len(study.bases) * len(study.seeds) if study.learn else 0)
    assert jobs["unlearn"] == len(study.grid())
    assert jobs["keep_point"] == len(study.points())
    assert jobs["attack_model"] == len(study.attacks())
    assert jobs["collect_table"] == 3
