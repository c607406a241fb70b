"""Image data sets of the Hub, and which concept each of their labels means.

The paper's five data sets are built in. What is known of them was read off the Hub's pages, not run against the Hub:

* ``ILSVRC/imagenet-1k``: the standard copy, gated; parquet with ``image`` and ``label``, whose class names are the
  lemmas of the synset ("tench, Tinca tinca").
* ``clip-benchmark/wds_imagenetv2``, ``.../wds_imagenet_sketch`` and ``.../wds_imagenet-a``: WebDatasets of CLIP
  benchmark: ``test/0.tar`` and so on, an image and a ``cls`` for each example, names of the classes in
  ``classnames.txt``. The pages do not say how the images are encoded, and so what their column is called (public code
  reads ``webp``); it is found. Nor do they say which of its three variants ImageNet-V2 is; CLIP benchmark's code takes
  matched-frequency. (``vaishaal/ImageNetV2`` holds archives whose folders' names sort in the
  wrong order, and ``songweig/imagenet_sketch`` needs a script that ``datasets`` no longer runs.)
* ``axiong/imagenet-r``: parquet with ``image`` and ``wnid``, configuration ``test``.

Not among the five is ``timm/imagenet-12k-wds`` (gated), whose validation split has 40 images of each of the 11,821
classes of ImageNet-12k, where the five have images of ImageNet's 1,000 alone.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from mll_hf.errors import HubError, InputError
from mll_hf.graph.concepts import normalize_lemma
from mll_hf.graph.wordnet import WNID, ClassList, class_wnids
from mll_hf.hub.connection import TIMEOUT_SECONDS, connect, download, hub_errors, read_head, retried, sensible_answers
from mll_hf.hub.locations import parse_dataset
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mll_hf.graph.concepts import SemanticGraph

WNIDS = "wnid"
_NAMES_FILE = "classnames.txt"
_MOST_NAMES_BYTES = 2**20
_MOST_CONTRADICTIONS = 0.02  # of the classes: ImageNet itself has two named "sunglasses"
_OPTIONS = ("name", "config", "split", "files", "image", "label", "labels", "domain", "license")
_TARS = "test/*.tar"
_NOT_STATED = "none is stated for this copy; the images are their authors'"
_IMAGENET_TERMS = "ImageNet's terms of access: non-commercial research and education, not to be passed on"


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A labeled data set of images on the Hub.

    Attributes:
        name: What to call it, in the column ``source`` too.
        repo_id: ``org/name`` of the dataset repo.
        labels: What labels mean: ``wnid`` if they are wnids, a list of classes that they count through, or a file (JSON
            or CSV) with the wnid of each label or class name.
        domain: How its images look: photo, sketch ...
        license: What its images may be used for, in words.
        revision: Branch, tag or commit; None for main.
        config: Configuration of the data set; None for the only one.
        split: Its split.
        files: The files of the split, as a pattern such as ``test/*.tar``; None for what datasets takes them to be. A
            repo with few archives beside text files is taken for a data set of texts.
        image: Column of the images; None for the only column of images.
        label: Column of the labels.
    """

    name: str
    repo_id: str
    labels: str
    domain: str
    license: str = "see the data set"
    revision: str | None = None
    config: str | None = None
    split: str = "test"
    files: str | None = None
    image: str | None = None
    label: str = "label"


PAPER_SOURCES = (
    ImageSource("imagenet", "ILSVRC/imagenet-1k", ClassList.IMAGENET_1K, "photo", _IMAGENET_TERMS, split="validation",
                image="image"),
    ImageSource("imagenet-v2", "clip-benchmark/wds_imagenetv2", ClassList.IMAGENET_1K, "photo",
                _NOT_STATED, files=_TARS, label="cls"),
    ImageSource("imagenet-sketch", "clip-benchmark/wds_imagenet_sketch", ClassList.IMAGENET_1K, "sketch",
                _NOT_STATED, files=_TARS, label="cls"),
    ImageSource("imagenet-a", "clip-benchmark/wds_imagenet-a", ClassList.IMAGENET_A, "photo",
                _NOT_STATED, files=_TARS, label="cls"),
    ImageSource("imagenet-r", "axiong/imagenet-r", WNIDS, "rendition",
                "MIT for this copy; the works are their authors'", config="test", image="image", label="wnid"),
)  # fmt: skip
IMAGENET_12K = ImageSource(
    "imagenet-12k", "timm/imagenet-12k-wds", ClassList.IMAGENET_12K, "photo", _IMAGENET_TERMS, split="validation",
    label="cls",
)  # fmt: skip
BUILT_IN = {source.name: source for source in (*PAPER_SOURCES, IMAGENET_12K)}


