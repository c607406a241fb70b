"""Where labels are published, and which labels are there already."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import constants
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in its __all__

from mll_hf.errors import HubError, InputError, LabelError
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.connection import connect, fetch_head, hub_errors, names_of_user
from mll_hf.hub.locations import HUB, parse_dataset, pinned
from mll_hf.hub.publish import (
    LABEL_TITLE,
    LABELS_TITLE,
    Published,
    own_open_pull_request,
    publish_label,
    publish_to_collection,
    same_weights,
)
from mll_hf.hub.sources import fetch_from_model, open_source
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.labels.store import label_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.hub.connection import Head
    from mll_hf.labels.label import Label, LabelKey, ModelRef

L = TypeVar("L", bound="Label")

LABEL_FILE = "label.safetensors"
_MISSING = (401, 404)  # the Hub also answers 401 for missing repos
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The label that a run would make.

    Attributes:
        group: Graph, probe images and seed.
        images_per_concept: Size of the sample; a label with more images will do.
    """

    group: LabelKey
    images_per_concept: int

    def matches(self, label: Label, model: ModelRef) -> bool:
        """Whether a label is the wanted one of a model, at any revision."""
        same_model = (label.model.repo_id, label.model.backend) == (model.repo_id, model.backend)
        enough = label.sampling.images_per_concept >= self.images_per_concept
        return same_model and label.key == self.group and enough


@dataclass(frozen=True)
class OwnRepos:
    """Publishes each label in its model's repo.

    Attributes:
        create_pr: Open pull requests, also in repos of others; without, only the user's own models are labeled.
    """

    create_pr: bool = False

    def __str__(self) -> str:
        return "a pull request to its own repo" if self.create_pr else "its own repo"

    @cached_property
    def _owners(self) -> frozenset[str]:
        return own_names()

    def find(self, model: ModelRef, wanted: Wanted) -> str | None:
        """URL of a model's published label; None if there is none for the repo's current weights.

        With ``create_pr``, one in the user's open pull request counts; else the model would be labeled until it is
        merged.

        Raises:
            MLLError: The Hub cannot be asked, or the label could not be published here.
        """
        if not self.create_pr and _owner_of(model.repo_id) not in self._owners:
            raise HubError(
                model.repo_id,
                "belongs to others, so its label is not published there; publish in a collection with --to, or ask for "
                "pull requests with --pr",
            )
        api = connect()
        with hub_errors(model.repo_id):
            head = fetch_head(api, model.repo_id, "model")
            if not same_weights(api, head, model):
                raise HubError(
                    model.repo_id,
                    f"its weights have changed since {model.revision[:12]}, so its label does not belong there; label "
                    "the newest revision, or publish to a collection with --to",
                )
            proposed = own_open_pull_request(api, model.repo_id, "model", LABEL_TITLE) if self.create_pr else None
            branches = [fetch_head(api, model.repo_id, "model", f"refs/pr/{proposed}")] if proposed else []
            for at in (head, *branches):
                for path in (LABEL_PATH, f"mll/{wanted.group.graph_digest[:12]}/{LABEL_FILE}"):
                    label = _label_at(at, path)
                    if label and wanted.matches(label, model) and _has_weights_of(head, label.model):
                        return f"{constants.ENDPOINT}/{model.repo_id}/blob/{at.sha}/{path}"
        return None

    def publish(self, label: Label, graph: SemanticGraph) -> Published:
        """Publish a label; an MLLError if the Hub refuses."""
        return publish_label(label, graph, create_pr=self.create_pr)


