"""Make a pack, or add to one: concepts, each with a folder of images.

Images go into new files that nothing refers to yet; then ``graph.json``, which names the files of the pack, is replaced
at one stroke. So a pack is there as it was or as it shall be, and the same command after a kill completes it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.errors import GraphError, InputError, MissingExtraError
from mll_hf.graph.concepts import GRAPH_FILE, Concept
from mll_hf.graph.probes import IMAGE_FILES, SamplingConfig, image_schema
from mll_hf.labels.packs import AttachedPack, GraphPack, attach_pack, graph_with_packs, load_pack, pack_to_bytes
from mll_hf.utils.files import write_atomically
from mll_hf.utils.images import decode_image
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mll_hf.graph.concepts import SemanticGraph

FEWEST_IMAGES = 5  # with fewer, one image moves a concept's precision by a quarter or more
ALL_IMAGES = SamplingConfig(images_per_concept=65535)
_ROWS_PER_GROUP = 100
_FIELDS = {"id", "name", "lemmas", "description", "parents", "images", "domain", "source"}


@dataclass(frozen=True, slots=True)
class PackImage:
    """An image for a pack.

    Attributes:
        content: The encoded picture.
        name: What to call it in messages.
        domain: How it looks: photo, drawing, icon ...
        source: Where it is from, and under which license. Samples are balanced over sources.
    """

    content: bytes
    name: str
    domain: str
    source: str


@dataclass(frozen=True, slots=True)
class NewConcept:
    """A concept for a pack, and images of it."""

    concept: Concept
    images: tuple[PackImage, ...]


@dataclass(frozen=True, slots=True)
class Addition:
    """What was added to a pack.

    Attributes:
        pack: The pack as it is now.
        concepts: Concepts that are new, or have other texts or hypernyms than before.
        images: Images that are new.
    """

    pack: GraphPack
    concepts: int
    images: int


# --- what to add ------------------------------------------------------------------------------------------------------


def read_images(folder: Path, domain: str, source: str | None = None) -> tuple[PackImage, ...]:
    """Read all images in a folder and the folders in it; hidden files are left out.

    Args:
        folder: The folder.
        domain: How the images look.
        source: Where they are from; by default the folder's name.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; give one with the images of a concept")
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return tuple(
            PackImage(path.read_bytes(), str(path), domain, source or folder.absolute().name) for path in files
        )
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); check the path") from None


