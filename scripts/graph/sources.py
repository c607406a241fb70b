"""Image datasets on the Hub, and the concepts of their labels.

Facts about the built-in sources come from their Hub pages; they were not tested against the Hub:

* ``ILSVRC/imagenet-1k``: the standard copy, gated. Parquet with ``image`` and ``label``; class names are the lemmas of
  the synset ("tench, Tinca tinca").
* ``clip-benchmark/wds_imagenetv2``, ``.../wds_imagenet_sketch`` and ``.../wds_imagenet-a``: WebDatasets of CLIP
  benchmark with an image and a ``cls`` per example, and class names in ``classnames.txt``. The pages do not name the
  image column, so it is detected. ImageNet-V2 is probably matched-frequency, which CLIP benchmark's code uses.
  (``vaishaal/ImageNetV2`` has folders in the wrong order, and ``songweig/imagenet_sketch`` needs a loading script,
  which ``datasets`` no longer supports.)
* ``axiong/imagenet-r``: Parquet with ``image`` and ``wnid``, configuration ``test``.

``timm/imagenet-12k-wds`` (gated) is not used in the paper. Its validation split has 40 images of each of the 11,821
classes of ImageNet-12k; the five datasets of the paper only cover ImageNet's 1,000.

A source of redistributable images, see :mod:`graph.credits` for author and license of each:

* ``vikhyatk/openimages-human-labels``: Parquet with ``image``, ``image_id`` and verified ``labels``, each with
  ``label``, assumed to be the name of a class, and ``confidence``, 0 if annotators did not find it. License and author
  are in Open Images' own CSV files, to be given with ``credits=FILE``.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from graph.credits import read_credits
from graph.wordnet import WNID, ClassList, class_wnids
from mll_hf.errors import HubError, InputError
from mll_hf.graph.concepts import normalize_lemma
from mll_hf.hub.connection import TIMEOUT_SECONDS, connect, download, hub_errors, read_head, retried
from mll_hf.hub.locations import parse_dataset
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graph.credits import Credits
    from mll_hf.graph.concepts import SemanticGraph

_NAMES_FILE = "classnames.txt"
_MAX_NAMES_BYTES = 2**20
_MAX_CONTRADICTIONS = 0.02  # share of the classes; ImageNet itself has two named "sunglasses"
_OPTIONS = (
    "name", "config", "split", "files", "image", "label", "labels", "domain", "license", "objects", "key", "credits"
)  # fmt: skip


class Labels(StrEnum):
    """Labels whose meaning is known without a file or a list of classes."""

    WNID = "wnid"
    OPEN_IMAGES = "open-images"


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A labeled image dataset on the Hub.

    Attributes:
        name: Its name, used in the column ``source``.
        repo_id: ``org/name`` of the dataset repo.
        labels: ``wnid`` if labels are wnids, ``open-images`` if they are classes of Open Images, a
            :class:`ClassList` if they are indices into it, else a file (JSON or CSV) with the wnid of each label or
            class name.
        domain: How its images look, for example "photo" or "sketch".
        license: License of its images, in words.
        revision: Branch, tag or commit; None for main.
        config: Configuration of the dataset; None for the only one.
        split: Its split.
        files: Pattern of the split's files, such as ``test/*.tar``; None lets ``datasets`` detect them, which mistakes
            a repo with few archives beside text files for a text dataset.
        image: Image column; None for the only one.
        label: Label column, or the field of each of several labels with its name.
        objects: Column of several labels; None if images have one.
        key: Column with the id of an image in the file of credits.
        credits: File with license and author of each image; None if they are columns of the dataset.
    """

    name: str
    repo_id: str
    labels: str
    domain: str
    license: str = "see the dataset"
    revision: str | None = None
    config: str | None = None
    split: str = "test"
    files: str | None = None
    image: str | None = None
    label: str = "label"
    objects: str | None = None
    key: str | None = None
    credits: str | None = None

    @property
    def labels_are_indices(self) -> bool:
        """Whether labels are indices into a list of classes."""
        return self.labels in set(ClassList)


_IMAGENET_TERMS = "ImageNet's terms of access: non-commercial research and education, not to be passed on"


def _clip_benchmark(name: str, repo_id: str, labels: str, domain: str) -> ImageSource:
    license = "none is stated for this copy; the images are their authors'"
    return ImageSource(name, f"clip-benchmark/{repo_id}", labels, domain, license, files="test/*.tar", label="cls")