@dataclass(frozen=True)
class CollectionRepo:
    """Publishes labels in a collection.

    Attributes:
        location: ``hf://datasets/org/name``.
        create_pr: Open a pull request, also with write access.
        private: Make a new collection private.

    Raises:
        InputError: The location is malformed or has a revision.
    """

    location: str
    create_pr: bool = False
    private: bool = False

    def __post_init__(self) -> None:
        if parse_dataset(self.location).revision:
            raise InputError(f"'{self.location}' names a revision, but labels are published on main; remove the @...")

    def __str__(self) -> str:
        return self.location

    @cached_property
    def _labels(self) -> Sequence[Label]:
        """The collection's labels when it is first read."""
        return self._newest

    @property
    def _newest(self) -> Sequence[Label]:
        """The collection's labels now, also those in the user's open pull request if there shall be one.

        One request, or three, if nobody has published since the last one.
        """
        try:
            places = [self.location]
            if self.create_pr:
                repo_id = parse_dataset(self.location).repo_id
                with hub_errors(repo_id):
                    number = own_open_pull_request(connect(), repo_id, "dataset", LABELS_TITLE)
                places += [f"{self.location}@refs/pr/{number}"] if number else []
            return [label for place in places for label in _labels_at(str(pinned(place)))]
        except HubError as error:
            if error.status in _MISSING:
                return ()
            raise

    def find(self, model: ModelRef, wanted: Wanted) -> str | None:
        """See `OwnRepos.find`; a label of another revision with the same weights counts."""
        same = label_of_same_weights(self._labels, model, wanted)
        same = same or label_of_same_weights(self._newest, model, wanted)  # others may label the same models
        return f"{self.location}/{label_path(same.model, same.key)}" if same else None

    def publish(self, label: Label, graph: SemanticGraph) -> Published:
        """See `OwnRepos.publish`."""
        return publish_to_collection([label], [graph], self.location, create_pr=self.create_pr, private=self.private)


@lru_cache(maxsize=2)
def _labels_at(location: str) -> Sequence[Label]:
    """The labels of a collection at a commit."""
    source = open_source(location)
    try:
        return source.labels()
    except InputError:  # it has no labels yet
        return ()


Destination = OwnRepos | CollectionRepo


def _label_at(head: Head, path: str) -> Label | None:
    """A label in a model's repo; None if it is missing or damaged."""
    if path not in head.files:
        return None
    try:
        return fetch_from_model(connect(), head.repo_id, head.sha, path)
    except LabelError as error:
        _log.warning("it will be replaced: %s", error)
        return None


def label_of_same_weights(labels: Iterable[L], model: ModelRef, wanted: Wanted) -> L | None:
    """The wanted label of a model's revision, or of another revision with the same weights.

    Sends two requests if only labels of other revisions match.
    """
    fitting = [label for label in labels if wanted.matches(label, model)]
    for label in fitting:
        if label.model == model:
            return label
    if model.is_local or not fitting:
        return None
    with hub_errors(model.repo_id):
        head = fetch_head(connect(), model.repo_id, "model", model.revision)
    return next((label for label in fitting if _has_weights_of(head, label.model)), None)


def _has_weights_of(head: Head, measured: ModelRef) -> bool:
    try:
        with hub_errors(head.repo_id):
            return same_weights(connect(), head, measured)
    except HubError as error:
        if error.status in _MISSING:  # the commit that was measured is gone
            return False
        raise


def own_names() -> frozenset[str]:
    """Names of the logged-in user and of the user's organizations, from the Hub; checked before hours of work.

    Raises:
        HubError: The user is not logged in, or the Hub cannot be reached.
    """
    try:
        with hub_errors(HUB):
            return frozenset(names_of_user(connect()))
    except HubError as error:
        if error.status not in (401, 403):
            raise
        raise HubError(HUB, "to publish labels you must be logged in; use: hf auth login", error.status) from error


def repos_of_others(names: Iterable[str]) -> tuple[str, ...]:
    """The repos among ``org/name[@revision]`` that do not belong to the logged-in user; ignores local folders.

    Raises a HubError like `own_names`, or if a name is malformed.
    """
    repos = dict.fromkeys(name.partition("@")[0] for name in names if not name.startswith(LOCAL_PREFIX))
    for repo_id in repos:
        with hub_errors(repo_id):
            validate_repo_id(repo_id)
    mine = own_names()
    return tuple(repo_id for repo_id in repos if _owner_of(repo_id) not in mine)


def _owner_of(repo_id: str) -> str:
    """The owner in a repo's id; empty for the oldest ids of the Hub, which have none."""
    return repo_id.rpartition("/")[0]
