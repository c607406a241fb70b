"""What the page answers from: the labels, loaded once for all visitors, and questions about them.

Everything here is plain Python on the public API of ``mll_hf``; nothing knows of Gradio.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf import Client, SelectionConfig
from mll_hf.bench.hub_tasks import fetch_class_names
from mll_hf.ensemble.run import Ensemble
from mll_hf.errors import InputError, MLLError
from mll_hf.hub.locations import fetch_graph_with_images, is_on_hub
from mll_hf.matching.concept_index import COVERED
from mll_hf.matching.describe import from_templates
from mll_hf.matching.prompts import check_class_names, parse_class_names, split_class_names
from mll_hf.utils.text import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf import Selection
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.hub.sources import LabelSource
    from mll_hf.labels.label import LabelSummary
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
_FAILURE_SECONDS = 20.0
_RELOAD_SECONDS = 3600.0
_MOST_SENSES = 4
_NEAR = 0.2  # of the nearest concept's weight; what has less is not meant
_CLASSES_IN_A_LINE = 30


@dataclass(frozen=True, slots=True)
class Settings:
    """How the Space is set up.

    Attributes:
        labels: Where labels come from: ``hub``, ``hf://datasets/ORG/NAME[@REVISION]``, or a folder.
        images: The graph whose sample images may be shown to anyone; None shows none.
        most_parameters: Most parameters that the models of one trial may have together.
    """

    labels: str = "hub"
    images: str | None = None
    most_parameters: int = 10**9

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Settings:
        """Read ``MLL_LABELS``, ``MLL_IMAGES`` and ``MLL_MOST_PARAMETERS``.

        Raises:
            InputError: A value makes no sense.
        """
        most = variables.get("MLL_MOST_PARAMETERS") or "1000000000"
        if not most.isascii() or not most.isdecimal():
            raise InputError(f"MLL_MOST_PARAMETERS is '{most}'; give a whole number such as 1000000000")
        return cls(variables.get("MLL_LABELS") or "hub", variables.get("MLL_IMAGES") or None, int(most))


@dataclass(frozen=True, slots=True)
class Question:
    """What a visitor asks; the same question always gets the same answer from the same labels.

    Attributes:
        classes: Class names.
        domain: How the images look, if the visitor said so.
        task: What they are for, likewise.
        k: Models per class.
        max_gflops: Most GFLOPs per image of a model; None for any.
        max_parameters: Most parameters of a model; None for any.
        licenses: Licenses that a model may have; none for any.
    """

    classes: tuple[str, ...]
    domain: str | None = None
    task: str | None = None
    k: int = 1
    max_gflops: float | None = None
    max_parameters: int | None = None
    licenses: tuple[str, ...] = ()

    @property
    def config(self) -> SelectionConfig:
        """The question as the library takes it."""
        return SelectionConfig(
            k=self.k, max_gflops=self.max_gflops, max_parameters=self.max_parameters, licenses=self.licenses
        )


def make_question(
    classes: Sequence[str],
    domain: str | None = None,
    task: str | None = None,
    k: float = 1,
    max_gflops: float | None = None,
    max_million_parameters: float | None = None,
    licenses: Sequence[str] = (),
) -> Question:
    """Check what a visitor gave.

    Args:
        classes: Class names.
        domain: How the images look; empty for unknown.
        task: What they are for; empty for unknown.
        k: Models per class.
        max_gflops: Most GFLOPs per image; None or 0 for any.
        max_million_parameters: Most parameters, in millions; None or 0 for any.
        licenses: Licenses that a model may have, as the Hub writes them; none for any.

    Raises:
        InputError: Something cannot be used; one line says what.
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
    return Question(
        names,
        _optional(domain),
        _optional(task),
        int(k),
        float(max_gflops) if max_gflops else None,
        round(max_million_parameters * 1e6) if max_million_parameters else None,
        _checked_licenses(licenses),
    )


