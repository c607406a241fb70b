"""Lists of models to label: from a search of the Hub, or from a file."""

from __future__ import annotations

import csv
import json
from itertools import islice
from typing import TYPE_CHECKING

from mll_hf.errors import InputError
from mll_hf.hub.connection import connect, hub_errors, list_model_repos
from mll_hf.hub.locations import HUB, REPO_ID
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_ID_FIELDS = ("repo_id", "model", "id")
_MIN_PER_PAGE, _MAX_PER_PAGE = 100, 1000


def list_models(
    tags: Sequence[str] = (), author: str | None = None, search: str | None = None, limit: int | None = None
) -> tuple[str, ...]:
    """List models on the Hub that have all tags, such as ``open_clip``; most downloaded first.

    One request per 1,000 models, and none after the ``limit`` is reached.

    Raises:
        InputError: No model matches.
        HubError: The Hub cannot be reached.
    """
    question = {
        "filter": list(tags),
        "author": author or "",
        "search": search or "",
        "sort": "downloads",
        "expand": "sha",  # only ids are needed
        # page size; more than wanted, since malformed entries do not count
        "limit": str(min(max(limit, _MIN_PER_PAGE), _MAX_PER_PAGE)) if limit else "",
    }
    with hub_errors(HUB):
        listed = list_model_repos(connect(), {name: value for name, value in question.items() if value})
        named = (str(model.get("id")) for model in listed)
        ids = list(islice((repo_id for repo_id in named if REPO_ID.fullmatch(repo_id)), limit))
    if not ids:
        raise InputError("no model on the Hub matches; check the tags, the author and the search text")
    return tuple(ids)


def read_models(file: Path) -> tuple[str, ...]:
    """Read a list of models.

    Formats: text with one model per line and ``#`` for comments; CSV with a column, or JSON with a list of strings or
    of objects with a field, named ``repo_id``, ``model`` or ``id``, and optionally ``revision``. This includes reports
    of a run and the output of ``mll-hf labels ls --json``.

    Raises:
        InputError: The file cannot be read, or lists no models.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        models = [*_parse_models(text, file.suffix.lower())]
    except OSError as error:
        raise InputError(f"cannot read {file} ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not a list of models ({one_line(error)}); use text, CSV or JSON") from None
    if not models:
        raise InputError(f"{file} lists no models; write one org/name per line")
    return tuple(dict.fromkeys(models))


def _parse_models(text: str, suffix: str) -> Iterator[str]:
    if suffix == ".json" or text.lstrip().startswith("["):
        document = json.loads(text)
        if not isinstance(document, list):
            raise ValueError("not a JSON list")
        yield from map(_model_of, document)
    elif suffix == ".csv":
        yield from map(_model_of, csv.DictReader(text.splitlines()))
    else:
        for line in text.splitlines():
            if model := line.partition("#")[0].strip():
                yield model


def _model_of(record: object) -> str:
    """``org/name[@revision]`` from one entry of a list."""
    if isinstance(record, str):
        return record.strip()
    if isinstance(record, dict):
        revision = record.get("revision")
        for field in _ID_FIELDS:
            if isinstance(model := record.get(field), str) and model.strip():
                pinned = f"@{revision}" if isinstance(revision, str) and revision and "@" not in model else ""
                return f"{model.strip()}{pinned}"
    raise ValueError(f"an entry has none of the fields {', '.join(_ID_FIELDS)}")
