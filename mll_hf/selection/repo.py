"""A selection as a small model repo: a JSON file, and a card. No code is in it or run.

``huggingface_hub.ModelHubMixin`` is not used: it writes a ``config.json``, from which other libraries would conclude
that the repo is one of their models, stores constructor arguments instead of a validated document, and overwrites
existing files. The methods of :class:`~mll_hf.selection.result.Selection` have the same names and arguments.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mll_hf.errors import CardError, HubError, InputError, StorageError
from mll_hf.hub.connection import FULL_SHA, connect, download, read_head
from mll_hf.hub.locations import REPO_ID
from mll_hf.hub.repos import (
    README,
    Access,
    access_of,
    check_contents,
    ensure_repo,
    hidden_models,
    licenses_of,
    publish_files,
)
from mll_hf.selection.candidates import Figures
from mll_hf.selection.card import selection_card
from mll_hf.selection.head import HEADS_FILE, heads_from_bytes, heads_to_bytes, max_heads_bytes
from mll_hf.selection.result import Selection
from mll_hf.utils.files import asset_path, digest_of, parse_json, storage_errors, write_atomically
from mll_hf.utils.text import abridged, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mll_hf.hub.connection import Head as RepoHead
    from mll_hf.hub.repos import Content, Published
    from mll_hf.labels.label import ModelRef
    from mll_hf.selection.head import Head

T = TypeVar("T")

SELECTION_FILE = "mll_selection.json"
_MAX_BYTES = 16 * 2**20
_HOW_TO_MAKE = "make one with: mll-hf fit IMAGES --classes CLASS -o FOLDER"
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
    heads = _heads_of(selection)
    with storage_errors(folder / HEADS_FILE):
        (folder / HEADS_FILE).unlink(missing_ok=True)  # of an earlier selection
    write_atomically(folder / SELECTION_FILE, _to_bytes(selection))
    write_atomically(readme, card.encode())
    if heads:
        write_atomically(folder / HEADS_FILE, heads)


def push_selection(
    selection: Selection, repo_id: str, private: bool, create_pr: bool, commit_message: str, token: str | None
) -> Published:
    """See :meth:`Selection.push_to_hub`."""
    if not REPO_ID.fullmatch(repo_id):
        raise InputError(f"'{repo_id}' is not of the form org/name; name the repo of the selection in this form")
    if local := [model.name for model in selection.models if model.ref.is_local]:
        raise InputError(
            f"others cannot use local models ({abridged(local, 3)}); upload each (hf upload $ORG/NAME FOLDER) "
            "and label $ORG/NAME, or select without their labels"
        )
    _check_pinned(selection)
    if not private and access_of(connect(token), repo_id, "model") is not Access.PRIVATE:
        labeled = [model.ref.repo_id for model in selection.models if model.figures is Figures.LABEL]
        if secret := [id for id in hidden_models(labeled) if connect(token).repo_exists(id)]:  # but not for everyone
            raise InputError(
                f"private models: {abridged(secret, 3)}; publish with --private, or select without their labels"
            )
    card = partial(selection_card, selection, repo_id, _licenses(selection, token))
    api, content = connect(token), {SELECTION_FILE: _to_bytes(selection), HEADS_FILE: _heads_of(selection)}
    ensure_repo(api, repo_id, "model", Access.PRIVATE if private else Access.PUBLIC)

    def files(head: RepoHead) -> Mapping[str, Content]:
        if SELECTION_FILE not in head.files:
            check_contents(head, repo_id)
        return {**content, README: card}

    return publish_files(api, repo_id, "model", commit_message, files, create_pr=create_pr)


def _to_bytes(selection: Selection) -> bytes:
    """The JSON with explicit prompt templates: the defaults may change in a later version."""
    document = replace(selection, templates=selection.prompt_templates).to_json()
    content = json.dumps(document, allow_nan=False).encode()
    if len(content) > _MAX_BYTES:
        raise InputError(
            f"this selection takes {len(content) / 2**20:.0f} MB, over the limit of {_MAX_BYTES // 2**20} MB; select "
            "from fewer models, with max_parameters or a smaller shortlist"
        )
    return content


def _licenses(selection: Selection, token: str | None) -> Mapping[str, str | None]:
    """Current licenses of the chosen models on the Hub; all unknown if the Hub cannot be reached."""
    ids = [ref.repo_id for ref in _chosen(selection)]
    try:
        return licenses_of(ids, token)
    except HubError as error:
        _log.warning("licenses are missing from the card: %s", error)
        return dict.fromkeys(ids)


# --- read -------------------------------------------------------------------------------------------------------------


def read_selection(location: str | Path, revision: str | None = None, token: str | None = None) -> Selection:
    """See :meth:`Selection.from_pretrained`."""
    path, (repo_id, _, suffix) = Path(location), str(location).partition("@")
    if not os.path.exists(path) and REPO_ID.fullmatch(repo_id) and path.suffix != ".json":
        return _read_from_hub(repo_id, revision or suffix or None, token)
    name = shortened(str(location), 200)
    file = path / SELECTION_FILE if os.path.isdir(path) else path
    selection, heads = _parse_file(file, name), file.with_name(HEADS_FILE)
    if file.name != SELECTION_FILE:
        return selection
    return replace(selection, heads=_read_heads(heads, selection, name)) if heads.exists() else selection


def _read_from_hub(repo_id: str, revision: str | None, token: str | None) -> Selection:
    api = connect(token)
    head = read_head(api, repo_id, "model", revision)
    if SELECTION_FILE not in head.files:
        raise InputError(f"{repo_id} is not a selection: it has no {SELECTION_FILE}; make one with mll-hf select")
    file = download(api, repo_id, "model", SELECTION_FILE, head.sha, _MAX_BYTES)
    selection = _parse_file(file, repo_id)
    _check_pinned(selection, f"{repo_id}: ")
    if HEADS_FILE not in head.files:
        return selection
    most = max_heads_bytes(len(selection.chosen_models), len(selection.classes))
    file = download(api, repo_id, "model", HEADS_FILE, head.sha, most)
    return replace(selection, heads=_read_heads(file, selection, repo_id))


def _read_heads(path: Path, selection: Selection, name: str) -> tuple[Head, ...]:
    refs = _chosen(selection)
    most = max_heads_bytes(len(refs), len(selection.classes))
    return _read(path, most, f"{HEADS_FILE} of {name}", lambda blob: heads_from_bytes(blob, refs, selection.classes))


def _parse_file(path: Path, name: str) -> Selection:
    return _read(path, _MAX_BYTES, name, lambda blob: Selection.from_json(parse_json(blob)))


def _read(path: Path, most: int, what: str, parse: Callable[[bytes], T]) -> T:
    try:
        if path.stat().st_size > most:
            raise InputError(f"over the limit of {most / 2**20:.0f} MB; {_HOW_TO_MAKE}")
        return parse(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {what} ({error.strerror}); {_HOW_TO_MAKE}") from None
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{what}: this is not a selection; {_HOW_TO_MAKE}") from None


# --- heads that were made from names alone ---------------------------------------------------------------------------


def zero_shot_heads(selection: Selection) -> tuple[Head, ...]:
    """The zero-shot heads for the classes and prompts of a selection, if they were made; empty otherwise."""
    if selection.heads and not selection.fitted_heads:
        return selection.heads
    path = _cache_of(selection)
    with contextlib.suppress(InputError):  # damaged: they are made again
        return _read_heads(path, selection, str(path)) if path.exists() else ()
    return ()


def keep_heads(selection: Selection, heads: Sequence[Head]) -> None:
    """Save zero-shot heads for the classes and prompts of a selection in the cache."""
    with contextlib.suppress(StorageError):  # they can be made again
        write_atomically(_cache_of(selection), heads_to_bytes(heads, _chosen(selection), selection.classes))


def heads_key(selection: Selection) -> str:
    """Digest of what decides the zero-shot heads of a selection: models, classes and prompts."""
    refs = [asdict(selection.models[m].ref) for m in selection.chosen_models]
    return digest_of([selection.classes, selection.prompt_templates, refs])


def _cache_of(selection: Selection) -> Path:
    return asset_path("heads", f"{heads_key(selection)}.safetensors")


def _heads_of(selection: Selection) -> bytes | None:
    """The file of a selection's heads; None if they are not made."""
    heads = selection.heads or (() if selection.trial else zero_shot_heads(selection))
    return heads_to_bytes(heads, _chosen(selection), selection.classes) if heads else None


