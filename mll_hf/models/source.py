"""Locate a model's files: a commit on the Hub, or a local folder.

Resolving downloads nothing: the Hub counts even a HEAD request for ``config.json`` as a download, so the backend is
chosen by file names.
"""

from __future__ import annotations

import contextlib
import os
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound, GatedRepoError

from mll_hf.errors import HubError, ModelError
from mll_hf.hub.connection import (
    FULL_SHA,
    Head,
    RepoFile,
    answered,
    connect,
    hub_errors,
    is_unreachable,
    newest_head,
    read_head,
)
from mll_hf.labels.identity import SETTINGS, blob_id, deciding_files
from mll_hf.labels.label import LOCAL_PREFIX, ModelRef
from mll_hf.utils.files import file_digest
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

_OPEN_CLIP_CONFIG = "open_clip_config.json"
_OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_OPEN_CLIP_PICKLES = ("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth")
_SENTENCE_CONFIG = "modules.json"
_WEIGHTS = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_LARGE_SUFFIXES = (".safetensors", ".model", *_PICKLE_SUFFIXES)  # those of every new repo's .gitattributes
_LARGE_BYTES = 10 * 10**6  # from which the Hub stores any file by its sha256
_BYTES_PER_PARAMETER = 4  # float32, what most weights on the Hub are stored in; an estimate should not be too low
_MAX_PART_BYTES = 100 * 10**6  # tokenizers of many languages have up to 40 MB


class Backend(StrEnum):
    """The library that runs a model."""

    OPEN_CLIP = "open_clip"
    TRANSFORMERS = "transformers"


def resolve_model(spec: str, token: str | None = None) -> ModelRef:
    """Pin a model to a commit and choose its backend.

    Sends one request to the Hub and downloads nothing. Offline, uses the newest matching revision in the local cache.

    ``spec`` is ``org/name``, ``org/name@revision`` or ``local-dir:PATH``; without a token, the saved one is used. A
    ModelError if the model does not exist, cannot be reached, or has no safetensors weights.
    """
    head = _locate(spec, token)
    backend = _backend_for(spec, head.model_files)
    digest = head.digest(backend)
    return ModelRef(head.repo_id, head.sha or str(digest)[:40], backend, digest)


def check_access(ref: ModelRef, token: str | None) -> None:
    """Raise ModelError if a model that was resolved is gated, and not for this user."""
    try:
        with hub_errors(ref.repo_id):
            if read_head(api := connect(token), ref.repo_id, "model", ref.revision).gated:
                api.auth_check(ref.repo_id)
    except HubError as error:
        if isinstance(error.__cause__, GatedRepoError):
            raise ModelError(ref.repo_id, error.reason) from error


def fetch(ref: ModelRef, token: str | None, check: Callable[[Path], object] | None = None) -> Path:
    """Download a model's files at its pinned revision; returns their folder.

    Downloads the files that decide the model's outputs, which its digest covers, and the index of sharded weights.
    ``check`` refuses a model by its settings, gigabytes before its weights. A ModelError if the files cannot be
    downloaded, are not those of the model's digest, or a local folder has changed.
    """
    backend, name = backend_of(ref), ref.repo_id
    if not ref.is_local and not FULL_SHA.fullmatch(ref.revision):
        raise ModelError(name, f"is pinned to '{ref.revision}', not to a full commit sha; go online and select again")
    head = _locate(name if ref.is_local else f"{name}@{ref.revision}", token)
    _backend_for(name, head.model_files, backend)
    digest = head.digest(backend)
    if ref.is_local:
        if ref.revision != str(digest)[:40]:
            raise ModelError(name, "has changed since it was labeled; label it again")
        return Path(name.removeprefix(LOCAL_PREFIX))
    names = _needed(head.model_files, backend)
    if digest:
        _compare(ref, digest)
    if check:
        check(_download(ref, [name for name in names if name.endswith(".json")], token))
    folder = _download(ref, names, token)
    if not digest:
        _compare(ref, Head(name, "model", ref.revision, _files_in(folder)).digest(backend))
    return folder


def _needed(files: Collection[str], backend: Backend) -> list[str]:
    """The files among a repo's that :func:`fetch` downloads."""
    return [*deciding_files(files, backend), *({_SHARD_INDEX} & set(files))]


