"""The index of a collection: shards are downloaded whole or read by ranges of bytes, and updated for a commit."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

from mll_hf.errors import HubError, LabelError
from mll_hf.hub.connection import TIMEOUT_SECONDS, download, hub_errors, retried, together
from mll_hf.labels.index import IndexShard, InMemory, LabelIndex, complete_index, update_shards
from mll_hf.labels.store import LABEL_PATH, SHARD_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from huggingface_hub import HfApi

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.hub.connection import Head
    from mll_hf.labels.index import Reader as IndexReader
    from mll_hf.labels.label import LabelSummary

WHOLE_BYTES = 40 * 10**6  # shards of a group that take up to so many bytes are downloaded whole
_GAP = 2**17  # ranges that are so close are read as one
_READ_AT_ONCE = 64  # labels in memory while an index is updated
_log = logging.getLogger(__name__)

Key = tuple[str, str]  # slug and revision of a model
Reader = Callable[[Sequence[str]], Iterable["LabelSummary"]]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a dataset repo at a commit that is read by ranges of bytes."""

    api: HfApi
    head: Head
    path: str

    @property
    def name(self) -> str:
        """Its address."""
        return f"hf://datasets/{self.head.repo_id}@{self.head.sha}/{self.path}"

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.head.files[self.path].size

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes of some ranges [start, end): parallel requests, one for all ranges that are close.

        Raises:
            HubError: They cannot be downloaded.
        """
        spans: list[tuple[int, int]] = []
        for start, end in sorted(ranges):
            if spans and start <= spans[-1][1] + _GAP:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        contents = dict(zip(spans, together(self._get, spans), strict=True))
        return [
            next(content[start - first : end - first] for (first, last), content in contents.items()
                 if first <= start and end <= last)
            for start, end in ranges
        ]  # fmt: skip

    def _get(self, span: tuple[int, int]) -> memoryview:
        start, end = span
        url = hf_hub_url(
            self.head.repo_id, self.path, repo_type="dataset", revision=self.head.sha, endpoint=self.api.endpoint
        )
        headers = {**build_hf_headers(token=self.api.token), "Range": f"bytes={start}-{end - 1}"}

        def get() -> bytes:
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response:
                hf_raise_for_status(response)
                whole = response.headers.get("Content-Length")
                if response.status_code != 206 or whole != str(end - start):  # do not read what was not asked for
                    raise HubError(self.head.repo_id, f"{self.path} cannot be read in parts; try later")
                return bytes(response.read())

        with hub_errors(self.head.repo_id):
            return memoryview(retried(get))


def labels_by_group(head: Head) -> dict[str, dict[Key, str]]:
    """Paths of the label files of each group, by slug and revision of the model."""
    groups: dict[str, dict[Key, str]] = defaultdict(dict)
    for path in sorted(head.files):
        if LABEL_PATH.fullmatch(path):
            _, slug, revision, name = path.split("/")
            groups[name.removesuffix(".safetensors")][slug, revision] = path
    return groups


def shards_by_group(head: Head) -> dict[str, dict[int, str]]:
    """Paths of the shards of each group, by number."""
    groups: dict[str, dict[int, str]] = defaultdict(dict)
    for path in sorted(head.files):
        if SHARD_PATH.fullmatch(path):
            groups[path.split("/")[1]][int(PurePosixPath(path).stem)] = path
    return groups


def open_shards(api: HfApi, head: Head, paths: Mapping[int, str]) -> dict[int, IndexShard]:
    """Open the shards of a group; of a large index only what is needed is downloaded.

    Raises:
        HubError: They cannot be downloaded.
        LabelError: One is no valid shard.
    """
    is_small = sum(head.files[path].size for path in paths.values()) <= WHOLE_BYTES

    def open_shard(path: str) -> IndexShard:
        file = RemoteFile(api, head, path)
        if not is_small:
            return IndexShard.open(file)
        whole = download(api, head.repo_id, "dataset", path, head.sha, WHOLE_BYTES, head.files[path])
        return IndexShard.open(InMemory(file.name, InMemory.mapped(whole).content))

    return dict(zip(paths, together(open_shard, list(paths.values())), strict=True))


def graph_of(stem: str, graphs: Iterable[SemanticGraph]) -> SemanticGraph | None:
    """The graph of a group; None if it is not among some graphs."""
    return next((graph for graph in graphs if stem.startswith(graph.digest[:12])), None)


def read_index(
    api: HfApi, head: Head, shards: Mapping[int, str], files: Mapping[Key, str], graph: SemanticGraph, read: Reader
) -> LabelIndex | None:
    """The index of a group from the paths of its shards and labels; None if no label can be read.

    Labels that the shards lack are read by their paths and added in memory; ``read`` may skip invalid ones.

    Raises:
        HubError: A shard cannot be downloaded.
        LabelError: A shard is not valid.
    """
    digests = {key: head.files[path].oid for key, path in files.items()}
    return complete_index(open_shards(api, head, shards), digests, graph, _with_digests(files, digests, read))


def updated_index(
    api: HfApi, head: Head, stem: str, files: Mapping[Key, str], graph: SemanticGraph, read: Reader
) -> tuple[dict[str, bytes | None], LabelIndex | None]:
    """What a commit must change so that the index of a group has all its labels, and the index that results.

    Args as for :func:`read_index`; the files of the head include the labels to add.

    Returns:
        New content of shards by path, None for those to delete; and the index, None without labels.

    Raises:
        HubError: A shard cannot be downloaded.
    """
    paths = shards_by_group(head)[stem]
    digests = {key: head.files[path].oid for key, path in files.items()}
    changes: dict[str, bytes | None] = {}
    try:
        shards = open_shards(api, head, paths)
    except LabelError as error:
        _log.warning("%s", error)
        shards, changes = {}, dict.fromkeys(paths.values())

    read_missing = _with_digests(files, digests, read)
    for number, content in update_shards(dict(shards), digests, graph, read_missing):
        path = f"index/{stem}/{number:05d}.safetensors"
        changes[path] = content
        shards.pop(number, None)
        if content is not None:
            shards[number] = IndexShard.open(InMemory(path, memoryview(content)))
    return changes, LabelIndex(tuple(shards.values()), digests) if shards else None


def _with_digests(files: Mapping[Key, str], digests: Mapping[Key, str], read: Reader) -> IndexReader:
    """Reads labels by their keys, a few at a time, with the sha256 of their files."""

    def read_keys(keys: Sequence[Key]) -> Iterator[tuple[LabelSummary, str]]:
        for first in range(0, len(keys), _READ_AT_ONCE):
            for label in read([files[key] for key in keys[first : first + _READ_AT_ONCE]]):
                yield label, digests[label.model.slug, label.model.revision]

    return read_keys