def read_concepts(file: Path, images_root: Path | None = None, domain: str = "photo") -> tuple[NewConcept, ...]:
    """Read concepts from a table: JSON (a list of objects) or CSV (a header, several values apart by semicolons).

    Fields: ``id``, ``name``, ``lemmas``, ``description``, ``parents``, ``images`` (a folder, seen from the table's own;
    by default the one in ``images_root`` that is named after the id), ``domain`` and ``source``. A description that
    only repeats the name is better left out: it makes the caption that models are tested with longer, and no clearer.

    Args:
        file: The table.
        images_root: A folder with a folder for each concept.
        domain: How images look whose row does not say.

    Raises:
        InputError: The table cannot be read, or a row lacks something.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text))) if file.suffix.lower() == ".csv" else json.loads(text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a table ({one_line(error)}); give JSON or CSV") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{file} holds no list of concepts; give one object or row for each")
    return tuple(_concept_of_row(row, f"{file}, row {number}", file.parent, images_root, domain)
                 for number, row in enumerate(rows, 1))  # fmt: skip


def _concept_of_row(row: Any, where: str, folder: Path, images_root: Path | None, domain: str) -> NewConcept:  # noqa: ANN401 - parsed
    if not isinstance(row, dict):
        raise InputError(f"{where}: is no object; give one with id, name and parents")
    if unknown := set(map(str, row)) - _FIELDS:
        raise InputError(
            f"{where}: has unknown fields ({abridged(sorted(unknown), 3)}); use {', '.join(sorted(_FIELDS))}"
        )
    id, name = (_text(row, field, where) for field in ("id", "name"))
    description = _text(row, "description", where) if row.get("description") else ""
    if row.get("images"):
        images = folder / _text(row, "images", where)
    elif images_root:
        if Path(id).name != id or id == "..":
            raise InputError(f"{where}: no folder can be named '{id}'; give the field images")
        images = images_root / id
    else:
        raise InputError(f"{where}: names no folder of images; give the field images, or --images-root")
    style = _text(row, "domain", where) if row.get("domain") else domain
    source = _text(row, "source", where) if row.get("source") else None
    concept = new_concept(id, name, _texts(row, "lemmas", where), description, _texts(row, "parents", where))
    return NewConcept(concept, read_images(images, style, source))


def new_concept(id: str, name: str, lemmas: Sequence[str], description: str, parents: Sequence[str]) -> Concept:
    """A concept whose name need not be repeated among its lemmas."""
    return Concept(id, name, (name, *(lemma for lemma in dict.fromkeys(lemmas) if lemma != name)), description,
                   tuple(parents))  # fmt: skip


def _text(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: lacks a text '{field}'")
    return value.strip()


def _texts(row: dict[str, Any], field: str, where: str) -> list[str]:
    value = row.get(field) or []
    texts = value.split(";") if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: '{field}' is no list of texts")
    return [text.strip() for text in texts if text.strip()]


# --- adding -----------------------------------------------------------------------------------------------------------


def add_to_pack(folder: Path, base: SemanticGraph, new: Iterable[NewConcept]) -> Addition:
    """Add concepts and images to a pack, or make one; what is there already is not added twice.

    A concept that the pack has already takes the new texts and hypernyms, and keeps its images.

    Args:
        folder: The pack's folder; it need not exist.
        base: The graph that the pack is for.
        new: What to add.

    Raises:
        GraphError: The pack would not be valid: a hypernym is missing, edges form a cycle, an id is one of the graph's,
            an image cannot be decoded, a concept has too few images.
        StorageError: The folder cannot be written.
        MissingExtraError: pyarrow is not installed.
    """
    new = tuple(new)
    old = _present_pack(folder, base)
    concepts = {concept.id: concept for concept in old.pack.concepts} if old else {}
    changed = {each.concept.id for each in new if concepts.get(each.concept.id) != each.concept}
    concepts |= {each.concept.id: each.concept for each in new}
    old_files = [path.name for path in old.probes.files] if old else []
    try:
        pack = GraphPack(old.pack.name if old else folder.absolute().name, tuple(concepts.values()), tuple(old_files))
        graph_with_packs(base, [pack])
    except GraphError as error:
        raise GraphError(str(error), folder) from None
    present = _contents(old) if old else set()
    images = _new_images(new, present)
    _check_counts(pack, Counter(id for id, _ in present) + Counter(id for id, _ in images), folder)
    if images:
        file = _write_images(images, folder)
        pack = GraphPack(pack.name, pack.concepts, (*old_files, file))
    write_atomically(folder / GRAPH_FILE, pack_to_bytes(pack))
    return Addition(pack, len(changed), len(images))


def check_pack(attached: AttachedPack, folder: Path) -> None:
    """Refuse a pack with images that cannot be decoded, concepts with too few images, or nothing to tell apart.

    Args:
        attached: The pack with all its images, see ``ALL_IMAGES``.
        folder: Where it is, for messages.

    Raises:
        GraphError: There are such.
    """
    undecodable = sum(
        decode_image(content) is None for batch in attached.probes.iter_image_bytes(64) for content in batch
    )
    if undecodable:
        raise GraphError(f"{undecodable} images cannot be decoded; make the pack anew without them", folder)
    own = Counter(attached.graph.concepts[v].id for v in attached.probes.nodes)
    _check_counts(attached.pack, own, folder)
    if not len(attached.tests):
        raise GraphError("has no two concepts to tell apart; add others that are confused with it", folder)


def _present_pack(folder: Path, base: SemanticGraph) -> AttachedPack | None:
    if not (folder / GRAPH_FILE).exists():
        return None
    pack = load_pack(folder)
    return attach_pack(base, pack, folder, ALL_IMAGES)


def _contents(attached: AttachedPack) -> set[tuple[str, bytes]]:
    """Concept and sha256 of all images of a pack."""
    ids = [attached.graph.concepts[v].id for v in attached.probes.nodes]
    contents = (content for batch in attached.probes.iter_image_bytes(64) for content in batch)
    return {(id, _hash(content or b"")) for id, content in zip(ids, contents, strict=True)}


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _new_images(new: Iterable[NewConcept], present: set[tuple[str, bytes]]) -> list[tuple[str, PackImage]]:
    """Images that are not there yet, each with the id of its concept."""
    seen, images = set(present), []
    for each in new:
        for image in each.images:
            key = each.concept.id, _hash(image.content)
            if key in seen:
                continue
            if decode_image(image.content) is None:
                raise GraphError(f"image {image.name} of {each.concept.id} cannot be decoded; leave it out")
            seen.add(key)
            images.append((each.concept.id, image))
    return images


def _check_counts(pack: GraphPack, own: Counter[str], folder: Path) -> None:
    """Every concept has enough images, with those of what is below it."""
    graph = pack.graph
    pooled = Counter(own)
    for v, concept in enumerate(graph.concepts):
        for ancestor in graph.ancestors[v]:
            pooled[graph.concepts[ancestor].id] += own[concept.id]
    if few := [concept.id for concept in pack.concepts if pooled[concept.id] < FEWEST_IMAGES]:
        raise GraphError(
            f"{len(few)} concepts have fewer than {FEWEST_IMAGES} images, such as {few[0]} ({pooled[few[0]]}); add "
            "images, or leave them out",
            folder,
        )


def _write_images(images: Sequence[tuple[str, PackImage]], folder: Path) -> str:
    """Write images to a file named by its content; returns its name."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "models") from None

    schema = image_schema(("node", "style", "source"))
    rows = [
        {
            "image": {"bytes": image.content, "path": None},
            "node": id,
            "style": image.domain,
            "source": image.source,
        }
        for id, image in images
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer, row_group_size=_ROWS_PER_GROUP)
    content = buffer.getvalue()
    name = IMAGE_FILES.replace("*", f"-{hashlib.sha256(content).hexdigest()[:16]}")
    write_atomically(folder / name, content)
    return name
