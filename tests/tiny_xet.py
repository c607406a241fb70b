"""Imitates the package hf_xet where huggingface_hub calls it: transfers go through the storage of the tiny Hub.

There is no server for chunks. Tokens are asked for as the real package does, and faults are planned with
`tiny_hub.HUB.fail_xet`. `install(monkeypatch)` switches Xet on, in the client and on the Hub.
"""

from __future__ import annotations

import hashlib
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import tiny_hub

COMPUTE_SHA256 = object()
REPORTED = [  # about the progress of a download
    f"total_{what}{part}" for what in ("bytes", "transfer_bytes") for part in ("", "_completed", "_completion_rate")
]


def install(monkeypatch):
    """Switch Xet on; transfers are counted in `HUB.requests` as "XET up" and "XET down"."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _xet

    names = {"XetSession": Session, "XetFileInfo": FileInfo, "COMPUTE_SHA256": COMPUTE_SHA256, "SKIP_SHA256": None}
    monkeypatch.setitem(sys.modules, "hf_xet", SimpleNamespace(**names))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(_xet, "_GLOBAL_XET_HOLDER", _xet.XetSessionHolder())
    monkeypatch.setattr(_xet, "XET_CONNECTION_INFO_CACHE", {})
    tiny_hub.HUB.xet = True


class XetAuthenticationError(PermissionError):
    """As the real package's."""


class FileInfo:
    def __init__(self, hash, file_size=None, sha256=None):
        self.hash, self.file_size, self.sha256 = hash, file_size, sha256


class Session:
    def new_upload_commit(self, *, token_refresh_url, token_refresh_headers, **_):
        return Uploads(token_refresh_url, token_refresh_headers)

    def new_file_download_group(self, *, progress_callback, **_):
        return Downloads(progress_callback)

    def sigint_abort(self):
        pass


class Transfers:
    """Files of one group; transferred when the `with` ends, or by `wait_to_finish`."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self.wait_to_finish()

    def abort(self):
        pass


class Uploads(Transfers):
    def __init__(self, url, headers):
        self.url, self.headers, self.contents = url, headers, []

    def start_upload_bytes(self, content, sha256=None, name=None):
        self.contents.append(content)
        info = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest())
        return SimpleNamespace(result=lambda: SimpleNamespace(xet_info=info))

    def start_upload_file(self, path, sha256=None):
        return self.start_upload_bytes(Path(path).read_bytes())

    def wait_to_finish(self):
        ask_for_token(self.url, self.headers)
        for content in self.contents:
            kept = broken("up", content)
            tiny_hub.HUB.lfs[hashlib.sha256(kept).hexdigest()] = kept


class Downloads(Transfers):
    def __init__(self, progress):
        self.progress, self.files = progress, []

    def start_download_file(self, info, path):
        self.files.append((info, Path(path)))

    def wait_to_finish(self):
        for info, path in self.files:
            content = next(content for oid, content in tiny_hub.HUB.lfs.items() if tiny_hub.xet_hash(oid) == info.hash)
            path.write_bytes(broken("down", content, path))
            self.progress(SimpleNamespace(**dict.fromkeys(REPORTED, len(content))), {})


def ask_for_token(url, headers):
    """What the Hub refuses is a Python exception without status, as in the real package."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers)).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise XetAuthenticationError(f"Authentication error: {error.code} for {url}") from None
        raise ConnectionError(f"Network error: HTTP status {error.code} for {url}") from None


def broken(during, content, path=None):
    """What is transferred of a file, with the planned fault of this direction."""
    with tiny_hub.HUB.lock:
        tiny_hub.HUB.requests.append(tiny_hub.Request(f"XET {during}"))
        faults = tiny_hub.HUB.xet_faults
        fault = next((fault for fault in faults if fault.during == during), None)
        if fault is None:
            return content
        faults.remove(fault)
    content = content[: len(content) // 2] if fault.half else content
    if fault.error:
        if path and fault.half:
            path.write_bytes(content)
        raise fault.error
    return content
