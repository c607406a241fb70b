"""Where the labels of a run are published, and which are there already."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

from huggingface_hub import constants

from mll_hf.errors import HubError, InputError, LabelError
from mll_hf.graph.concepts import GRAPH_FILE
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.connection import Head, connect, download, fetch_head, hub_errors, read_head
from mll_hf.hub.locations import HUB, parse_dataset
from mll_hf.hub.publish import Published, publish_label, publish_to_collection, same_weights
from mll_hf.hub.sources import read_collection
from mll_hf.labels.packs import covers_exactly
from mll_hf.labels.store import MAX_LABEL_BYTES, label_path, read_label

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import SamplingConfig
    from mll_hf.labels.label import LabelSummary, ModelLabel, ModelRef
    from mll_hf.labels.packs import AttachedPack

L = TypeVar("L", bound="LabelSummary")

_NOT_THERE = (401, 404)  # the Hub says 401 to strangers, so as not to tell what exists
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """What a label has to answer to be the one that a run would make.

    Attributes:
        graph: Its concepts, those of packs included.
        probes_revision: The probe images of the graph without packs.
        sampling: How they were sampled.
        packs: Packs that it covers, with their images.
    """

    graph: SemanticGraph
    probes_revision: str
    sampling: SamplingConfig
    packs: tuple[AttachedPack, ...] = ()

    def is_answered_by(self, label: LabelSummary, model: ModelRef) -> bool:
        """Whether a label measures the same or more, on some revision of the model that the same backend runs."""
        same_model = (label.model.repo_id, label.model.backend) == (model.repo_id, model.backend)
        question = (label.graph_digest, label.probes_revision, label.sampling.seed)
        same_question = question == (self.graph.digest, self.probes_revision, self.sampling.seed)
        enough = label.sampling.images_per_concept >= self.sampling.images_per_concept
        return same_model and same_question and enough and covers_exactly(label, self.packs)


class Destination(Protocol):
    """Where the labels of a run are published."""

    def find(self, model: ModelRef, question: Question) -> str | None:
        """Where a model's label is already; None if it is not.

        Raises:
            MLLError: This cannot be found out, or the label could not be published here.
        """

    def publish(self, label: ModelLabel, graph: SemanticGraph) -> Published:
        """Publish a label.

        Raises:
            MLLError: The Hub refuses.
        """


@dataclass(frozen=True, slots=True)
class OwnRepos:
    """Labels go into the repository of each model.

    Attributes:
        create_pr: Open pull requests even where one may write.
    """

    create_pr: bool = False

    def __str__(self) -> str:
        return "its own repository"

    def find(self, model: ModelRef, question: Question) -> str | None:
        """The label in the model's repository, if it was measured on the same weights; see :class:`Destination`."""
        api = connect()
        with hub_errors(model.repo_id):
            head = fetch_head(api, model.repo_id, "model")
            if not same_weights(api, head, model):
                raise HubError(
                    model.repo_id,
                    f"has other weights now than at {model.revision[:12]}, so its label has no place there; label the "
                    "newest revision, or publish to a collection with --to",
                )
            label = _label_in(head)
            if label is None or not question.is_answered_by(label, model) or not _is_of(label.model, head):
                return None
        return f"{constants.ENDPOINT}/{model.repo_id}/blob/{head.sha}/{LABEL_PATH}"

    def publish(self, label: ModelLabel, graph: SemanticGraph) -> Published:
        """See :class:`Destination`."""
        return publish_label(label, graph, create_pr=self.create_pr)


@dataclass(frozen=True)
class CollectionRepo:
    """Labels go into a collection.

    Attributes:
        location: ``hf://datasets/org/name``.
        create_pr: Open a pull request even if one may write.
        private: Make a new collection private.

    Raises:
        InputError: The location is malformed, or names a revision.
    """

    location: str
    create_pr: bool = False
    private: bool = False

    def __post_init__(self) -> None:
        if parse_dataset(self.location).revision:
            raise InputError(
                f"'{self.location}' names a revision, but labels are published on main; leave out the @..."
            )

    def __str__(self) -> str:
        return self.location

    @cached_property
    def _content(self) -> tuple[SemanticGraph | None, dict[str, LabelSummary]]:
        """The collection's graph and labels by path, as they are when it is first looked at."""
        api, dataset = connect(), parse_dataset(self.location)
        try:
            head = read_head(api, dataset.repo_id, "dataset")
        except HubError as error:
            if error.status in _NOT_THERE:
                return None, {}
            raise
        if GRAPH_FILE not in head.files:
            return None, {}
        content = read_collection(api, head)
        return content.graph, {label_path(entry.summary.model): entry.summary for entry in content.entries}

    def find(self, model: ModelRef, question: Question) -> str | None:
        """The label of this revision, or one of the same weights, in the collection; see :class:`Destination`."""
        graph, labels = self._content
        if graph is not None and graph.digest != question.graph.digest:
            raise InputError(
                f"{self.location} holds labels of another graph ({graph.name}, {graph.digest[:12]}); use another "
                f"collection for labels of {question.graph.name} ({question.graph.digest[:12]})"
            )
        same = label_of_same_weights(labels.values(), model, question)
        return f"{self.location}/{label_path(same.model)}" if same else None

    def publish(self, label: ModelLabel, graph: SemanticGraph) -> Published:
        """See :class:`Destination`."""
        return publish_to_collection([label], graph, self.location, create_pr=self.create_pr, private=self.private)


def _label_in(head: Head) -> ModelLabel | None:
    """The label in a model's repository; None if there is none that can be read."""
    if LABEL_PATH not in head.files:
        return None
    oid = head.files[LABEL_PATH].oid
    sha256 = oid if len(oid) == 64 else None
    try:
        return read_label(download(connect(), head.repo_id, "model", LABEL_PATH, head.sha, MAX_LABEL_BYTES, sha256))
    except LabelError as error:
        _log.warning("%s will be replaced: %s", head.repo_id, error)
        return None


def label_of_same_weights(labels: Iterable[L], model: ModelRef, question: Question) -> L | None:
    """A label of a model's revision, or else of one with the same weights: a new README is no new model.

    Costs two requests where there is none of the revision but one of another.
    """
    fitting = [label for label in labels if question.is_answered_by(label, model)]
    for label in fitting:
        if label.model == model:
            return label
    if model.is_local or not fitting:
        return None
    with hub_errors(model.repo_id):
        head = fetch_head(connect(), model.repo_id, "model", model.revision)
    return next((label for label in fitting if _is_of(label.model, head)), None)


def _is_of(measured: ModelRef, head: Head) -> bool:
    """Whether a label's model has the weights of a head; not if its commit is gone."""
    try:
        with hub_errors(head.repo_id):
            return same_weights(connect(), head, measured)
    except HubError as error:
        if error.status in _NOT_THERE:
            return False
        raise


def check_login() -> None:
    """Find out before hours of work that nothing could be published.

    Raises:
        HubError: The Hub does not know the user.
    """
    try:
        with hub_errors(HUB):
            connect().whoami()
    except HubError as error:
        if error.status not in (401, 403):
            raise
        raise HubError(HUB, "to publish labels you must be logged in; use: hf auth login", error.status) from error
