"""Visitors' questions and their answers, without Gradio. The labels are read once for all visitors."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mll_hf import Client, SelectionConfig
from mll_hf.errors import InputError, MLLError
from mll_hf.labels.label import UNPINNED, ModelRef
from mll_hf.matching.describe import from_templates
from mll_hf.matching.prompts import check_class_names, split_class_names
from mll_hf.models.figures import figures
from mll_hf.models.known import imagenet_accuracies, known_models, loadable_models
from mll_hf.models.published import DEFAULT_LABELS
from mll_hf.selection import Figures
from mll_hf.selection.config import configured
from mll_hf.utils.text import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mll_hf import Selection
    from mll_hf.graph.concepts import Concept, SemanticGraph
    from mll_hf.labels.join import LeftOut
    from mll_hf.labels.label import Cost, Label
    from mll_hf.matching.text_encoder import TextEncoder
    from mll_hf.models.figures import Figure

EXAMPLES = {  # classes, domain and task; the first is shown when the page opens
    "Land cover from space": (
        "annual crop, forest, herbaceous vegetation, highway, industrial, pasture, permanent crop, residential, river, "
        "sea or lake",
        "satellite image",
        "",
    ),
    "Everyday things": ("airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck", "photo", ""),
    "Garden birds": ("blue jay, northern cardinal, house sparrow, barn owl, robin", "photo", ""),
    "Skin lesions": ("melanoma, nevus, basal cell carcinoma, benign keratosis", "medical image", ""),
    "Pipe inspection": ("corroded pipe, intact pipe, weld", "photo", "pipe inspection"),
}
MAX_CLASSES = 1000
MAX_MODELS = 10  # per class
OPEN_LICENSES = (
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense",
)  # fmt: skip
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,63}")
_RETRY_SECONDS = 20.0
_RELOAD_SECONDS = 3600.0
_MAX_SENSES = 4
_MIN_WEIGHT = 0.2  # of a nearby concept, as a share of the largest weight
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the Space."""

    labels: str = DEFAULT_LABELS  # source of labels as for :class:`mll_hf.Client`
    graph: str | None = None  # folder or dataset of the reference graph; None for the one with the most publishers
    max_parameters: int = 10**9  # maximum total parameters of the models of one trial

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Settings:
        """Read ``MLL_LABELS``, ``MLL_GRAPH`` and ``MLL_MOST_PARAMETERS``.

        Raises:
            InputError: ``MLL_MOST_PARAMETERS`` is not a number.
        """
        limit = variables.get("MLL_MOST_PARAMETERS") or "1000000000"
        if not limit.isascii() or not limit.isdecimal():
            raise InputError(f"MLL_MOST_PARAMETERS is '{limit}'; give a whole number such as 1000000000")
        return cls(variables.get("MLL_LABELS") or DEFAULT_LABELS, variables.get("MLL_GRAPH") or None, int(limit))


# --- questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """A visitor's question; with the same labels, its answer is always the same."""

    classes: tuple[str, ...]
    domain: str | None = None  # how the images look; None if unknown
    task: str | None = None  # what the images are for; None if unknown
    # number of models, limits and licenses
    config: SelectionConfig = SelectionConfig()  # noqa: RUF009 - frozen


