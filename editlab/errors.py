"""The errors a user can meet. Each message is one line: the file or key, its value, and what is allowed."""

from __future__ import annotations

from pathlib import Path


def one_line(error: BaseException | str, length: int = 200) -> str:
    """The first line of a message for use in another: printable, and not too long."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:length]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class EditlabError(Exception):
    """Base of every error that is the user's to mend; scripts print its message without a traceback."""


class ConfigError(EditlabError, ValueError):
    """A configuration key or hyper-parameter has a value that is not allowed."""


class DataError(EditlabError, ValueError):
    """A data file or record is missing, malformed or inconsistent."""


class ModelError(EditlabError, ValueError):
    """A model directory, tokenizer or architecture cannot be used."""


class ArtifactError(EditlabError, RuntimeError):
    """A file made earlier is missing, truncated or altered."""


class DamagedError(ArtifactError):
    """A result that must not be believed, because it was altered or is incomplete; ``path`` is the file or folder."""

    def __init__(self, message: str, path: str | Path) -> None:
        super().__init__(message)
        self.path = Path(path)


class OutdatedError(DamagedError):
    """A result that is whole, but of whose inputs one has changed since."""


class NumericalError(EditlabError, ArithmeticError):
    """A solve produced non-finite numbers or stayed ill-conditioned after every fallback."""


class ResourceError(EditlabError, MemoryError):
    """A device has not enough memory for the smallest piece of the work."""