def _compare(ref: ModelRef, digest: str | None) -> None:
    if ref.digest and digest != ref.digest:
        reason = f"at {ref.revision[:12]} is not the model that was measured; label or select again"
        raise ModelError(ref.repo_id, reason)


def bytes_to_fetch(ref: ModelRef, parameters: int, token: str | None = None) -> int:
    """Bytes that :func:`fetch` would download; cached files and local folders count as 0.

    Sends one request to the Hub, none for a commit whose files are known. If the Hub cannot be reached, 4 bytes per
    parameter are assumed. What :func:`fetch_parts` downloads, at most 100 MB, does not count.
    """
    backend = backend_of(ref)
    if ref.is_local:
        return 0
    try:
        head = _locate(f"{ref.repo_id}@{ref.revision}", token)
    except ModelError:
        return _BYTES_PER_PARAMETER * parameters
    needed = _needed(head.model_files, backend)
    missing = (n for n in needed if not isinstance(try_to_load_from_cache(head.repo_id, n, revision=head.sha), str))
    return sum(head.files[name].size for name in missing)


def backend_of(ref: ModelRef) -> Backend:
    """The library that runs a model; a ModelError if this version does not know it."""
    try:
        return Backend(ref.backend)
    except ValueError:
        reason = f"needs the unknown backend '{ref.backend}' (known: {', '.join(Backend)}); update mll-hf"
        raise ModelError(ref.repo_id, reason) from None


# ---- parts in other repos: an open_clip config may name those of its text tower and its tokenizer


def fetch_parts(ref: ModelRef, folder: Path, text: Mapping[str, Any], token: str | None) -> dict[str, Path]:
    """Folders with the settings and tokenizers of the other repos that an open_clip model needs, by their name.

    The model's digest cannot cover them, since only its downloaded config names them, in its part ``text``. Each repo
    is pinned to its commit of the first load on this machine. Only settings and tokenizers are downloaded, no code and
    no weights, and at most 100 MB. A ModelError if a repo cannot be reached, or its files are too large.
    """
    parts: dict[str | None, tuple[str, ...]] = {text.get("hf_model_name"): ("config.json",)}
    if not (folder / "tokenizer_config.json").is_file():
        parts[text.get("hf_tokenizer_name")] = SETTINGS
    return {name: _fetch_part(ref, name, patterns, token) for name, patterns in parts.items() if name}


def _fetch_part(ref: ModelRef, name: str, patterns: Sequence[str], token: str | None) -> Path:
    if ref.is_local and Path(name).is_dir():
        return Path(name)
    api = connect(token)
    try:
        with hub_errors(name):
            commit = answered(
                api, f"{name} for {ref.key}", lambda: newest_head(api, name, "model").sha, str, is_final=True
            )
            head = read_head(api, name, "model", commit)
            at_root = [file for file in head.files if "/" not in file]
            files = [file for file in at_root if any(fnmatch(file, pattern) for pattern in patterns)]
            if sum(head.files[file].size for file in files) > _MAX_PART_BYTES:
                raise HubError(name, f"is a tokenizer of over {_MAX_PART_BYTES:,} bytes")
            return Path(snapshot_download(head.repo_id, revision=head.sha, allow_patterns=files, token=token))
    except HubError as error:
        raise ModelError(ref.repo_id, f"needs files of another repo ({error}); use another model") from error


# ---- backend, by file names


def _backend_for(spec: str, names: Collection[str], wanted: Backend | None = None) -> Backend:
    """The backend that loads a repo with these files: the wanted or the preferred one."""
    backends = _loadable(names)
    if not backends or wanted not in (None, *backends):
        raise ModelError(spec, _why_unusable(names))
    return wanted or backends[0]


def _loadable(names: Collection[str]) -> list[Backend]:
    """Backends that can load a repo with these files, preferred one first."""
    found = set(names)
    backends = []
    if _OPEN_CLIP_CONFIG in found:
        # model.safetensors may be for transformers, and open_clip would prefer its own pickle file
        unambiguous = _WEIGHTS in found and not found & {"config.json", *_OPEN_CLIP_PICKLES}
        if unambiguous or found.intersection(_OPEN_CLIP_WEIGHTS):
            backends.append(Backend.OPEN_CLIP)
    if "config.json" in found and found & {_WEIGHTS, _SHARD_INDEX} and _SENTENCE_CONFIG not in found:
        backends.append(Backend.TRANSFORMERS)
    return backends


