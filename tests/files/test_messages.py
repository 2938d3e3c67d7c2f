"""Where messages go: what is wrong to terminal and log, progress to the log alone, and a full disk hides nothing."""

from __future__ import annotations

import io
import logging
import sys

from editlab.files.messages import messages

LIBRARY = logging.getLogger("editlab.some.module")


def test_warnings_go_to_both_and_progress_to_the_log():
    terminal, log = io.StringIO(), io.StringIO()
    with messages(terminal, log):
        LIBRARY.info("step %d of %d", 100, 300)
        LIBRARY.warning("the text has %d samples", 7)
        print("error: not allowed", file=sys.stderr)
    assert terminal.getvalue() == "the text has 7 samples\nerror: not allowed\n"
    said = log.getvalue().splitlines()
    assert said[0].endswith(" step 100 of 300")
    assert said[0][:2] == "20"
    assert said[1].endswith("the text has 7 samples")
    assert said[2] == "error: not allowed"


def test_afterwards_everything_is_as_it_was(monkeypatch):
    stderr, library = sys.stderr, logging.getLogger("editlab")
    monkeypatch.setattr(library, "level", logging.ERROR)
    before = (library.level, list(library.handlers))
    log = io.StringIO()
    with messages(io.StringIO(), log):
        pass
    LIBRARY.info("nobody is told")
    assert sys.stderr is stderr
    assert (library.level, list(library.handlers)) == before
    assert log.getvalue() == ""


def test_a_log_on_a_full_disk_hides_no_warning(capfd):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    terminal = io.StringIO()
    with messages(terminal, Full()):
        LIBRARY.info("step")
        LIBRARY.warning("the text is short")
        print("error", file=sys.stderr)
    assert terminal.getvalue() == "the text is short\nerror\n"
    assert capfd.readouterr().err == ""  # and logging does not complain of it
