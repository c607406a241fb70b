"""Events of the Hub's webhooks: which model has a new commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mll_hf.errors import InputError
from mll_hf.hub.connection import FULL_SHA

_REPO_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_MAIN = "refs/heads/main"
_NO_COMMIT = "0" * 40


@dataclass(frozen=True, slots=True)
class Change:
    """An event of a repo.

    Attributes:
        repo_id: The repo.
        private: Whether it is private; assumed unless the Hub says otherwise.
        commit: The new commit on the main branch of a model; empty for other events.
        ignored: Why the event is not a new commit on the main branch of a model.
    """

    repo_id: str
    private: bool
    commit: str = ""
    ignored: str = ""


def read_event(payload: object) -> Change:
    """Read parsed JSON as the payload of a webhook of the Hub; an InputError if it is malformed."""
    repo = _field(payload, "repo", dict)
    repo_id, private = _field(repo, "name", str), repo.get("private") is not False
    if not _REPO_ID.fullmatch(repo_id):
        raise InputError("'name' is not a repo; check the sender of these events")
    if (kind := _field(repo, "type", str)) != "model":
        return Change(repo_id, private, ignored=f"a {kind}, not a model")
    if _field(_field(payload, "event", dict), "action", str) == "delete":
        return Change(repo_id, private, ignored="deleted")
    for ref in _field(payload, "updatedRefs", list, default=[]):
        if _field(ref, "ref", str) == _MAIN:
            commit = _field(ref, "newSha", str, default=_NO_COMMIT)
            if not FULL_SHA.fullmatch(commit):
                raise InputError("'newSha' is not a full commit sha; check the sender of these events")
            if commit == _NO_COMMIT:
                return Change(repo_id, private, ignored="main was deleted")
            return Change(repo_id, private, commit)
    return Change(repo_id, private, ignored="main has not changed")


def _field(section: object, name: str, kind: type, default: Any = None) -> Any:  # noqa: ANN401 - parsed JSON
    value = section.get(name) if isinstance(section, dict) else None
    value = default if value is None else value
    if not isinstance(value, kind):
        raise InputError(f"'{name}' is missing or of the wrong type; check the sender of these events")
    return value
