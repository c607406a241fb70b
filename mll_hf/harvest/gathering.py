"""Streaming a data set through a sieve that keeps a few images of each concept.

An image is kept if its number, drawn from its content and the seed, is among the lowest of its concept. So the sample
depends on nothing but the images: not on their order, nor on how the data set is cut into shards. A shard is read as a
whole or not at all: what it gave is on the disk before the next one starts, and a run that was stopped goes on there.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
import zlib
from bisect import bisect_left, insort
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2, whichever the client uses
from huggingface_hub.utils.tqdm import tqdm

from mll_hf.errors import HubError, InputError, MissingExtraError, MLLError
from mll_hf.harvest.sources import Labels, PinnedSource, read_labels
from mll_hf.hub.connection import hub_errors, is_transient
from mll_hf.utils.files import canonical_json, storage_errors, write_atomically
from mll_hf.utils.images import decode_image, usable_cores
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from datasets import IterableDataset

    from mll_hf.graph.concepts import SemanticGraph

_FORMAT = 1  # of what is kept between runs, and of how images are drawn
_BATCH = 64
_WAITS = (1.0, 5.0, 30.0)  # before a shard is tried again; the client has tried each request for half a minute before
_JPEG_QUALITY = 92


@dataclass(frozen=True, slots=True)
class HarvestConfig:
    """How many images are kept, and how.

    Attributes:
        images_per_concept: Most images filed under a concept.
        seed: Seed of the sample.
        max_side: Pixels of the longer side; larger images are made smaller and encoded anew, all others are kept as
            they are. None keeps all as they are.
    """

    images_per_concept: int = 75
    seed: int = 0
    max_side: int | None = 512

    def __post_init__(self) -> None:
        if self.images_per_concept < 1 or (self.max_side is not None and self.max_side < 1):
            raise InputError("images per concept and the longest side are at least 1; choose other numbers")


class Image(NamedTuple):
    """An image that was kept.

    Attributes:
        draw: Its number; the lowest of a concept are its sample.
        id: 32 hex digits of the sha256 of the image as the data set has it.
        concept: Id of the concept that it is filed under.
        shard: Number of the shard that it came from.
        offset: Where it starts in the file of the shard.
        size: Its bytes.
    """

    draw: int
    id: str
    concept: str
    shard: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What was met on the way.

    Attributes:
        seen: Images.
        outside: Images of labels that have no concept in the graph.
        undecodable: Images that would have been kept and cannot be decoded.
    """

    seen: int = 0
    outside: int = 0
    undecodable: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.seen + other.seen, self.outside + other.outside, self.undecodable + other.undecodable)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a source gave.

    Attributes:
        folder: Where the images are.
        images: The sample, at most ``images_per_concept`` for each concept; lowest numbers first.
        tally: What was met.
    """

    folder: Path
    images: tuple[Image, ...]
    tally: Tally

    def read(self, image: Image) -> bytes:
        """The encoded picture.

        Raises:
            InputError: The working folder was changed meanwhile.
        """
        try:
            with _blob(self.folder, image.shard).open("rb") as file:
                file.seek(image.offset)
                return file.read(image.size)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be read ({error.strerror}); run the same command again") from None


def source_key(pinned: PinnedSource, graph: SemanticGraph, config: HarvestConfig) -> str:
    """Digest (32 hex digits) of all that decides what a source gives."""
    source = pinned.source
    concepts = hashlib.sha256("\n".join(graph.index).encode()).hexdigest()
    columns = [source.repo_id, pinned.sha, source.config, source.split, source.files, source.image, source.label]
    labels = sorted(pinned.by_label.items()) if pinned.by_label else None
    whole = {"format": _FORMAT, "source": columns, "labels": labels, "concepts": concepts, **asdict(config)}
    return hashlib.sha256(canonical_json(whole).encode()).hexdigest()[:32]


# --- the data set -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A source whose first bytes have been read and found good.

    Attributes:
        pinned: The source at its commit.
        stream: Its rows, with images left encoded.
        image: Column of the images.
        labels: What its labels mean.
    """

    pinned: PinnedSource
    stream: IterableDataset
    image: str
    labels: Labels

    @property
    def shards(self) -> int:
        """How many files it is in."""
        return int(self.stream.num_shards)


