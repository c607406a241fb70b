"""Everything this package raises on purpose.

Each message is one line: what is wrong, then what to do about it. The fields let a program react without
reading the message.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mll_hf.utils.package import install_command
from mll_hf.utils.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class MLLError(Exception):
    """Base of all errors that a user can do something about.

    Args:
        message: May quote strangers, so what no terminal should be sent is replaced.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Callable[..., MLLError], tuple[object, ...]]:
        """Errors come back from other processes; the constructors of some take other arguments than the message."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[MLLError], args: tuple[object, ...], fields: dict[str, object]) -> MLLError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class InputError(MLLError, ValueError):
    """A request that cannot be served as it stands: no classes, an unknown strategy, a bad option."""


class GraphError(MLLError, ValueError):
    """A graph or its probe images cannot be used.

    Attributes:
        path: The folder or file at fault, if it came from disk.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        self.path = path
        super().__init__(f"{path}: {reason}" if path else reason)


class LabelError(MLLError, ValueError):
    """A label that cannot be trusted: unreadable, inconsistent, or of another graph.

    Attributes:
        path: The label file, if it came from disk.
        reason: What is wrong with it.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}" if path else reason)


class CardError(MLLError, ValueError):
    """A model's card cannot be edited without a risk to what its author wrote."""


class ModelError(MLLError):
    """A model that cannot be found, loaded or run.

    Attributes:
        model: The model as the user named it.
    """

    def __init__(self, model: str, reason: str) -> None:
        self.model = model
        super().__init__(f"model '{model}': {reason}")


class HubError(MLLError):
    """The Hub refused something, or cannot be reached.

    Attributes:
        repo_id: The repository that was asked for.
        status: HTTP status of the answer, if there was one.
    """

    def __init__(self, repo_id: str, reason: str, status: int | None = None) -> None:
        self.repo_id = repo_id
        self.status = status
        super().__init__(f"{repo_id}: {reason}")


class DescribeError(MLLError):
    """Class descriptions could not be had: an unreadable file, or a language model that does not answer."""


class EncoderError(MLLError):
    """The text encoder for matching could not be loaded, or its weights are not the published ones."""


class StorageError(MLLError, OSError):
    """A file could not be written: the disk is full, or the folder is read-only.

    Attributes:
        path: Where writing failed.
    """

    def __init__(self, path: Path, cause: OSError) -> None:
        self.path = path
        reason = cause.strerror or str(cause)
        remedy = "free some space or choose" if cause.errno in _NO_ROOM else "choose"
        super().__init__(f"cannot write {path}: {reason}; {remedy} another folder")

    def __str__(self) -> str:
        return str(self.args[0])


class MissingExtraError(MLLError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        extra: The extra of this package that brings it.
    """

    def __init__(self, package: str, extra: str, reason: str = "") -> None:
        """``reason``: why it is needed, where something else would do, too."""
        self.extra = extra
        needed = f"{reason}, so this needs" if reason else "this needs"
        super().__init__(f"{needed} the package '{package}'; install it with: {install_command(extra)}")
