"""Which figures and tables there are: name, function, the tables that it reads, and the experiment that fills them.

The rules read this list; a figure or table whose experiment a study does not declare is not asked for. A new one is a
function in a module of :mod:`editlab.analysis.figures` or :mod:`editlab.analysis.sheets`, and a line here.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

MATRIX, COMPARISONS = "results/ablation_matrix.csv", "results/comparisons.csv"
TRACE = "results/layers/{model}/{dataset}/indirect_effects.csv"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A figure or a table.

    Attributes:
        module: of ``editlab.analysis``; its function has the name of the entry.
        sources: files by the name that the function knows them by.
        experiment: that a study must declare; empty: none.
        topic: subcategory of the HTML report.
        title: a few words.
    """

    module: str
    sources: Mapping[str, str]
    experiment: str
    topic: str
    title: str


def _figure(module: str, source: str, experiment: str, topic: str, title: str) -> Entry:
    return Entry(f"figures.{module}", {"table": source}, experiment, topic, title)


def _sheet(module: str, sources: Mapping[str, str], experiment: str, topic: str, title: str) -> Entry:
    return Entry(f"sheets.{module}", sources, experiment, topic, title)


GREEDY = "results/greedy_step_events.csv"
FIGURES: Mapping[str, Entry] = MappingProxyType(
    {
        "method_comparison": _figure("methods", MATRIX, "edit", "Methods", "Methods side by side"),
        "method_radar": _figure("methods", MATRIX, "edit", "Methods", "Profile of each method"),
        "batch_size": _figure("batches", MATRIX, "edit", "Batch size", "Batch size and scores"),
        "replay_batch_heatmap": _figure("batches", MATRIX, "edit", "Replay", "Replay by batch size"),
        "forgetting_curves": _figure("forgetting", "results/curves.csv", "edit", "Forgetting", "Forgetting curves"),
        "retention_by_age": _figure("forgetting", "results/curves.csv", "edit", "Forgetting", "Retention by age"),
        "time_split": _figure("costs", "results/costs.csv", "edit", "Costs", "Where the time goes"),
        "speed_benchmark": _figure("costs", "results/speed.csv", "", "Costs", "Speed benchmarks"),
        "replay_gain": _figure("batches", "results/replay_gain.csv", "replay_ablation", "Replay", "Gain by replay"),
        "large_scale_forgetting": _figure(
            "forgetting", "results/large_scale_forgetting.csv", "large_scale", "Forgetting", "Thousands of edits"
        ),
        "rank_tradeoff": _figure("lora", "results/lora_ablation.csv", "lora_ablation", "LoRA", "Rank, score and bytes"),
        "trust_roc": _figure("trust", "results/trust_decisions.csv", "trust_eval", "Trust", "ROC of trust"),
        "trust_pr": _figure(
            "trust", "results/trust_decisions.csv", "trust_eval", "Trust", "Precision and recall of trust"
        ),
        "rollback_effect_curve": _figure(
            "trust", "results/trust_forgetting.csv", "trust_eval", "Trust", "Retention with and without rollback"
        ),
        "greedy_gain_by_step": _figure("greedy", GREEDY, "greedy_eval", "Greedy steps", "Gain by step"),
        "greedy_acceptance_by_layer": _figure("greedy", GREEDY, "greedy_eval", "Greedy steps", "Acceptance by layer"),
        "greedy_trust_gain": _figure("greedy", GREEDY, "greedy_eval", "Greedy steps", "Trust against gain"),
        "retraining": _figure(
            "lora", "results/rtt_edits.csv", "retraining", "Retraining", "What retraining brings back"
        ),
        "layer_importance": _figure("layers", TRACE, "", "Layers", "Causal trace of the layers"),
    }
)

_COMPARED = {"matrix": MATRIX, "comparisons": COMPARISONS}
SHEETS: Mapping[str, Entry] = MappingProxyType(
    {
        "methods": _sheet("methods", _COMPARED, "edit", "Methods", "Methods, headline setting"),
        "ablation": _sheet("methods", _COMPARED, "edit", "Methods", "Every setting"),
        "batch_effect": _sheet("methods", {"comparisons": COMPARISONS}, "edit", "Batch size", "Effect of batch size"),
        "replay_effect": _sheet("methods", {"comparisons": COMPARISONS}, "edit", "Replay", "Effect of replay"),
        "costs": _sheet("methods", {"costs": "results/costs.csv"}, "edit", "Costs", "Time and memory"),
        "baselines": _sheet(
            "methods", {"matrix": "results/baseline_comparison.csv"}, "baseline_comparison", "Methods", "Baselines"
        ),
        "quick_validation": _sheet(
            "methods", {"matrix": "results/quick_validation.csv"}, "quick_validation", "Methods", "Quick validation"
        ),
        "combined": _sheet(
            "methods", {"matrix": "results/combined.csv"}, "combined", "Trust", "Replay, LoRA and trust together"
        ),
        "replay_ablation": _sheet(
            "guarded", {"gain": "results/replay_gain.csv"}, "replay_ablation", "Replay", "Rate, capacity, strategy"
        ),
        "forgetting": _sheet(
            "guarded",
            {"curves": "results/large_scale_forgetting.csv", "points": "results/turning_points.csv"},
            "large_scale",
            "Forgetting",
            "Long streams",
        ),
        "lora": _sheet(
            "guarded",
            {"table": "results/lora_ablation.csv", "gain": "results/lora_gain.csv"},
            "lora_ablation",
            "LoRA",
            "LoRA, posthoc and raw",
        ),
        "trust": _sheet(
            "guarded",
            {"table": "results/trust_eval.csv", "forgetting": "results/trust_forgetting.csv"},
            "trust_eval",
            "Trust",
            "Decisions of trust",
        ),
        "greedy": _sheet(
            "guarded",
            {"table": "results/greedy_eval.csv", "gain": "results/greedy_gain.csv"},
            "greedy_eval",
            "Greedy steps",
            "Greedy against one step",
        ),
        "retraining": _sheet("guarded", {"table": "results/rtt_edits.csv"}, "retraining", "Retraining", "Retraining"),
    }
)

# What sentences are made of: name -> (file, experiment; empty: the benchmarks).
SENTENCES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "matrix": (MATRIX, "edit"),
        "comparisons": (COMPARISONS, "edit"),
        "curves": ("results/curves.csv", "edit"),
        "costs": ("results/costs.csv", "edit"),
        "speed": ("results/speed.csv", ""),
        "replay_gain": ("results/replay_gain.csv", "replay_ablation"),
        "large_scale": ("results/large_scale_forgetting.csv", "large_scale"),
        "turning_points": ("results/turning_points.csv", "large_scale"),
        "lora": ("results/lora_ablation.csv", "lora_ablation"),
        "lora_gain": ("results/lora_gain.csv", "lora_ablation"),
        "trust": ("results/trust_eval.csv", "trust_eval"),
        "trust_decisions": ("results/trust_decisions.csv", "trust_eval"),
        "trust_forgetting": ("results/trust_forgetting.csv", "trust_eval"),
        "greedy_gain": ("results/greedy_gain.csv", "greedy_eval"),
        "greedy_steps": (GREEDY, "greedy_eval"),
        "retraining": ("results/rtt_edits.csv", "retraining"),
    }
)


def function(entry: Entry, name: str) -> Callable[..., Any]:
    """A function of the entry's module."""
    found: Callable[..., Any] = getattr(importlib.import_module(f"editlab.analysis.{entry.module}"), name)
    return found
