"""Visitors' questions and their answers, without Gradio. The labels are read once for all visitors."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mll_hf import Client, SelectionConfig
from mll_hf.errors import InputError, MLLError
from mll_hf.matching.describe import from_templates
from mll_hf.matching.prompts import check_class_names, split_class_names
from mll_hf.models.known import imagenet_accuracies, known_models, loadable_models
from mll_hf.models.published import DEFAULT_LABELS, figures
from mll_hf.selection.strategies import configured
from mll_hf.utils.text import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mll_hf import Selection
    from mll_hf.graph.concepts import Concept, SemanticGraph
    from mll_hf.labels.label import Cost, Label
    from mll_hf.matching.text_encoder import TextEncoder
    from mll_hf.models.published import Figure

EXAMPLES = {  # classes and domain; the first is shown when the page opens
    "Land cover from space": (
        "annual crop, forest, herbaceous vegetation, highway, industrial, pasture, permanent crop, residential, river, "
        "sea or lake",
        "satellite image",
    ),
    "Everyday things": ("airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck", "photo"),
    "Garden birds": ("blue jay, northern cardinal, house sparrow, barn owl, robin", "photo"),
    "Skin lesions": ("melanoma, nevus, basal cell carcinoma, benign keratosis", "medical image"),
    "Pipe inspection": ("corroded pipe, intact pipe, weld", "photo"),
}
MAX_CLASSES = 1000
MAX_MODELS = 10  # to combine
_MAX_DOMAIN_LENGTH = 100
_RETRY_SECONDS = 20.0
_RELOAD_SECONDS = 3600.0
_MAX_SENSES = 4
_MIN_WEIGHT = 0.2  # of a concept that a visitor may mean, as a share of the largest weight
_log = logging.getLogger(__name__)


# --- questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A visitor's question: class names, and the options of :meth:`mll_hf.Client.select` that were given."""

    classes: tuple[str, ...]
    domain: str | None
    options: Mapping[str, Any]

    @classmethod
    def of(cls, classes: Sequence[str] | str, domain: str | None = None, **options: object) -> Question:
        """Check a visitor's input; an InputError if it cannot be used. Empty options are left out."""
        if isinstance(classes, str):
            lines = (line.strip(" \t,") for line in classes.splitlines())
            classes = split_class_names("\n".join(filter(None, lines)))
        if len(classes) > MAX_CLASSES:
            raise InputError(f"{len(classes):,} class names are more than this page accepts ({MAX_CLASSES:,})")
        names = check_class_names(classes)
        if len(names) == 1:
            raise InputError("one class leaves nothing to choose between; name at least two")
        domain = " ".join((domain or "").split())
        if len(domain) > _MAX_DOMAIN_LENGTH:
            raise InputError(f"the domain is longer than {_MAX_DOMAIN_LENGTH} characters; use a few words")
        given = {name: value for name, value in options.items() if value not in (None, "", 0, [], ())}
        config = configured(SelectionConfig(), given)
        if (config.k or 1) > MAX_MODELS:
            raise InputError(f"the number of models is {config.k}; choose 1 to {MAX_MODELS}")
        return cls(names, domain or None, {name: getattr(config, name) for name in given})

    @property
    def config(self) -> SelectionConfig:
        """Its options."""
        return configured(SelectionConfig(), self.options)

    def code(self, source: str, with_images: bool = False) -> str:
        """A program that makes the same choice, or fits models to a folder of images."""
        given = ({"domain": self.domain} if self.domain else {}) | self.options
        before, act, images = "", "select", ""
        if with_images:
            before, act, images = "from pathlib import Path\n\n", "fit", ', sorted(Path("photos").iterdir())'
            given = {"k": 1} | given
        options = "".join(f", {name}={value!r}" for name, value in given.items())
        return (
            f"{before}from mll_hf import Client\n\n"
            f"client = Client({'' if source == DEFAULT_LABELS else repr(source)})\n"
            f"classes = {list(self.classes)!r}\n"
            f"selection = client.{act}(classes{images}{options})\n"
            "print([selection.models[m].name for m in selection.chosen_models])\n\n"
            "# classify, one model in memory at a time:\n"
            "# print(client.load(selection).predict(['photo.jpg']).classes)\n"
        )


