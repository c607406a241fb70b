"""Visitors' questions and their answers, without Gradio. The labels are read once for all visitors."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf import Client, SelectionConfig
from mll_hf.ensemble.run import Ensemble
from mll_hf.ensemble.trial import try_models
from mll_hf.errors import InputError, MLLError, ModelError
from mll_hf.hub.class_names import fetch_class_names
from mll_hf.hub.locations import fetch_graph_with_images, is_on_hub
from mll_hf.labels.label import UNPINNED, Label, ModelRef
from mll_hf.matching.concept_index import COVERED
from mll_hf.matching.describe import from_templates
from mll_hf.matching.prompts import check_class_names, fill, parse_class_names, split_class_names
from mll_hf.models import load_model, pick_device
from mll_hf.models.batches import prepared_batches
from mll_hf.models.known import ids_of, imagenet_accuracies, usable_models
from mll_hf.models.published import DEFAULT_LABELS, PUBLISHED, split_location
from mll_hf.selection import Figures, Task, shortlist_config
from mll_hf.selection.probabilities import softmax
from mll_hf.selection.task import trial_sample
from mll_hf.utils.images import IMAGE_SUFFIXES, open_image
from mll_hf.utils.text import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from mll_hf import Selection
    from mll_hf.client import LabelGroup
    from mll_hf.graph.concepts import Concept, SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.join import LeftOut
    from mll_hf.labels.label import Cost, Label
    from mll_hf.labels.store import LabelSource
    from mll_hf.matching.text_encoder import TextEncoder
    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection.budget import TrialPlan
    from mll_hf.utils.images import ImageLike

    Embed = Callable[[VisionLanguageModel, torch.Tensor, list[str]], tuple[NDArray[Any], NDArray[Any]] | str]

MAX_CLASSES = 1000
MAX_MODELS = 10  # per class
MAX_IMAGES = 200
OPEN_LICENSES = (
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense",
)  # fmt: skip
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,63}")
_MAX_LICENSES = 50
_DATASET_PAGE = re.compile(r"(?:https?://)?huggingface\.co/datasets/([^/?#]+/[^/?#]+)")
_MAX_FILE_BYTES = 2**20
_RETRY_SECONDS = 20.0
_RELOAD_SECONDS = 3600.0
_MAX_SENSES = 4
_MIN_WEIGHT = 0.2  # of a nearby concept, as a share of the largest weight
_MAX_BRANCHES = 300
_SHORTLIST = 8  # models that compete in a trial; all of them may have to run on a CPU
_CLASSES_IN_A_LINE = 30
FAMILIES = (
    "SigLIP2", "SigLIP", "MetaCLIP", "MobileCLIP", "TinyCLIP", "CLIPA", "DFN", "EVA", "CoCa", "ViTamin", "PE-Core",
    "CLIP", "other",
)  # fmt: skip
_PLAIN_NAME = re.compile(r"\w[\w -]*", re.ASCII)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the Space."""

    # source of labels as for :class:`mll_hf.Client`: ``hub,published``, a dataset, or a folder
    labels: str = DEFAULT_LABELS
    # folder or dataset of the graph that labels must be on; None for the one with the most publishers
    graph: str | None = None
    images: str | None = None  # a graph whose probe images may be shown to anyone; None to show none
    max_parameters: int = 10**9  # maximum total parameters of the models of one trial

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Settings:
        """Read ``MLL_LABELS``, ``MLL_GRAPH``, ``MLL_IMAGES`` and ``MLL_MOST_PARAMETERS``.

        Raises:
            InputError: ``MLL_MOST_PARAMETERS`` is not a number.
        """
        limit = variables.get("MLL_MOST_PARAMETERS") or "1000000000"
        if not limit.isascii() or not limit.isdecimal():
            raise InputError(f"MLL_MOST_PARAMETERS is '{limit}'; give a whole number such as 1000000000")
        graph, images = (variables.get(name) or None for name in ("MLL_GRAPH", "MLL_IMAGES"))
        return cls(variables.get("MLL_LABELS") or DEFAULT_LABELS, graph, images, int(limit))


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
        raise InputError(
            f"{len(classes):,} class names are more than this page accepts ({MAX_CLASSES:,}); the library accepts any "
            "number"
        )
    names = check_class_names(classes)
    for number in (k, max_gflops or 0, max_million_parameters or 0):
        if not isinstance(number, int | float):
            raise InputError(f"'{shortened(str(number), 40)}' is not a number; give a number, or none")
    if len(names) == 1:
        raise InputError("one class leaves nothing to choose between; name at least two")
    if not 1 <= k <= MAX_MODELS or k != int(k):
        raise InputError(f"the number of models is {k:g}; choose 1 to {MAX_MODELS}")
    for limit, what in ((max_gflops, "GFLOPs"), (max_million_parameters, "parameters")):
        if limit is not None and not 0 <= limit < float("inf"):
            raise InputError(f"the limit on {what} is {limit:g}; give a positive number, or none")
    config = SelectionConfig(
        k=int(k),
        max_gflops=float(max_gflops) if max_gflops else None,
        max_parameters=round(max_million_parameters * 1e6) if max_million_parameters else None,
        licenses=_checked_licenses(licenses),
    )
    return Question(names, _optional(domain), _optional(task), config)


