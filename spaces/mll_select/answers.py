"""Questions of visitors and their answers, without Gradio. The labels are read once for all visitors."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf import Client, SelectionConfig
from mll_hf.bench.hub_tasks import fetch_class_names
from mll_hf.ensemble.run import Ensemble
from mll_hf.errors import InputError, MLLError
from mll_hf.hub.locations import fetch_graph_with_images, is_on_hub
from mll_hf.labels.label import LabelSummary
from mll_hf.matching.concept_index import COVERED
from mll_hf.matching.describe import from_templates
from mll_hf.matching.prompts import check_class_names, parse_class_names, split_class_names
from mll_hf.utils.text import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf import Selection
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import LabelFacts
    from mll_hf.matching.text_encoder import TextEncoder

MOST_CLASSES = 1000
MOST_MODELS = 10  # per class
MOST_IMAGES = 32
OPEN_LICENSES = (
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense",
)  # fmt: skip
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,63}")
_MOST_LICENSES = 50
_MOST_FILE_BYTES = 2**20
_RETRY_SECONDS = 20.0
_RELOAD_SECONDS = 3600.0
_MOST_FETCHED = 100  # labels that are read whole to compare models on one concept
_MOST_SENSES = 4
_LEAST_WEIGHT = 0.2  # of a nearest concept, as a share of the largest weight
_CLASSES_IN_A_LINE = 30
_PLAIN_NAME = re.compile(r"\w[\w -]*", re.ASCII)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the Space.

    Attributes:
        labels: Source of labels: ``hub``, ``hf://datasets/ORG/NAME[@REVISION]``, or a folder.
        graph: Folder or dataset of the graph that labels must be on; None for the one of most publishers.
        images: A graph whose probe images may be shown to anyone; None to show none.
        most_parameters: Most parameters of all models of one trial together.
    """

    labels: str = "hub"
    graph: str | None = None
    images: str | None = None
    most_parameters: int = 10**9

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Settings:
        """Read ``MLL_LABELS``, ``MLL_GRAPH``, ``MLL_IMAGES`` and ``MLL_MOST_PARAMETERS``.

        Raises:
            InputError: ``MLL_MOST_PARAMETERS`` is not a number.
        """
        most = variables.get("MLL_MOST_PARAMETERS") or "1000000000"
        if not most.isascii() or not most.isdecimal():
            raise InputError(f"MLL_MOST_PARAMETERS is '{most}'; give a whole number such as 1000000000")
        graph, images = (variables.get(name) or None for name in ("MLL_GRAPH", "MLL_IMAGES"))
        return cls(variables.get("MLL_LABELS") or "hub", graph, images, int(most))


# --- questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """A visitor's question; the same labels always give it the same answer.

    Attributes:
        classes: Class names.
        domain: How the images look; None if unknown.
        task: What the images are for; None if unknown.
        config: Number of models, limits and licenses.
    """

    classes: tuple[str, ...]
    domain: str | None = None
    task: str | None = None
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
        max_gflops: Most GFLOPs per image; None or 0 for any.
        max_million_parameters: Most parameters, in millions; None or 0 for any.
        licenses: Licenses that a model may have, as Hub ids; empty for any.

    Raises:
        InputError: A value cannot be used.
    """
    if len(classes) > MOST_CLASSES:
        raise InputError(
            f"{len(classes):,} class names are more than this page takes ({MOST_CLASSES:,}); the library takes any "
            "number"
        )
    names = check_class_names(classes)
    if len(names) == 1:
        raise InputError("one class leaves nothing to choose between; name at least two")
    if not 1 <= k <= MOST_MODELS or k != int(k):
        raise InputError(f"the number of models is {k:g}; choose 1 to {MOST_MODELS}")
    for cap, what in ((max_gflops, "GFLOPs"), (max_million_parameters, "parameters")):
        if cap is not None and not 0 <= cap < float("inf"):
            raise InputError(f"the limit on {what} is {cap:g}; give a positive number, or none")
    config = SelectionConfig(
        k=int(k),
        max_gflops=float(max_gflops) if max_gflops else None,
        max_parameters=round(max_million_parameters * 1e6) if max_million_parameters else None,
        licenses=_checked_licenses(licenses),
    )
    return Question(names, _optional(domain), _optional(task), config)