def make_question(
    classes: Sequence[str],
    domain: str | None = None,
    task: str | None = None,
    k: float = 1,
    max_gflops: float | None = None,
    max_million_parameters: float | None = None,
    licenses: Sequence[str] = (),
) -> Question:
    """Check a visitor's input.

    Args:
        classes: Class names.
        domain: How the images look; empty if unknown.
        task: What the images are for; empty if unknown.
        k: Models per class.
        max_gflops: Maximum GFLOPs per image; None or 0 for any.
        max_million_parameters: Maximum parameters, in millions; None or 0 for any.
        licenses: Allowed licenses, as Hub ids; empty for any.

    Raises:
        InputError: A value is invalid.
    """
    if len(classes) > MAX_CLASSES:
        raise InputError(f"{len(classes):,} class names are more than this page accepts ({MAX_CLASSES:,})")
    names = check_class_names(classes)
    if len(names) == 1:
        raise InputError("one class leaves nothing to choose between; name at least two")
    licenses = licenses_in_text(licenses) if isinstance(licenses, str) else licenses
    ids = tuple(dict.fromkeys(str(license).strip().lower() for license in licenses))
    if wrong := [id for id in ids if not _LICENSE.fullmatch(id)]:
        raise InputError(f"'{shortened(wrong[0], 40)}' is not a Hub id of a license; use ids such as apache-2.0, mit")
    limits = {"max_gflops": max_gflops or None}
    limits["max_parameters"] = f"{max_million_parameters}M" if max_million_parameters else None
    config = configured(SelectionConfig(), {"k": k, "licenses": ids, **limits})
    if config.k > MAX_MODELS:
        raise InputError(f"the number of models is {config.k}; choose 1 to {MAX_MODELS}")
    return Question(names, _optional(domain), _optional(task), config)


def _optional(text: str | None) -> str | None:
    text = " ".join((text or "").split())
    if len(text) > 100:
        raise InputError("the domain or the task is longer than 100 characters; use a few words")
    return text or None


def licenses_in_text(text: str | None) -> tuple[str, ...]:
    """Licenses in a text box, separated by commas or spaces."""
    return tuple(filter(None, re.split(r"[\s,]+", text or "")))


def names_in_text(text: str | None) -> tuple[str, ...]:
    """Class names in a text box, separated by commas or line breaks.

    Raises:
        InputError: There are none, or they are invalid.
    """
    text = (text or "").strip()
    if not text:
        raise InputError("no class names yet; write at least two, separated by commas or line breaks")
    lines = text.splitlines() if "\n" in text else [text]
    return split_class_names("\n".join(line.strip().rstrip(",") for line in lines if line.strip(" \t,")))


# --- labels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Board:
    """Labels on one graph that compare directly."""

    name: str  # unique name, from the graph
    graph: SemanticGraph