def _checked_licenses(licenses: Sequence[str]) -> tuple[str, ...]:
    if len(licenses) > _MOST_LICENSES:
        raise InputError(f"{len(licenses)} licenses are more than this page takes; give at most {_MOST_LICENSES}")
    wanted = tuple(dict.fromkeys(str(license).strip().lower() for license in licenses))
    if wrong := [license for license in wanted if not _LICENSE.fullmatch(license)]:
        raise InputError(
            f"'{shortened(wrong[0], 40)}' is no license as the Hub writes them; write for example apache-2.0, mit"
        )
    return wanted


def licenses_in_text(text: str | None) -> tuple[str, ...]:
    """Licenses out of a text box: separated by commas or spaces; none for any."""
    return tuple(filter(None, re.split(r"[\s,]+", text or "")))


def _optional(text: str | None) -> str | None:
    text = " ".join((text or "").split())
    if len(text) > 100:
        raise InputError("the domain or the task is longer than 100 characters; use a few words")
    return text or None


def names_in_text(text: str | None) -> tuple[str, ...]:
    """Class names out of a text box: separated by commas or line breaks.

    Raises:
        InputError: There are none, or they cannot be used.
    """
    text = text or ""
    if not text.strip():
        raise InputError("no class names yet; write at least two, separated by commas or line breaks")
    lines = text.splitlines() if "\n" in text.strip() else [text]
    kept = [line for line in lines if line.strip(" \t,")]
    return split_class_names("\n".join(line.strip().rstrip(",") for line in kept))


def names_in_file(path: str) -> tuple[str, ...]:
    """Class names out of an uploaded file: one per line, or JSON or CSV by its suffix.

    Raises:
        InputError: It is too large, or holds no class names.
    """
    if os.path.getsize(path) > _MOST_FILE_BYTES:
        raise InputError("the file is larger than 1 MB; a list of class names is smaller")
    try:
        return parse_class_names(path)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{Path(path).name}: {reason}") from None


def names_of_dataset(location: str | None) -> tuple[str, ...]:
    """Class names of a public image data set on the Hub, as its card says them.

    Raises:
        InputError: This is no data set, or its card says no class names.
        HubError: It cannot be had.
    """
    repo_id = (location or "").strip().removeprefix("https://huggingface.co/datasets/").strip("/")
    if not repo_id:
        raise InputError("no data set yet; write its id, such as ylecun/mnist")
    return fetch_class_names(repo_id if is_on_hub(repo_id) else f"hf://datasets/{repo_id}", token=False)


