# What the report of a study is made of: functions alone. The rules are in tables.smk and figures.smk.

from editlab.analysis.registry import FIGURES, SENTENCES, SHEETS

REPORT_CAPTION = "../report/captions/generated.rst"
REPORT_CATEGORY = "Knowledge editing"
BENCHMARKS = sorted(str(p) for p in Path("results/benchmarks").glob("*.json"))
DRAWN = [name for name in FIGURES if name != "layer_importance"]


def finished_cells(experiment):
    """(directory, coordinates) of the cells of an experiment; with allow_missing only of those that are there."""
    pairs = zip(cell_directories(experiment), STUDY.cells(experiment))
    return [
        (directory, cell)
        for directory, cell in pairs
        if not STUDY.allow_missing or Path(directory, "provenance.json").exists()
    ]


def has_results(experiment):
    """Whether there is, or will be, anything to show of an experiment."""
    if not experiment:
        return bool(BENCHMARKS)
    return experiment in STUDY.experiments and bool(finished_cells(experiment))


def report_tables():
    """The printed tables that this study has."""
    return [
        f"results/tables/{name}.csv"
        for name, entry in SHEETS.items()
        if has_results(entry.experiment)
    ]


def sentence_sources():
    """The tables that this study's sentences are made of, by name."""
    return {
        name: path
        for name, (path, experiment) in SENTENCES.items()
        if has_results(experiment)
    }


def report_findings():
    """The sentences, where there is anything to say."""
    return ["results/findings.json"] if sentence_sources() else []


def traced():
    """Whether the layers of the study's model are traced: where a recipe asks for it, where it was done, or where it takes
    seconds."""
    small = isinstance(STUDY.models[STUDY.model], SubstrateModel)
    asked = any(recipe.layers == "auto" for recipe in used_recipes())
    table = Path(f"results/layers/{STUDY.model}/{STUDY.dataset}/indirect_effects.csv")
    return small or asked or table.exists()


def report_figures():
    """The figures that this study has; figures of experiments that it does not declare are not asked for."""
    found = [
        f"results/figures/{name}.png"
        for name in DRAWN
        if has_results(FIGURES[name].experiment)
    ]
    layers = f"results/figures/layer_importance-{STUDY.model}-{STUDY.dataset}.png"
    return found + ([layers] if traced() else [])


def report_files():
    """Everything that the report is made of."""
    return report_figures() + report_tables() + report_findings()