def _why_unusable(names: Collection[str]) -> str:
    if _SENTENCE_CONFIG in names:  # transformers would ignore all modules but the first
        return "is a model of sentence-transformers; choose one of open_clip or transformers"
    configs = (_OPEN_CLIP_CONFIG, "config.json")
    if any(name.endswith(".safetensors") for name in names) and not set(configs) & set(names):
        return f"has weights but no {', '.join(configs)}; choose a model of one of these layouts"
    if any(name.endswith(_PICKLE_SUFFIXES) for name in names):
        return "has only pickle weights, which can run code when loaded; ask its author for safetensors"
    files = abridged(sorted(names), 4) or "none"
    reason = f"is not a model that open_clip or transformers can load (files: {files})"
    return f"{reason}; choose one with a config and weights in safetensors"


# ---- commits and folders


def _locate(spec: str, token: str | None) -> Head:
    """The commit that a spec names, with its files; offline the newest matching one in the local cache.

    A folder is a commit without a sha.
    """
    if spec.startswith(LOCAL_PREFIX):
        folder = Path(os.path.abspath(os.path.expanduser(spec.removeprefix(LOCAL_PREFIX))))
        if not folder.is_dir():
            raise ModelError(spec, f"there is no folder {folder}; check the path")
        try:
            return Head(f"{LOCAL_PREFIX}{folder}", "model", "", _files_in(folder))
        except OSError as error:
            raise ModelError(spec, f"cannot be read ({error.strerror}); check the folder's permissions") from error
    repo_id, _, revision = spec.partition("@")
    if "/" not in repo_id or spec.startswith(("/", ".", "~")):
        raise ModelError(spec, f"is not of the form org/name; for a folder write {LOCAL_PREFIX}{spec}")
    is_pinned = FULL_SHA.fullmatch(revision)
    try:
        return (read_head if is_pinned else newest_head)(connect(token), repo_id, "model", revision or "main")
    except HubError as error:
        copy = _newest_cached(repo_id, revision, token) if is_pinned or is_unreachable(error) else None
        if copy is None:
            raise ModelError(repo_id if is_pinned else spec, error.reason) from error
        return copy


def _newest_cached(repo_id: str, revision: str, token: str | None) -> Head | None:
    """The newest cached commit of a revision (of any, if empty)."""
    try:
        repos = [repo for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos if repo.repo_type == "model"]
    except CacheNotFound:
        return None
    copies = [
        (copy.last_modified, copy.commit_hash, copy.snapshot_path)
        for repo in repos
        for copy in repo.revisions
        if repo.repo_id == repo_id and (revision in ("", copy.commit_hash) or revision in copy.refs)
    ]
    # reading cards and labels also caches revisions, without weights
    usable = [copy for copy in copies if _loadable(os.listdir(copy[2]))]
    if not usable:
        return None
    _, sha, folder = max(usable)
    with contextlib.suppress(HubError):
        return read_head(connect(token), repo_id, "model", sha)  # as listed at the download
    return Head(repo_id, "model", sha, _files_in(folder))


def _files_in(folder: Path) -> dict[str, RepoFile]:
    """The files in a folder as the Hub lists them, with the ids of those that decide a model's outputs."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    deciding = {name for backend in Backend for name in deciding_files(names, backend)}
    files = {}
    for name in names:
        file, size = folder / name, (folder / name).stat().st_size
        is_large = name.endswith(_LARGE_SUFFIXES) or size > _LARGE_BYTES
        id = "" if name not in deciding else file_digest(file).hex() if is_large else blob_id(file.read_bytes())
        files[name] = RepoFile(size, id)
    return files


def _download(ref: ModelRef, names: Collection[str], token: str | None) -> Path:
    try:
        with hub_errors(ref.repo_id):
            return Path(snapshot_download(ref.repo_id, revision=ref.revision, allow_patterns=list(names), token=token))
    except HubError as error:
        raise ModelError(ref.repo_id, error.reason) from error
