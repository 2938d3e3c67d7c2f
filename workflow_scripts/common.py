"""What every script shares: the log is opened first, and a user's mistake ends in one line, not in a traceback."""

import contextlib
import os
import sys
import traceback
from pathlib import Path

from editlab.errors import EditlabError


class Tee:
    """Writes to the terminal and to the log."""

    def __init__(self, *streams):
        self.streams = streams

    def write(self, text):
        for stream in self.streams:
            stream.write(text)
            stream.flush()
        return len(text)

    def flush(self):
        for stream in self.streams:
            stream.flush()

    def isatty(self):
        return self.streams[0].isatty()


@contextlib.contextmanager
def job(snakemake):
    """Run a script's body with its log open; exit 1 with one line on a user's mistake."""
    path = Path(str(snakemake.log[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr
    with path.open("w", encoding="utf-8") as log:
        sys.stderr = Tee(terminal, log)
        try:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            yield
        except EditlabError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        finally:
            sys.stderr = terminal