def _checked_licenses(licenses: Sequence[str]) -> tuple[str, ...]:
    licenses = licenses_in_text(licenses) if isinstance(licenses, str) else licenses
    if len(licenses) > _MAX_LICENSES:
        raise InputError(f"{len(licenses)} licenses are more than this page accepts; give at most {_MAX_LICENSES}")
    ids = tuple(dict.fromkeys(str(license).strip().lower() for license in licenses))
    if wrong := [id for id in ids if not _LICENSE.fullmatch(id)]:
        raise InputError(f"'{shortened(wrong[0], 40)}' is not a Hub id of a license; use ids such as apache-2.0, mit")
    return ids


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


def names_in_file(path: str) -> tuple[str, ...]:
    """Class names in an uploaded file: one per line, or JSON or CSV by its suffix.

    Raises:
        InputError: The file is too large, or has no class names.
    """
    if os.path.getsize(path) > _MAX_FILE_BYTES:
        raise InputError("the file is larger than 1 MB; a list of class names is smaller")
    try:
        return parse_class_names(path)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{Path(path).name}: {reason}") from None


def names_of_dataset(location: str | None) -> tuple[str, ...]:
    """Class names of a public image dataset on the Hub, from its card.

    Raises:
        InputError: It is not a dataset, or its card has no class names.
        HubError: It cannot be read.
    """
    text = (location or "").strip()
    on_a_page = _DATASET_PAGE.match(text)  # the page of the dataset, or of anything in it
    repo_id = on_a_page[1] if on_a_page else text
    if not repo_id:
        raise InputError("no dataset yet; write its id, such as ylecun/mnist")
    return fetch_class_names(repo_id if is_on_hub(repo_id) else f"hf://datasets/{repo_id}", token=False)


