"""Output of commands: results on stdout, notes and errors on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from mll_hf.errors import InputError
from mll_hf.utils.text import gigabytes, printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from mll_hf.labels.label import Label


_ASKED_ABOVE = 10**9  # bytes
_UNREACHABLE = ("the Hub cannot be reached", "HF_HUB_OFFLINE is set")
_log = logging.getLogger(__name__)


def print_error(message: str) -> int:
    """Print an error to stderr; returns the exit status 1."""
    print(f"mll-hf: error: {shown(message)}", file=sys.stderr)
    return 1


def note(message: str) -> None:
    """Print a note to stderr at once, unless the user wants none."""
    _log.warning(message)


def shown(text: str) -> str:
    """A text for a terminal, line by line without control characters: names in it may be untrusted."""
    return "\n".join(map(printable, text.split("\n")))


def discard_stdout() -> None:
    """Discard further output after the reader of stdout has gone; else Python fails again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def confirm(question: str, no_terminal: str) -> bool:
    """Ask a yes-or-no question, by default no; on stderr, since stdout may be redirected to a file.

    Without a terminal, an InputError with the message ``no_terminal``.
    """
    if not sys.stdin.isatty():
        raise InputError(no_terminal)
    with redirect_stdout(sys.stderr):
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def agree_to_download(images: int, weights: int, is_agreed: bool) -> None:
    """Say what will be downloaded, in bytes, and ask for more than a gigabyte, unless that is agreed (``--yes``).

    An InputError if the user declines, or there is no terminal.
    """
    parts = [f"{gigabytes(size)} of {what}" for size, what in ((images, "probe images"), (weights, "models")) if size]
    if parts:
        note(f"downloads {' and '.join(parts)}")
    if images + weights <= _ASKED_ABOVE or is_agreed:
        return
    if not confirm("Download?", "cannot ask without a terminal; add --yes"):
        raise InputError("nothing was downloaded; name a smaller model or graph, or a folder with --images")


class _Notes(logging.Handler):
    """Prints messages as notes, those of the package itself at the end if they are held."""

    def __init__(self, is_held: bool) -> None:
        super().__init__()
        self._is_held, self._held = is_held, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_held and record.name != __name__:
            self._held.append(record.getMessage())
        else:
            _print_note(record.getMessage())

    def flush(self) -> None:
        """Print the held notes: those of an unreachable Hub as one, at the end."""
        notes, self._held = self._held, []
        for reason in _UNREACHABLE:
            if offline := [message for message in notes if reason in message]:
                starts = dict.fromkeys(message.partition(": ")[0] for message in offline)
                notes = [message for message in notes if reason not in message] + [f"{reason}: {'; '.join(starts)}"]
        for message in notes:
            _print_note(message)


def _print_note(message: str) -> None:
    print(f"mll-hf: note: {shown(message)}", file=sys.stderr)


@contextmanager
def logged_notes(is_quiet: bool = False, is_held: bool = False) -> Iterator[None]:
    """Print the package's log messages as notes, once: open_clip makes the root logger print messages, too.

    ``is_quiet`` prints none, ``is_held`` prints them at the end, after the answer.
    """
    logger, handler = logging.getLogger("mll_hf"), logging.NullHandler() if is_quiet else _Notes(is_held)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        sys.stdout.flush()
        handler.flush()
        logger.removeHandler(handler)
        logger.propagate = True


def print_row(args: argparse.Namespace, record: dict[str, Any], text: str) -> None:
    """Print one result: as a line of JSON with ``--json``, else as text."""
    print(json.dumps(record) if args.json else shown(text), flush=True)


def exit_status(failed: int, total: int, what: str) -> int:
    """Print how many of several failed; returns the exit status."""
    if failed and total > 1:
        note(f"{failed} of {total} {what} failed")
    return 1 if failed else 0


def recall_text(label: Label) -> str:
    """Mean recall of a label with the half-width of its 95 % interval."""
    return f"{label.mean_recall:.3f} ± {label.mean_recall_margin:.3f}"


def summary(label: Label) -> dict[str, Any]:
    """The metadata and mean recall of a label, as plain JSON."""
    from mll_hf.labels.file_format import label_metadata  # imports numpy, which `mll-hf --help` does not need

    metadata = label_metadata(label)
    del metadata["schema"]
    return {
        **metadata.pop("model"),
        **metadata.pop("cost"),
        "recall": label.mean_recall,
        "recall_margin": label.mean_recall_margin,
        "temperature": float(label.temperature[0]),
        "concepts": label.n_tested,
        **metadata,
    }
