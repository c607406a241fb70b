"""Stream a dataset and keep a few images of each concept.

A draw is a pseudorandom number from an image and the seed. The images of a concept with the lowest draws are its
sample, which therefore depends neither on the order of the images nor on the shards. Each finished shard is a file in
the working folder, so an interrupted run resumes with the next shard.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
import zlib
from bisect import bisect_left, insort
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_file_system import HfFileSystemStreamFile
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2, whichever the client uses
from huggingface_hub.utils.tqdm import tqdm

from graph.credits import CREDIT_COLUMNS, LICENSE_COLUMNS, Credit, credit_in
from graph.sources import ImageSource, PinnedSource, wnids_of_labels
from mll_hf.errors import HubError, MissingExtraError, MLLError
from mll_hf.hub.connection import hub_errors, is_transient
from mll_hf.utils.files import canonical_json, storage_errors
from mll_hf.utils.images import open_image, usable_cores
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from datasets import IterableDataset

    from mll_hf.graph.concepts import SemanticGraph

_FORMAT = 3  # of the working folder and the draws
_BATCH = 64
_WAITS = (1.0, 5.0, 30.0)  # before a shard is read again; the client has already retried each request for half a minute
_JPEG_QUALITY = 92
SKIP_REASONS = ("outside", "undecodable", "unlicensed", "ambiguous")


@dataclass(frozen=True, slots=True)
class HarvestConfig:
    """Number and size of the images.

    Attributes:
        images_per_concept: Maximum number of own images per concept.
        seed: Seed of the sample.
        max_side: Maximum pixels of the longer side. Larger images are resized and encoded again, all others are kept
            unchanged. None keeps all unchanged.
        redistributable: Whether only images with an open license and a known author or page are taken.
    """

    images_per_concept: int = 75
    seed: int = 0
    max_side: int | None = 512
    redistributable: bool = False


def source_key(pinned: PinnedSource, graph: SemanticGraph, config: HarvestConfig) -> str:
    """Digest (32 hex digits) of all that determines the sample of a source."""
    source = pinned.source
    concepts = hashlib.sha256("\n".join(graph.index).encode()).hexdigest()
    columns = [source.repo_id, pinned.sha, source.config, source.split, source.files, source.image, source.label]
    columns += [source.objects, source.key, pinned.credits.digest if pinned.credits else None]
    labels = sorted(pinned.by_label.items()) if pinned.by_label else None
    whole = {"format": _FORMAT, "source": columns, "labels": labels, "concepts": concepts, **asdict(config)}
    return hashlib.sha256(canonical_json(whole).encode()).hexdigest()[:32]


# --- opening ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A source that can be streamed and whose columns and labels are as expected.

    Attributes:
        pinned: The source at its commit.
        stream: Its rows, with encoded images.
        image: Image column.
        by_label: Wnid of each label, as a string; None if labels are wnids.
        graph: The graph.
        has_licenses: Whether each image has a license.
    """

    pinned: PinnedSource
    stream: IterableDataset
    image: str
    by_label: Mapping[str, str] | None
    graph: SemanticGraph
    has_licenses: bool

    @property
    def shards(self) -> int:
        """Number of shards."""
        return int(self.stream.num_shards)

    def concept_of(self, label: object) -> str | None:
        """Id of the concept of a label; None if the graph has none, a HubError if the source's list lacks it."""
        text, source = str(label), self.pinned.source
        if source.labels_are_indices and self.by_label and text not in self.by_label:
            raise HubError(source.repo_id, f"has a label '{text}', which is not in {source.labels}; correct labels=...")
        wnid = text if self.by_label is None else self.by_label.get(text)
        return wnid if wnid in self.graph.index else None

    def concepts_of(self, labels: Iterable[object]) -> set[str]:
        """Ids of the concepts of several labels of the same image, without hypernyms of one another."""
        graph = self.graph
        found = {concept for label in labels if (concept := self.concept_of(label))}
        above = {graph.concepts[a].id for concept in found for a in graph.ancestors[graph.index[concept]]}
        return found - above

    def credit_of(self, example: Mapping[str, Any]) -> Credit:
        """License and author of an image; empty where they are unknown."""
        pinned = self.pinned
        if pinned.credits is None:
            return credit_in(example)
        key = example[pinned.source.key] if pinned.source.key else None
        return pinned.credits.of(key) or Credit("", "", "")


