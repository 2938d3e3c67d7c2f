"""Stages from files to files, the search, and that the test set decides nothing."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from small import DIGITS, MODEL, folder

from editlab.analysis.vision.collect import collect_search
from editlab.config.images import HubViT
from editlab.config.vision import (
    AlphaEdit,
    Churn,
    FinetuneErrors,
    HeadAblation,
    HeadClosedForm,
    HeadEwc,
    Locating,
    Memit,
    Tracking,
)
from editlab.data.images import read_images, write_images
from editlab.edits.edit import Edit
from editlab.errors import ArtifactError, ConfigError, DataError, ModelError
from editlab.networks.vision import load_classifier, make_classifier
from editlab.vision.baselines import load_weights
from editlab.vision.keys import keys_stage
from editlab.vision.methods import edit_stage
from editlab.vision.outcomes import score_stage
from editlab.vision.samples import errors_stage
from editlab.vision.search import Bench, best_point, first_alike, refined, run_bayesian, run_points, score_cells
from editlab.vision.tracking import track
from editlab.vision.training import retrain_stage, train_stage
from editlab.vision.trial import locate_stage

ALPHA = AlphaEdit(method="alphaedit", num_edit_layers=2, projection_samples=150)
OPTIONS = {"heldout_samples": 100, "ambiguous_gap": 0.05}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vision")
    shutil.copytree(folder(), directory, dirs_exist_ok=True)
    errors_stage(directory / "model", directory / "discovery.csv", DIGITS, "digits", directory / "errors.csv")
    keys_stage(directory / "model", directory / "ft_train.csv", None, 150, 1, directory / "keys.safetensors")
    return directory


def edit(home, target, recipe, draws=(0, 1), max_edits=10, model=None):
    edit_stage(
        model or home / "model", home / "discovery.csv", home / "errors.csv", home / "keys.safetensors", home / "ft_train.csv",
        None, recipe, list(draws), max_edits, 1, target, target / "edit_log.csv", target / "layers.csv",
    )  # fmt: skip


def scored(home, target, recipe, outcomes, max_edits=10):
    names = ("table", "cases", "classes", "matrices")
    score_stage(
        home / "model", list(outcomes.items()), home / "discovery.csv", home / "errors.csv", home / "test.csv",
        home / "ft_train.csv", home / "keys.safetensors", recipe, max_edits, OPTIONS, {"method": recipe.method, "seed": 1},
        {name: target / f"{name}.csv" for name in names},
    )  # fmt: skip
    return {name: pd.read_csv(target / f"{name}.csv") for name in names}


def test_edit_then_score_fixes_what_it_says(home, tmp_path):
    edit(home, tmp_path, ALPHA)
    log = pd.read_csv(tmp_path / "edit_log.csv")
    assert set(log["draw"]) == {0, 1}
    assert not log["clipped"].any()
    found = scored(home, tmp_path, ALPHA, {k: tmp_path / f"draw~{k}.safetensors" for k in (0, 1)})
    table = found["table"]
    edits = table[table["level"] == "edit"].set_index("draw")
    for draw, mine in log.groupby("draw"):
        fixed = (mine["predicted_after"] == mine["label"]).sum()
        assert edits.loc[draw, "wrong_right"] == fixed
    assert edits["fix_rate"].mean() > 0.3
    cases = found["cases"]
    assert cases["edited"].sum() == 20
    test = table[(table["level"] == "test") & (table["draw"] == 0)].iloc[0]
    wrong = cases[(cases["set"] == "test") & (cases["draw"] == 0)]
    assert ((wrong["before"] != wrong["label"]) & (wrong["after"] == wrong["label"])).sum() == test["wrong_right"]
    assert found["matrices"].query("draw == 0")[["before", "after"]].sum().tolist() == [360, 360]
    assert found["classes"].query("draw == 0")["n"].sum() == 360
    again = tmp_path / "again"
    edit(home, again, ALPHA)
    for name in ("edit_log.csv", "draw~0.safetensors", "draw~1.safetensors"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_more_edits_than_errors_are_clipped_and_marked(home, tmp_path):
    edit(home, tmp_path, HeadClosedForm(method="head_closed_form", ridge=0.1), draws=[0], max_edits=400)
    log = pd.read_csv(tmp_path / "edit_log.csv")
    assert log["clipped"].all()
    assert (log["used"] == len(log)).all()
    assert (log["requested"] == 400).all()


@pytest.mark.parametrize(
    "recipe",
    [FinetuneErrors(method="finetune_errors", lr=1e-3), HeadAblation(method="head_ablation")],
    ids=lambda r: r.method,
)
def test_whole_models_are_left_as_weights(home, tmp_path, recipe):
    edit(home, tmp_path, recipe, draws=[0])
    log = pd.read_csv(tmp_path / "edit_log.csv")
    table = scored(home, tmp_path, recipe, {0: tmp_path / "draw~0.safetensors"})["table"].set_index("level")
    assert table.loc["edit", "wrong_right"] == (log["predicted_after"] == log["label"]).sum()
    assert table.loc["test", "unchanged"] < 1
    other = load_classifier(home / "model")
    assert load_weights(other, tmp_path / "draw~0.safetensors")
    with pytest.raises(ArtifactError, match="another model"):
        load_weights(make_classifier(MODEL.model_copy(update={"layers": 1}), ["a"], 1), tmp_path / "draw~0.safetensors")


def test_retrained_and_churn_models_are_scored_like_edits(home, tmp_path):
    churn = Churn(method="churn")
    short = MODEL.model_copy(update={"training": MODEL.training.model_copy(update={"epochs": 1})})
    retrain_stage(short, home / "ft_train.csv", home / "ft_val.csv", None, None, 0, 0, 1, 77, tmp_path / "churn")
    retrain_stage(
        short,
        home / "ft_train.csv",
        home / "ft_val.csv",
        home / "discovery.csv",
        home / "errors.csv",
        0,
        10,
        1,
        1,
        tmp_path / "r",
    )
    table = scored(home, tmp_path, churn, {0: tmp_path / "churn"})["table"].set_index("level")
    assert table.loc["edit", "n"] == 0
    assert table.loc["test", "right_wrong"] > 0


def test_locate_reports_both_rankings(home, tmp_path):
    options = Locating(max_samples=4, num_ablations=4, trial_draws=1)
    files = [tmp_path / name for name in ("importance.csv", "statistics.csv", "summary.json")]
    locate_stage(
        home / "model",
        home / "discovery.csv",
        home / "errors.csv",
        home / "keys.safetensors",
        options,
        ALPHA,
        10,
        1,
        *files,
    )
    statistics, summary = pd.read_csv(files[1]), json.loads(files[2].read_text())
    assert set(statistics[statistics["ranked"]]["ranking"]) == {"trace", "trial"}
    assert summary["trace_layer"] in range(3)
    assert isinstance(summary["same_layer"], bool)


def bench(home, recipe=ALPHA):
    return Bench.open(
        home / "model", home / "discovery.csv", home / "errors.csv", home / "keys.safetensors", None, recipe, 10
    )


def test_search_runs_clipped_cells_once_and_the_best_is_found(home, tmp_path):
    points = [
        {"num_edit_layers": k, "projection_samples": n, "max_edits": 6} for k in (1, 3, 4) for n in (100, 900, 1000)
    ]
    made = bench(home)
    assert first_alike(made, points) == [0, 1, 1, 3, 4, 4, 3, 4, 4]
    run_points(made, points, range(len(points)), tmp_path)
    cells = pd.read_csv(tmp_path / "cells.csv")
    assert list(cells["same_as"]) == first_alike(made, points)
    ran = cells.dropna(subset=["discovery_score"])
    assert list(ran["cell"]) == [0, 1, 3, 4]
    assert ran.set_index("cell").loc[1, "clipped"] == "projection_samples"
    assert len(list(tmp_path.glob("cell~*.safetensors"))) == 4
    seconds = pd.read_csv(tmp_path / "seconds.csv")
    assert len(seconds) == 4
    assert (seconds[["edit_seconds", "score_seconds"]] > 0).all(axis=None)
    best = best_point([tmp_path / "cells.csv"], points)
    assert best == points[ran.set_index("cell")["discovery_score"].idxmax()]
    score_cells(
        tmp_path,
        home / "model",
        home / "test.csv",
        home / "ft_train.csv",
        home / "keys.safetensors",
        100,
        tmp_path / "s.csv",
    )
    outside = pd.read_csv(tmp_path / "s.csv")
    assert list(outside["cell"]) == [0, 1, 3, 4]
    assert (outside["test_total"] == 360).all()


def test_the_best_cell_is_the_mean_over_all_classifiers_whatever_was_clipped_where(tmp_path):
    """Cell 1 repeats cell 0 for the first classifier alone: its mean is over both, .65, and the highest."""
    scores = {1: {"same_as": [0, 0, 2], "discovery_score": [0.9, None, 0.5]},
              2: {"same_as": [0, 1, 2], "discovery_score": [0.1, 0.4, 0.6]}}  # fmt: skip
    tables = []
    for seed, columns in scores.items():
        for chunk, cells in enumerate(([0], [1, 2])):
            tables.append(tmp_path / f"seed~{seed}" / f"grid~{chunk}" / "cells.csv")
            tables[-1].parent.mkdir(parents=True)
            pd.DataFrame({"cell": range(3), **columns}).iloc[cells].to_csv(tables[-1], index=False)
    points = [{"ridge": ridge} for ridge in (0.1, 0.2, 0.3)]
    assert best_point(tables, points) == {"ridge": 0.2}


def test_with_a_list_of_layers_their_number_makes_no_difference(home):
    points = [{"layers": [1, 2], "num_edit_layers": k} for k in (1, 3)] + [{"num_edit_layers": 2}]
    assert first_alike(bench(home), points) == [0, 0, 2]
    assert bench(home).effective(points[1])[2] == {}


def test_a_chunk_of_cells_that_all_repeat_others_is_collected(home, tmp_path):
    points = [{"num_edit_layers": k, "max_edits": 6} for k in (3, 4)]
    folders, scores = [tmp_path / "seed~1" / f"grid~{k}" for k in (0, 1)], []
    for cell, made in enumerate(folders):
        made.mkdir(parents=True)
        run_points(bench(home), points, [cell], made)
        scores.append(str(made / "scores.csv"))
        score_cells(
            made, home / "model", home / "test.csv", home / "ft_train.csv", home / "keys.safetensors", 100, scores[-1]
        )
    assert pd.read_csv(scores[1]).empty
    table = collect_search(list(map(str, folders)), scores, [], "alphaedit")
    assert list(table["same_as"]) == [0, 0]
    assert table["test_acc_delta"].notna().all()
    assert table["duration_seconds"].notna().tolist() == [True, False]


def test_shuffled_test_labels_change_no_choice(home, tmp_path):
    """The whole chain that chooses, with the true test set and with a shuffled one beside it: byte for byte the same."""
    made = []
    for name in ("true", "shuffled"):
        place = tmp_path / name
        shutil.copytree(home, place)
        if name == "shuffled":
            test = read_images(place / "test.csv")
            labels = np.random.default_rng(0).permutation(test.labels)
            write_images(place, "test", type(test)(np.array(test.pixels), labels, test.index))
        run_points(bench(place), [{"ridge": r} for r in (0.001, 0.1)], range(2), place)
        locate_stage(
            place / "model", place / "discovery.csv", place / "errors.csv", place / "keys.safetensors",
            Locating(max_samples=2, num_ablations=2, trial_draws=1), ALPHA, 10, 1,
            place / "importance.csv", place / "statistics.csv", place / "summary.json",
        )  # fmt: skip
        edit(place, place / "edit", ALPHA, draws=[0])
        made.append(place)
    assert (made[0] / "test.csv").read_bytes() != (made[1] / "test.csv").read_bytes()
    for name in (
        "errors.csv",
        "cells.csv",
        "statistics.csv",
        "summary.json",
        "edit/edit_log.csv",
        "edit/draw~0.safetensors",
    ):
        assert (made[0] / name).read_bytes() == (made[1] / name).read_bytes(), name


def test_refined_points_stay_allowed(home):
    points = refined(
        {"ridge": 0.5, "nullspace_threshold": 0.5}, {"ridge": [0.5, 2.0], "nullspace_threshold": [4.0]}, ALPHA
    )
    assert points == [
        {"ridge": 0.5, "nullspace_threshold": 0.5},
        {"ridge": 0.25, "nullspace_threshold": 0.5},
        {"ridge": 1.0, "nullspace_threshold": 0.5},
    ]
    with pytest.raises(ConfigError, match="no number"):
        refined({}, {"layers": [2.0]}, ALPHA)


def test_the_bayesian_search_is_seeded_and_stays_in_its_space(home, tmp_path):
    axes = {
        "ridge": [0.001, 0.1],
        "projection_samples": [50, 150],
        "layers": [[2], "last"],
        "target_decay": [0.0, 1e-3],
    }
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run_bayesian(bench(home), axes, 4, 1, tmp_path / name)
    assert (tmp_path / "one/cells.csv").read_bytes() == (tmp_path / "two/cells.csv").read_bytes()
    cells = pd.read_csv(tmp_path / "one/cells.csv")
    assert cells["ridge"].between(0.001, 0.1).all()
    assert cells["projection_samples"].between(50, 150).all()


def test_a_search_over_memit_works_too(home, tmp_path):
    run_points(
        bench(home, Memit(method="memit")), [{"second_moment_weight": w} for w in (1.0, 10.0)], range(2), tmp_path
    )
    assert pd.read_csv(tmp_path / "cells.csv")["discovery_score"].notna().all()


def test_gates_are_one_line(home, tmp_path):
    strict = DIGITS.model_copy(update={"min_errors": 10_000})
    with pytest.raises(DataError, match="fewer than min_errors 10000"):
        errors_stage(home / "model", home / "discovery.csv", strict, "digits", tmp_path / "errors.csv")
    weak = MODEL.model_copy(update={"training": MODEL.training.model_copy(update={"epochs": 1, "lr": 1e-6})})
    good = DIGITS.model_copy(update={"min_accuracy": 0.9})
    with pytest.raises(DataError, match=r"below min_accuracy 0\.9"):
        train_stage(
            weak, good, "digits", home / "ft_train.csv", home / "ft_val.csv", 1, tmp_path / "m", tmp_path / "t.csv"
        )
    assert not (tmp_path / "m").exists()
    assert not list(tmp_path.iterdir())


def test_a_pretrained_model_is_tuned_with_a_new_head(home, tmp_path):
    section = HubViT.model_validate({"source": "hub", "id": str(home / "model"), "training": {"epochs": 2, "lr": 1e-3}})
    train_stage(
        section, DIGITS, "digits", home / "ft_train.csv", home / "ft_val.csv", 1, tmp_path / "m", tmp_path / "t.csv"
    )
    metrics = pd.read_csv(tmp_path / "t.csv")
    assert len(metrics) == 2
    assert metrics["best"].sum() == 1


def test_dropout_of_a_pretrained_model_draws_from_the_seed(home, tmp_path):
    """Not from torch's global generator, whose state depends on what the process did before."""
    shutil.copytree(home / "model", tmp_path / "hub")
    file = tmp_path / "hub" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hidden_dropout_prob": 0.3}))
    section = HubViT.model_validate(
        {"source": "hub", "id": str(tmp_path / "hub"), "training": {"epochs": 1, "lr": 1e-3}}
    )
    for before in (1, 2):
        torch.manual_seed(before)
        place = tmp_path / str(before)
        train_stage(
            section, DIGITS, "digits", home / "ft_train.csv", home / "ft_val.csv", 1, place / "m", place / "t.csv"
        )
        edit(home, place, FinetuneErrors(method="finetune_errors", lr=1e-3, epochs=1), draws=[0], model=place / "m")
    for name in ("m/model.safetensors", "draw~0.safetensors"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without a GPU")
def test_every_stage_runs_where_the_model_says(home, tmp_path):
    sets = {name: home / f"{name}.csv" for name in ("discovery", "ft_train", "ft_val", "test")}
    known, here = {"errors": home / "errors.csv", "keys": home / "keys.safetensors"}, {"device": "cuda"}
    model, section = home / "model", MODEL.model_copy(update=here)
    stages = (
        lambda: errors_stage(model, sets["discovery"], DIGITS, "digits", tmp_path / "e", **here),
        lambda: keys_stage(model, sets["ft_train"], None, 10, 1, tmp_path / "k", **here),
        lambda: locate_stage(model, sets["discovery"], *known.values(), Locating(), ALPHA, 5, 1, *[tmp_path / "l"] * 3, **here),
        lambda: edit_stage(model, sets["discovery"], *known.values(), sets["ft_train"], None, ALPHA, [0], 5, 1, tmp_path,
                           tmp_path / "l", tmp_path / "s", **here),
        lambda: score_stage(model, [], sets["discovery"], known["errors"], sets["test"], sets["ft_train"], known["keys"], ALPHA,
                            5, OPTIONS, {}, {}, **here),
        lambda: Bench.open(model, sets["discovery"], *known.values(), None, ALPHA, 5, **here),
        lambda: score_cells(tmp_path, model, sets["test"], sets["ft_train"], known["keys"], 10, tmp_path / "s", **here),
        lambda: train_stage(section, DIGITS, "digits", sets["ft_train"], sets["ft_val"], 1, tmp_path / "m", tmp_path / "t"),
        lambda: retrain_stage(section, sets["ft_train"], sets["ft_val"], None, None, 0, 0, 1, 1, tmp_path / "m"),
    )  # fmt: skip
    for stage in stages:
        with pytest.raises(ModelError, match="device: 'cuda' is not allowed here; torch finds no GPU"):
            stage()
    assert not list(tmp_path.iterdir())


def test_tracking_is_offline_and_optional(tmp_path, monkeypatch):
    table = pd.DataFrame([{"test_total": 10, "test_acc_before": 0.9, "test_acc_delta": 0.0, "test_correct_to_wrong": 1,
                           "edit_fix_ratio": 0.5, "proj_stability": 1.0, "edit_time_seconds": 0.1}])  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="not installed"):
        track(table, "digits", Tracking(wandb=True), tmp_path)


