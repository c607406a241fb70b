"""Publishing labels, and graphs with their images.

A change of labels is one commit on the head that it was made for, or one pull request. A commit is all or nothing,
so a kill at any point leaves the repository as it was. If somebody else was quicker, the change is made again on the
new head. Publishing the same twice changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2, whichever the client uses

from mll_hf.errors import CardError, HubError, InputError
from mll_hf.graph.concepts import GRAPH_FILE, graph_to_bytes
from mll_hf.graph.probes import IMAGE_FILES
from mll_hf.hub.card import (
    EVAL_RESULTS_PATH,
    GRAPH_TAG_PREFIX,
    LABEL_PATH,
    add_label,
    collection_card,
    eval_results,
    graph_tag,
)
from mll_hf.hub.connection import (
    Head,
    connect,
    download,
    fetch_head,
    hub_errors,
    passes,
    retried,
    sensible_answers,
    wait_asked_for,
)
from mll_hf.hub.index import INDEX_FILE, IndexEntry, index_to_bytes
from mll_hf.hub.locations import REPO_ID, parse_dataset
from mll_hf.hub.sources import is_collection, read_collection
from mll_hf.labels.label import label_to_bytes
from mll_hf.labels.store import label_path
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from huggingface_hub import CommitInfo, HfApi

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import ModelLabel, ModelRef

README = "README.md"
_MOST_README_BYTES = 2**20
_EMPTY_REPO = {".gitattributes", README}  # what may be in a dataset repo that becomes a collection
_GRAPH_FILES = (GRAPH_FILE, IMAGE_FILES, "build.json")
_TITLE = "Add MLL label"
_GRAPH_TITLE = "Add graph and images"
_COLLECTION_TITLE = "Add MLL labels"
_CONFLICTS, _STUMBLES = 30, 4  # so often a publication is tried again
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 8.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a publication.

    Attributes:
        url: The page of the commit, or of the pull request.
        revision: The commit that holds it.
        pull_request: Number of the pull request; None if it is on the main branch.
        changed: False if all was there already.
    """

    url: str
    revision: str
    pull_request: int | None
    changed: bool


def publish_label(
    label: ModelLabel,
    graph: SemanticGraph,
    *,
    create_pr: bool = False,
    with_eval_results: bool = False,
    token: str | None = None,
) -> Published:
    """Publish a label in its model's own repo: file and card in one commit, or in a pull request.

    Args:
        label: Of a model on the Hub.
        graph: The label's graph, for the card.
        create_pr: Open a pull request even if you may write; without write access one is opened anyway.
        with_eval_results: Also add an entry to ``.eval_results/``.
        token: Hub token; None takes the one that the user has logged in with.

    Raises:
        InputError: The model is a local folder, or the label is not of this graph.
        HubError: The Hub refuses, or the repo now has other weights than were measured.
        CardError: The repo's README cannot be edited safely.
    """
    _check_publishable([label], graph)
    if not REPO_ID.fullmatch(label.probes_name):
        _log.warning(
            "the graph of this label is a folder here (%s): others can select with it only if they have the graph; "
            "better upload the graph and label with --graph hf://datasets/ORG/NAME", label.probes_name,
        )  # fmt: skip
    api, repo_id = connect(token), label.model.repo_id
    blob = label_to_bytes(label)
    sha256 = hashlib.sha256(blob).hexdigest()

    def files(head: Head, _: bool) -> Mapping[str, bytes]:
        _check_weights(api, head, label.model)
        readme = _read_readme(api, head)
        if GRAPH_TAG_PREFIX.encode() in readme and graph_tag(graph.digest).encode() not in readme:
            _log.warning("%s carries a label of another graph, which this one replaces", repo_id)
        card = _edited(head, lambda text: add_label(text, label, graph, sha256), readme)
        results = {EVAL_RESULTS_PATH: _eval_results(label)} if with_eval_results else {}
        return {LABEL_PATH: blob, README: card, **results}

    return _publish(api, _Change(repo_id, "model", files, _TITLE, _describe([label])), create_pr)