def parse_source(text: str) -> ImageSource:
    """Read the name of a built-in source, or ``hf://datasets/ORG/NAME[@REVISION]?labels=...&domain=...``.

    The options are ``name``, ``config``, ``split``, ``files``, ``image``, ``label``, ``labels``, ``domain`` and
    ``license``, see :class:`ImageSource`; ``labels`` and ``domain`` must be there.

    Raises:
        InputError: It is neither, or an option is missing, unknown or empty.
    """
    if text in BUILT_IN:
        return BUILT_IN[text]
    if not text.startswith("hf://"):
        raise InputError(
            f"there is no image source '{text}'; built in are {', '.join(BUILT_IN)}; "
            "for another one write hf://datasets/ORG/NAME?labels=wnid&domain=photo"
        )
    where, _, query = text.partition("?")
    dataset = parse_dataset(where)
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise InputError(f"'{text}': what follows the ? is not of the form labels=wnid&domain=photo") from None
    if unknown := options.keys() - set(_OPTIONS):
        raise InputError(f"'{text}': unknown option {abridged(sorted(unknown), 3)}; use {', '.join(_OPTIONS)}")
    if empty := [key for key in ("labels", "domain", *options) if not options.get(key, "").strip()]:
        raise InputError(f"'{text}': say {empty[0]}=..., as in ?labels=wnid&domain=photo")
    return ImageSource(repo_id=dataset.repo_id, revision=dataset.revision, **{"name": dataset.repo_id, **options})


@dataclass(frozen=True, slots=True)
class PinnedSource:
    """A source at a commit.

    Attributes:
        source: The source.
        sha: The commit.
        is_gated: Whether one must accept terms before the Hub gives its files.
        class_names: Names of the classes in the order of their numbers, if the repo has a file with them.
        by_label: Wnid of each label or class name; None if labels are wnids themselves.
        counts_through: Whether labels are numbers into a list of classes, all of which ``by_label`` has.
    """

    source: ImageSource
    sha: str
    is_gated: bool
    class_names: tuple[str, ...] | None
    by_label: Mapping[str, str] | None
    counts_through: bool


def pin(source: ImageSource, token: str | None = None) -> PinnedSource:
    """Find out which commit a source is at, and what its labels mean.

    Raises:
        HubError: There is no such data set, or the Hub cannot be reached.
        InputError: The file of labels cannot be read.
        MissingExtraError: timm is not installed, and labels count through one of its lists.
    """
    counts_through = source.labels in set(ClassList)
    if counts_through:
        wnids = class_wnids(ClassList(source.labels))
        by_label: Mapping[str, str] | None = {str(number): wnid for number, wnid in enumerate(wnids)}
    else:
        by_label = None if source.labels == WNIDS else read_label_file(Path(source.labels))
    api = connect(token)
    head = read_head(api, source.repo_id, "dataset", source.revision)
    with hub_errors(source.repo_id), sensible_answers(source.repo_id):
        gated = retried(lambda: api.dataset_info(source.repo_id, expand=["gated"], timeout=TIMEOUT_SECONDS).gated)
    names = None
    if _NAMES_FILE in head.files:
        file = download(api, source.repo_id, "dataset", _NAMES_FILE, head.sha, _MOST_NAMES_BYTES)
        names = tuple(file.read_text(encoding="utf-8", errors="replace").splitlines())
    return PinnedSource(source, head.sha, bool(gated), names, by_label, counts_through)


