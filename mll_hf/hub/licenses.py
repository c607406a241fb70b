"""Current licenses of models from the Hub, which do not count as downloads."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from mll_hf.errors import HubError
from mll_hf.hub.connection import TIMEOUT_SECONDS, connect, hub_errors, map_parallel, retried, status_of
from mll_hf.hub.locations import REPO_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from huggingface_hub import HfApi

_INACCESSIBLE = (403, 410, 451)  # gated or disabled; deleted; taken down
_LICENSE = re.compile(r"license:([a-z0-9][a-z0-9.+_-]{0,63})")


def licenses_of(repo_ids: Sequence[str], token: str | bool | None = None) -> dict[str, str | None]:
    """Licenses of models by id, such as ``apache-2.0``, in lower case: one request each, in parallel.

    None if unknown: the model is deleted, private or disabled, its card has no license or several, or the id is not
    ``org/name`` (such as a local folder, for which no request is sent).

    Raises:
        HubError: The Hub cannot be reached.
    """
    distinct = list(dict.fromkeys(repo_ids))
    return dict(zip(distinct, map_parallel(partial(_license_of, connect(token)), distinct), strict=True))


def _license_of(api: HfApi, repo_id: str) -> str | None:
    if not REPO_ID.fullmatch(repo_id):
        return None
    with hub_errors(repo_id, lambda reason: HubError(repo_id, f"cannot find its license: {reason}")):
        try:
            info = retried(partial(api.model_info, repo_id, expand=["tags"], timeout=TIMEOUT_SECONDS))
        except (RepositoryNotFoundError, HFValidationError):
            return None
        except HfHubHTTPError as error:
            if status_of(error) in _INACCESSIBLE:
                return None
            raise
    tags = [tag.lower() for tag in info.tags or () if isinstance(tag, str) and tag.startswith("license:")]
    found = _LICENSE.fullmatch(tags[0]) if len(set(tags)) == 1 else None
    return found[1] if found else None