def open_source(pinned: PinnedSource, graph: SemanticGraph, token: str | None = None) -> OpenSource:
    """Open a data set for streaming, and check its columns and labels against what its source says.

    Raises:
        HubError: It cannot be read, lacks a column or split, or its labels contradict the source.
        MissingExtraError: datasets is not installed.
    """
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
            token=token,
        )
    features = stream.features or {}  # what has none before it is read, such as CSV, has no images
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1 if source.image is None else source.image not in images:
        wanted = f"column of images '{source.image}'" if source.image else "single column of images"
        raise HubError(source.repo_id, f"has no {wanted}, but {_listed(images)}; say image=COLUMN")
    if source.label not in features:
        raise HubError(source.repo_id, f"has no column '{source.label}', but {_listed(features)}; say label=COLUMN")
    kind, image = features[source.label], source.image or images[0]
    names = kind.names if isinstance(kind, datasets.ClassLabel) else None
    labels = read_labels(pinned, names, graph)
    stream = stream.select_columns([image, source.label]).cast_column(image, datasets.Image(decode=False))
    return OpenSource(pinned, stream, image, labels)


def _listed(columns: Any) -> str:  # noqa: ANN401 - any iterable of names
    return ", ".join(columns) or "none"


@contextmanager
def _stream_errors(repo_id: str) -> Iterator[None]:
    """Say in one line why a data set cannot be opened."""
    with hub_errors(repo_id):
        try:
            yield
        except Exception as error:  # datasets raises many kinds; those that say most are at the bottom of the chain
            chain: list[BaseException] = [error]
            while below := chain[-1].__cause__ or chain[-1].__context__:
                chain.append(below)
            for known in reversed(chain):
                if isinstance(known, (HfHubHTTPError, httpx.HTTPError)):
                    raise known from error
            if "gated" in str(error):
                reason = (
                    f"is gated; accept its terms at {constants.ENDPOINT}/datasets/{repo_id} and log in: hf auth login"
                )
                raise HubError(repo_id, reason) from error
            reason = f"cannot be streamed ({one_line(error)}); check its name, config=... and split=..."
            raise HubError(repo_id, reason) from error


# --- gathering --------------------------------------------------------------------------------------------------------


def gather(source: OpenSource, graph: SemanticGraph, config: HarvestConfig, folder: Path) -> Gathered:
    """Stream a data set and keep a sample of each concept's images; goes on where an earlier run stopped.

    Args:
        source: The data set.
        graph: The concepts that are wanted.
        config: How many images of each.
        folder: Working folder of this source alone, named by its :func:`source_key`.

    Raises:
        HubError: The stream broke off again and again, or a label is none of those that the source has.
        StorageError: The disk is full, or the folder cannot be written.
    """
    sieve, tally, known = _Sieve({}, config.images_per_concept), Tally(), list[Image]()
    progress = tqdm(  # type: ignore[no-untyped-call]
        unit="image", desc=source.pinned.source.name, name="mll_hf.harvest", leave=False
    )
    with progress, ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        for number in range(source.shards):
            part = _read_part(folder, number)
            if part is None:
                shard = _Shard(source, number, graph, config, folder, pool)
                part = _with_patience(shard, partial(_gather_shard, shard, sieve, progress.update))
            else:
                progress.update(part.tally.seen)
            tally += part.tally
            known += part.images
            for image in part.images:
                sieve.add(image.concept, image.draw, image.id)
    return Gathered(folder, tuple(sorted(image for image in known if sieve.keeps(image))), tally)


@dataclass(frozen=True, slots=True)
class _Sieve:
    """The lowest numbers of each concept so far, each with the id of its image, in order."""

    kept: dict[str, list[tuple[int, str]]]
    most: int

    def copy(self) -> _Sieve:
        return _Sieve({concept: list(lowest) for concept, lowest in self.kept.items()}, self.most)

    def lets_through(self, concept: str, draw: int, id: str) -> bool:
        """Whether an image is new and among the lowest."""
        lowest = self.kept.get(concept, [])
        at = bisect_left(lowest, (draw, id))
        return at < self.most and lowest[at : at + 1] != [(draw, id)]

    def add(self, concept: str, draw: int, id: str) -> None:
        if self.lets_through(concept, draw, id):
            lowest = self.kept.setdefault(concept, [])
            insort(lowest, (draw, id))
            del lowest[self.most :]

    def keeps(self, image: Image) -> bool:
        lowest = self.kept[image.concept]
        at = bisect_left(lowest, (image.draw, image.id))
        return lowest[at : at + 1] == [(image.draw, image.id)]


@dataclass(frozen=True, slots=True)
class _Part:
    """What a shard gave."""

    images: tuple[Image, ...]
    tally: Tally