@dataclass(frozen=True, eq=False)
class ListedModel:
    """A model and the facts about it."""

    name: str  # unique name: its id on the Hub, or the name of its local folder
    ref: ModelRef
    cost: Cost  # its cost per image
    license: str | None  # from its label or its publisher; None if unknown
    figures: Figures  # the kind of figures about it
    imagenet: float | None  # published zero-shot accuracy on ImageNet; None if there is none
    labels: tuple[Label | None, ...]  # [B] its label on each board, None where it has none
    publisher: str  # who published its label, or the figures

    @property
    def published(self) -> list[Figure]:
        """Published figures of it."""
        names = {known.name for known in known_models() if self.ref.repo_id in (known.hub_id, known.twin)}
        return [figure for figure in figures() if figure.model in names]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names that a visitor may use."""
        return self.ref.repo_id, self.ref.short_name, f"{self.ref.repo_id}@{self.ref.revision}"


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels at one point in time, and published figures. Read before any visitor sees them."""

    settings: Settings  # the Space's settings
    client: Client  # the library's client, with all its caches filled
    models: tuple[ListedModel, ...]  # the models, best measured ones first
    boards: tuple[Board, ...]  # the B boards, the reference first
    examples: Mapping[str, tuple[Question, Selection]]  # the answers to EXAMPLES

    @classmethod
    def read(cls, settings: Settings, encoder: TextEncoder) -> Labels:
        """Read the labels, load the encoder and fill all caches.

        ``functools.cached_property`` has no lock since Python 3.12: if several threads use it first at the same time,
        each computes it.

        Raises:
            MLLError: The labels or the encoder cannot be read.
        """
        client = Client(settings.labels, graph=settings.graph, encoder=encoder)
        examples = {}
        for name, (classes, domain, task) in EXAMPLES.items():
            question = make_question(names_in_text(classes), domain, task)
            examples[name] = question, _select(client, question)
        union = client.labels.union
        names = _distinct((graph.name, f"{graph.name} ({graph.digest[:7]})") for graph in union.graphs)
        for graph in (union.graph, *union.graphs):
            _ = graph.descendants, graph.concepts_named("")
        return cls(settings, client, _listed(client), tuple(map(Board, names, union.graphs)), examples)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Labels that are not in the rankings."""
        return self.client.labels.left_out

    def select(self, question: Question) -> Selection:
        """Select models for a question.

        Raises:
            MLLError: No model is within the limits, or licenses cannot be read from the Hub.
        """
        return _select(self.client, question)

    def find(self, name: str | None) -> ListedModel:
        """A model by its name, its id, or the last part of its id.

        Raises:
            InputError: There is none, or several.
        """
        name = (name or "").strip()
        if not name:
            raise InputError("no model yet; choose one from the list")
        found = [model for model in self.models if model.name == name]
        found = found or [model for model in self.models if name in model.aliases]
        if len(found) != 1:
            reason = "is not among the known models" if not found else "matches several models"
            raise InputError(f"'{shortened(name, 60)}' {reason}; give its full id")
        return found[0]

    def best_at(self, concept: int, b: int) -> list[tuple[ListedModel, Label]]:
        """The models that were tested on a concept of a board, by decreasing recall, with their labels."""
        pairs = [(model, label) for model in self.models if (label := model.labels[b]) and label.support[concept]]
        return sorted(pairs, key=lambda pair: -pair[1].node_precision[concept])

    def concept(self, id: str) -> Concept:
        """A concept, with the name and definition of the first graph that has it."""
        graph = next(board.graph for board in self.boards if id in board.graph.index)
        return graph.concepts[graph.index[id]]

    def senses(self, text: str | None) -> tuple[list[str], bool]:
        """Concepts that a visitor may mean.

        Args:
            text: A name or an id.

        Returns:
            Their ids, and whether these concepts have this name or id, or are only the nearest.

        Raises:
            InputError: The text is empty or too long.
        """
        text = (text or "").strip()
        if not text:
            raise InputError("no concept yet; write one, such as umbrella")
        if any(text in board.graph.index for board in self.boards):
            return [text], True
        (name,) = check_class_names([text])
        named: dict[str, int] = {}
        for graph in (board.graph for board in self.boards):
            for v in graph.concepts_named(name):
                named.setdefault(graph.concepts[v].id, len(graph.descendants[v]))
        if named:
            return sorted(named, key=lambda id: -named[id])[:_MAX_SENSES], True
        graph = self.client.labels.union.graph
        match = self.client.index.match(from_templates((name,), graph, None, None))
        near = match.weights[0] >= _MIN_WEIGHT * match.weights[0, 0]
        return [graph.concepts[v].id for v in match.concepts[0, near][:_MAX_SENSES].tolist()], False


def _select(client: Client, question: Question) -> Selection:
    return client.select(question.classes, question.config, domain=question.domain, task=question.task)


def _listed(client: Client) -> tuple[ListedModel, ...]:
    """The models with labels, by decreasing mean recall, then known models without a label."""
    accuracies, found = imagenet_accuracies(), []
    pairs = zip(client.labels.reference, client.labels.labels, strict=True)
    for label, on in sorted(pairs, key=lambda pair: (-pair[0].mean_recall, pair[0].model.repo_id)):
        publisher = client.source.origin_of(label).publisher or "local folder"
        accuracy = accuracies.get(label.model.repo_id)
        found.append((label.model, label.cost, label.license, Figures.LABEL, accuracy, on, publisher))
    nothing = (None,) * len(client.labels.union.graphs)
    seen = {ref.repo_id for ref, *_ in found}
    known = loadable_models() if client.known_models else ()  # those made for a domain are recommended, too
    for model in sorted(known, key=lambda model: (-(model.imagenet or 0), model.hub_id)):
        if model.hub_id not in seen:
            seen.add(model.hub_id)
            kind = Figures.NOMINATED if model.imagenet is None else Figures.PUBLISHED
            ref = ModelRef(model.hub_id, UNPINNED, model.backend)
            found.append((ref, model.cost, model.license, kind, model.imagenet, nothing, model.source))
    refs = [ref for ref, *_ in found]
    names = _distinct(
        (ref.short_name if ref.is_local else ref.repo_id, f"{ref.short_name}@{ref.revision[:7]}") for ref in refs
    )
    return tuple(ListedModel(name, *of) for name, of in zip(names, found, strict=True))


def _distinct(names: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Distinct names from pairs of a short and a longer name."""
    pairs = list(names)
    times = Counter(short for short, _ in pairs)
    return tuple(short if times[short] == 1 else longer for short, longer in pairs)


