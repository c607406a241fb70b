"""From what the sources gave to the data set: which images, in which files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mll_hf.errors import MissingExtraError
from mll_hf.graph.probes import image_schema
from mll_hf.harvest.gathering import Gathered, Image, draw_of
from mll_hf.harvest.record import TEXT_COLUMNS
from mll_hf.utils.files import storage_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mll_hf.harvest.sources import ImageSource

_ROWS_PER_GROUP = 100
_ROWS_PER_FILE = 2000
_FILE_COUNTS = (1, 2, 4, 6, 12, 24, 48, 60, 120, 240, 360, 720)  # many workers can share these evenly


class Chosen(NamedTuple):
    """An image of the data set.

    Attributes:
        source: Number of its source.
        image: The image.
    """

    source: int
    image: Image


def choose(gathered: Sequence[Gathered], names: Sequence[str], most: int, seed: int) -> tuple[Chosen, ...]:
    """Choose the images of every concept: sources in turn, and where one has no more, the others go on.

    A picture that two sources have under the same concept is taken once.

    Args:
        gathered: What each source gave.
        names: What the sources are called; who begins is drawn anew for each concept.
        most: Images per concept.
        seed: Of the draw.

    Returns:
        The images in a random order, so that every file of the data set is a sample of the whole.
    """
    queues: dict[str, list[tuple[int, int, Chosen]]] = {}
    for number, (of_source, name) in enumerate(zip(gathered, names, strict=True)):
        ranks: dict[str, int] = {}
        for image in of_source.images:
            rank = ranks[image.concept] = ranks.get(image.concept, -1) + 1
            turn = draw_of(seed, image.concept, name)
            queues.setdefault(image.concept, []).append((rank, turn, Chosen(number, image)))
    chosen: list[Chosen] = []
    for queue in queues.values():
        by_id: dict[str, Chosen] = {}
        for _, _, each in sorted(queue):
            by_id.setdefault(each.image.id, each)
        chosen += list(by_id.values())[:most]
    return tuple(sorted(chosen, key=lambda each: draw_of(seed, "order", each.image.concept + each.image.id)))


def file_count(images: int) -> int:
    """How many files a number of images is put into."""
    return next((count for count in _FILE_COUNTS if images <= count * _ROWS_PER_FILE), _FILE_COUNTS[-1])


def write_files(
    chosen: Sequence[Chosen], gathered: Sequence[Gathered], sources: Sequence[ImageSource], folder: Path
) -> tuple[str, ...]:
    """Write images as ``images-00000-of-000NN.parquet``; the same images always give the same bytes.

    Memory stays at a hundred images.

    Returns:
        Names of the files.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
        InputError: The working folder was changed meanwhile.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "build") from None

    schema = image_schema(TEXT_COLUMNS)

    def row(each: Chosen) -> dict[str, Any]:
        image, source = each.image, sources[each.source]
        content = gathered[each.source].read(image)
        return {
            "image": {"bytes": content, "path": None},
            "node": image.concept,
            "style": source.domain,
            "source": source.name,
            "image_id": image.id,
        }

    count = file_count(len(chosen))
    names = tuple(f"images-{number:05}-of-{count:05}.parquet" for number in range(count))
    for number, name in enumerate(names):
        of_file = chosen[len(chosen) * number // count : len(chosen) * (number + 1) // count]
        with storage_errors(folder / name):
            folder.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(folder / name, schema) as writer:
                for at in range(0, len(of_file), _ROWS_PER_GROUP):
                    rows = [row(each) for each in of_file[at : at + _ROWS_PER_GROUP]]
                    writer.write_table(pa.Table.from_pylist(rows, schema))
    return names
