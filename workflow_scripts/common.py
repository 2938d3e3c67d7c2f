"""What every script shares: the log is opened first, and a user's mistake ends in one line, not in a traceback."""

import contextlib
import os
import sys
import traceback
from pathlib import Path

from editlab.errors import EditlabError
from editlab.warm import Tee


@contextlib.contextmanager
def job(snakemake):
    """Run a script's body with its log open (the value); exit 1 with one line on a user's mistake."""
    path = Path(str(snakemake.log[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr
    with path.open("w", encoding="utf-8") as log:
        sys.stderr = Tee(terminal, log)
        try:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            yield log
        except EditlabError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        finally:
            sys.stderr = terminal
