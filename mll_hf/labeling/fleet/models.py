"""Which models a run labels: those of a filter of the Hub, of a file, of the paper."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mll_hf.errors import InputError
from mll_hf.hub.connection import connect, hub_errors, list_model_repos
from mll_hf.hub.locations import HUB, REPO_ID
from mll_hf.models.published import published_models
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_ID_FIELDS = ("repo_id", "model", "id")


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """Which of the Hub's models to take; everything that is given must fit.

    Attributes:
        tags: Tags of the models, such as ``open_clip`` or ``zero-shot-image-classification``.
        author: Their owner.
        search: Part of their ids.
        limit: Only so many, the most downloaded first.
    """

    tags: tuple[str, ...] = ()
    author: str | None = None
    search: str | None = None
    limit: int | None = None


def list_models(wanted: ModelFilter) -> tuple[str, ...]:
    """Ids of the Hub's models that a filter lists.

    Raises:
        InputError: There are none.
        HubError: The Hub cannot be asked.
    """
    question = {
        "filter": list(wanted.tags),
        "author": wanted.author or "",
        "search": wanted.search or "",
        "sort": "downloads",
        "expand": "sha",  # the ids are all that is needed
        "limit": str(wanted.limit or ""),
    }
    with hub_errors(HUB):
        found = list_model_repos(connect(), {name: value for name, value in question.items() if value})
    ids = tuple(str(model.get("id")) for model in found if REPO_ID.fullmatch(str(model.get("id"))))[: wanted.limit]
    if not ids:
        raise InputError("no model on the Hub fits this filter; check the tags, the author and the words to search for")
    return ids


def paper_models() -> tuple[str, ...]:
    """Ids of the repositories of the paper's models, without repetitions, in the paper's order."""
    return tuple(dict.fromkeys(model.repo_id for model in published_models()))


def read_models(file: Path) -> tuple[str, ...]:
    """The models that a hub file names.

    Text has one model per line, ``#`` starts a comment. CSV has a column, JSON a list of texts or of objects with a
    field ``repo_id``, ``model`` or ``id``, and optionally ``revision``; so a run's report and the output of
    ``mll-hf labels ls --json`` are hub files too.

    Raises:
        InputError: The file cannot be read, or names no models.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        models = [*_parse_models(text, file.suffix.lower())]
    except OSError as error:
        raise InputError(f"cannot read {file} ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no list of models ({one_line(error)}); give text, CSV or JSON") from None
    if not models:
        raise InputError(f"{file} names no models; give one org/name per line")
    return tuple(dict.fromkeys(models))


def _parse_models(text: str, suffix: str) -> Iterator[str]:
    if suffix == ".json" or text.lstrip().startswith("["):  # no model's id starts like a list
        document = json.loads(text)
        if not isinstance(document, list):
            raise ValueError("it is no JSON list")
        yield from map(_model_of, document)
    elif suffix == ".csv":
        yield from map(_model_of, csv.DictReader(text.splitlines()))
    else:
        for line in text.splitlines():
            if model := line.partition("#")[0].strip():
                yield model


def _model_of(record: object) -> str:
    """A model as users write it, out of one record of a hub file."""
    if isinstance(record, str):
        return record.strip()
    if isinstance(record, dict):
        revision = record.get("revision")
        for field in _ID_FIELDS:
            if isinstance(model := record.get(field), str) and model.strip():
                pinned = f"@{revision}" if isinstance(revision, str) and revision and "@" not in model else ""
                return f"{model.strip()}{pinned}"
    raise ValueError(f"a record has none of the fields {', '.join(_ID_FIELDS)}")
