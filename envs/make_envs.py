"""Write envs/editlab.yaml from requirements.lock: ``python envs/make_envs.py``.

Conda gets Python alone; everything else comes from the lock, pin by pin. (A reference to the lock file would be lost:
Snakemake copies the environment file to a place of its own.)
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Written by envs/make_envs.py from requirements.lock.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python =3.11
  - pip
  - pip:
"""


def pins(lock: Path) -> list[str]:
    """Requirements of a lock file, without comments and blank lines."""
    lines = (line.partition("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def environment() -> str:
    return HEAD + "".join(f"      - {pin}\n" for pin in pins(ROOT / "requirements.lock"))


if __name__ == "__main__":
    (ROOT / "envs" / "editlab.yaml").write_text(environment(), encoding="utf-8")