def open_all(sources: Sequence[PinnedSource], graph: SemanticGraph) -> tuple[OpenSource, ...]:
    """Open all sources, so that problems of any of them show before the first image is downloaded.

    Raises:
        HubError: A source cannot be read, lacks a column or split, or its labels contradict its class names.
        MissingExtraError: datasets is not installed.
    """
    with _connections_closed_with_files():
        return tuple(_open(source, graph) for source in sources)


def _open(pinned: PinnedSource, graph: SemanticGraph) -> OpenSource:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "build") from None

    source = pinned.source
    with _stream_errors(source.repo_id):
        stream = datasets.load_dataset(
            source.repo_id,
            source.config,
            data_files={source.split: source.files} if source.files else None,
            split=source.split,
            revision=pinned.sha,
            streaming=True,
        )
    features = stream.features or {}  # unknown for some formats, such as CSV, which have no images
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1 if source.image is None else source.image not in images:
        wanted = f"image column '{source.image}'" if source.image else "single image column"
        raise HubError(source.repo_id, f"has no {wanted}, only {', '.join(images) or 'none'}; add image=COLUMN")
    column, image = source.objects or source.label, source.image or images[0]
    option = "objects" if source.objects else "label"
    needed = {option: column} | ({"key": source.key or ""} if pinned.credits else {})
    for option, name in needed.items():
        if name not in features:
            raise HubError(source.repo_id, f"has no column '{name}', only {', '.join(features)}; add {option}=COLUMN")
    kind = getattr(features[column], "feature", features[column])  # of the items of a list, or of the column itself
    if source.objects:
        if not isinstance(kind, dict) or source.label not in kind:
            fields = ", ".join(kind) if isinstance(kind, dict) else "none"
            raise HubError(source.repo_id, f"its {column} have no '{source.label}', only {fields}; add label=FIELD")
        kind = getattr(kind[source.label], "feature", kind[source.label])
    by_label = wnids_of_labels(pinned, kind.names if isinstance(kind, datasets.ClassLabel) else None, graph)
    credits = [name for name in CREDIT_COLUMNS if isinstance(features.get(name), datasets.Value)]
    columns = list(dict.fromkeys([image, *needed.values(), *credits]))
    stream = stream.select_columns(columns).cast_column(image, datasets.Image(decode=False))
    has_licenses = pinned.credits is not None or any(name in credits for name in LICENSE_COLUMNS)
    return OpenSource(pinned, stream, image, by_label, graph, has_licenses)


@contextmanager
def _connections_closed_with_files() -> Iterator[None]:
    """Close the connection of a streamed file together with the file.

    huggingface_hub closes it only when the file is garbage collected. `datasets` leaves files in reference cycles, so
    that can happen during another request of the same thread, which then waits forever for the lock of the connection
    pool that it holds itself.
    """
    close = HfFileSystemStreamFile.close

    def close_both(file: HfFileSystemStreamFile) -> None:
        file._exit_stack.close()
        close(file)

    HfFileSystemStreamFile.close = close_both
    try:
        yield
    finally:
        HfFileSystemStreamFile.close = close


@contextmanager
def _stream_errors(repo_id: str) -> Iterator[None]:
    """Raise a HubError with a one-line reason if a dataset cannot be opened."""
    with hub_errors(repo_id):
        try:
            yield
        except Exception as error:  # datasets raises many types; the most specific is at the end of the chain
            chain: list[BaseException] = [error]
            while cause := chain[-1].__cause__ or chain[-1].__context__:
                chain.append(cause)
            for known in reversed(chain):
                if isinstance(known, (HfHubHTTPError, httpx.HTTPError)):
                    raise known from error
            reason = f"cannot be streamed ({one_line(error)}); check its name, config=... and split=..."
            if "gated" in str(error):
                terms = f"{constants.ENDPOINT}/datasets/{repo_id}"
                reason = f"is gated; accept its terms at {terms} and log in: hf auth login"
            raise HubError(repo_id, reason) from error


