"""The interactive pages: all cells, the curves, the missed facts; DataTables comes from itables, vega from Snakemake."""

from common import job

with job(snakemake):
    from importlib.resources import files
    from pathlib import Path

    import pandas as pd
    from snakemake.assets import Assets

    from editlab.analysis import pages
    from editlab.files.artifacts import write_text

    table_js, curve_js = (Path(f).read_text(encoding="utf-8") for f in snakemake.input.scripts)
    frame = Path(snakemake.input.frame).read_text(encoding="utf-8")
    library, style = ((files("itables") / "html" / f"dt_bundle.{kind}").read_text("utf-8") for kind in ("js", "css"))
    vega = [Assets.get_content(f"{name}/{name}.js") for name in ("vega", "vega-lite", "vega-embed")]
    tables = pages.read_tables(snakemake.params.cells, snakemake.input.cells)
    curves = pages.read_tables(snakemake.params.curves, snakemake.input.curves)
    missed = pd.read_csv(snakemake.input.missed, dtype={"case_id": str}, keep_default_na=False)
    shared = {"frame": frame, "script": table_js, "library": library, "style": style}
    write_text(snakemake.output.cells, pages.table_page(pages.cells_table(tables), *pages.CELLS, **shared))
    write_text(snakemake.output.missed, pages.table_page(pages.plain_table(missed, "missed"), *pages.MISSED, **shared))
    curve = pages.curve_page(pages.curve_data(curves), *pages.CURVES, frame=frame, script=curve_js, libraries=vega)
    write_text(snakemake.output.curves, curve)
    captions = (pages.cells_caption(tables), pages.curves_caption(curves), pages.missed_caption(missed))
    for path, text in zip(snakemake.output.captions, captions, strict=True):
        write_text(path, text)