def publish_to_collection(
    labels: Sequence[ModelLabel],
    graph: SemanticGraph,
    collection: str,
    *,
    create_pr: bool = False,
    private: bool = False,
    token: str | None = None,
) -> Published:
    """Publish labels in a collection: label files, index and card in one commit.

    The collection is made if it does not exist. A pull request holds the label files alone, so that several do not
    conflict; readers find them without the index, and the next publication takes them up.

    Args:
        labels: Of models on the Hub; at least one.
        graph: The graph of all labels.
        collection: ``hf://datasets/org/name``.
        create_pr: Open a pull request even if you may write; without write access one is opened anyway.
        private: Make a new collection private.
        token: Hub token; None takes the one that the user has logged in with.

    Raises:
        InputError: A model is a local folder, a label is not of the graph, or the collection is of another graph.
        HubError: The Hub refuses.
    """
    _check_publishable(labels, graph)
    api, repo_id = connect(token), _repo_of(collection)
    _ensure_dataset(api, repo_id, private)
    blobs = {label_path(label.model): label_to_bytes(label) for label in labels}
    new = {
        path: IndexEntry(label.summary, hashlib.sha256(blob).hexdigest())
        for label, (path, blob) in zip(labels, blobs.items(), strict=True)
    }

    def files(head: Head, as_pull_request: bool) -> Mapping[str, bytes]:
        content = read_collection(api, head) if is_collection(head) else None
        if content is None and (others := sorted(head.files.keys() - _EMPTY_REPO)):
            raise InputError(
                f"{collection} is a dataset of another kind ({abridged(others, 3)}); name a new one, or an empty one"
            )
        if content and content.graph.digest != graph.digest:
            raise InputError(
                f"{collection} holds labels of another graph ({content.graph.name}, {content.graph.digest[:12]}); "
                f"use another collection for labels of {graph.name} ({graph.digest[:12]})"
            )
        if as_pull_request:
            return blobs
        entries = {label_path(entry.summary.model): entry for entry in content.entries} if content else {}
        return {**blobs, **_overview(api, head, content.graph if content else graph, {**entries, **new})}

    return _publish(api, _Change(repo_id, "dataset", files, _COLLECTION_TITLE, _describe(labels)), create_pr)


def publish_graph(folder: Path, dataset: str, *, private: bool = False, token: str | None = None) -> Published:
    """Publish a graph with its images as a dataset repo; an upload that was interrupted goes on where it stopped.

    The repo is made if it does not exist. Image files that the folder does not have are deleted from it.

    Args:
        folder: Holds ``graph.json``, ``images*.parquet``, the card and ``build.json``; nothing else is published.
        dataset: ``hf://datasets/org/name``.
        private: Make a new repo private.
        token: Hub token; None takes the one that the user has logged in with.

    Raises:
        InputError: The repo holds something else, or is public and should be private.
        HubError: The Hub refuses.
    """
    api, repo_id = connect(token), _repo_of(dataset)
    _ensure_dataset(api, repo_id, private)
    with hub_errors(repo_id):
        head = fetch_head(api, repo_id, "dataset")
    if others := sorted(path for path in head.files.keys() - _EMPTY_REPO if not _is_of_graph(path)):
        raise InputError(
            f"{dataset} is a dataset of another kind ({abridged(others, 3)}); name a new one, or an empty one"
        )

    def upload() -> CommitInfo:
        try:
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                repo_type="dataset",
                commit_message=_GRAPH_TITLE,
                allow_patterns=[README, *_GRAPH_FILES],
                delete_patterns=[IMAGE_FILES],
            )
        except RuntimeError as error:
            raise _cause(error) from error

    with hub_errors(repo_id), sensible_answers(repo_id):
        commit = retried(upload)
    return Published(commit.commit_url, commit.oid, None, changed=commit.oid != head.sha)


def _is_of_graph(path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in _GRAPH_FILES)


def build_index(collection: str, *, token: str | None = None) -> Published:
    """Bring a collection's index and card up to date with its labels; only labels that it lacks are fetched.

    Args:
        collection: ``hf://datasets/org/name``.
        token: Hub token; None takes the one that the user has logged in with.

    Raises:
        InputError: This is no collection, or holds no valid label.
        HubError: The Hub refuses.
    """
    api, repo_id = connect(token), _repo_of(collection)

    def files(head: Head, _: bool) -> Mapping[str, bytes]:
        content = read_collection(api, head)
        if not content.entries:
            raise InputError(f"{collection} holds no valid label; publish some: mll-hf push MODEL --to {collection}")
        return _overview(api, head, content.graph, {label_path(e.summary.model): e for e in content.entries})

    return _publish(api, _Change(repo_id, "dataset", files, "Update the index of labels"), create_pr=False)