# --- gathering --------------------------------------------------------------------------------------------------------


class Image(NamedTuple):
    """An image in the working folder.

    Attributes:
        concept: Id of its concept.
        draw: Its draw.
        id: First 32 hex digits of the SHA-256 of the image in its dataset.
        shard: Number of its shard.
        row: Its row in the table of the shard.
    """

    concept: str
    draw: bytes
    id: str
    shard: int
    row: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """Images of a source.

    Attributes:
        shards: One table per shard, with a row per image. ``left_out`` is the reason if it was skipped; ``content`` is
            null if it was skipped, or was not in the sample when it was read.
        images: The images with content; the sample is among them.
        tally: Numbers of images: ``seen``; ``outside`` the graph; ``undecodable``; ``unlicensed``; ``ambiguous``, with
            labels of several concepts, none a hypernym of another.
    """

    shards: tuple[pa.Table, ...]
    images: tuple[Image, ...]
    tally: Mapping[str, int]

    def content(self, image: Image) -> bytes:
        """The encoded image."""
        return bytes(self.shards[image.shard]["content"][image.row].as_py())

    def credit(self, image: Image) -> Credit:
        """License and author of the image."""
        return Credit(*(self.shards[image.shard][column][image.row].as_py() or "" for column in Credit._fields))


