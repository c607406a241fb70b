"""Check whether the Hub can be reached, without its client, which takes a third of a second to import."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

_PROXIES = (
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
)  # a proxy resolves names itself


def why_unreachable(repo_id: str = "") -> str:
    """Why the Hub cannot be reached; empty if it may be reachable, or if cached responses can be used instead.

    Args:
        repo_id: A model whose cached files can be used too.
    """
    caches = [Path(constants.HF_ASSETS_CACHE) / "mll_hf" / "answers"]
    if repo_id:
        caches.append(Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}")
    if constants.HF_HUB_OFFLINE or any(path.exists() for path in caches):
        return ""
    fault = fault_of_hub()
    return f"{fault}, and no copy is cached; go online once" if fault else ""


def fault_of_hub() -> str:
    """Why the Hub cannot be reached; empty if it may be reachable."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if not set(_PROXIES).isdisjoint(os.environ):
        return ""
    error = _resolution_error(urlsplit(constants.ENDPOINT).hostname or "")
    return f"the Hub cannot be reached ({error})" if error else ""


@cache
def _resolution_error(host: str) -> str:
    """Why a host name cannot be resolved; cached, since the lookup may take seconds."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        return str(error)
    return ""
