"""The gathered images as a dataset: the choice of images, their files, ``build.json``, and the card."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from graph.credits import Credit
from graph.gathering import SKIP_REASONS, draw_of
from mll_hf.errors import InputError
from mll_hf.graph.files import image_schema
from mll_hf.hub.card import graph_tag
from mll_hf.utils.files import storage_errors
from mll_hf.utils.tables import markdown_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from graph.gathering import Gathered, HarvestConfig, Image
    from graph.sources import ImageSource

BUILD_FILE = "build.json"
_TEXT_COLUMNS = ("node", "style", "source", "image_id", *Credit._fields)
_NEWLINE = "\n"
_ROWS_PER_GROUP = 100
_ROWS_PER_FILE = 2000
_FILE_COUNTS = (1, 2, 4, 6, 12, 24, 48, 60, 120, 240, 360, 720)  # divide evenly among many numbers of workers


class Chosen(NamedTuple):
    """An image of the dataset, and the number of its source."""

    source: int
    image: Image


def choose(gathered: Sequence[Gathered], names: Sequence[str], config: HarvestConfig) -> tuple[Chosen, ...]:
    """Choose the images of every concept from the sources in turn, skipping exhausted sources.

    An image that two sources have for the same concept is taken once. A draw per concept decides the first source.
    The images are returned in random order, so that every file is a sample of the whole.
    """
    limit, queues = config.images_per_concept, defaultdict[str, list[tuple[int, bytes, Chosen]]](list)
    for number, name in enumerate(names):
        for concept, images in groupby(sorted(gathered[number].images), key=lambda image: image.concept):
            turn = draw_of(config.seed, concept, name)
            queues[concept] += [(rank, turn, Chosen(number, image)) for rank, image in enumerate(islice(images, limit))]
    chosen: list[Chosen] = []
    for queue in queues.values():
        by_id: dict[str, Chosen] = {}
        for _, _, each in sorted(queue):
            by_id.setdefault(each.image.id, each)
        chosen += list(by_id.values())[:limit]
    return tuple(sorted(chosen, key=lambda each: draw_of(config.seed, "order", each.image.concept + each.image.id)))


def file_count(images: int) -> int:
    """Number of files for a number of images."""
    return next((count for count in _FILE_COUNTS if images <= count * _ROWS_PER_FILE), _FILE_COUNTS[-1])


def write_files(
    chosen: Sequence[Chosen], gathered: Sequence[Gathered], sources: Sequence[ImageSource], folder: Path
) -> tuple[str, ...]:
    """Write images as ``images-00000-of-000NN.parquet``, a hundred at a time; returns the names of the files.

    Equal images give equal bytes. A StorageError if the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def row(number: int, image: Image) -> dict[str, Any]:
        encoded, source = {"bytes": gathered[number].content(image), "path": None}, sources[number]
        credit = (text or None for text in gathered[number].credit(image))
        values = (encoded, image.concept, source.domain, source.name, image.id, *credit)
        return dict(zip(schema.names, values, strict=True))

    schema, count = image_schema(_TEXT_COLUMNS), file_count(len(chosen))
    names = tuple(f"images-{number:05}-of-{count:05}.parquet" for number in range(count))
    for number, name in enumerate(names):
        of_file = chosen[len(chosen) * number // count : len(chosen) * (number + 1) // count]
        with storage_errors(folder / name):
            folder.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(folder / name, schema) as writer:
                for at in range(0, len(of_file), _ROWS_PER_GROUP):
                    rows = [row(*each) for each in of_file[at : at + _ROWS_PER_GROUP]]
                    writer.write_table(pa.Table.from_pylist(rows, schema))
    return names


# --- the record -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Build:
    """A graph with its images, as in ``build.json``.

    Attributes:
        key: Digest of everything that determines the images.
        graph_name: Name of the graph.
        graph_digest: Its digest.
        concepts: Number of concepts.
        concepts_with_images: Number of concepts with own images.
        concepts_tested: Number of concepts with own images or images of descendants.
        images: Number of images.
        files: Names of the image files.
        bytes: Their total size.
        config: Fields of the :class:`HarvestConfig`.
        sources: For each source its name, repo_id, revision, domain and license; is_gated; numbers of images and of
            concepts with any of them; and the numbers of images seen and skipped.
        licenses: Number of images by license, of images whose dataset has a license for each.
    """

    key: str
    graph_name: str
    graph_digest: str
    concepts: int
    concepts_with_images: int
    concepts_tested: int
    images: int
    files: list[str]
    bytes: int
    config: dict[str, Any]
    sources: list[dict[str, Any]]
    licenses: dict[str, int]


def build_to_bytes(build: Build) -> bytes:
    """The file ``build.json``; :func:`build_from_bytes` is the inverse."""
    return (json.dumps(asdict(build), indent=1, ensure_ascii=False) + "\n").encode()


def build_from_bytes(content: bytes) -> Build:
    """Read the file ``build.json``; an InputError if it is not of this version."""
    try:
        return Build(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{BUILD_FILE} is not from this version of mll_hf; choose an empty folder") from None


def dataset_card(build: Build) -> str:
    """The ``README.md`` of a dataset repo with a graph and its images; the Hub adds sizes and columns itself."""
    metadata = {
        "pretty_name": f"{build.graph_name}: concepts and probe images",
        "license": "other",
        "license_name": "licenses-of-the-sources",
        "task_categories": ["zero-shot-image-classification"],
        "tags": ["mll-graph", graph_tag(build.graph_digest), "wordnet"],
        "source_datasets": [source["repo_id"] for source in build.sources],
        "configs": [{"config_name": "default", "data_files": [{"split": "test", "path": "images-*.parquet"}]}],
    }
    columns = ("images", "concepts", "seen", *SKIP_REASONS)
    of_sources = [
        [s["name"], f"[{s['repo_id']}](https://huggingface.co/datasets/{s['repo_id']})", f"`{s['revision'][:12]}`",
         s["domain"], *(f"{s[column]:,}" for column in columns)]
        for s in build.sources
    ]  # fmt: skip
    header = ("source", "dataset", "commit", "domain", *columns)
    domains = Counter[str]()
    for source in build.sources:
        domains[source["domain"]] += source["images"]
    of_domains = [[domain, f"{images:,}"] for domain, images in sorted(domains.items())]
    licenses = [f"- {s['name']}: {s['license']}" + (" (gated)" if s["is_gated"] else "") for s in build.sources]
    side = build.config["max_side"]
    resized = f"Images with a side over {side} pixels were resized; all others" if side else "All images"
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10_000)}---

