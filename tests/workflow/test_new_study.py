"""A fifth study costs its own files and one line: made in a copy of the workflow, it appears in a table, a figure, the page and
the paper, and no other file was touched. This is also the example of "How to add a study" in docs/architecture.md."""

from __future__ import annotations

import hashlib
import json
import textwrap
from pathlib import Path

import pandas as pd
import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.xdist_group("workflow")]

OWN = {
    # The mathematics.
    "editlab/dice/__init__.py": '"""Do dice that were thrown more often look fairer?"""\n',
    "editlab/dice/throws.py": '''
        """Throws of a die."""

        import pandas as pd

        from editlab.randomness import python_rng


        def throw(sides: int, throws: int, seed: int) -> pd.DataFrame:
            """How often each side came up."""
            rng = python_rng("dice", sides, throws, seed)
            faces = pd.Series([rng.randrange(sides) for _ in range(throws)])
            return faces.value_counts(normalize=True).rename_axis("face").rename("share").reset_index()
    ''',
    # The block of a run.
    "editlab/config/dice.py": '''
        """The block ``dice:`` of a run."""

        from __future__ import annotations

        from pydantic import Field

        from editlab.config.base import Count, Name, Section, Study


        class Throws(Section):
            """A set of cells: dice by number of throws and seed."""

            throws: list[Count] = Field(description="throws of a cell")
            seeds: list[int] = Field(min_length=1)


        class DiceStudy(Study):
            """The dice study."""

            sides: Count = 6
            experiments: dict[Name, Throws] = Field(description="by name")

            def cells(self, experiment: str) -> list[dict[str, str]]:
                """Coordinates of the cells."""
                plan = self.experiments[experiment]
                return [{"throws": str(n), "seed": str(s)} for n in plan.throws for s in plan.seeds]
    ''',
    # The rules and the script of a cell.
    "rules/dice/cells.smk": """
        # One cell of the dice study, and what the study offers to the report.

        DICE = RUN.dice
        DICE_CELL = "dice/{experiment}/throws~{throws}/seed~{seed}"


        rule throw_dice:
            output:
                faces=f"{OUT}/{DICE_CELL}/faces.csv",
                record=f"{OUT}/.provenance/{DICE_CELL}.json",
            log:
                LOGS + "/throw_dice/{experiment}-{throws}-{seed}.log",
            conda:
                "../../envs/editlab.yaml"
            threads: 1
            resources:
                mem_mb=resource("throw_dice", "mem_mb"),
                runtime=resource("throw_dice", "runtime"),
            params:
                sides=DICE.sides,
                code=code_digest("dice/throw_dice"),
            message:
                "Throw a die {wildcards.throws} times"
            script:
                "../../workflow_scripts/dice/throw_dice.py"


        def dice_cells(experiment):
            return [
                (f"{OUT}/{DICE_CELL}".format(experiment=experiment, **cell), cell)
                for cell in DICE.cells(experiment)
            ]


        def dice_files(experiment, name):
            names = {"record": f"{OUT}/.provenance/{DICE_CELL}.json"}
            path = names.get(name, f"{OUT}/{DICE_CELL}/{name}")
            return [
                path.format(experiment=experiment, **cell)
                for cell in DICE.cells(experiment)
            ]


        REPORTED["dice"] = {
            "experiments": list(DICE.experiments),
            "settings": DICE.model_dump(mode="json"),
            "cells": dice_cells,
            "files": dice_files,
            "inputs": {},
            "paths": {},
        }
    """,
    "workflow_scripts/dice/throw_dice.py": '''
        """Throw a die and count its faces."""

        from common import job

        with job(snakemake):
            from editlab.dice.throws import throw
            from editlab.files.artifacts import write_csv

            w = snakemake.wildcards
            write_csv(snakemake.output[0], throw(snakemake.params.sides, int(w.throws), int(w.seed)))
    ''',
    # What it reports.
    "editlab/analysis/dice/__init__.py": '''
        """What the dice study reports."""

        from editlab.analysis.report.topic import Report

        REPORT = Report(
            study="dice", title="Dice", question="Do dice look fairer the more often they are thrown?", names=("fairness",)
        )
    ''',
    "editlab/analysis/dice/fairness.py": '''
        """How far the most frequent face is above its fair share."""

        import pandas as pd

        from editlab.analysis.report.run import Run
        from editlab.analysis.report.topic import Collected, Tables, Topic, figure
        from editlab.analysis.text.findings import Finding
        from editlab.files.artifacts import read_verified


        def excess(run: Run) -> pd.DataFrame:
            """One row a cell."""
            rows = [
                {**cell, "excess": pd.read_csv(read_verified(run.root / folder / "faces.csv"))["share"].max() - 1 / 6}
                for folder, cell in run.cells["fair"]
            ]
            return pd.DataFrame(rows)


        @figure("Excess of the most frequent face", "dice_excess", lambda t: f"Each point: one cell (n = {len(t)}).",
                cites=("fairness.fall",))
        def excess_by_throws(table):
            """Excess against throws."""
            import matplotlib.pyplot as plt

            drawing, axis = plt.subplots()
            axis.plot(table["throws"].astype(int), table["excess"], "o")
            return drawing


        def findings(tables: Tables) -> list[Finding]:
            """The fall from few throws to many."""
            means = tables["dice_excess"].groupby("throws")["excess"].mean().sort_index()
            fall = float(means.iloc[0] - means.iloc[-1])
            sentence = f"With more throws the excess of the most frequent face falls by {fall:.2f}."
            return [Finding("fairness.fall", sentence, fall, fall, fall, len(tables["dice_excess"]), True, "dice_excess")]


        TOPIC = Topic(
            "Fairness",
            tables=(Collected("dice_excess", excess, experiments=("fair",), files=("faces.csv",)),),
            reads=("dice_excess",),
        )
    ''',
    "editlab/analysis/dice/description.py": '''
        """What a run of the dice study is, in sentences."""

        from editlab.analysis.report.run import Run
        from editlab.analysis.report.topic import Description, Tables


        def describe(run: Run, tables: Tables) -> Description:
            """Dice and throws."""
            return Description(subject="dice", setting=[f"Dice with {run.settings['sides']} sides."])
    ''',
    "editlab/analysis/dice/pages.py": '"""No interactive pages."""\n\nPAGES = ()\n',
    "report/sections/dice.tex": "\\of{body}{\\studysection{Dice} \\findings{dice.fairness} \\resultfigure{excess_by_throws}}\n",
    # A run that does it, and nothing else.
    "runs/dicing.yaml": """
        run: dicing
        edit: null
        dice:
          experiments:
            fair: {throws: [10, 1000], seeds: [1, 2]}
    """,
}
LINE = '    "dice": "editlab.config.dice:DiceStudy",\n'
SHARED = ("editlab", "rules", "workflow_scripts", "report", "runs", "Snakefile", "config.yaml")