def read_label_file(file: Path) -> dict[str, str]:
    """Read the wnids of labels: a JSON object, or CSV with the columns label and wnid and no header.

    Raises:
        InputError: The file cannot be read, or has something else than wnids.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".json":
            pairs = list(json.loads(text).items())
        else:
            pairs = [(label, wnid.strip()) for label, wnid in csv.reader(io.StringIO(text))]
    except (OSError, ValueError, AttributeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"{file} cannot be read as labels ({one_line(error)}); give a JSON object or CSV of label and wnid"
        ) from None
    if not pairs:
        raise InputError(f"{file} has no labels; give a JSON object or CSV of label and wnid")
    if wrong := [str(wnid) for _, wnid in pairs if not (isinstance(wnid, str) and WNID.fullmatch(wnid))]:
        raise InputError(f"{file}: '{wrong[0]}' is no wnid; write n and eight digits, such as n02084071")
    return dict(pairs)


# --- what labels mean -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Labels:
    """What the labels of a data set mean, after a look at its classes.

    Attributes:
        by_label: Wnid of each label, as a text; None if labels are wnids themselves.
        must_be_known: Whether a label without wnid is a fault of the data set, rather than one to leave out.
    """

    by_label: Mapping[str, str] | None
    must_be_known: bool

    def wnid_of(self, label: Any) -> str | None:  # noqa: ANN401 - whatever the data set has
        """Wnid of a label; None if it has none."""
        text = str(label)
        if self.by_label is not None:
            return self.by_label.get(text)
        return text if WNID.fullmatch(text) else None


def read_labels(pinned: PinnedSource, names: Sequence[str] | None, graph: SemanticGraph) -> Labels:
    """What the labels of a data set mean.

    Args:
        pinned: The data set.
        names: Names of its classes, if the label column has any; else those of the pinned source count.
        graph: Says what concepts are called.

    Raises:
        HubError: The data set's own names contradict what its labels are said to mean.
    """
    repo_id, by_label = pinned.source.repo_id, pinned.by_label
    names_of_labels = names is not None
    names = pinned.class_names if names is None else names
    if names is None or not (names_of_labels or pinned.counts_through):
        return Labels(by_label, pinned.counts_through)
    if by_label is None:
        if wrong := [name for name in names if not WNID.fullmatch(name)]:
            raise HubError(repo_id, f"its labels are no wnids but such as '{wrong[0]}'; give a file: labels=FILE")
        return Labels({str(number): name for number, name in enumerate(names)}, must_be_known=False)
    if pinned.counts_through and len(names) != len(by_label):
        raise HubError(repo_id, f"has {len(names)} classes, not the {len(by_label)} of {pinned.source.labels}; correct "
                       "labels=...")  # fmt: skip
    wnids = [by_label.get(str(number)) or by_label.get(name) for number, name in enumerate(names)]
    _check_names(repo_id, [(name, wnid) for name, wnid in zip(names, wnids, strict=True) if wnid], graph)
    return Labels({str(number): wnid for number, wnid in enumerate(wnids) if wnid}, pinned.counts_through)


def _check_names(repo_id: str, meant: Sequence[tuple[str, str]], graph: SemanticGraph) -> None:
    """Refuse class names that are names of other classes than they are said to mean."""
    lemmas = {
        wnid: {normalize_lemma(lemma) for lemma in graph.concepts[graph.index[wnid]].lemmas}
        for _, wnid in meant if wnid in graph.index
    }  # fmt: skip
    of_any = set[str]().union(*lemmas.values())
    contradictions = []
    for name, wnid in meant:
        said = {normalize_lemma(part) for part in (name, *name.split(","))}
        is_other = name != wnid if WNID.fullmatch(name) else bool(said & of_any) and not said & lemmas.get(wnid, said)
        if is_other:
            contradictions.append(f"'{name}' for {wnid}")
    if len(contradictions) > _MOST_CONTRADICTIONS * len(meant):
        raise HubError(
            repo_id,
            f"its class names contradict labels=... in {len(contradictions)} of {len(meant)} classes, such as "
            f"{contradictions[0]}; correct labels=...",
        )