# --- what is published ------------------------------------------------------------------------------------------------


def _check_publishable(labels: Sequence[ModelLabel], graph: SemanticGraph) -> None:
    if not labels:
        raise InputError("there are no labels to publish; name at least one labeled model")
    for label in labels:
        if label.model.is_local:
            raise InputError(
                f"{label.model.repo_id} is a folder on this machine, so its label is of no use to others; upload the "
                "model (hf upload ORG/NAME FOLDER) and label ORG/NAME"
            )
        if label.graph_digest != graph.digest:
            raise InputError(f"the label of {label.model.repo_id} is not of the graph {graph.name}; give its own graph")


def _check_weights(api: HfApi, head: Head, measured: ModelRef) -> None:
    """Refuse to put a label beside other weights than those it was measured on."""
    if not same_weights(api, head, measured):
        raise HubError(
            head.repo_id,
            f"has other weights now than at {measured.revision[:12]}, where it was measured; label it again, or "
            "publish to a collection with --to",
        )


def same_weights(api: HfApi, head: Head, measured: ModelRef) -> bool:
    """Whether a repo's head computes what the measured commit did: a request unless they are the same commit."""
    if head.sha == measured.revision:
        return True
    return fetch_head(api, head.repo_id, "model", measured.revision).model_files == head.model_files


def _read_readme(api: HfApi, head: Head) -> bytes:
    if README not in head.files:
        return b""
    return download(api, head.repo_id, head.repo_type, README, head.sha, _MOST_README_BYTES).read_bytes()


def _edited(head: Head, edit: Callable[[str], str], readme: bytes) -> bytes:
    try:
        return edit(readme.decode("utf-8")).encode("utf-8")
    except UnicodeDecodeError:
        raise CardError(f"{head.repo_id}: its {README} is no UTF-8; repair it, or publish to a collection") from None
    except CardError as error:
        raise CardError(f"{head.repo_id}: {error}") from None


def _eval_results(label: ModelLabel) -> bytes:
    """The label's one figure for ``.eval_results/``, which wants a dataset on the Hub."""
    if not REPO_ID.fullmatch(label.probes_name):
        raise InputError(
            f"the probe images of this label are a folder ({label.probes_name}); an entry in .eval_results/ needs them "
            "as a dataset on the Hub: label the model with --graph hf://datasets/ORG/NAME"
        )
    source = f"{constants.ENDPOINT}/{label.model.repo_id}/blob/main/{LABEL_PATH}"
    return eval_results(label, label.probes_name, label.graph_name, source).encode()


def _overview(api: HfApi, head: Head, graph: SemanticGraph, entries: Mapping[str, IndexEntry]) -> dict[str, bytes]:
    """Graph, index and card of a collection; what its owner changed in the card around our section stays."""
    summaries = [entry.summary for entry in entries.values()]
    card = _edited(head, lambda old: collection_card(head.repo_id, graph, summaries, old), _read_readme(api, head))
    return {
        GRAPH_FILE: graph_to_bytes(graph),
        INDEX_FILE: index_to_bytes(graph, list(entries.values())),
        README: card,
    }


def _describe(labels: Sequence[ModelLabel]) -> str:
    shown = [
        f"- {label.model.repo_id} at {label.model.revision[:12]}: mean precision {label.mean_precision:.3f} on "
        f"{int((label.support > 0).sum())} concepts of {label.graph_name}"
        for label in labels[:20]
    ]
    return "\n".join([*shown, *([f"and {len(labels) - 20} more"] if len(labels) > 20 else [])])


def _repo_of(collection: str) -> str:
    dataset = parse_dataset(collection)
    if dataset.revision not in (None, "main"):
        raise InputError(f"'{collection}' names a revision, but labels are published on main; leave out the @...")
    return dataset.repo_id


def _ensure_dataset(api: HfApi, repo_id: str, private: bool) -> None:
    with hub_errors(repo_id):
        try:
            fetch_head(api, repo_id, "dataset")
        except RepositoryNotFoundError:
            api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
            return
        if private and not api.dataset_info(repo_id).private:
            raise InputError(
                f"{repo_id} exists already and is public; change that in its settings, or leave out --private"
            )


