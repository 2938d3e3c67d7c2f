"""Runs of true and of middle size: what they would do, without doing it."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("full size")]


@pytest.mark.parametrize("name", ["full_size_gpt2_xl", "full_size_gptj_6b", "full_size_llama3_8b"])
def test_a_run_of_true_size_downloads_nothing(separate, name):
    jobs = separate.jobs(f"results/{name}/ablation_matrix.csv", configfile=f"runs/{name}.yaml")
    assert jobs["edit_cell"] == 5
    assert jobs["make_random_model"] == jobs["collect_statistics"] == 1
    assert not {"fetch_model", "fetch_text", "find_known", "train_substrate"} & set(jobs)


@pytest.mark.parametrize("name", ["mid", "mid_cpu"])
def test_a_run_of_middle_size_is_planned(separate, name):
    jobs = separate.jobs(configfile=f"runs/{name}.yaml")
    assert jobs["train_substrate"] == 1
    assert jobs["edit_cell"] == 18


def test_a_published_run_reads_its_facts_and_the_contexts_of_rome(separate):
    data = separate.root / "facts.json"
    data.write_text("[" + ",".join(["{}"] * 3000) + "]")
    jobs = separate.jobs(
        "results/published_gpt2_xl/ablation_matrix.csv",
        "--config",
        "data_path=facts.json",
        configfile="runs/published_gpt2_xl.yaml",
    )
    assert jobs["edit_cell"] == 10
    assert jobs["make_contexts"] == jobs["make_rome_contexts"] == jobs["fetch_text"] == 1
    assert "find_known" not in jobs
