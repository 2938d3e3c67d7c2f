"""One figure from its table, with its caption for the HTML report and for LaTeX."""

from common import job

with job(snakemake):
    import pandas as pd

    from editlab.analysis.latex import escape
    from editlab.analysis.registry import FIGURES, function
    from editlab.analysis.style import save_figure
    from editlab.analysis.wording import rst
    from editlab.artifacts import write_text

    name, out = snakemake.params.figure, snakemake.output
    table = pd.read_csv(snakemake.input.table)
    caption = function(FIGURES[name], f"{name}_caption")(table)
    save_figure(function(FIGURES[name], name)(table), out.pdf, out.png)
    write_text(out.rst, rst(caption) + "\n")
    write_text(out.tex, escape(caption) + "\n")