def sources(root: Path) -> dict[str, str]:
    """Every file of the workflow with its checksum."""
    files = [
        p for part in SHARED for p in [root / part, *(root / part).rglob("*")] if p.is_file() and p.suffix != ".pyc"
    ]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def dice(separate):
    """The workflow with a fifth study, and its finished run."""
    before = sources(separate.root)
    for name, text in OWN.items():
        path = separate.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    studies = separate.root / "editlab/config/studies.py"
    studies.write_text(studies.read_text().replace("STUDIES = {\n", "STUDIES = {\n" + LINE))
    targets = ["results/dicing/paper/generated.tex", "results/dicing/summary.md", "results/dicing/dice_excess.csv"]
    options = ["--report-after-run", "--report", "report.html"]
    separate.run("all", *targets, *options, configfile="runs/dicing.yaml")
    after = sources(separate.root)
    changed = {name for name in before if before[name] != after.get(name)}
    return separate, changed, set(after) - set(before)


def test_its_own_files_and_one_line_are_all_that_it_costs(dice):
    _, changed, added = dice
    assert changed == {"editlab/config/studies.py"}
    assert {name for name in added if not name.startswith("report/final")} == set(OWN)
    assert sum(text.count("\n") for text in OWN.values()) < 200


def test_it_is_in_the_tables_the_figures_and_the_findings(dice):
    root = dice[0].root / "results/dicing"
    table = pd.read_csv(root / "dice_excess.csv")
    assert len(table) == 4
    assert (root / "figures/excess_by_throws.png").stat().st_size > 1000
    (finding,) = json.loads((root / "findings.json").read_text())
    assert (finding["study"], finding["topic"]) == ("dice", "fairness")
    assert "falls by" in (root / "captions/figures/excess_by_throws.tex").read_text()


def test_it_is_in_the_page_and_in_the_paper(dice):
    workflow = dice[0]
    page = (workflow.root / "report.html").read_text(encoding="utf-8")
    assert "Excess of the most frequent face" in page
    assert "falls by" in (workflow.root / "results/dicing/paper/generated.tex").read_text(encoding="utf-8")
    assert "Dice with 6 sides" in (workflow.root / "results/dicing/summary.md").read_text(encoding="utf-8")


def test_its_code_and_its_records_are_followed_like_those_of_the_others(dice):
    workflow = dice[0]
    assert workflow.jobs(configfile="runs/dicing.yaml") == {}
    assert "0 altered, 0 stale, 0 unknown, 0 orphaned" in workflow.python("-m", "editlab.files.verify").stdout
    throws = workflow.root / "editlab/dice/throws.py"
    kept = throws.read_text()
    throws.write_text(kept + "MUTATED = 1\n")
    jobs = workflow.jobs("results/dicing/dice_excess.csv", configfile="runs/dicing.yaml")
    throws.write_text(kept)
    assert jobs == {"throw_dice": 4, "collect_table": 1}