def _checked_licenses(licenses: Sequence[str]) -> tuple[str, ...]:
    if len(licenses) > _MOST_LICENSES:
        raise InputError(f"{len(licenses)} licenses are more than this page takes; give at most {_MOST_LICENSES}")
    ids = tuple(dict.fromkeys(str(license).strip().lower() for license in licenses))
    if wrong := [id for id in ids if not _LICENSE.fullmatch(id)]:
        raise InputError(f"'{shortened(wrong[0], 40)}' is not a Hub id of a license; write for example apache-2.0, mit")
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
        InputError: There are none, or they cannot be used.
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
    if os.path.getsize(path) > _MOST_FILE_BYTES:
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
    repo_id = (location or "").strip().removeprefix("https://huggingface.co/datasets/").strip("/")
    if not repo_id:
        raise InputError("no dataset yet; write its id, such as ylecun/mnist")
    return fetch_class_names(repo_id if is_on_hub(repo_id) else f"hf://datasets/{repo_id}", token=False)


def names_as_text(names: Sequence[str]) -> str:
    """Class names as the text of a text box; the inverse of :func:`names_in_text`."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([name] for name in names)
    return out.getvalue().rstrip("\n")


# --- labels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeasuredModel:
    """A model and its labels.

    Attributes:
        name: A name that no other model has: its id on the Hub, or the name of its local folder.
        label: Its label on the reference graph.
        labels: [G] its label on each graph, None where it has none.
    """

    name: str
    label: LabelFacts
    labels: tuple[LabelFacts | None, ...]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other texts by which a visitor may name it."""
        ref = self.label.model
        return ref.repo_id, ref.short_name, f"{ref.repo_id}@{ref.revision}"


