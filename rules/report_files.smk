# What the report of a study is made of: functions alone. The rules are in tables.smk,
# figures.smk and report.smk.

from editlab.analysis.registry import FIGURES, SENTENCES, SHEETS
from editlab.files.artifacts import record_of

REPORT_CAPTION = "../report/captions/generated.rst"
REPORT_CATEGORY = "Knowledge editing"
BENCHMARKS = sorted(
    {str(p) for p in Path(OUT + "/benchmarks").glob("*.json")}
    | ({SPEED} if STUDY.measure_speed and small_model() else set())
)
DRAWN = [name for name in FIGURES if name != "layer_importance"]
# Tables of cells and of curves that the pages show where the study has their experiment.
CELL_TABLES = {
    **TABLES,
    "lora_ablation": "lora_ablation",
    "greedy_eval": "greedy_eval",
}
CURVE_TABLES = {"curves": "edit", "large_scale_forgetting": "large_scale"}
PAPER_SOURCES = ["paper", "macros", "reproducible"]
OFFICIAL_STYLE = [
    f
    for f in ("report/paper/acl.sty", "report/paper/acl_natbib.bst")
    if Path(f).exists()
]


def placed(path):
    """A file of the registry, in the folder of this run's results."""
    return path.replace("results", OUT, 1)


def finished_cells(experiment):
    """(directory, coordinates) of the cells of an experiment; with allow_missing only of those that are there."""
    pairs = zip(cell_directories(experiment), STUDY.cells(experiment))
    return [
        (directory, cell)
        for directory, cell in pairs
        if not RUN.allow_missing or record_of(directory).exists()
    ]


def has_results(experiment):
    """Whether there is, or will be, anything to show of an experiment."""
    if not experiment:
        return bool(BENCHMARKS)
    return experiment in STUDY.experiments and bool(finished_cells(experiment))


def report_tables():
    """The printed tables that this study has."""
    return [
        OUT + f"/tables/{name}.csv"
        for name, entry in SHEETS.items()
        if has_results(entry.experiment)
    ]


def sentence_sources():
    """The tables that this study's sentences are made of, by name."""
    return {
        name: placed(path)
        for name, (path, experiment) in SENTENCES.items()
        if has_results(experiment)
    }


def report_findings():
    """The sentences, where there is anything to say."""
    return [OUT + "/findings.json"] if sentence_sources() else []


def traced():
    """Whether the layers of the study's model are traced: where a recipe asks for it, where it was done, or where it takes
    seconds."""
    asked = any(recipe.layers == "auto" for recipe in used_recipes())
    table = Path(INPUTS + f"/layers/{STUDY.model}/{STUDY.dataset}/indirect_effects.csv")
    return small_model() or asked or table.exists()


def report_figures():
    """The figures that this study has; figures of experiments that it does not declare are not asked for."""
    found = [
        OUT + f"/figures/{name}.png"
        for name in DRAWN
        if has_results(FIGURES[name].experiment)
    ]
    layers = OUT + f"/figures/layer_importance-{STUDY.model}-{STUDY.dataset}.png"
    return found + ([layers] if traced() else [])


def declared(tables):
    """By experiment, the table's file, for the experiments that the study has."""
    return {e: OUT + f"/{t}.csv" for t, e in tables.items() if has_results(e)}


def all_cells():
    """By experiment, directory and coordinates of every declared cell."""
    return {
        e: list(zip(cell_directories(e), STUDY.cells(e))) for e in STUDY.experiments
    }


def report_pages():
    """The interactive pages, the front page and the model card."""
    pages = ["cells.html", "forgetting.html", "missed_facts.html", "front_page.rst"]
    return [OUT + f"/report/{page}" for page in pages] + [OUT + "/summary.md"]


def report_files():
    """Everything that a finished study adds to its cells and tables."""
    return report_figures() + report_tables() + report_findings() + report_pages()


def main_experiment():
    """``edit``, or the first experiment of a study without it."""
    return "edit" if "edit" in STUDY.experiments else next(iter(STUDY.experiments))


def beside(files, suffix):
    """The files of the same rules that end differently."""
    return [str(Path(f).with_suffix(suffix)) for f in files]


def report_texts(wildcards):
    """What the sentences of summary, front page and paper are made of."""
    return {
        "requests": INPUTS + f"/data/{STUDY.dataset}/requests.json",
        "findings": report_findings(),
        "tables": report_tables(),
        "provenance": [f for e in STUDY.experiments for f in cell_files(e, RECORD)],
    }


TARGETS.append(report_files)
