"""Build a graph of visual concepts from the nouns of WordNet 3.0.

WordNet does not mark visual synsets. So the leaves are the classes of ImageNet, which timm lists by WordNet 3.0 ids
(wnids), and the other concepts are all their hypernyms. Abstract hypernyms ("entity", "abstraction") are included:
without them the graph would consist of hundreds of trees. They do not distort results, since a concept is not a rival
of its descendants.

Synsets are looked up by wnid, not by name. A wnid is a file offset in one version of WordNet, so versions other than
3.0 are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.errors import InputError, MissingExtraError
from mll_hf.graph.concepts import Concept, SemanticGraph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from timm.data import ImageNetInfo

NOUN_FILE = "data.noun"
DEBIAN = Path("/usr/share/wordnet")
WNID = re.compile(r"n[0-9]{8}")
_EXAMPLE = re.compile(r'[;:] *"')
_HYPERNYM_SYMBOLS = ("@", "@i")  # hypernym, instance hypernym
_MIN_AGREEMENT = 0.95


class ClassList(StrEnum):
    """Class lists in timm, in the order of the dataset's labels."""

    IMAGENET_1K = "imagenet-1k"
    IMAGENET_12K = "imagenet-12k"
    IMAGENET_21K = "imagenet-21k"
    IMAGENET_A = "imagenet-a"
    IMAGENET_R = "imagenet-r"


LEAVES = (ClassList.IMAGENET_1K, ClassList.IMAGENET_12K, ClassList.IMAGENET_21K)


@dataclass(frozen=True, slots=True)
class Synset:
    """A noun synset.

    Attributes:
        lemmas: Its names, most common first, with spaces instead of underscores.
        definition: Its gloss without examples.
        hypernyms: Wnids of its direct hypernyms and instance hypernyms.
    """

    lemmas: tuple[str, ...]
    definition: str
    hypernyms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VisualGraph:
    """A graph of classes and their hypernyms.

    Attributes:
        graph: The graph.
        leaves: Wnids of the classes in the graph.
        missing: Wnids of classes that are not in WordNet or have other names there; they are not in the graph.
    """

    graph: SemanticGraph
    leaves: tuple[str, ...]
    missing: tuple[str, ...]


# --- WordNet ----------------------------------------------------------------------------------------------------------


def read_nouns(folder: Path = DEBIAN) -> dict[str, Synset]:
    """Read all noun synsets by wnid from ``data.noun`` or ``dict/data.noun`` (format: man page wndb(5)).

    An InputError if the file cannot be read or has another format.
    """
    file = next((file for file in (folder / NOUN_FILE, folder / "dict" / NOUN_FILE) if file.exists()), None)
    if file is None:
        raise InputError(f"there is no {folder / NOUN_FILE}; install Debian's wordnet-base, or give a folder with it")
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]
        return dict(map(_parse, lines))  # without the license, which is indented
    except OSError as error:
        raise InputError(f"cannot read {file} ({error.strerror}); give the folder of WordNet") from None
    except (ValueError, IndexError):
        raise InputError(f"{file} is not in WordNet's format; give the folder of WordNet") from None


def _parse(line: str) -> tuple[str, Synset]:
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    first = 4 + 2 * int(fields[3], 16)  # two fields per word, the number of pointers, four fields each
    pointers = zip(fields[first + 1 :: 4], fields[first + 2 :: 4], strict=False)
    synset = Synset(
        lemmas=tuple(word.replace("_", " ") for word in fields[4:first:2]),
        definition=_EXAMPLE.split(gloss, maxsplit=1)[0].strip(" ;"),
        hypernyms=tuple(f"n{offset}" for symbol, offset in pointers if symbol in _HYPERNYM_SYMBOLS),
    )
    if not WNID.fullmatch(f"n{fields[0]}") or not synset.lemmas or len(fields) <= first + 4 * int(fields[first]):
        raise ValueError(line)
    return f"n{fields[0]}", synset


# --- classes ----------------------------------------------------------------------------------------------------------


def class_wnids(classes: ClassList) -> tuple[str, ...]:
    """Wnids of a class list, in label order; a MissingExtraError without timm."""
    if classes in LEAVES:
        return tuple(_info(classes).label_names())
    _info(ClassList.IMAGENET_1K)
    name = f"{classes.replace('-', '_')}_synsets.txt"  # timm has no function for it
    return tuple(files("timm.data").joinpath("_info", name).read_text(encoding="utf-8").split())


def _info(classes: ClassList) -> ImageNetInfo:
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        raise MissingExtraError("timm", "build") from None
    return ImageNetInfo(classes)


def leaf_names(classes: ClassList) -> dict[str, tuple[str, ...]]:
    """Names of the leaves of a graph, by wnid: the classes of a list and of ImageNet-1k, which most images show.

    Seven classes of ImageNet-1k are not in ImageNet-12k. A MissingExtraError without timm.
    """
    names = {}
    for info in map(_info, dict.fromkeys((ClassList.IMAGENET_1K, classes))):
        for wnid in info.label_names():
            names[wnid] = tuple(info.label_name_to_description(wnid, detailed=False).split(", "))
    return names


# --- the graph --------------------------------------------------------------------------------------------------------


def make_graph(name: str, leaves: Mapping[str, Sequence[str]], nouns: Mapping[str, Synset]) -> VisualGraph:
    """Build a graph of leaves and all their hypernyms.

    Args:
        name: Name of the graph.
        leaves: Names of each leaf, by wnid; checked against the lemmas in WordNet.
        nouns: Result of :func:`read_nouns`.

    Raises:
        InputError: Too many leaves are missing or have other names, so this is not WordNet 3.0.
    """
    found = {wnid: synset for wnid in leaves if (synset := nouns.get(wnid))}
    matching = {wnid for wnid, synset in found.items() if set(synset.lemmas) & set(leaves[wnid])}
    if len(matching) < _MIN_AGREEMENT * len(leaves):
        raise InputError(
            f"this is not WordNet 3.0: of {len(leaves)} classes it lacks {len(leaves) - len(found)} and has other "
            f"names for {len(found) - len(matching)}; give the folder of version 3.0"
        )
    concepts: dict[str, Concept] = {}
    waiting = sorted(matching)
    while waiting:
        wnid = waiting.pop()
        synset = nouns.get(wnid)
        if synset is None:
            raise InputError(f"WordNet is incomplete: the hypernym {wnid} is missing; reinstall it")
        concepts[wnid] = Concept(wnid, synset.lemmas, synset.definition, synset.hypernyms)
        waiting += [hypernym for hypernym in concepts[wnid].hypernyms if hypernym not in concepts]
    missing = tuple(sorted(leaves.keys() - matching))
    return VisualGraph(SemanticGraph(name, tuple(concepts.values())), tuple(sorted(matching)), missing)