def names_as_text(names: Sequence[str]) -> str:
    """Class names as a text box holds them; :func:`names_in_text` gives them back."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([name] for name in names)
    return out.getvalue().rstrip("\n")


# --- the labels -------------------------------------------------------------------------------------------------------


class Catalogue:
    """The labels and whatever is computed from them, shared by all visitors.

    Args:
        settings: Where they come from.
        encoder: What matches class names to concepts.
    """

    def __init__(self, settings: Settings, encoder: TextEncoder) -> None:
        self.settings = settings
        self._encoder = encoder
        self._lock = threading.RLock()  # a text encoder serves one at a time
        self._client: Client | None = None
        self._loaded = 0.0
        self._failure: tuple[float, MLLError] | None = None
        self._probes: ProbeSet | None = None

    @property
    def client(self) -> Client:
        """The labels, read again every hour; what failed a moment ago is not tried again at once.

        Raises:
            MLLError: They cannot be had.
        """
        with self._lock:
            now = time.monotonic()
            if self._client and now - self._loaded < _RELOAD_SECONDS:
                return self._client
            if self._failure and now - self._failure[0] < _FAILURE_SECONDS:
                raise self._failure[1].with_traceback(None)
            try:
                client = Client(self.settings.labels, encoder=self._encoder)
                if client.source.list():
                    _ = client.index
            except MLLError as error:
                self._failure = (time.monotonic(), error)
                if self._client is None:
                    raise
                self._loaded = now  # better old labels than none
                return self._client
            self._client, self._loaded, self._failure = client, now, None
            return client

    @property
    def source(self) -> LabelSource:
        """Where the labels come from."""
        return self.client.source

    @property
    def graph(self) -> SemanticGraph:
        """The graph that the labels are of."""
        return self.source.graph

    def labels(self) -> list[LabelSummary]:
        """All labels, the generally best model first."""
        return sorted(self.source.list(), key=lambda label: (-label.mean_precision, label.model.repo_id))

    def select(self, question: Question) -> Selection:
        """The models for a question.

        Raises:
            MLLError: No model fits, or the labels cannot be had.
        """
        with self._lock:
            return self.client.select(question.classes, question.config, domain=question.domain, task=question.task)

    def find(self, model: str | None) -> LabelSummary:
        """The label of a model, by its id or the last part of it.

        Raises:
            InputError: There is none, or several.
        """
        name = (model or "").strip()
        if not name:
            raise InputError("no model yet; choose one from the list")
        found = [label for label in self.source.list() if name in names_of(label)]
        if len(found) != 1:
            reason = "is not among the measured models" if not found else "may be several models"
            raise InputError(f"'{name}' {reason}; give its full id")
        return found[0]

    def senses(self, text: str | None) -> tuple[list[int], bool]:
        """The concepts that a visitor may mean, and whether they bear the name or are only the nearest ones.

        Raises:
            InputError: The text is empty or too long.
        """
        (name,) = check_class_names([text or ""]) if (text or "").strip() else ("",)
        if not name:
            raise InputError("no concept yet; write one, such as umbrella")
        named = self.graph.concepts_named(name)
        if named:
            return sorted(named, key=lambda v: -len(self.graph.descendants[v]))[:_MOST_SENSES], True
        with self._lock:
            match = self.client.index.match(from_templates((name,), self.graph, None, None))
        near = match.weights[0] >= _NEAR * match.weights[0, 0]
        return match.concepts[0, near][:_MOST_SENSES].tolist(), False

    def sample_images(self, concept: int, most: int = 6) -> list[bytes]:
        """Some of the images that test a concept; none unless the Space's settings say that they may be shown.

        Raises:
            MLLError: The images cannot be read.
        """
        if self.settings.images is None:
            return []
        with self._lock:
            if self._probes is None:
                location = fetch_graph_with_images(self.settings.images)
                if location.graph.digest != self.graph.digest:
                    raise InputError("the images of MLL_IMAGES belong to another graph than the labels")
                self._probes = location.probes(self.source.list()[0].sampling)
        of_concept = self._probes.members[slice(*self._probes.offsets[concept : concept + 2].tolist())]
        step = max(len(of_concept) // most, 1)
        batches = self._probes.iter_image_bytes(most, of_concept[::step][:most])
        return [content for batch in batches for content in batch if content]


def names_of(label: LabelSummary) -> tuple[str, ...]:
    """How a label's model may be called: by its id, or the last part of it; ``id@revision`` if there are several."""
    model = label.model
    return (
        model.repo_id,
        model.short_name,
        f"{model.repo_id}@{model.revision}",
        f"{model.short_name}@{model.revision[:7]}",
    )


def shown_names(labels: Sequence[LabelSummary]) -> list[str]:
    """A distinct name for each model: its id on the Hub, of a local one the name of its folder."""
    names = [label.model.short_name if label.model.is_local else label.model.repo_id for label in labels]
    times = Counter(names)
    return [
        name if times[name] == 1 else f"{label.model.short_name}@{label.model.revision[:7]}"
        for name, label in zip(names, labels, strict=True)
    ]


def how_sure(coverage: float) -> str:
    """What a coverage means, in words."""
    if coverage >= 0.99:
        return "same concept"
    if coverage >= COVERED:
        return "close"
    return "weak" if coverage >= 0.1 else "not covered"