@dataclass(frozen=True)
class Labels:
    """The labels at one point in time. Read completely before any visitor sees them.

    Attributes:
        settings: The Space's settings.
        client: The library's client.
        lock: Held while the text encoder runs, which serves one thread at a time.
        models: The M measured models, by falling mean recall on the reference graph.
        joined: Their labels, joined over G graphs; None if there are none.
        graphs: Distinct names of the G graphs, the reference first.
        images: Number of the graph whose probe images may be shown, and these; None to show none.
    """

    settings: Settings
    client: Client
    lock: threading.RLock
    models: tuple[MeasuredModel, ...] = ()
    joined: JoinedLabels | None = None
    graphs: tuple[str, ...] = ()
    images: tuple[int, ProbeSet] | None = None

    @classmethod
    def read(cls, settings: Settings, encoder: TextEncoder, lock: threading.RLock) -> Labels:
        """Read the labels, load the encoder and compute all that is cached.

        ``functools.cached_property`` has no lock since Python 3.12: if first used by several threads at once, it is
        computed several times.

        Raises:
            MLLError: The labels or the encoder cannot be read.
        """
        client = Client(settings.labels, graph=settings.graph, encoder=encoder)
        if not (client.source.indexed or client.source.list()):
            return cls(settings, client, lock)
        client.select(("dog", "cat"))
        joined = client.labels
        for graph in (joined.union.graph, *joined.union.graphs):
            _ = graph.descendants, graph.concepts_named("")
        images = _read_images(settings.images, joined) if settings.images else None
        names = _distinct((graph.name, f"{graph.name} ({graph.digest[:7]})") for graph in joined.union.graphs)
        return cls(settings, client, lock, _measured(joined), joined, names, images)

    @property
    def location(self) -> str:
        """The source of the labels as users write it, a collection with the commit that was read."""
        source = self.client.source
        if is_on_hub(source.name) and self.models:
            return source.origin_of(self.models[0].label).location.partition("/labels/")[0]
        return source.name

    def select(self, question: Question) -> Selection:
        """Choose models for a question.

        Raises:
            MLLError: No model fits, or the Hub cannot be asked for licenses.
        """
        with self.lock:
            return self.client.select(question.classes, question.config, domain=question.domain, task=question.task)

    def find(self, name: str | None) -> MeasuredModel:
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
            reason = "is not among the measured models" if not found else "may be several models"
            raise InputError(f"'{name}' {reason}; give its full id")
        return found[0]

    def read_labels(
        self, models: Sequence[MeasuredModel], graph: str | None
    ) -> tuple[tuple[LabelSummary, ...], SemanticGraph]:
        """The labels of some models on a graph, and the graph.

        Args:
            models: The models.
            graph: Name of the graph; empty for the reference.

        Raises:
            InputError: There is no such graph, or a model has no label on it.
            MLLError: A label cannot be read.
        """
        if self.joined is None or (graph and graph not in self.graphs):
            raise InputError(f"no graph is named '{graph}'; there is: {', '.join(self.graphs)}")
        g = self.graphs.index(graph) if graph else 0
        for model in models:
            if model.labels[g] is None:
                raise InputError(f"{model.name} was not measured on {graph}; choose another model or graph")
        labels = self._whole([label for model in models if (label := model.labels[g])])
        return tuple(labels), self.joined.union.graphs[g]

    def best_at(self, concept: int, g: int) -> list[tuple[MeasuredModel, LabelSummary]]:
        """The models that were tested on a concept of a graph, by falling recall, with their labels.

        If the source has an index, only the 100 generally best models are compared, since their labels are fetched.
        """
        pairs = [(model, label) for model in self.models if (label := model.labels[g])]
        if self.client.source.indexed:
            pairs = pairs[:_MOST_FETCHED]
        models, labels = [model for model, _ in pairs], self._whole([label for _, label in pairs])
        tested = [(model, label) for model, label in zip(models, labels, strict=True) if label.support[concept]]
        return sorted(tested, key=lambda pair: -pair[1].node_precision[concept])

    def _whole(self, labels: Sequence[LabelFacts]) -> Sequence[LabelSummary]:
        if all(isinstance(label, LabelSummary) for label in labels):
            return labels  # type: ignore[return-value]
        return self.client.source.fetch(labels)

    def senses(self, text: str | None) -> tuple[list[int], bool]:
        """Concepts that a visitor may mean.

        Returns:
            Indices in the union of the graphs; and whether these concepts have this name, or are only the nearest.

        Raises:
            InputError: The text is empty or too long, or there are no labels.
        """
        if not (text or "").strip():
            raise InputError("no concept yet; write one, such as umbrella")
        if self.joined is None:
            raise InputError("no model has been measured yet")
        (name,), graph = check_class_names([text or ""]), self.joined.union.graph
        if named := graph.concepts_named(name):
            return sorted(named, key=lambda v: -len(graph.descendants[v]))[:_MOST_SENSES], True
        with self.lock:
            match = self.client.index.match(from_templates((name,), graph, None, None))
        near = match.weights[0] >= _LEAST_WEIGHT * match.weights[0, 0]
        return match.concepts[0, near][:_MOST_SENSES].tolist(), False

    def sample_images(self, concept: int, g: int, most: int = 6) -> list[bytes]:
        """Some probe images of a concept of a graph; none unless the settings allow to show them.

        Raises:
            MLLError: The images cannot be read.
        """
        if self.images is None or self.images[0] != g:
            return []
        probes = self.images[1]
        of_concept = probes.members[slice(*probes.offsets[concept : concept + 2].tolist())]
        step = max(len(of_concept) // most, 1)
        batches = probes.iter_image_bytes(most, of_concept[::step][:most])
        return [content for batch in batches for content in batch if content]


def _measured(joined: JoinedLabels) -> tuple[MeasuredModel, ...]:
    pairs = zip(joined.reference, joined.labels, strict=True)
    ranked = sorted(pairs, key=lambda pair: (-pair[0].mean_recall, pair[0].model.repo_id))
    refs = [label.model for label, _ in ranked]
    names = _distinct(
        (ref.short_name if ref.is_local else ref.repo_id, f"{ref.short_name}@{ref.revision[:7]}") for ref in refs
    )
    return tuple(MeasuredModel(name, *pair) for name, pair in zip(names, ranked, strict=True))


def _distinct(names: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Distinct names from pairs of a short and a longer name."""
    pairs = list(names)
    times = Counter(short for short, _ in pairs)
    return tuple(short if times[short] == 1 else longer for short, longer in pairs)


def _read_images(location: str, joined: JoinedLabels) -> tuple[int, ProbeSet] | None:
    """Number of the graph at a location, and its probe images; None with a warning if they cannot be shown."""
    try:
        found = fetch_graph_with_images(location)
        for g, graph in enumerate(joined.union.graphs):
            if graph.digest == found.graph.digest:
                return g, found.probes(next(label for label in joined.on_graph(g) if label).sampling)
        raise InputError("no label is on this graph; name another one")
    except MLLError as error:
        _log.warning("MLL_IMAGES: no images are shown: %s", error)
        return None


class Library:
    """Keeps the labels for all visitors and reads them again every hour.

    Args:
        settings: The Space's settings.
        encoder: Text encoder that matches class names to concepts.
    """

    def __init__(self, settings: Settings, encoder: TextEncoder) -> None:
        self.settings = settings
        self._encoder = encoder
        self._lock = threading.RLock()
        self._state: Labels | MLLError = MLLError("the labels have not been read yet")
        self._expires = 0.0

    @property
    def labels(self) -> Labels:
        """The labels. Where reading them again fails, the old ones stay; a first failure is repeated for 20 s.

        Raises:
            MLLError: They cannot be read.
        """
        with self._lock:
            if time.monotonic() >= self._expires:
                try:
                    self._state = Labels.read(self.settings, self._encoder, self._lock)
                except MLLError as error:
                    _log.warning("cannot read the labels: %s", error)
                    if isinstance(self._state, MLLError):
                        self._state = error
                failed = isinstance(self._state, MLLError)
                self._expires = time.monotonic() + (_RETRY_SECONDS if failed else _RELOAD_SECONDS)
            if isinstance(self._state, MLLError):
                raise self._state.with_traceback(None)
            return self._state


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
    """Answers of the U chosen models on N images.

    Attributes:
        selection: The models, and the C classes.
        probabilities: [N, C] pooled over the models; NaN for unreadable images.
        weights: [U] weights of the models; they sum to one.
        votes: [U, N, C] probabilities of each model.
    """

    selection: Selection
    probabilities: NDArray[np.float64]
    weights: NDArray[np.float64]
    votes: NDArray[np.floating[Any]]


def run_one_model(selection: Selection, position: int, images: list[str]) -> NDArray[np.float32]:
    """[1, N, C] logits of one chosen model; it is loaded and freed again.

    Raises:
        MLLError: The model cannot be loaded or run.
    """
    return Ensemble(selection).one_by_one(images)(selection.union[position])[None]


def try_models(
    labels: Labels,
    question: Question | None,
    images: Sequence[str],
    run: Callable[[Selection, int, list[str]], NDArray[np.float32]] = run_one_model,
    progress: Callable[[tuple[int, int], str], object] = lambda _done, _text: None,
) -> Trial:
    """Classify images with the models for a question, one model in memory at a time.

    Args:
        labels: The labels.
        question: The question; None if there is none yet.
        images: Paths of the images.
        run: Runs one model.
        progress: Called before each model with (models done, all models) and a text.

    Raises:
        MLLError: There is nothing to run, or too much, or a model fails.
    """
    if question is None:
        raise InputError("no models yet; find some under “Find”")
    if not images:
        raise InputError("no image yet; upload one, take one, or choose an example")
    if len(images) > MOST_IMAGES:
        raise InputError(f"{len(images)} images are more than this page takes at once ({MOST_IMAGES}); use the code")
    selection = labels.select(question)
    parameters, most = selection.cost.parameters, labels.settings.most_parameters
    if parameters > most:
        raise InputError(
            f"these models have {parameters / 1e6:,.0f} M parameters together, more than this page runs "
            f"({most / 1e6:,.0f} M); set a limit, or use the code on your machine"
        )
    logits = []
    for position, m in enumerate(selection.union):
        progress((position, len(selection.union)), f"Running {selection.models[m].ref.short_name}")
        logits.append(run(selection, position, list(images)))
    stacked, ensemble = np.concatenate(logits), Ensemble(selection)
    weights, votes = ensemble.votes(stacked)
    return Trial(selection, ensemble.combine(stacked).probabilities, weights, votes)


# --- code to take away ------------------------------------------------------------------------------------------------


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
        f"client = Client({labels!r})\n"
        f"classes = [{classes}]\n"
        f"selection = client.select(classes, SelectionConfig({config}){described and ', ' + described})\n"
        "for m in selection.union:  # the chosen models, best first\n"
        "    print(selection.models[m].ref.repo_id)\n\n"
        "# then classify, one model in memory at a time:\n"
        "# print(client.load(selection).predict(['photo.jpg']).labels)\n"
    )


def _arguments(**values: object) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value is not None)


def shell_code(question: Question, labels: str) -> str:
    """The same question for the command line; many or unusual class names go into a file."""
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
    """An option and its value, joined with = if the value starts like an option."""
    return f"{name}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"
