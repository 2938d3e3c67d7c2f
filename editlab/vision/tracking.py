"""Optional tracking of a search by Weights & Biases; off unless the configuration asks for it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from editlab.config.vision import Tracking
from editlab.errors import ConfigError, one_line

KEYS = {
    "test/accuracy_delta": "test_acc_delta",
    "test/stability": "test_stability",
    "edit/fix_rate": "edit_fix_ratio",
    "proj/stability": "proj_stability",
    "timing/edit_seconds": "edit_time_seconds",
}
"""What is tracked: key -> column of the search table."""


def track(table: pd.DataFrame, name: str, options: Tracking, directory: str | Path) -> None:
    """Log one step a row of a search table to a run called ``name``; offline, its files stay under ``directory``.

    It says nothing itself: where it would point, a directory is that is renamed when it is whole.

    Raises:
        ConfigError: the package ``wandb`` is not installed, or refuses (no key, no network).
    """
    try:
        import wandb
    except ImportError:
        raise ConfigError(
            "tracking.wandb: the package wandb is not installed; pip install 'editlab[tracking]'"
        ) from None
    right = table["test_total"] * table["test_acc_before"]
    table = table.assign(test_stability=1 - table["test_correct_to_wrong"] / right)
    Path(directory).mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(silent=True)
    try:
        run = wandb.init(project=options.project, name=name, mode=options.mode, dir=str(directory), settings=quiet)
    except wandb.errors.Error as error:
        raise ConfigError(f"tracking: Weights & Biases refuses ({one_line(error)})") from None
    try:
        for step, row in enumerate(table.to_dict("records")):
            run.log({key: row[column] for key, column in KEYS.items() if column in row}, step=step)
    finally:
        run.finish()
