"""Read parts of a large file, such as a shard of a collection's index, without downloading all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

from mll_hf.errors import HubError
from mll_hf.hub.connection import TIMEOUT_SECONDS, hub_errors, map_parallel, retried

if TYPE_CHECKING:
    from collections.abc import Sequence

    from huggingface_hub import HfApi

    from mll_hf.hub.connection import Head

_GAP = 2**17  # ranges at most this far apart are read as one


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a dataset repo at a commit, read by ranges of bytes."""

    api: HfApi
    head: Head
    path: str

    @property
    def name(self) -> str:
        """The file's URL."""
        return f"hf://datasets/{self.head.repo_id}@{self.head.sha}/{self.path}"

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.head.files[self.path].size

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes of ranges [start, end), from parallel requests; ranges close to each other share one.

        Raises:
            HubError: They cannot be downloaded.
        """
        spans: list[tuple[int, int]] = []
        for start, end in sorted(ranges):
            if spans and start <= spans[-1][1] + _GAP:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        contents = dict(zip(spans, map_parallel(self._get, spans), strict=True))
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
                length = response.headers.get("Content-Length")
                if response.status_code != 206 or length != str(end - start):  # do not read more than requested
                    raise HubError(self.head.repo_id, f"{self.path} cannot be read in parts; try later")
                return bytes(response.read())

        with hub_errors(self.head.repo_id):
            return memoryview(retried(get))