def _with_patience(shard: _Shard, read: Callable[[], _Part]) -> _Part:
    """Read a shard, again if the stream breaks off."""
    repo_id = shard.source.pinned.source.repo_id
    for wait in (*_WAITS, None):
        try:
            return read()
        except MLLError:
            raise
        except _breaks() as error:
            if isinstance(error, HfHubHTTPError) and not is_transient(error):
                with hub_errors(repo_id):
                    raise
            if wait is None:
                raise HubError(
                    repo_id,
                    f"the stream broke off in shard {shard.number + 1} of {shard.source.shards} ({one_line(error)}); "
                    "what came before is kept, and the same command goes on from there",
                ) from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def _breaks() -> tuple[type[Exception], ...]:
    """What a stream raises that ends too early."""
    import pyarrow as pa

    return (OSError, EOFError, httpx.HTTPError, pa.ArrowException, tarfile.TarError, zlib.error)


class _Row(NamedTuple):
    """An image on its way to the sieve."""

    concept: str
    draw: int
    id: str
    content: bytes


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard that is to be read, and how."""

    source: OpenSource
    number: int
    graph: SemanticGraph
    config: HarvestConfig
    folder: Path
    pool: ThreadPoolExecutor

    @property
    def stream(self) -> Iterator[dict[str, Any]]:
        return iter(self.source.stream.shard(num_shards=self.source.shards, index=self.number))


def _gather_shard(shard: _Shard, so_far: _Sieve, progress: Callable[[int], object]) -> _Part:
    rows, sieve, images, tally, offset = shard.stream, so_far.copy(), list[Image](), Tally(), 0
    with _writing(_blob(shard.folder, shard.number)) as write:
        while batch := list(islice(rows, _BATCH)):
            candidates = _candidates(shard, batch)
            through = [row for row in candidates if sieve.lets_through(row.concept, row.draw, row.id)]
            contents = list(shard.pool.map(lambda row: prepared(row.content, shard.config.max_side), through))
            for row, content in zip(through, contents, strict=True):
                if content and sieve.lets_through(row.concept, row.draw, row.id):
                    sieve.add(row.concept, row.draw, row.id)
                    write(content)
                    images.append(Image(row.draw, row.id, row.concept, shard.number, offset, len(content)))
                    offset += len(content)
            tally += Tally(len(batch), len(batch) - len(candidates), contents.count(None))
            progress(len(batch))
    part = _Part(tuple(images), tally)
    _write_part(shard.folder, shard.number, part)
    return part


def _candidates(shard: _Shard, batch: list[dict[str, Any]]) -> list[_Row]:
    """The images of a batch that the graph has a concept for."""
    source, labels = shard.source.pinned.source, shard.source.labels
    found = []
    for row in batch:
        label = row[source.label]
        wnid = labels.wnid_of(label)
        if wnid is None and labels.must_be_known:
            raise HubError(source.repo_id, f"has a label '{label}', which {source.labels} lacks; correct labels=...")
        if wnid in shard.graph.index:
            content = (row[shard.source.image] or {}).get("bytes") or b""
            id = hashlib.sha256(content).hexdigest()[:32]
            found.append(_Row(str(wnid), draw_of(shard.config.seed, str(wnid), id), id, content))
    return found


def draw_of(seed: int, concept: str, text: str) -> int:
    """A number of 64 bits, drawn for a text within a concept."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{concept}/{text}".encode(), digest_size=8).digest(), "big")


def prepared(content: bytes, max_side: int | None) -> bytes | None:
    """An image as it is kept: as it came, or smaller; None if it cannot be decoded."""
    image = decode_image(content)
    if image is None or max_side is None or max(image.size) <= max_side:
        return None if image is None else content
    image.thumbnail((max_side, max_side))
    smaller = io.BytesIO()
    image.save(smaller, format="JPEG", quality=_JPEG_QUALITY)
    return smaller.getvalue()


# --- what survives a kill ---------------------------------------------------------------------------------------------


def _blob(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05}.images"


@contextmanager
def _writing(file: Path) -> Iterator[Callable[[bytes], None]]:
    """Open a file to write to; whatever else goes wrong inside is not taken for a fault of the disk."""
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("wb")

    def write(content: bytes) -> None:
        with storage_errors(file):
            opened.write(content)

    try:
        yield write
    finally:
        with storage_errors(file):
            opened.close()


def _write_part(folder: Path, shard: int, part: _Part) -> None:
    """Write down what a shard gave; with this it is done."""
    document = {"tally": asdict(part.tally), "images": [list(image) for image in part.images]}
    write_atomically(_blob(folder, shard).with_suffix(".json"), json.dumps(document).encode())


def _read_part(folder: Path, shard: int) -> _Part | None:
    """What a shard gave in an earlier run; None if it was not finished, or its images are not there in full."""
    try:
        document = json.loads(_blob(folder, shard).with_suffix(".json").read_bytes())
        part = _Part(tuple(Image(*image) for image in document["images"]), Tally(**document["tally"]))
        is_whole = _blob(folder, shard).stat().st_size == sum(image.size for image in part.images)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return part if is_whole else None
