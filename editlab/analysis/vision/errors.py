"""The errors themselves: how many there are, between which classes, and what became of those that were edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from editlab.analysis.draw.plots import Drawing, colour_bar, panels
from editlab.analysis.draw.style import COLUMN, HEAT
from editlab.analysis.report.run import Run
from editlab.analysis.report.topic import Collected, Tables, Topic, figure
from editlab.analysis.statistics.intervals import Interval, mean_interval
from editlab.analysis.text.findings import Finding
from editlab.analysis.text.wording import counted, level_with, word
from editlab.analysis.vision.cells import by_dataset, coordinates, is_control, read_cells, shown

SHOWN = 24  # images on the sheet
THUMBNAIL = 28  # pixels


def split_table(run: Run) -> pd.DataFrame:
    """The four sets of every data set."""
    parts = []
    for path in run.inputs["splits"]:
        frame = pd.read_csv(run.root / path)
        frame.insert(0, "dataset", Path(path).parts[-3])
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def error_table(run: Run) -> pd.DataFrame:
    """One row a classifier: discovery images, errors, accuracy."""
    rows, gap = [], float(run.settings["ambiguous_gap"])
    for path in run.inputs["errors"]:
        frame = pd.read_csv(run.root / path)
        wrong = int((~frame["right"].astype(bool)).sum())
        counts = {"images": len(frame), "errors": wrong, "accuracy": 1 - wrong / len(frame)}
        rows.append({**coordinates(path), **counts, "ambiguous": int((frame["gap"] < gap).sum())})
    return pd.DataFrame(rows)


def first_method(run: Run) -> str:
    """The first recipe that is no control."""
    recipes = run.settings["methods"]
    return next(name for name in recipes if not is_control(recipes[name]))


def confusion_table(run: Run) -> pd.DataFrame:
    """Test images by class and prediction, before and after the first method; mean over seeds and draws."""
    rows = read_cells(run, "confusion_matrices.csv")
    rows = rows[rows["method"] == first_method(run)]
    found = rows.groupby(["dataset", "method", "label", "predicted"], sort=False)[["before", "after"]].mean()
    return found.reset_index()


def image_table(run: Run) -> pd.DataFrame:
    """Edited images of the first method, seed and draw of each data set: pixels as hexadecimal digits, labels, predictions."""
    cases = read_cells(run, "changed_images.csv")
    cases = cases[cases["edited"].astype(bool) & (cases["method"] == first_method(run))]
    pixels = {Path(p).parts[-3]: p for p in run.inputs["images"] if p.endswith(".npy")}
    rows = []
    for dataset, part in cases.groupby("dataset", sort=False):
        part = part[(part["seed"] == part["seed"].min()) & (part["draw"] == part["draw"].min())].head(SHOWN)
        images = np.load(run.root / pixels[str(dataset)], mmap_mode="r", allow_pickle=False)
        for row in part.to_dict("records"):
            image = _thumbnail(np.asarray(images[row["position"]], dtype=float))
            told = {k: row[k] for k in ("method", "seed", "draw", "index", "label", "before", "after")}
            size = {"height": image.shape[0], "width": image.shape[1], "channels": image.shape[2]}
            rows.append({"dataset": dataset, **told, **size, "pixels": image.tobytes().hex()})
    return pd.DataFrame(rows)


def _thumbnail(image: Any) -> Any:
    """At most :data:`THUMBNAIL` pixels wide, from 0 to 255."""
    step = max(1, -(-image.shape[0] // THUMBNAIL))
    small = image[::step, ::step]
    low, high = float(small.min()), float(small.max())
    return (255 * (small - low) / max(high - low, 1e-9)).round().astype(np.uint8)


@figure(
    "Confusion before and after",
    "vision_confusion",
    lambda rows: (
        f"Test images by class (down) and prediction (across), before and after {shown(rows['method'].iloc[0])}; right ones are "
        "left blank. Means over seeds and draws."
    ),
    cites=("errors.count",),
    level=6,
)
def vision_confusion_matrices(rows: pd.DataFrame) -> Drawing:
    """The errors of the test set, before and after, one row a data set."""
    names = list(dict.fromkeys(rows["dataset"]))
    drawing, axes = panels(1.75 * len(names), 2 * len(names), 2)
    image: Any = None
    for k, name in enumerate(names):
        part = rows[rows["dataset"] == name]
        for axis, when in zip(axes[2 * k : 2 * k + 2], ("before", "after"), strict=True):
            values = part.pivot_table(index="label", columns="predicted", values=when).to_numpy(float, copy=True)
            np.fill_diagonal(values, np.nan)
            top = float(max(part.loc[part["label"] != part["predicted"], ["before", "after"]].max()))
            image = axis.pcolormesh(values, cmap=HEAT, vmin=0, vmax=max(top, 1e-9))
            axis.set_aspect("equal")
            axis.invert_yaxis()
            axis.grid(visible=False)
            axis.tick_params(length=0)
            for set_ticks in (axis.set_xticks, axis.set_yticks):
                set_ticks(np.arange(len(values)) + 0.5, [str(label) for label in range(len(values))])
            axis.set(title=when if len(names) == 1 else f"{name}, {when}", xlabel="prediction")
        axes[2 * k].set_ylabel("class")
    colour_bar(drawing, image, axes, "images")
    return drawing


@figure(
    "Edited images",
    "vision_images",
    lambda rows: f"The images of one edit by {shown(rows['method'].iloc[0])}: class, then prediction before → after.",
    empty="No image was edited.",
    level=8,
)
def vision_edited_images(rows: pd.DataFrame) -> Drawing:
    """A sheet of the edited images with their labels."""
    import matplotlib.pyplot as plt

    columns = min(6, len(rows))
    lines = -(-len(rows) // columns)
    drawing, grid = plt.subplots(lines, columns, figsize=(COLUMN, 0.62 * lines), squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for axis, row in zip(grid.flat, rows.to_dict("records"), strict=False):
        shape = row["height"], row["width"], row["channels"]
        image = np.frombuffer(bytes.fromhex(row["pixels"]), dtype=np.uint8).reshape(shape)
        axis.imshow(image[..., 0] if shape[2] == 1 else image, cmap="gray")
        axis.set_title(f"{row['label']}: {row['before']} → {row['after']}", fontsize=5.5, pad=1.5)
    return drawing


def findings(tables: Tables) -> list[Finding]:
    """How many errors there are to edit, and how good the classifiers are."""
    if "vision_errors" not in tables or tables["vision_errors"].empty:
        return []
    found = []
    for part, on, tail in by_dataset(tables["vision_errors"], " of "):
        accuracy = mean_interval(part["accuracy"])
        low, high = int(part["errors"].min()), int(part["errors"].max())
        counts = counted(low, "error") if low == high else f"{low} to {high} errors"
        sentence = (
            f"Before any edit, {_classifiers(len(part))} {level_with(*accuracy)} of the discovery images{on} right, which leaves "
            f"{counts} to edit{_tested(tables, part['dataset'].iloc[0])}."
        )
        images = int(part["images"].sum())
        found.append(Finding(f"errors.count{tail}", sentence, *accuracy, images, True, "vision_errors"))
    return found


def _classifiers(count: int) -> str:
    return "the classifier gets" if count == 1 else f"the {word(count)} classifiers get"


def _tested(tables: Tables, dataset: str) -> str:
    """Test accuracy of the unedited classifiers, where it was measured."""
    if "vision_comparison" not in tables:
        return ""
    table = tables["vision_comparison"]
    rows = table[(table["dataset"] == dataset) & (table["level"] == "test")]
    if rows.empty:
        return ""
    return f"; accuracy on test is {level_with(*Interval.of(rows.iloc[0], 'accuracy_before'))}"


TOPIC = Topic(
    "Errors",
    tables=(
        Collected("data_split_info", split_table, inputs=("splits",)),
        Collected("vision_errors", error_table, inputs=("errors",), settings=("ambiguous_gap",)),
        Collected(
            "vision_confusion", confusion_table, ("methods",), files=("confusion_matrices.csv",), settings=("methods",)
        ),
        Collected(
            "vision_images",
            image_table,
            ("methods",),
            files=("changed_images.csv",),
            inputs=("images",),
            settings=("methods",),
        ),
    ),
    reads=("vision_errors", "vision_comparison"),
)
