"""The exceptions of this package.

Each message is one line that states the problem and how to solve it. Attributes give programs the details.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mll_hf.utils.text import printable

if TYPE_CHECKING:
    from pathlib import Path


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class MLLError(Exception):
    """Base of all errors that a user can resolve. Control characters in messages are replaced: some are untrusted."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickling between processes; some constructors take other arguments than the message."""
        return type(self).__new__, (type(self),), {**self.__dict__, "args": self.args}


class InputError(MLLError, ValueError):
    """Invalid input: no classes, an unknown strategy, a bad option."""


class NoLabelsError(InputError):
    """There are no labels to select from."""


class _FileError(MLLError, ValueError):
    """Content that cannot be used.

    Attributes:
        reason: What is wrong with it.
        place: The file or folder, or its location on the Hub, if it was read.
    """

    def __init__(self, reason: str, place: Path | str = "") -> None:
        self.reason, self.place = reason, place
        super().__init__(f"{place}: {reason}" if place else reason)


class GraphError(_FileError):
    """A graph or its probe images cannot be used."""


class LabelError(_FileError):
    """A label is invalid: unreadable, inconsistent, or of another graph."""


class CardError(MLLError, ValueError):
    """A model card cannot be edited safely."""


class ModelError(MLLError):
    """A model, as given by the user, cannot be found, loaded or run."""

    def __init__(self, model: str, reason: str) -> None:
        self.model = model
        super().__init__(f"model '{model}': {reason}")


class HubError(MLLError):
    """The Hub rejected a request, or cannot be reached.

    Attributes:
        reason: What is wrong, and how to solve it.
        status: HTTP status of the response, if there was one.
    """

    def __init__(self, repo_id: str, reason: str, status: int | None = None) -> None:
        self.repo_id = repo_id
        self.reason = reason
        self.status = status
        super().__init__(f"{repo_id}: {reason}")


class DescribeError(MLLError):
    """Class descriptions are not available: an unreadable file, or a language model that does not respond."""


class EncoderError(MLLError):
    """The text encoder for matching cannot be loaded, or its weights are not the published ones."""


class StorageError(MLLError, OSError):
    """A file cannot be written: the disk is full, or the folder is read-only."""

    def __init__(self, path: Path, cause: OSError) -> None:
        self.path = path
        reason = cause.strerror or str(cause)
        remedy = "free some space or choose" if cause.errno in _DISK_FULL else "choose"
        super().__init__(f"cannot write {path}: {reason}; {remedy} another folder")

    def __str__(self) -> str:
        return str(self.args[0])


class MissingExtraError(MLLError, ImportError):
    """An optional dependency is not installed, which an extra of this package installs."""

    def __init__(self, package: str, extra: str, reason: str = "") -> None:
        """``reason`` explains why the package is needed, if there is an alternative."""
        self.extra = extra
        needed = f"{reason}, so this needs" if reason else "this needs"
        super().__init__(
            f"{needed} the package '{package}'; install it with: pip install '.[{extra}]' in a clone of the project"
        )
