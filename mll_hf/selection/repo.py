"""A selection as a small model repo: one JSON file, a card, and what Inference Endpoints run. We run nothing in it.

Not by ``huggingface_hub.ModelHubMixin``: that writes a ``config.json``, for which other libraries would take the repo
for a model of theirs, keeps arguments of a constructor rather than a validated document, and uploads over whatever is
in the repo. The methods of :class:`~mll_hf.selection.result.Selection` have its names and arguments.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import RevisionNotFoundError

from mll_hf.errors import CardError, HubError, InputError, ModelError
from mll_hf.hub.connection import FULL_SHA, connect, download, map_parallel, read_head
from mll_hf.hub.licenses import licenses_of
from mll_hf.hub.locations import REPO_ID
from mll_hf.hub.publish import README, publish_repo
from mll_hf.selection.card import selection_card
from mll_hf.selection.result import Selection
from mll_hf.utils.files import write_atomically
from mll_hf.utils.package import DISTRIBUTION, package_source, requirement, wheel_of
from mll_hf.utils.text import abridged, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from huggingface_hub import HfApi

    from mll_hf.hub.publish import Published
    from mll_hf.labels.label import ModelRef

SELECTION_FILE = "mll_selection.json"
HANDLER_FILE, REQUIREMENTS_FILE = "handler.py", "requirements.txt"
_HANDLER = f'''"""Answers Inference Endpoints with the selection in this repository; a push replaces this file."""

try:
    from mll_hf.serving import EndpointHandler  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "{DISTRIBUTION} is not installed, or without its extra 'models'; it is on no registry, so add a "
        "{REQUIREMENTS_FILE} beside this file with a wheel that you trust: {DISTRIBUTION}[models] @ https://..."
    ) from error
'''
_MOST_BYTES = 64 * 2**20
_GONE = frozenset({401, 403, 404, 410, 451})  # the Hub's answers that trying again does not change
_HOW_TO_MAKE = "make one with: mll-hf select --json"
_log = logging.getLogger(__name__)


# --- write ------------------------------------------------------------------------------------------------------------


def save_selection(selection: Selection, folder: str | Path, token: str | None) -> None:
    """See :meth:`Selection.save_pretrained`."""
    folder = Path(folder)
    readme = folder / README
    try:
        old = readme.read_text(encoding="utf-8") if readme.exists() else ""
    except (OSError, ValueError):
        raise CardError(f"{readme} cannot be read; repair it, or choose another folder") from None
    card = selection_card(selection, str(folder), _licenses(selection, token), old)
    write_atomically(folder / SELECTION_FILE, _to_bytes(selection))
    write_atomically(readme, card.encode())


def push_selection(
    selection: Selection, repo_id: str, private: bool, create_pr: bool, commit_message: str, token: str | None
) -> Published:
    """See :meth:`Selection.push_to_hub`."""
    if not REPO_ID.fullmatch(repo_id):
        raise InputError(f"'{repo_id}' is not of the form org/name; name the repo of the selection so")
    if local := [model.name for model in selection.models if model.ref.is_local]:
        raise InputError(
            f"others cannot use models of this machine ({abridged(local, 3)}); upload each (hf upload ORG/NAME FOLDER) "
            "and label ORG/NAME, or select without their labels"
        )
    _check_pinned(selection)
    card = partial(selection_card, selection, repo_id, _licenses(selection, token))
    return publish_repo(
        repo_id,
        {SELECTION_FILE: _to_bytes(selection), HANDLER_FILE: _HANDLER.encode(), **_requirements()},
        SELECTION_FILE,
        card,
        commit_message,
        create_pr=create_pr,
        private=private,
        token=token,
    )


def _to_bytes(selection: Selection) -> bytes:
    """The JSON, with the prompts written out: those that fit a task may be others in a later version."""
    document = replace(selection, templates=selection.prompt_templates).to_json()
    content = json.dumps(document, allow_nan=False).encode()
    if len(content) > _MOST_BYTES:
        raise InputError(
            f"this selection takes {len(content) / 2**20:.0f} MB, over the limit of {_MOST_BYTES // 2**20} MB; select "
            "among fewer models, with max_parameters or a smaller shortlist"
        )
    return content


def _requirements() -> dict[str, bytes]:
    """The file that says where Inference Endpoints install this package from, if that can be said to others."""
    source = package_source()
    if not source or wheel_of(source):
        return {}
    return {REQUIREMENTS_FILE: f"{requirement(source, 'models')}\n".encode()}


def _licenses(selection: Selection, token: str | None) -> Mapping[str, str | None]:
    """Licenses of the chosen models as the Hub names them now; all unknown if it cannot be asked."""
    ids = [ref.repo_id for ref in _chosen(selection)]
    try:
        return licenses_of(ids, token)
    except HubError as error:
        _log.warning("the card names no licenses: %s", error)
        return dict.fromkeys(ids)


# --- read -------------------------------------------------------------------------------------------------------------


def read_selection(location: str | Path, revision: str | None = None, token: str | None = None) -> Selection:
    """See :meth:`Selection.from_pretrained`."""
    path, (repo_id, _, named) = Path(location), str(location).partition("@")
    if not os.path.exists(path) and REPO_ID.fullmatch(repo_id) and path.suffix != ".json":
        return _from_hub(repo_id, revision or named or None, token)
    return _parsed(path / SELECTION_FILE if os.path.isdir(path) else path, shortened(str(location), 200))


def _from_hub(repo_id: str, revision: str | None, token: str | None) -> Selection:
    api = connect(token)
    head = read_head(api, repo_id, "model", revision)
    if SELECTION_FILE not in head.files:
        raise InputError(
            f"{repo_id} is no selection: it has no {SELECTION_FILE}; choose models for your classes with mll-hf select"
        )
    file = download(api, repo_id, "model", SELECTION_FILE, head.sha, _MOST_BYTES)
    selection = _parsed(file, repo_id)
    try:
        _check_pinned(selection)
    except InputError as error:
        raise InputError(f"{repo_id}: {error}") from None
    return selection


def _parsed(path: Path, name: str) -> Selection:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"over {_MOST_BYTES // 2**20} MB")
        return Selection.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(f"cannot read {name} ({error.strerror}); {_HOW_TO_MAKE}") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{name}: this is no selection; {_HOW_TO_MAKE}") from None


# --- check ------------------------------------------------------------------------------------------------------------


def _chosen(selection: Selection) -> list[ModelRef]:
    return [selection.models[m].ref for m in selection.needed]


def _check_pinned(selection: Selection) -> None:
    """Refuse a chosen model that is not the same for everyone."""
    loose = [ref for ref in _chosen(selection) if ref.is_local or not FULL_SHA.fullmatch(ref.revision)]
    if loose:
        raise InputError(
            f"models are not pinned to a commit on the Hub ({abridged([ref.short_name for ref in loose], 3)}), so they "
            "may be others elsewhere; select again, online"
        )


def check_models(selection: Selection, licenses: Sequence[str] = (), token: str | None = None) -> None:
    """Check, before anything is downloaded, that the chosen models are still there and may be used.

    Sends one request per model, none for a commit that was asked for before. A Hub that cannot be reached says nothing
    of the models, but without it no license can be confirmed.

    Args:
        selection: The selection.
        licenses: Allowed licenses, such as ``apache-2.0``; empty for any.
        token: Hub token; None for the token of the logged-in user.

    Raises:
        ModelError: A model, or its pinned commit, is not on the Hub any more.
        InputError: A model has another license, or none that is known.
        HubError: Only some licenses are allowed, and the Hub cannot be asked.
    """
    refs = _chosen(selection)
    if licenses:
        allowed = {license.strip().lower() for license in ([licenses] if isinstance(licenses, str) else licenses)}
        found = licenses_of([ref.repo_id for ref in refs], token)
        if refused := [f"{id} ({license or 'unknown'})" for id, license in found.items() if license not in allowed]:
            raise InputError(
                f"models have other licenses than the allowed ({abridged(sorted(allowed), 5)}): "
                f"{abridged(refused, 5)}; allow these too, or select with these licenses"
            )
    map_parallel(partial(_check_there, connect(token)), [ref for ref in refs if not ref.is_local])


def _check_there(api: HfApi, ref: ModelRef) -> None:
    try:
        read_head(api, ref.repo_id, "model", ref.revision)
    except HubError as error:
        if isinstance(error.__cause__, RevisionNotFoundError):
            reason = f"its commit {ref.revision[:12]}, which the selection names, is gone from the Hub; select again"
            raise ModelError(ref.repo_id, reason) from error
        if error.status in _GONE:
            reason = "is gone from the Hub, or private, and the selection names it; log in, or select again"
            raise ModelError(ref.repo_id, reason) from error