# --- one commit -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """What should be in a repository.

    Attributes:
        repo_id: ``org/name``.
        repo_type: ``model`` or ``dataset``.
        files: From a head, and whether it is for a pull request, to what the files should be.
        title: Of the commit; an open pull request of ours with this title is gone on with.
        description: Of the commit.
    """

    repo_id: str
    repo_type: str
    files: Callable[[Head, bool], Mapping[str, bytes]]
    title: str
    description: str = ""


def _publish(api: HfApi, change: _Change, create_pr: bool) -> Published:
    """Make a change on the newest head, again and again while others are quicker or the Hub stumbles.

    Without write access, or if ``create_pr``, it becomes a pull request.
    """
    conflicts = stumbles = 0
    with hub_errors(change.repo_id):
        while True:
            try:
                return _try_to_publish(api, change, create_pr)
            except _FAILURES as error:
                failure = _cause(error)
            if _status(failure) == 403 and not create_pr:
                _log.warning("you may not write to %s; opening a pull request", change.repo_id)
                create_pr = True
                continue
            conflicts += _status(failure) == 412  # somebody else was quicker, and so not everybody is held up
            stumbles += passes(failure)
            if not (_status(failure) == 412 or passes(failure)) or conflicts > _CONFLICTS or stumbles > _STUMBLES:
                raise failure
            pause = min(_FIRST_WAIT * 2 ** (conflicts + stumbles), _LONGEST_WAIT) * random.uniform(0.5, 1.5)  # noqa: S311
            time.sleep(max(pause, wait_asked_for(failure)))


_FAILURES = (HfHubHTTPError, httpx.TransportError, RuntimeError, ConnectionError)


def _cause(error: Exception) -> Exception:
    """What made an upload fail: the client wraps it in a RuntimeError."""
    wrapped = isinstance(error, RuntimeError) and isinstance(error.__cause__, (OSError, httpx.HTTPError))
    return error.__cause__ if wrapped and isinstance(error.__cause__, Exception) else error


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _try_to_publish(api: HfApi, change: _Change, create_pr: bool) -> Published:
    repo_id, repo_type = change.repo_id, change.repo_type
    number = _my_open_pull_request(api, repo_id, repo_type, change.title) if create_pr else None
    branch = f"refs/pr/{number}" if number else None
    head = fetch_head(api, repo_id, repo_type, branch)
    operations = [
        CommitOperationAdd(path, content)
        for path, content in change.files(head, create_pr).items()
        if not head.holds(path, content)
    ]
    page = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    if not operations:
        there = f"{page}/discussions/{number}" if number else f"{page}/tree/{head.sha}"
        return Published(there, head.sha, number, changed=False)
    with _card_errors(repo_id), sensible_answers(repo_id):
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=change.title,
            commit_description=change.description,
            repo_type=repo_type,
            revision=branch,
            create_pr=create_pr and number is None,
            parent_commit=head.sha,
        )
    number = number or commit.pr_num
    return Published(commit.pr_url or (f"{page}/discussions/{number}" if number else commit.commit_url), commit.oid,
                     number, changed=True)  # fmt: skip


@contextmanager
def _card_errors(repo_id: str) -> Iterator[None]:
    """Say what the Hub has against the metadata of a card, which it checks before it takes a commit."""
    try:
        yield
    except HubError as error:
        refused = error.__cause__
        if not (isinstance(refused, ValueError) and "metadata" in str(refused)):
            raise
        reason = one_line(refused.__cause__ if isinstance(refused.__cause__, Exception) else refused)
        raise CardError(
            f"{repo_id}: the Hub refuses the metadata of its card ({reason}); correct its {README}"
        ) from None


def _my_open_pull_request(api: HfApi, repo_id: str, repo_type: str, title: str) -> int | None:
    """Number of our open pull request with this title, if there is one."""
    with sensible_answers(repo_id):
        me = api.whoami()["name"]
        mine = [
            discussion.num
            for discussion in api.get_repo_discussions(repo_id, repo_type=repo_type, author=me)
            if discussion.is_pull_request
            and discussion.status in ("open", "draft")
            and discussion.title == title
            and discussion.author == me
        ]
        return min(mine, default=None)