# --- running models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """What the chosen models say of N images.

    Attributes:
        selection: The models, and the classes.
        probabilities: [N, C] of all together; NaN for images that cannot be read.
        weights: [U] how much each model counts; they sum to one.
        votes: [U, N, C] probabilities of each model by itself.
    """

    selection: Selection
    probabilities: NDArray[np.float64]
    weights: NDArray[np.float64]
    votes: NDArray[np.floating[Any]]


def run_one_model(selection: Selection, position: int, images: list[str]) -> NDArray[np.float32]:
    """[1, N, C] logits of one chosen model, which is freed afterwards.

    Raises:
        MLLError: The model cannot be loaded or run.
    """
    chosen = np.zeros_like(selection.chosen)
    chosen[selection.union[position]] = True
    return Ensemble(replace(selection, chosen=chosen)).logits(images)


def try_models(
    catalogue: Catalogue,
    question: Question | None,
    images: Sequence[str],
    run: Callable[[Selection, int, list[str]], NDArray[np.float32]] = run_one_model,
    progress: Callable[[tuple[int, int], str], object] = lambda _done, _text: None,
) -> Trial:
    """Classify images with the models that suit a question, one model in memory at a time.

    Args:
        catalogue: The labels.
        question: The question; None if nothing was asked yet.
        images: Paths of the images.
        run: Runs one model.
        progress: Told before each model how many of all are done.

    Raises:
        MLLError: There is nothing to run, too much, or a model fails.
    """
    if question is None:
        raise InputError("no models yet; find some under “Find”")
    if not images:
        raise InputError("no image yet; upload one, take one, or choose an example")
    if len(images) > MOST_IMAGES:
        raise InputError(f"{len(images)} images are more than this page takes at once ({MOST_IMAGES}); use the code")
    selection = catalogue.select(question)
    parameters, most = selection.cost.parameters, catalogue.settings.most_parameters
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


def pinned_location(source: LabelSource) -> str:
    """The label source as a user writes it, of a collection at the commit that was read."""
    labels = source.list()
    if is_on_hub(source.name) and labels:
        return source.origin_of(labels[0].model).location.partition("/labels/")[0]
    return source.name


def python_code(question: Question, labels: str) -> str:
    """A program that asks the same question and prints the chosen models."""
    classes = ", ".join(map(repr, question.classes))
    if len(classes) > 70:
        classes = "\n" + "".join(f"    {name!r},\n" for name in question.classes)
    options = {
        "k": question.k,
        "max_gflops": question.max_gflops,
        "max_parameters": question.max_parameters,
        "licenses": question.licenses or None,
    }
    config = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
    described = "".join(
        f", {name}={value!r}" for name, value in (("domain", question.domain), ("task", question.task)) if value
    )
    return (
        "from mll_hf import Client, SelectionConfig\n\n"
        f"client = Client({labels!r})\n"
        f"classes = [{classes}]\n"
        f"selection = client.select(classes, SelectionConfig({config}){described})\n"
        "for m in selection.union:  # the chosen models, best first\n"
        "    print(selection.models[m].ref.repo_id)\n\n"
        "# then classify, one model in memory at a time:\n"
        "# print(client.load(selection).predict(['photo.jpg']).labels)\n"
    )


def shell_code(question: Question, labels: str) -> str:
    """The same for the command line; many or unusual class names go into a file."""
    line = _as_list(question.classes)
    if len(question.classes) <= _CLASSES_IN_A_LINE and _reads_back(line, question.classes):
        before, classes = "", shlex.quote(line)
    else:
        before = f"cat > classes.json <<'END'\n{json.dumps(list(question.classes))}\nEND\n"
        classes = "classes.json"
    options = {
        "--domain": question.domain,
        "--task": question.task,
        "-k": str(question.k),
        "--max-gflops": _number(question.max_gflops),
        "--max-parameters": _number(question.max_parameters),
        "--license": ",".join(question.licenses) or None,
        "--labels": labels,
    }
    words = [_option(name, value) for name, value in options.items() if value is not None]
    return f"{before}mll-hf select --classes {classes} \\\n  {' '.join(words)}\n"


def _option(name: str, value: str) -> str:
    """An option and its value; a value that begins like an option is tied to it."""
    return f"{name}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"


def _as_list(names: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(names)
    return out.getvalue().replace(",", ", ") if not any("," in name for name in names) else out.getvalue()


def _reads_back(line: str, names: Sequence[str]) -> bool:
    try:
        return split_class_names(line) == tuple(names) and not line.startswith("-")
    except InputError:
        return False


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.12g}"