def gather(source: OpenSource, config: HarvestConfig, folder: Path) -> Gathered:
    """Stream a dataset into a working folder of its own; finished shards are skipped.

    Raises:
        HubError: The stream broke off repeatedly, or a label is not in the source's list of classes.
        StorageError: The disk is full, or the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    lowest, left_out = _Lowest(config.images_per_concept), Counter[str]()
    shards, images = list[pa.Table](), list[Image]()
    progress = tqdm(  # type: ignore[no-untyped-call]
        unit="image", desc=source.pinned.source.name, name="mll_hf.harvest", leave=False, disable=None
    )
    with progress, _connections_closed_with_files(), ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        for number in range(source.shards):
            file = folder / f"{number:05}.arrow"
            try:
                table = _read(file)
            except (OSError, pa.ArrowException):  # not finished, or damaged
                table = _write_with_retries(source, number, config, lowest, file, pool)
            progress.update(len(table))
            shards.append(table)
            sizes = pc.binary_length(table["content"]).to_pylist()
            left_out.update(table["left_out"].drop_null().to_pylist())
            labeled = zip(table["concept"].to_pylist(), table["id"].to_pylist(), sizes, strict=True)
            for row, (concept, id, size) in enumerate(labeled):
                if size:
                    draw = draw_of(config.seed, concept, id)
                    lowest.add(concept, draw, id)
                    images.append(Image(concept, draw, id, number, row))
    tally = {"seen": sum(map(len, shards)), **{reason: left_out[reason] for reason in SKIP_REASONS}}
    return Gathered(tuple(shards), tuple(images), tally)


@dataclass(frozen=True, slots=True)
class _Lowest:
    """The lowest draws of each concept so far, ascending, each with the id of its image."""

    limit: int
    of: dict[str, list[tuple[bytes, str]]] = field(default_factory=dict)

    def copy(self) -> _Lowest:
        return _Lowest(self.limit, {concept: list(draws) for concept, draws in self.of.items()})

    def accepts(self, concept: str, draw: bytes, id: str) -> bool:
        """Whether an image would be among the lowest draws, and is not yet."""
        draws = self.of.get(concept, [])
        at = bisect_left(draws, (draw, id))
        return at < self.limit and draws[at : at + 1] != [(draw, id)]

    def add(self, concept: str, draw: bytes, id: str) -> None:
        if self.accepts(concept, draw, id):
            insort(self.of.setdefault(concept, []), (draw, id))
            del self.of[concept][self.limit :]


def _read(file: Path) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _write_with_retries(
    source: OpenSource, number: int, config: HarvestConfig, lowest: _Lowest, file: Path, pool: ThreadPoolExecutor
) -> pa.Table:
    import pyarrow as pa

    repo_id = source.pinned.source.repo_id
    for wait in (*_WAITS, None):
        try:
            _write(source, number, config, lowest.copy(), file, pool)
            return _read(file)
        except MLLError:
            raise
        except (OSError, EOFError, httpx.HTTPError, pa.ArrowException, tarfile.TarError, zlib.error) as error:
            if isinstance(error, HfHubHTTPError) and not is_transient(error):
                with hub_errors(repo_id):
                    raise
            if wait is None:
                raise HubError(
                    repo_id,
                    f"the stream broke off in shard {number + 1} of {source.shards} ({one_line(error)}); "
                    "run the same command again to resume",
                ) from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def _write(
    source: OpenSource, number: int, config: HarvestConfig, lowest: _Lowest, file: Path, pool: ThreadPoolExecutor
) -> None:
    """Stream a shard to a temporary file, and rename it at the end."""
    import pyarrow as pa

    texts = dict.fromkeys(("concept", "id", "left_out", *Credit._fields), pa.string())
    schema = pa.schema({**texts, "content": pa.binary()})
    temporary = file.with_suffix(".partial")
    examples = iter(source.stream.shard(num_shards=source.shards, index=number))
    with storage_errors(temporary):
        temporary.parent.mkdir(parents=True, exist_ok=True)
        writer = pa.ipc.new_file(str(temporary), schema)
    try:
        while batch := list(islice(examples, _BATCH)):
            table = pa.Table.from_pylist(_sampled(source, batch, config, lowest, pool), schema)
            with storage_errors(temporary):
                writer.write_table(table)
    finally:
        with storage_errors(temporary):
            writer.close()
    with storage_errors(file):
        os.replace(temporary, file)


def _sampled(
    source: OpenSource, batch: list[dict[str, Any]], config: HarvestConfig, lowest: _Lowest, pool: ThreadPoolExecutor
) -> list[dict[str, Any]]:
    """Rows for a batch, see :class:`Gathered`; adds the images in the sample to the lowest draws."""
    rows, wanted = list[dict[str, Any]](), []
    for example in batch:
        content = (example[source.image] or {}).get("bytes") or b""
        id, credit = hashlib.sha256(content).hexdigest()[:32], source.credit_of(example)
        concepts = source.concepts_of(labels_of(source.pinned.source, example))
        concept = next(iter(concepts)) if len(concepts) == 1 else None
        left_out = None if concept else "ambiguous" if concepts else "outside"
        if config.redistributable and not credit.is_redistributable:
            concept, left_out = None, "unlicensed"
        rows.append({"concept": concept, "id": id, "left_out": left_out, "content": None, **credit._asdict()})
        if concept and lowest.accepts(concept, draw := draw_of(config.seed, concept, id), id):
            wanted.append((rows[-1], draw, content))
    contents = pool.map(lambda each: prepared(each[2], config.max_side), wanted)
    for (row, draw, *_), content in zip(wanted, contents, strict=True):
        if content is None:
            row |= {"content": b"", "left_out": "undecodable"}
        elif lowest.accepts(row["concept"], draw, row["id"]):
            row["content"] = content
            lowest.add(row["concept"], draw, row["id"])
    return rows


def labels_of(source: ImageSource, example: Mapping[str, Any]) -> list[object]:
    """The labels of an image; those of several are left out that annotators did not confirm (confidence 0)."""
    if source.objects is None:
        return [example[source.label]]
    labels = example[source.objects] or ()
    if isinstance(labels, dict):  # a feature Sequence of several columns
        labels = [dict(zip(labels, values, strict=False)) for values in zip(*labels.values(), strict=False)]
    return [each[source.label] for each in labels if each and each.get("confidence") != 0]


def draw_of(seed: int, concept: str, text: str) -> bytes:
    """Eight pseudorandom bytes for a text within a concept."""
    return hashlib.blake2b(f"{seed}/{concept}/{text}".encode(), digest_size=8).digest()


def prepared(content: bytes, max_side: int | None) -> bytes | None:
    """An image as it is stored: unchanged, or resized; None if it cannot be decoded."""
    image = open_image(content)
    if image is None or max_side is None or max(image.size) <= max_side:
        return None if image is None else content
    image.thumbnail((max_side, max_side))
    smaller = io.BytesIO()
    image.save(smaller, format="JPEG", quality=_JPEG_QUALITY)
    return smaller.getvalue()