def names_as_text(names: Sequence[str]) -> str:
    """Class names as the text of a text box; the inverse of :func:`names_in_text`."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([name] for name in names)
    return out.getvalue().rstrip("\n")


# --- labels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Board:
    """Labels on one graph that compare directly."""

    name: str  # unique name, from the graph
    graph: SemanticGraph
    source: LabelSource  # where the labels come from

    @cached_property
    def branches(self) -> tuple[tuple[str, str], ...]:
        """Name and id of the branches with at least ten concepts, largest first."""
        sizes = [1 + len(below) for below in self.graph.descendants]
        largest = sorted((v for v in range(len(sizes)) if sizes[v] >= 10), key=lambda v: -sizes[v])[:_MAX_BRANCHES]
        concepts = self.graph.concepts
        return tuple((f"{concepts[v].name} ({sizes[v]:,} concepts)", concepts[v].id) for v in largest)


@dataclass(frozen=True, eq=False)
class ListedModel:
    """A model and the facts about it."""

    name: str  # unique name: its id on the Hub, or the name of its local folder
    ref: ModelRef
    cost: Cost  # its cost per image
    license: str | None  # from its label or its publisher; None if unknown
    figures: Figures  # where the figures about it come from
    imagenet: float | None  # published zero-shot accuracy on ImageNet; None if there is none
    labels: tuple[Label | None, ...]  # [B] its label on each board, None where it has none
    publisher: str  # who published its label, or the figures

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names that a visitor may use."""
        return self.ref.repo_id, self.ref.short_name, f"{self.ref.repo_id}@{self.ref.revision}"

    @property
    def family(self) -> str:
        """The family of the model, from its name."""
        return next((family for family in FAMILIES if family.lower() in self.name.lower()), FAMILIES[-1])


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels at one point in time, and published figures. Read before any visitor sees them."""

    settings: Settings  # the Space's settings
    client: Client  # the library's client, with all its caches filled
    models: tuple[ListedModel, ...]  # the models, best measured ones first
    boards: tuple[Board, ...]  # the B boards, the reference first
    # number of the board whose probe images may be shown, and the images; None to show none
    images: tuple[int, ProbeSet] | None = None

    @classmethod
    def read(cls, settings: Settings, encoder: TextEncoder) -> Labels:
        """Read the labels, load the encoder and fill all caches.

        ``functools.cached_property`` has no lock since Python 3.12: if several threads use it first at the same time,
        each computes it.

        Raises:
            MLLError: The labels or the encoder cannot be read.
        """
        client = Client(settings.labels, graph=settings.graph, encoder=encoder)
        client.select(("dog", "cat"))
        graphs = [(graph, group.source) for group in client.groups for graph in group.labels.union.graphs]
        names = _distinct((graph.name, f"{graph.name} ({graph.digest[:7]})") for graph, _ in graphs)
        boards = tuple(Board(name, *of) for name, of in zip(names, graphs, strict=True))
        for graph in (*(group.labels.union.graph for group in client.groups), *(board.graph for board in boards)):
            _ = graph.descendants, graph.concepts_named("")
        for board in boards:
            _ = board.branches
        images = _read_images(settings.images, client.groups[0]) if settings.images else None
        return cls(settings, client, _listed(client, settings, len(boards)), boards, images)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Labels that are not in the rankings."""
        return tuple(one for group in self.client.groups for one in group.labels.left_out)

    @property
    def location(self) -> str:
        """The source of the labels as users write it; a collection has the commit that was read."""
        group, model = self.client.groups[0], self.models[0]
        if group.figures is not Figures.LABEL or not is_on_hub(group.source.name):
            return self.settings.labels
        label = next(label for label in model.labels if label)
        read = group.source.origin_of(label).location.partition("/labels/")[0]
        return f"{read},{PUBLISHED}" if split_location(self.settings.labels)[1] else read

    def select(self, question: Question) -> Selection:
        """Select models for a question.

        Raises:
            MLLError: No model is within the limits, or licenses cannot be read from the Hub.
        """
        return self.client.select(question.classes, question.config, domain=question.domain, task=question.task)

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

    def board(self, name: str | None) -> int:
        """Number of a board; the first one if there is no name.

        Raises:
            InputError: There is none with this name.
        """
        names = [board.name for board in self.boards]
        if name and name not in names:
            raise InputError(f"no graph is named '{shortened(name, 60)}'; choose one of: {', '.join(names)}")
        return names.index(name) if name else 0

    def read_labels(self, models: Sequence[ListedModel], board: str | None) -> tuple[tuple[Label, ...], SemanticGraph]:
        """The labels of some models on a board, and its graph.

        Args:
            models: The models.
            board: Name of the board; empty for the first one on which all have a label.

        Raises:
            InputError: There is no such board, or a model has no label on it.
            MLLError: A label cannot be read.
        """
        shared = [b for b in range(len(self.boards)) if all(model.labels[b] for model in models)]
        b = self.board(board) if board or not shared else shared[0]
        for model in models:
            if model.labels[b] is None:
                raise InputError(
                    f"{model.name} was not measured on {self.boards[b].name}; choose another model or graph"
                )
        return tuple([label for model in models if (label := model.labels[b])]), self.boards[b].graph

    def measured_on(self, b: int) -> list[tuple[ListedModel, Label]]:
        """The models that were measured on a board, with their labels, generally best first."""
        return [(model, label) for model in self.models if (label := model.labels[b])]

    def recalls(self, b: int, concept: str | None = None) -> dict[str, float]:
        """Mean recall of the models that were measured on a board, by name.

        Args:
            b: Number of the board.
            concept: Id of the concept at the top of the branch to average over; None for all concepts.
        """
        if not concept:
            return {model.name: label.mean_recall for model in self.models if (label := model.labels[b])}
        graph = self.boards[b].graph
        v = graph.index[concept]
        rows = np.array([v, *graph.descendants[v]])
        found = {}
        for model, label in self.measured_on(b):
            if len(tested := rows[label.support[rows] > 0]):
                found[model.name] = float(label.node_precision[tested].mean(dtype=np.float64))
        return found

    def best_at(self, concept: int, b: int) -> list[tuple[ListedModel, Label]]:
        """The models that were tested on a concept of a board, by decreasing recall, with their labels."""
        tested = [pair for pair in self.measured_on(b) if pair[1].support[concept]]
        return sorted(tested, key=lambda pair: -pair[1].node_precision[concept])

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
        group = self.client.groups[0]
        graph = group.labels.union.graph
        match = group.index.match(from_templates((name,), graph, None, None))
        near = match.weights[0] >= _MIN_WEIGHT * match.weights[0, 0]
        return [graph.concepts[v].id for v in match.concepts[0, near][:_MAX_SENSES].tolist()], False

    def sample_images(self, concept: int, b: int, limit: int = 6) -> list[bytes]:
        """Some probe images of a concept of a board; none unless the settings allow showing them.

        Raises:
            MLLError: The images cannot be read.
        """
        if self.images is None or self.images[0] != b:
            return []
        probes = self.images[1]
        of_concept = probes.members[slice(*probes.offsets[concept : concept + 2].tolist())]
        step = max(len(of_concept) // limit, 1)
        batches = probes.iter_image_bytes(limit, of_concept[::step][:limit])
        return [content for batch in batches for content in batch if content]


def _listed(client: Client, settings: Settings, n_boards: int) -> tuple[ListedModel, ...]:
    """The models with labels, by group and decreasing mean recall, then those with only a published overall figure."""
    accuracies, known, found = imagenet_accuracies(), set[str](), []
    before = 0
    for group in client.groups:
        after = n_boards - before - len(group.labels.union.graphs)
        pairs = zip(group.labels.reference, group.labels.labels, strict=True)
        for label, on in sorted(pairs, key=lambda pair: (-pair[0].mean_recall, pair[0].model.repo_id)):
            publisher = group.source.origin_of(label).publisher or "local folder"
            labels = (*[None] * before, *on, *[None] * after)
            accuracy = accuracies.get(label.model.repo_id)
            found.append((label.model, label.cost, label.license, group.figures, accuracy, labels, publisher))
            known |= ids_of(label.model.repo_id)
        before += len(group.labels.union.graphs)
    if split_location(settings.labels)[1] or client.groups[-1].figures is not Figures.LABEL:
        others = [model for model in usable_models() if model.hub_id not in known]
        for model in sorted(others, key=lambda model: (-(model.imagenet or 0), model.hub_id)):
            ref, nothing = ModelRef(model.hub_id, UNPINNED, model.backend), (None,) * n_boards
            found.append((ref, model.cost, model.license, Figures.OVERALL, model.imagenet, nothing, model.source))
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


def _read_images(location: str, group: LabelGroup) -> tuple[int, ProbeSet] | None:
    """Number of the board with the graph at a location, and its probe images; None with a warning if there is none."""
    joined = group.labels
    try:
        found = fetch_graph_with_images(location)
        for g, graph in enumerate(joined.union.graphs):
            if graph.digest == found.graph.digest:
                return g, found.probes(next(label for label in joined.on_graph(g) if label).sampling)
        raise InputError("no label is on this graph; name another one")
    except MLLError as error:
        _log.warning("MLL_IMAGES: no images are shown: %s", error)
        return None


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
        self._reading = threading.Lock()
        self._state: Labels | MLLError = MLLError("the labels have not been read yet")
        self._expires = 0.0

    @property
    def labels(self) -> Labels:
        """The labels. If reading them again fails, the old ones are kept; a first failure is returned for 20 s.

        While they are read again for one visitor, the others get the old ones.

        Raises:
            MLLError: They cannot be read.
        """
        if self._is_old and self._reading.acquire(blocking=isinstance(self._state, MLLError)):
            try:
                if self._is_old:  # not read by another thread in the meantime
                    self._read()
            finally:
                self._reading.release()
        if isinstance(self._state, MLLError):
            raise self._state.with_traceback(None)
        return self._state

    @property
    def _is_old(self) -> bool:
        return time.monotonic() >= self._expires

    def _read(self) -> None:
        try:
            self._state = Labels.read(self.settings, self._encoder)
        except MLLError as error:
            _log.warning("cannot read the labels: %s", error)
            if isinstance(self._state, MLLError):
                self._state = error
        failed = isinstance(self._state, MLLError)
        self._expires = time.monotonic() + (_RETRY_SECONDS if failed else _RELOAD_SECONDS)


def describe_coverage(coverage: float) -> str:
    """A coverage in words."""
    if coverage >= 0.99:
        return "same concept"
    if coverage >= COVERED:
        return "close"
    return "weak" if coverage >= 0.1 else "not covered"


# --- trials -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """Answers of the U chosen models on N images."""

    selection: Selection  # the models, and the C classes
    probabilities: NDArray[np.float64]  # [N, C] pooled over the models; NaN for unreadable images
    votes: NDArray[np.floating[Any]]  # [U, N, C] probabilities of each model
    # whether these are the models for the question, rather than the best ones within the page's limit
    is_first_choice: bool


@dataclass(frozen=True)
class Runner(Ensemble):
    """An ensemble that reports which model it runs, with one model in memory at a time."""

    tell: Callable[[str], object] = print  # called with the name of each model before it runs
    embed: Embed | None = None  # runs :func:`embed` on another device; None to run models where they were loaded

    def model_runner(self, images: Sequence[ImageLike]) -> Callable[[int], NDArray[np.float32]]:
        """See :meth:`Ensemble.model_runner`."""
        here = super().model_runner(images)

        def run(m: int) -> NDArray[np.float32]:
            self.tell(self.selection.models[m].name)
            return here(m) if self.embed is None else self._run_elsewhere(m, images, self.embed)

        return run

    def _run_elsewhere(self, m: int, images: Sequence[ImageLike], embed: Embed) -> NDArray[np.float32]:
        """[N, C] logits of one model; downloading, loading and preprocessing happen before ``embed`` is called."""
        model = load_model(self.selection.models[m].ref, "cpu", token=self.token)
        try:
            logits = np.full((len(images), len(self.selection.classes)), np.nan, np.float32)
            prepare = partial(_prepared, model)
            ((pixels, readable),) = prepared_batches([images], prepare)
            if pixels is None:
                return logits
            prompts = [text for name in self.selection.classes for text in fill(self.prompt_templates, name)]
            found = embed(model, pixels, prompts)
            if isinstance(found, str):
                raise ModelError(model.ref.repo_id, found)
            embeddings, texts = found
            means = texts.reshape(len(self.selection.classes), -1, texts.shape[1]).mean(axis=1)
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            logits[readable] = model.logit_scale * embeddings @ means.T + model.logit_bias
            return logits
        finally:
            model.close()


def _prepared(model: VisionLanguageModel, image: ImageLike) -> torch.Tensor | None:
    picture = open_image(image)
    return None if picture is None else model.preprocess(picture)


def embed(
    model: VisionLanguageModel, pixels: torch.Tensor, texts: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | str:
    """Embed N images [N, 3, H, W] and T texts on the best device; returns the reason if that fails.

    ZeroGPU runs this in another process, which would return only the class name of an error.
    """
    try:
        model.move(pick_device())
        return model.encode_pixels(pixels), model.encode_texts(texts)
    except ModelError as error:
        return str(error)


def gpu_seconds(model: VisionLanguageModel, pixels: torch.Tensor, texts: list[str]) -> int:
    """Maximum seconds of :func:`embed` on a GPU: moving the model, then ten teraflops a second."""
    gflops = model.cost.gflops * (len(pixels) + len(texts))  # a text costs less than an image
    return min(10 + round(model.cost.parameters / 2e8 + gflops / 1e4), 120)


def sampled_images(paths: Sequence[str]) -> list[str]:
    """The images among uploaded files; a seeded sample if there are more than 200.

    Raises:
        InputError: There are none.
    """
    images = [path for path in paths if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise InputError("no image yet; upload some, or choose an example")
    return [images[n] for n in trial_sample(len(images), MAX_IMAGES)]


Progress = Callable[[tuple[int, int | None], str], object]


def classify(
    labels: Labels, question: Question, images: Sequence[str], embed: Embed | None, progress: Progress
) -> Trial:
    """Classify images with the models for a question, or the best within this page's limit, one in memory at a time.

    Args:
        labels: The labels.
        question: The question.
        images: Paths of the images.
        embed: As for :class:`Runner`.
        progress: Called before each model with (finished models, all models) and a text.

    Raises:
        MLLError: No model is small enough, or one fails.
    """
    selection, limit = labels.select(question), labels.settings.max_parameters
    is_first_choice = selection.cost.parameters <= limit
    if not is_first_choice:
        each = limit // max(len(selection.chosen_models), 1)
        selection = labels.select(replace(question, config=replace(question.config, max_parameters=each)))
    done = count()
    tell = lambda name: progress((next(done), len(selection.chosen_models)), f"Running {name}")  # noqa: E731
    runner = Runner(selection, tell=tell, embed=embed)
    run = runner.model_runner(images)
    logits = np.stack([run(m) for m in selection.chosen_models])
    each = softmax(runner.calibrated(logits))
    return Trial(selection, runner.combine(logits).probabilities, each, is_first_choice)


def choose_by_images(
    labels: Labels, question: Question, images: Sequence[str], embed: Embed | None, progress: Progress
) -> tuple[Selection, Selection]:
    """Try models on a visitor's images, as :meth:`Client.select` does, and select from them.

    The budget is the Space's: the models in a trial have at most ``max_parameters`` in total, cached or not. Arguments
    are those of :func:`classify`.

    Returns:
        The ranking by labels and published figures alone, and the ranking after the trial.

    Raises:
        MLLError: No model is within the limits, too few images can be read, or all models fail.
    """
    limit = labels.settings.max_parameters
    cap = min(question.config.max_parameters or limit, limit)
    config = replace(
        question.config, max_parameters=cap, shortlist=_SHORTLIST, most_images=MAX_IMAGES, max_download=4 * limit
    )
    before = labels.select(replace(question, config=shortlist_config(config)))
    told, planned = count(), list[int]()
    tell = lambda name: progress((next(told), planned[0]), f"Running {name} on {len(images)} images")  # noqa: E731

    def approve(plan: TrialPlan) -> bool:
        planned.append(len(plan.order))
        return True

    sizes = [4 * before.models[m].cost.parameters for m in before.chosen_models]
    task = Task.of(question.classes, images=images, most_images=MAX_IMAGES)
    return before, try_models(Runner(before, tell=tell, embed=embed), config, task, sizes, approve)


def push(selection: Selection | None, repo_id: str, private: bool, token: str | None) -> str:
    """Publish a selection in its own repo with a visitor's token; returns its URL.

    Raises:
        MLLError: There is no selection or token, or the Hub refuses.
    """
    if selection is None:
        raise InputError("no selection yet; try the models on your images first")
    if not token:  # without one, the Space's own would be used
        raise InputError("you are not signed in; sign in with Hugging Face first")
    published = selection.push_to_hub(repo_id.strip(), private=private, token=token)
    return str(published.url)


# --- code for visitors ------------------------------------------------------------------------------------------------


def python_code(question: Question, labels: str) -> str:
    """A program that asks the same question and prints the chosen models."""
    classes = ", ".join(map(repr, question.classes))
    if len(classes) > 70:
        classes = "\n" + "".join(f"    {name!r},\n" for name in question.classes)
    wanted = question.config
    config = _arguments(
        k=wanted.k,
        max_gflops=wanted.max_gflops,
        max_parameters=wanted.max_parameters,
        licenses=wanted.licenses or None,
    )
    described = _arguments(domain=question.domain, task=question.task)
    return (
        "from mll_hf import Client, SelectionConfig\n\n"
        f"client = Client({'' if labels == DEFAULT_LABELS else repr(labels)})\n"
        f"classes = [{classes}]\n"
        f"selection = client.select(classes, SelectionConfig({config}){described and ', ' + described})\n"
        "for m in selection.chosen_models:  # the chosen models, best first\n"
        "    print(selection.models[m].ref.repo_id)\n\n"
        "# then classify, one model in memory at a time:\n"
        "# print(client.load(selection).predict(['photo.jpg']).classes)\n"
    )


def _arguments(**values: object) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value is not None)


def shell_code(question: Question, labels: str) -> str:
    """The same question as a command; many or unusual class names go into a file."""
    wanted = question.config
    if len(question.classes) <= _CLASSES_IN_A_LINE and all(map(_PLAIN_NAME.fullmatch, question.classes)):
        before, classes = "", shlex.quote(", ".join(question.classes))
    else:
        before = f"cat > classes.json <<'END'\n{json.dumps(list(question.classes))}\nEND\n"
        classes = "classes.json"
    options = {
        "--domain": question.domain,
        "--task": question.task,
        "-k": str(wanted.k),
        "--max-gflops": f"{wanted.max_gflops:.12g}" if wanted.max_gflops else None,
        "--max-parameters": str(wanted.max_parameters) if wanted.max_parameters else None,
        "--license": ",".join(wanted.licenses) or None,
        "--labels": labels,
    }
    words = [_option(name, value) for name, value in options.items() if value]
    return f"{before}mll-hf select --classes {classes} \\\n  {' '.join(words)}\n"


def _option(name: str, value: str) -> str:
    """An option and its value, joined with = if the value starts with a dash."""
    return f"{name}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"