# {build.graph_name}: visual concepts and probe images

The graph has {build.concepts:,} concepts of WordNet 3.0 with their hypernyms (digest `{build.graph_digest}`) and is \
in a dataset repo of its own. {build.images:,} images are in {len(build.files)} files: \
{build.concepts_with_images:,} concepts have images of their own, {build.concepts_tested:,} including those of their \
hyponyms. Label a vision-language model on this graph:

```bash
mll-hf label MODEL --graph hf://datasets/OWNER/GRAPH --images hf://datasets/THIS/REPO
```

| column | meaning |
| --- | --- |
| `image` | the image |
| `node` | WordNet 3.0 id of its concept; the image also shows all hypernyms of this concept |
| `style` | its domain |
| `source` | its dataset |
| `image_id` | first 32 hex digits of the SHA-256 of the image in its dataset |
| `license` | license of the image, if its dataset has one for each image |
| `author` | its author, where known |
| `url` | its page, which names the author |

## Sources

{_NEWLINE.join(markdown_table(header, of_sources))}

{_NEWLINE.join(markdown_table(["domain", "images"], of_domains))}

From each source, `images` of `concepts` concepts were taken, out of `seen`. Skipped were: `outside`, labels without a \
concept here; `undecodable`, damaged images; `unlicensed`, images without an open license, author or page; and \
`ambiguous`, labels of several concepts.

Every concept has at most {build.config["images_per_concept"]} images of its own, taken from the sources in turn. The \
images of a source are a pseudorandom sample (seed {build.config["seed"]}). {resized} are unchanged. \
`build.json` has the same facts in machine-readable form.

## Licenses

The images keep the licenses of their sources, which every user must follow. Names and glosses of the concepts are \
from WordNet 3.0, copyright 2006 by Princeton University, under the WordNet license.

{_NEWLINE.join(licenses)}
{_attribution(build)}"""


def _attribution(build: Build) -> str:
    """The section of the card about images that each have a license."""
    if not build.licenses:
        return ""
    counts = [[f"`{license}`", f"{images:,}"] for license, images in build.licenses.items()]
    only = (
        "All images may be redistributed, changed, and used commercially. " if build.config["redistributable"] else ""
    )
    return f"""
## Attribution

{only}Each image has its own license, author and page, in the columns `license`, `author` and `url`, as stated by its \
dataset. If you redistribute an image, name them too, say that it was changed, and keep its license if that is \
ShareAlike (`-sa`). Where `author` is empty, the page names the author. The licenses were not checked again.

{_NEWLINE.join(markdown_table(["license", "images"], counts))}
"""