class _LockedEncoder:
    """A text encoder that serves one thread at a time; tokenizers cannot be shared."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder, self._lock = encoder, threading.Lock()

    @property
    def id(self) -> str:
        """Name and revision of the encoder's weights."""
        return self._encoder.id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, E] embeddings of N texts."""
        with self._lock:
            return self._encoder.encode(texts)


class Library:
    """Holds the labels for all visitors and reads them again every hour.

    Args:
        settings: The Space's settings.
        encoder: Text encoder that matches class names to concepts.
    """

    def __init__(self, settings: Settings, encoder: TextEncoder) -> None:
        self.settings = settings
        self._encoder = _LockedEncoder(encoder)
        self._lock = threading.Lock()
        self._state: Labels | MLLError = MLLError("the labels have not been read yet")
        self._expires = 0.0

    @property
    def labels(self) -> Labels:
        """The labels. If reading them again fails, the old ones are kept; a first failure is returned for 20 s.

        Raises:
            MLLError: They cannot be read.
        """
        with self._lock:
            if time.monotonic() >= self._expires:
                self._read()
        if isinstance(self._state, MLLError):
            raise self._state.with_traceback(None)
        return self._state

    def _read(self) -> None:
        try:
            self._state = Labels.read(self.settings, self._encoder)
        except MLLError as error:
            _log.warning("cannot read the labels: %s", error)
            if isinstance(self._state, MLLError):
                self._state = error
        failed = isinstance(self._state, MLLError)
        self._expires = time.monotonic() + (_RETRY_SECONDS if failed else _RELOAD_SECONDS)


# --- code for visitors ------------------------------------------------------------------------------------------------


def python_code(question: Question, labels: str, with_images: bool = False) -> str:
    """A program that makes the same choice, or fits models to a folder of images."""
    classes = ", ".join(map(repr, question.classes))
    if len(classes) > 70:
        classes = "\n" + "".join(f"    {name!r},\n" for name in question.classes)
    wanted = question.config
    options = _arguments(
        domain=question.domain,
        task=question.task,
        k=wanted.k,
        max_gflops=wanted.max_gflops,
        max_parameters=wanted.max_parameters,
        licenses=wanted.licenses or None,
    )
    images = ", images" if with_images else ""
    return (
        "from pathlib import Path\n\n" * with_images
        + "from mll_hf import Client\n\n"
        + f"client = Client({'' if labels == DEFAULT_LABELS else repr(labels)})\n"
        + f"classes = [{classes}]\n"
        + 'images = sorted(Path("photos").iterdir())\n' * with_images
        + f"selection = client.{'fit' if with_images else 'select'}(classes{images}{options and ', ' + options})\n"
        + "for m in selection.chosen_models:  # the chosen models, best first\n"
        + "    print(selection.models[m].ref.repo_id)\n\n"
        + "# then classify, one model in memory at a time:\n"
        + "# print(client.load(selection).predict(['photo.jpg']).classes)\n"
    )


def _arguments(**values: object) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value is not None)
