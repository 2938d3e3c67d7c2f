"""The interactive pages: what is in them, that it is packed, and small enough for a browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pandas as pd

from editlab.analysis.edit import pages as edit
from editlab.analysis.report import pages

SOURCES = Path(__file__).parents[2] / "report" / "pages"
HOSTILE = "</script><script>alert(1)</script>"


def matrix(**columns) -> pd.DataFrame:
    base = {"method": ["memit", "emmet"], "batch": [1, 32], "replay": [0.0, 0.3], "rank": 0, "seed": 1, "n": 96}
    scores = {f"{s}{side}": [0.8, 0.9] for s in edit.BEST for side in ("", "_low", "_high")}
    return pd.DataFrame(base | scores | {"when": "final", "protocol": "success"} | columns)


def curve(metric: str, value: float, seed: int) -> dict[str, object]:
    setting = {"method": "emmet", "batch": 32, "replay": 0.0, "rank": 0, "seed": seed}
    return setting | {"edits_seen": 32, "metric": metric, "value": value, "n": 100}


def unpack(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


def packed_in(page: str) -> dict:
    return json.loads(re.search(r"const packed = (\{.*\});", page)[1])


def test_packing_is_byte_stable_and_comes_back():
    assert pages.pack("ä" * 100) == pages.pack("ä" * 100)
    assert unpack(pages.pack(HOSTILE)) == HOSTILE


def test_cells_of_all_experiments_stand_in_one_table():
    lora = matrix(retention=0.5).drop(columns=["when", "protocol"])
    data = edit.cells_data({"ablation_matrix": matrix(), "lora_ablation": lora})
    titles = [c["title"] for c in data["columns"]]
    assert titles[0] == "experiment"
    assert len(data["rows"]) == 4
    last = dict(zip(titles, data["rows"][-1], strict=True))
    assert last["experiment"] == "lora_ablation"
    assert (last["when"], last["protocol"]) == ("final", "success")  # what such tables hold
    assert last["S"] == [0.9, 0.9, 0.9]
    assert last["retention"] == 0.5
    assert dict(zip(titles, data["rows"][0], strict=True))["retention"] is None
    assert data["filters"] == {"when": "final", "protocol": "success", "experiment": "edit"}


def test_a_table_page_holds_its_data_only_packed():
    frame = pd.DataFrame({"prompt": [HOSTILE], "ES": [0.5]})
    data = pages.table_data(frame, [pages.column(frame, c) for c in frame], "missed")
    page = pages.page(HOSTILE, HOSTILE, "table", data, SOURCES)
    assert HOSTILE not in page
    assert json.loads(unpack(packed_in(page)["data"]))["rows"] == [[HOSTILE, 0.5]]
    assert len(unpack(packed_in(page)["library"])) > 100_000
    assert "{{" not in page.split("<script>")[0]
    assert not re.search(r"""(?:src|href)=["']https?:""", page)


def test_thousands_of_cells_fit_into_a_page_that_a_browser_shows():
    many = pd.concat([matrix(seed=k, GE=k / 7, perplexity=5 + k / 11) for k in range(3000)], ignore_index=True)
    data = edit.cells_data({"ablation_matrix": many})
    page = pages.page("t", "i", "table", data, SOURCES)
    assert len(data["rows"]) == 6000
    assert len(page.encode()) < pages.LARGEST


def test_curves_take_seeds_together_with_an_interval():
    rows = [curve("retention_success", v, s) for s, v in ((1, 0.8), (2, 0.9))]
    rows += [curve("perplexity", v, s) for s, v in ((1, 5.0), (2, 6.0))] + [curve("delta_norm_layer0", 3.0, 1)]
    points = edit.curve_points({"curves": pd.DataFrame(rows)}).set_index("metric")
    assert set(points.index) == {"retention_success", "perplexity"}
    share = points.loc["retention_success"]
    assert share["low"] < share["value"] < share["high"] <= 1
    assert abs(share["value"] - 0.85) < 1e-9
    assert points.loc["perplexity", "value"] == 5.5
    data = edit.curves_data({"curves": pd.DataFrame(rows)}, SOURCES)
    assert [c["name"] for c in data["choices"]][:2] == ["experiment", "metric"]
    assert len(data["spec"]["data"]["values"]) == 2


def test_a_study_without_such_tables_gives_empty_pages():
    assert edit.cells_data({})["rows"] == []
    assert edit.curves_data({}, SOURCES)["spec"]["data"]["values"] == []
    assert "0 cells" in edit.cells_caption({})


def test_captions_state_what_the_data_say():
    text = edit.cells_caption({"ablation_matrix": matrix()})
    assert "EMMET" in text
    assert "0.90" in text
    rows = pd.DataFrame([curve("retention_success", 0.8, 1)])
    assert "0.80" in edit.curves_caption({"curves": rows})
    assert "no experiment" in edit.curves_caption({}).lower()
    assert "No edited fact failed" in edit.missed_caption({"missed_facts": pd.DataFrame(columns=["ES"])})
