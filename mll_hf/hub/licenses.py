"""Current licenses of models from the Hub: one request per model, which does not count as a download."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from mll_hf.errors import HubError
from mll_hf.hub.connection import TIMEOUT_SECONDS, connect, hub_errors, map_parallel, retried
from mll_hf.hub.locations import REPO_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

_CACHED = 10_000
_SECONDS_CACHED = 3600.0
_INACCESSIBLE = frozenset({403, 410, 451})  # gated or disabled; deleted; taken down
_TAG = "license:"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,63}")


def licenses_of(repo_ids: Sequence[str], token: str | bool | None = None) -> dict[str, str | None]:
    """Licenses of models by id: one request each in parallel, cached for an hour.

    A license is the Hub's id (``apache-2.0``) in lower case. It is None if unknown: the model is deleted, private or
    disabled, its card has no license, several or a malformed one, or the id is not ``org/name`` (such as a local
    folder, for which no request is sent).

    Raises:
        HubError: The Hub cannot be reached.
    """
    hour = int(time.monotonic() // _SECONDS_CACHED)  # a Space runs for weeks, and licenses change
    distinct = list(dict.fromkeys(repo_ids))
    found = map_parallel(lambda repo_id: _license_of(constants.ENDPOINT, token, repo_id, hour), distinct)
    return dict(zip(distinct, found, strict=True))


@lru_cache(maxsize=_CACHED)
def _license_of(_endpoint: str, token: str | bool | None, repo_id: str, _hour: int) -> str | None:
    if not REPO_ID.fullmatch(repo_id):
        return None
    api = connect(token)
    with hub_errors(repo_id, lambda reason: HubError(repo_id, f"cannot find its license: {reason}")):
        try:
            info = retried(lambda: api.model_info(repo_id, expand=["tags"], timeout=TIMEOUT_SECONDS))
        except HFValidationError:
            return None
        except HfHubHTTPError as error:
            if isinstance(error, RepositoryNotFoundError) or error.response.status_code in _INACCESSIBLE:
                return None
            raise
    return _license_in(info.tags)


def _license_in(tags: object) -> str | None:
    """The license among a model's tags, if there is exactly one."""
    texts = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    named = {tag.removeprefix(_TAG).lower() for tag in texts if tag.startswith(_TAG)}
    if len(named) != 1:
        return None
    (license,) = named
    return license if _LICENSE.fullmatch(license) else None