PAPER_SOURCES = (
    ImageSource("imagenet", "ILSVRC/imagenet-1k", ClassList.IMAGENET_1K, "photo", _IMAGENET_TERMS, split="validation",
                image="image"),
    _clip_benchmark("imagenet-v2", "wds_imagenetv2", ClassList.IMAGENET_1K, "photo"),
    _clip_benchmark("imagenet-sketch", "wds_imagenet_sketch", ClassList.IMAGENET_1K, "sketch"),
    _clip_benchmark("imagenet-a", "wds_imagenet-a", ClassList.IMAGENET_A, "photo"),
    ImageSource("imagenet-r", "axiong/imagenet-r", Labels.WNID, "rendition",
                "MIT for this copy; the works are their authors'", config="test", image="image", label="wnid"),
)  # fmt: skip
IMAGENET_12K = ImageSource(
    "imagenet-12k", "timm/imagenet-12k-wds", ClassList.IMAGENET_12K, "photo", _IMAGENET_TERMS, split="validation",
    label="cls",
)  # fmt: skip
OPEN_SOURCES = (
    ImageSource("open-images", "vikhyatk/openimages-human-labels", Labels.OPEN_IMAGES, "photo", "CC BY 2.0, by image",
                image="image", objects="labels", key="image_id"),
)  # fmt: skip
BUILT_IN = {source.name: source for source in (*PAPER_SOURCES, IMAGENET_12K, *OPEN_SOURCES)}


def parse_source(text: str) -> ImageSource:
    """Parse a source: ``NAME[?OPTIONS]``, built in, or ``hf://datasets/$ORG/NAME[@REVISION]?labels=...&domain=...``.

    Options are the fields of :class:`ImageSource`, of which ``labels`` and ``domain`` are required for a
    dataset that is not built in.

    Raises:
        InputError: It has neither form, or an option is missing, unknown or empty.
    """
    where, _, query = text.partition("?")
    if where not in BUILT_IN and not where.startswith("hf://"):
        raise InputError(
            f"there is no image source '{where}'; built-in sources are {', '.join(BUILT_IN)}; "
            "for another one write hf://datasets/$ORG/NAME?labels=wnid&domain=photo"
        )
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise InputError(f"'{text}': the part after ? must have the form labels=wnid&domain=photo") from None
    if unknown := options.keys() - set(_OPTIONS):
        raise InputError(f"'{text}': unknown option {abridged(sorted(unknown), 3)}; use {', '.join(_OPTIONS)}")
    source = BUILT_IN.get(where)
    if source is None:
        named = parse_dataset(where)
        source = ImageSource(named.repo_id, named.repo_id, "", "", revision=named.revision)
    values = {"labels": source.labels, "domain": source.domain} | options
    if empty := [key for key, value in values.items() if not value.strip()]:
        raise InputError(f"'{text}': add {empty[0]}=..., as in ?labels=wnid&domain=photo")
    return replace(source, **options)


@dataclass(frozen=True, slots=True)
class PinnedSource:
    """A source at a commit.

    Attributes:
        source: The source.
        sha: The commit.
        is_gated: Whether users must accept terms to download its files.
        class_names: Class names by index, if the repo has a file of them.
        by_label: Wnid of each label or class name; None if labels are wnids.
        credits: License and author of each image; None if they are columns of the dataset, or unknown.
    """

    source: ImageSource
    sha: str
    is_gated: bool
    class_names: tuple[str, ...] | None
    by_label: Mapping[str, str] | None
    credits: Credits | None = None


def pin_all(sources: Sequence[ImageSource]) -> tuple[PinnedSource, ...]:
    """Resolve sources to their commits and read the meaning of their labels.

    Raises:
        InputError: Two sources have the same name, or a file of labels or credits cannot be read.
        HubError: A dataset does not exist, or the Hub cannot be reached.
        MissingExtraError: timm is not installed.
    """
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two image sources have the name {abridged(repeated, 3)}; add name=...")
    return tuple(_pin(source) for source in sources)


def _pin(source: ImageSource) -> PinnedSource:
    by_label: Mapping[str, str] | None
    match source.labels:
        case Labels.WNID:
            by_label = None
        case Labels.OPEN_IMAGES:
            by_label = open_images_wnids()
        case _ if source.labels_are_indices:
            by_label = {str(number): wnid for number, wnid in enumerate(class_wnids(ClassList(source.labels)))}
        case _:
            by_label = read_label_file(Path(source.labels))
    credits = read_credits(Path(source.credits)) if source.credits else None
    api = connect()
    head = read_head(api, source.repo_id, "dataset", source.revision)
    with hub_errors(source.repo_id):
        gated = retried(lambda: api.dataset_info(source.repo_id, expand=["gated"], timeout=TIMEOUT_SECONDS).gated)
    names = None
    if _NAMES_FILE in head.files:
        file = download(api, source.repo_id, "dataset", _NAMES_FILE, head.sha, _MAX_NAMES_BYTES)
        names = tuple(file.read_text(encoding="utf-8", errors="replace").splitlines())
    return PinnedSource(source, head.sha, bool(gated), names, by_label, credits)