def test_tracking_that_is_refused_is_one_line(tmp_path, monkeypatch):
    class Refused(Exception):
        pass

    def init(**_):
        raise Refused("no API key configured.\nUse wandb login")

    fake = SimpleNamespace(errors=SimpleNamespace(Error=Refused), Settings=dict, init=init)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    table = pd.DataFrame([{"test_total": 10, "test_acc_before": 0.9, "test_correct_to_wrong": 1}])
    with pytest.raises(ConfigError, match="refuses") as caught:
        track(table, "digits", Tracking(wandb=True, mode="online"), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_tracking_writes_an_offline_run(tmp_path):
    pytest.importorskip("wandb")
    table = pd.DataFrame([{"test_total": 10, "test_acc_before": 0.9, "test_acc_delta": 0.0, "test_correct_to_wrong": 1,
                           "edit_fix_ratio": 0.5, "proj_stability": 1.0, "edit_time_seconds": 0.1}])  # fmt: skip
    track(table, "digits", Tracking(wandb=True), tmp_path)
    assert list(tmp_path.rglob("*.wandb"))


def test_an_edit_from_a_stage_is_an_edit(home, tmp_path):
    edit(home, tmp_path, ALPHA, draws=[0])
    loaded = Edit.load(tmp_path / "draw~0.safetensors")
    assert loaded.layers == [1, 2]
    assert loaded.info["recipe"]["method"] == "alphaedit"
    assert pd.read_csv(tmp_path / "layers.csv")["ridge_raised"].isna().all()


def test_the_penalty_that_discovery_chose_is_told(home, tmp_path):
    edit(home, tmp_path, HeadEwc(method="head_ewc", penalties=[30.0, 1e3]), draws=[0])
    assert pd.read_csv(tmp_path / "layers.csv")["penalty"].isin([30.0, 1e3]).all()
