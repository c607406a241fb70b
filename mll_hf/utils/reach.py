"""Whether the Hub can be asked at all, seen without its client, which takes a third of a second to import."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")  # know more names


def out_of_reach(repo_id: str = "") -> str:
    """Why the Hub cannot be asked; empty if it may be, or if something of it is kept here that answers instead.

    Args:
        repo_id: Also what the Hub's cache has of this model counts.
    """
    kept = [Path(constants.HF_ASSETS_CACHE) / "mll_hf" / "answers"]
    if repo_id:
        kept.append(Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}")
    if constants.HF_HUB_OFFLINE or any(path.exists() for path in kept):
        return ""
    fault = fault_of_hub()
    return f"{fault}, and no copy is cached; go online once" if fault else ""


def fault_of_hub() -> str:
    """Why the Hub cannot be reached; empty if it may be, which only asking it tells."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids requests to the Hub"
    if not set(_PROXIES).isdisjoint(os.environ):
        return ""
    fault = _fault_of_name(urlsplit(constants.ENDPOINT).hostname or "")
    return f"the Hub cannot be reached ({fault})" if fault else ""


@cache
def _fault_of_name(host: str) -> str:
    """Why a name has no address; looked up once, since that may take seconds."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        return str(error)
    return ""