def open_images_wnids() -> dict[str, str]:
    """Wnid of each of the 601 classes of Open Images with boxes, by name, from ``data/open_images.csv``.

    A class has the first noun sense of its name in WordNet if no other sense is one of ImageNet's classes or their
    hypernyms, so "Mouse" and "Crane" have none. A person reviewed the result: ``rejected`` is the reason against one.
    """
    text = files("graph").joinpath("data", "open_images.csv").read_text(encoding="utf-8")
    return {row["name"]: row["wnid"] for row in csv.DictReader(text.splitlines()) if row["wnid"]}


def read_label_file(file: Path) -> dict[str, str]:
    """Read the wnids of labels from a JSON object, or from CSV with the columns label and wnid and no header.

    Raises:
        InputError: The file cannot be read, or a value is not a wnid.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".json":
            pairs = list(json.loads(text).items())
        else:
            pairs = [(label, wnid.strip()) for label, wnid in csv.reader(io.StringIO(text))]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"{file} cannot be read as labels ({one_line(error)}); give a JSON object or CSV of label and wnid"
        ) from None
    if not pairs:
        raise InputError(f"{file} has no labels; give a JSON object or CSV of label and wnid")
    if wrong := [str(wnid) for _, wnid in pairs if not (isinstance(wnid, str) and WNID.fullmatch(wnid))]:
        raise InputError(f"{file}: '{wrong[0]}' is not a wnid; write n and eight digits, such as n02084071")
    return dict(pairs)


def wnids_of_labels(
    pinned: PinnedSource, names: Sequence[str] | None, graph: SemanticGraph
) -> Mapping[str, str] | None:
    """Find the wnid of each label, as a string; None if labels are wnids.

    Class names of the label column or, if it has none, of the pinned source are compared with the lemmas of the graph.
    A HubError if they contradict the option ``labels``.
    """
    repo_id, by_label, labels_are_indices = pinned.source.repo_id, pinned.by_label, pinned.source.labels_are_indices
    names = pinned.class_names if names is None and labels_are_indices else names
    if names is None:
        return by_label
    if by_label is None:
        if wrong := [name for name in names if not WNID.fullmatch(name)]:
            reason = f"its labels are not wnids but, for example, '{wrong[0]}'; give a file: labels=FILE"
            raise HubError(repo_id, reason)
        return {str(number): name for number, name in enumerate(names)}
    if labels_are_indices and len(names) != len(by_label):
        expected = f"the {len(by_label)} of {pinned.source.labels}"
        raise HubError(repo_id, f"has {len(names)} classes, not {expected}; correct labels=...")
    wnids = {number: by_label.get(str(number)) or by_label.get(name) for number, name in enumerate(names)}
    found = {number: wnid for number, wnid in wnids.items() if wnid}
    _check_names(repo_id, [(names[number], wnid) for number, wnid in found.items()], graph)
    return {str(number): wnid for number, wnid in found.items()}


def _check_names(repo_id: str, meant: Sequence[tuple[str, str]], graph: SemanticGraph) -> None:
    """Refuse class names that are names of other classes than their wnids."""
    known = {wnid: graph.concepts[graph.index[wnid]].lemmas for _, wnid in meant if wnid in graph.index}
    lemmas = {wnid: set(map(normalize_lemma, of)) for wnid, of in known.items()}
    of_any = set[str]().union(*lemmas.values())
    contradictions = []
    for name, wnid in meant:
        parts = set(map(normalize_lemma, (name, *name.split(","))))
        names_other = bool(parts & of_any) and not parts & lemmas.get(wnid, parts)
        if (name != wnid) if WNID.fullmatch(name) else names_other:
            contradictions.append(f"'{name}' for {wnid}")
    if len(contradictions) > _MAX_CONTRADICTIONS * len(meant):
        raise HubError(
            repo_id,
            f"its class names contradict labels=... in {len(contradictions)} of {len(meant)} classes, for example "
            f"{contradictions[0]}; correct labels=...",
        )
