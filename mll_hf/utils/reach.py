"""Check whether the Hub can be reached, without importing its client, which takes 0.3 s."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")  # may resolve names
_SECONDS = 3  # for each address


def why_unreachable(repo_id: str = "") -> str:
    """Why the Hub cannot be used; empty if it may be reachable, or if answers or files of this model are cached."""
    answers = Path(constants.HF_ASSETS_CACHE) / "mll_hf" / "answers"
    if constants.HF_HUB_OFFLINE or answers.exists() or (repo_id and is_cached(repo_id)):
        return ""
    error = hub_error()
    return f"{error}, and no copy is cached; go online once" if error else ""


def is_cached(repo_id: str) -> bool:
    """Whether files of a model are in the local cache."""
    return (Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}").exists()


def hub_error() -> str:
    """Why the Hub cannot be reached; empty if it may be reachable, which only a request can tell."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if not set(_PROXIES).isdisjoint(os.environ):
        return ""
    hub = urlsplit(constants.ENDPOINT)
    error = _connection_error(hub.hostname or "", hub.port or (80 if hub.scheme == "http" else 443))
    return f"the Hub cannot be reached ({error})" if error else ""


@cache
def _connection_error(host: str, port: int) -> str:
    """Why a host cannot be connected to, behind a firewall for instance; cached, since this may take seconds."""
    try:
        socket.create_connection((host, port), _SECONDS).close()
    except OSError as error:
        return str(error)
    return ""