# --- check ------------------------------------------------------------------------------------------------------------


def _chosen(selection: Selection) -> list[ModelRef]:
    return [selection.models[m].ref for m in selection.chosen_models]


def _check_pinned(selection: Selection, whose: str = "") -> None:
    """Raise InputError if a chosen model is local or not pinned to a commit."""
    unpinned = [ref for ref in _chosen(selection) if ref.is_local or not FULL_SHA.fullmatch(ref.revision)]
    if unpinned:
        names = abridged([ref.short_name for ref in unpinned], 3)
        raise InputError(
            f"{whose}models are not pinned to a commit on the Hub ({names}) and may change; select again, online"
        )


def check_licenses(selection: Selection, licenses: Sequence[str], token: str | None = None) -> None:
    """Check with the Hub that the chosen models have one of the licenses; an InputError if one has another or none."""
    allowed = {license.strip().lower() for license in ([licenses] if isinstance(licenses, str) else licenses)}
    found = licenses_of([ref.repo_id for ref in _chosen(selection)], token)
    if refused := [f"{id} ({license or 'unknown'})" for id, license in found.items() if license not in allowed]:
        raise InputError(
            f"models have licenses other than {abridged(sorted(allowed), 5)}: {abridged(refused, 5)}; allow these too, "
            "or select with these licenses"
        )