# --- labels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ListedModel:
    """A model and the facts about it."""

    name: str  # id on the Hub, or name of a local folder
    cost: Cost
    license: str | None  # by its label or its publisher
    imagenet: float | None  # published zero-shot accuracy
    origin: str  # who published its label, or the figures
    tests: tuple[tuple[SemanticGraph, Label], ...] = ()  # its labels, that on the reference graph first

    @property
    def recall(self) -> float | None:
        """Mean recall on the reference graph."""
        return self.tests[0][1].mean_recall if self.tests else None

    @property
    def published(self) -> list[Figure]:
        """Published figures."""
        names = {known.name for known in known_models() if self.name in (known.hub_id, known.twin)}
        return [figure for figure in figures() if figure.model in names]


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels at one point in time, and published figures."""

    source: str  # as for :class:`mll_hf.Client`
    client: Client
    models: tuple[ListedModel, ...]  # by recall, then by published accuracy
    examples: Mapping[str, tuple[Question, Selection]]  # the answers to EXAMPLES

    @classmethod
    def read(cls, source: str, encoder: TextEncoder) -> Labels:
        """Read the labels and answer the examples, which loads everything; an MLLError if that fails."""
        client, examples = Client(source, encoder=encoder), {}
        for name, (classes, domain) in EXAMPLES.items():
            question = Question.of(classes, domain)
            examples[name] = question, client.select(question.classes, domain=domain)
        return cls(source, client, _listed(client), examples)

    def select(self, question: Question, **options: object) -> Selection:
        """Select models for a question, with further options of :meth:`mll_hf.Client.select`."""
        return self.client.select(question.classes, domain=question.domain, **{**question.options, **options})

    def model(self, name: str) -> ListedModel:
        """A model by its name; an InputError if there is none."""
        found = next((model for model in self.models if model.name == name), None)
        if found is None:
            raise InputError(f"'{shortened(name, 60)}' is not among the known models; give its full id")
        return found

    def concepts(self, text: str) -> list[Concept]:
        """The concepts that a visitor may mean by a name or an id; an InputError for a text without words."""
        graph = self.client.labels.union.graph
        if text in graph.index:
            return [graph.concepts[graph.index[text]]]
        match = self.client.index.match(from_templates(check_class_names([text]), graph))
        near = match.weights[0] >= _MIN_WEIGHT * match.weights[0, 0]
        return [graph.concepts[v] for v in match.concepts[0, near][:_MAX_SENSES].tolist()]

    def best_at(self, concept: Concept) -> list[tuple[str, ListedModel, float, int]]:
        """Graph, model, recall and number of images of every test on a concept, by decreasing recall."""
        found = []
        for model in self.models:
            for graph, label in model.tests:
                v = graph.index.get(concept.id)
                if v is not None and label.support[v]:
                    found.append((graph.name, model, float(label.node_precision[v]), int(label.support[v])))
        return sorted(found, key=lambda row: -row[2])


def _listed(client: Client) -> tuple[ListedModel, ...]:
    """The models with labels, then known models without, which are recommended, too."""
    accuracies, graphs = imagenet_accuracies(), client.labels.union.graphs
    found: dict[str, ListedModel] = {}
    for row in client.labels.labels:
        tests = tuple((graph, label) for graph, label in zip(graphs, row, strict=True) if label is not None)
        label = tests[0][1]
        name = label.model.short_name if label.model.is_local else label.model.repo_id
        origin = client.source.origin_of(label).publisher or "local folder"
        found[name] = ListedModel(name, label.cost, label.license, accuracies.get(name), origin, tests)
    for known in loadable_models() if client.known_models else ():
        if known.hub_id not in found:
            accuracy = accuracies.get(known.hub_id)
            found[known.hub_id] = ListedModel(known.hub_id, known.cost, known.license, accuracy, known.source)
    return tuple(sorted(found.values(), key=lambda model: (-(model.recall or 0), -(model.imagenet or 0), model.name)))


class _LockedEncoder:
    """A text encoder that serves one thread at a time; tokenizers cannot be shared."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.id, self._encode, self._lock = encoder.id, encoder.encode, threading.Lock()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, E] embeddings of N texts."""
        with self._lock:
            return self._encode(texts)


class Library:
    """Holds the labels for all visitors, and reads them again every hour.

    Args:
        source: Of the labels, as for :class:`mll_hf.Client`.
        encoder: Matches class names to concepts.
        max_parameters: Maximum total parameters of the models of one trial.
    """

    def __init__(self, source: str, encoder: TextEncoder, max_parameters: int = 10**9) -> None:
        self.source, self.max_parameters = source, max_parameters
        self._encoder, self._lock = _LockedEncoder(encoder), threading.Lock()
        self._state: Labels | MLLError = MLLError("the labels have not been read yet")
        self._expires = 0.0

    @property
    def labels(self) -> Labels:
        """The labels. If reading them again fails, the old ones are kept; a first failure is raised for 20 s."""
        with self._lock:
            if time.monotonic() >= self._expires:
                try:
                    self._state = Labels.read(self.source, self._encoder)
                except MLLError as error:
                    _log.warning("cannot read the labels: %s", error)
                    self._state = self._state if isinstance(self._state, Labels) else error
                is_read = isinstance(self._state, Labels)
                self._expires = time.monotonic() + (_RELOAD_SECONDS if is_read else _RETRY_SECONDS)
            state = self._state
        if isinstance(state, MLLError):
            raise state.with_traceback(None)
        return state
