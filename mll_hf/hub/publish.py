"""Publish labels, graphs, images of graphs, and what has a model repo of its own, such as a selection.

Labels are published in one commit on the head they were prepared for, or in one pull request, so an interruption
leaves the repository as it was. If another commit came first, the change is prepared again on the new head.
Publishing the same content twice changes nothing. A pull request is opened only on request.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from mll_hf.errors import CardError, HubError, InputError, LabelError
from mll_hf.graph.concepts import GRAPH_FILE, graph_to_bytes, load_graph
from mll_hf.graph.probes import IMAGE_FILES, count_probes, image_files
from mll_hf.hub.card import (
    EVAL_RESULTS_PATH,
    LABEL_PATH,
    add_label,
    collection_card,
    eval_results,
    graph_card,
    images_card,
)
from mll_hf.hub.connection import (
    Head,
    RepoFile,
    connect,
    download,
    fetch_head,
    hub_errors,
    retried,
    sensible_answers,
    status_of,
)
from mll_hf.hub.index import graph_of, labels_by_group, shards_by_group, updated_index
from mll_hf.hub.locations import DatasetLocation, is_on_hub, parse_dataset, read_graph
from mll_hf.hub.sources import fetch_from_collection, is_collection, read_graphs, readable
from mll_hf.hub.summary import (
    MAX_SUMMARY_BYTES,
    PICTURE_PATH,
    SUMMARY_PATH,
    Row,
    leaderboard_svg,
    recall_text,
    rows_from_bytes,
    rows_to_bytes,
    summary_row,
)
from mll_hf.labels.file_format import label_from_bytes, label_to_bytes
from mll_hf.labels.store import MAX_LABEL_BYTES, graph_path, label_path, read_label
from mll_hf.utils.files import file_digest
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from huggingface_hub import HfApi

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.index import IndexedLabel
    from mll_hf.labels.label import LabelSummary, ModelLabel, ModelRef

README = "README.md"
_MOST_README_BYTES = 2**20
_EMPTY_REPO = {".gitattributes", README}  # files of a dataset repo that may become a collection
_BUILD_FILE = "build.json"
_SHA256_LENGTH = 64
_MOST_CONFLICTS = 30
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 8.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """The result of a publication.

    Attributes:
        url: Page of the commit or the pull request.
        revision: The commit.
        pull_request: Number of the pull request; None if the commit is on the main branch.
        changed: False if the repository had this content already.
    """

    url: str
    revision: str
    pull_request: int | None
    changed: bool

    def __str__(self) -> str:
        return f"{'published' if self.changed else 'published already'}: {self.url}"


class Access(StrEnum):
    """Who may read a dataset repo, from many to few."""

    PUBLIC = "public"
    GATED = "gated"  # whoever asks for access and accepts the terms
    PRIVATE = "private"


# --- models -----------------------------------------------------------------------------------------------------------


def publish_label(
    label: ModelLabel,
    graph: SemanticGraph,
    *,
    create_pr: bool = False,
    with_eval_results: bool = False,
    token: str | None = None,
) -> Published:
    """Publish a label in its model's own repo: file and card in one commit or pull request.

    The first label of a repo is ``mll/label.safetensors``; labels on other graphs have folders of their own.

    Args:
        label: Of a model on the Hub.
        graph: The label's graph, for the card.
        create_pr: Open a pull request, also with write access.
        with_eval_results: Also add an entry to ``.eval_results/``.
        token: Hub token; None for the token of the logged-in user.

    Raises:
        InputError: The model is a local folder, or the label is not of this graph.
        HubError: The Hub refuses, or the weights in the repo differ from those measured.
        CardError: The repo's README cannot be edited safely.
    """
    _check_publishable([label], [graph])
    if not is_on_hub(label.graph_location):
        _log.warning(
            "the graph of this label is a local folder (%s): others need a copy of it to use the label; better "
            "publish it (mll-hf graph push) and label with --graph hf://datasets/ORG/NAME", label.graph_location,
        )  # fmt: skip
    api, repo_id = connect(token), label.model.repo_id
    blob = label_to_bytes(label)
    sha256 = hashlib.sha256(blob).hexdigest()

    def files(head: Head, _: bool) -> Mapping[str, bytes]:
        _check_weights(api, head, label.model)
        path = _path_in_repo(api, head, label.graph_digest)
        card = _edited(head, lambda text: add_label(text, label, graph, sha256, path), _read_readme(api, head))
        results = {EVAL_RESULTS_PATH: _eval_results(label, path)} if with_eval_results else {}
        return {path: blob, README: card, **results}

    return _publish(api, _Change(repo_id, "model", files, "Add MLL label", _describe([label])), create_pr)


def _path_in_repo(api: HfApi, head: Head, digest: str) -> str:
    """Where the label of a graph is or goes in a model's repo."""
    own = f"mll/{digest[:12]}/label.safetensors"
    if own in head.files:
        return own
    if LABEL_PATH in head.files:
        try:
            file = download(api, head.repo_id, "model", LABEL_PATH, head.sha, MAX_LABEL_BYTES)
            if read_label(file).graph_digest != digest:
                return own
        except LabelError as error:
            _log.warning("%s: %s is replaced: %s", head.repo_id, LABEL_PATH, error.reason)
    return LABEL_PATH


def _check_publishable(labels: Sequence[ModelLabel], graphs: Sequence[SemanticGraph]) -> None:
    digests = {graph.digest for graph in graphs}
    if not labels:
        raise InputError("there are no labels to publish; name at least one labeled model")
    for label in labels:
        if label.model.is_local:
            raise InputError(
                f"{label.model.repo_id} is a local folder, so others cannot use its label; upload the model "
                "(hf upload ORG/NAME FOLDER) and label ORG/NAME"
            )
        if label.graph_digest not in digests:
            names = abridged([graph.name for graph in graphs], 3)
            raise InputError(f"the label of {label.model.repo_id} is not of the graph {names}; give its own graph")


def _check_weights(api: HfApi, head: Head, measured: ModelRef) -> None:
    if not same_weights(api, head, measured):
        raise HubError(
            head.repo_id,
            f"has other weights now than at {measured.revision[:12]}, where it was measured; label it again, or "
            "publish to a collection with --to",
        )


def same_weights(api: HfApi, head: Head, measured: ModelRef) -> bool:
    """Whether a repo's head has the model files of the measured commit; one request unless they are one commit."""
    if head.sha == measured.revision:
        return True
    return fetch_head(api, head.repo_id, "model", measured.revision).model_files == head.model_files


def _eval_results(label: ModelLabel, path: str) -> bytes:
    if not is_on_hub(label.graph_location):
        raise InputError(
            f"the graph of this label is a local folder ({label.graph_location}); an entry in .eval_results/ needs a "
            "dataset on the Hub: label the model with --graph hf://datasets/ORG/NAME"
        )
    graph = parse_dataset(label.graph_location)
    source = f"{constants.ENDPOINT}/{label.model.repo_id}/blob/main/{path}"
    return eval_results(label, graph.repo_id, label.graph_name, source, graph.revision).encode()


def _describe(labels: Sequence[ModelLabel]) -> str:
    shown = [
        f"- {label.model.repo_id} at {label.model.revision[:12]}: mean recall {label.mean_recall:.3f} on "
        f"{int((label.support > 0).sum())} concepts of {label.graph_name}"
        for label in labels[:20]
    ]
    return "\n".join([*shown, *([f"and {len(labels) - 20} more"] if len(labels) > 20 else [])])


# --- collections ------------------------------------------------------------------------------------------------------


def publish_to_collection(
    labels: Sequence[ModelLabel],
    graphs: Sequence[SemanticGraph],
    collection: str,
    *,
    create_pr: bool = False,
    private: bool = False,
    token: str | None = None,
) -> Published:
    """Publish labels in a collection: labels, graphs, index and card in one commit.

    Creates the collection if it does not exist. A pull request has labels and graphs alone, so that several do not
    conflict; readers find labels that the index lacks, and the next publication adds them to it.

    Args:
        labels: Of models on the Hub; at least one.
        graphs: Their graphs.
        collection: ``hf://datasets/org/name``.
        create_pr: Open a pull request, also with write access.
        private: Make a new collection private.
        token: Hub token; None for the token of the logged-in user.

    Raises:
        InputError: A model is a local folder, or a label is of none of the graphs.
        HubError: The Hub refuses.
    """
    _check_publishable(labels, graphs)
    api, repo_id = connect(token), _repo_of(collection)
    _ensure_repo(api, repo_id, "dataset", Access.PRIVATE if private else Access.PUBLIC)
    used = {label.graph_digest for label in labels}
    blobs = {label_path(label.model, label.group): label_to_bytes(label) for label in labels}
    blobs |= {graph_path(graph.digest): graph_to_bytes(graph) for graph in graphs if graph.digest in used}

    def files(head: Head, as_pull_request: bool) -> Mapping[str, bytes | None]:
        if not is_collection(head):
            _check_only(head, collection)
        if as_pull_request:
            return blobs
        return {**blobs, **_overview(api, head, blobs, graphs)}

    return _publish(api, _Change(repo_id, "dataset", files, "Add MLL labels", _describe(labels)), create_pr)


def update_index(collection: str, *, token: str | None = None) -> Published:
    """Update a collection's index and card from its labels; only labels that the index lacks are fetched.

    Args:
        collection: ``hf://datasets/org/name``.
        token: Hub token; None for the token of the logged-in user.

    Raises:
        InputError: This is no collection, or has no valid label.
        HubError: The Hub refuses.
    """
    api, repo_id = connect(token), _repo_of(collection)

    def files(head: Head, _: bool) -> Mapping[str, bytes | None]:
        if not labels_by_group(head):
            raise InputError(f"{collection} holds no labels yet; publish some: mll-hf push MODEL --to {collection}")
        return _overview(api, head)

    return _publish(api, _Change(repo_id, "dataset", files, "Update the index of labels"), create_pr=False)


def _overview(
    api: HfApi, head: Head, added: Mapping[str, bytes] = MappingProxyType({}), graphs: Sequence[SemanticGraph] = ()
) -> dict[str, bytes | None]:
    """Index, table, picture and card of a collection with the files that a commit adds.

    The owner's text in the card is kept.
    """
    files = {path: RepoFile(len(content), hashlib.sha256(content).hexdigest()) for path, content in added.items()}
    after = replace(head, files={**head.files, **files})
    known = {graph.digest: graph for graph in (*read_graphs(api, head), *graphs)}
    changes: dict[str, bytes | None] = {}
    by_path: dict[str, IndexedLabel] = {}

    def summary_at(path: str) -> LabelSummary:
        whole = label_from_bytes(added[path]) if path in added else fetch_from_collection(api, head, path, known)
        return whole.summary

    groups = labels_by_group(after)
    for stem in sorted({*groups, *shards_by_group(after)}):
        if graph := graph_of(stem, known.values()):
            of_group, index = updated_index(api, after, stem, groups[stem], graph, partial(readable, summary_at))
            changes |= of_group
            for label in index.labels if index else ():
                by_path[groups[stem][label.model.slug, label.model.revision]] = label
        else:
            _log.warning("%s: labels %s are not indexed, since their graph is missing", head.repo_id, stem)
    if not (labels := list(by_path.values())):
        raise InputError(f"hf://datasets/{head.repo_id} holds no valid label; publish one with mll-hf push --to")
    shown = [graph for digest, graph in known.items() if any(label.graph_digest == digest for label in labels)]
    card = _edited(head, lambda old: collection_card(head.repo_id, shown, labels, old), _read_readme(api, head))
    counts = Counter(label.graph_digest for label in labels)
    most = max(shown, key=lambda graph: (counts[graph.digest], graph.digest))
    earlier = rows_from_bytes(_read(api, head, SUMMARY_PATH, MAX_SUMMARY_BYTES))
    table = _summary(by_path, after, known, earlier, summary_at)
    return {**changes, SUMMARY_PATH: table, PICTURE_PATH: leaderboard_svg(labels, most), README: card}


def _summary(
    labels: Mapping[str, IndexedLabel],
    head: Head,
    graphs: Mapping[str, SemanticGraph],
    earlier: Mapping[str, Row],
    read: Callable[[str], LabelSummary],
) -> bytes:
    """The table of the labels at some paths; only those without a line in the earlier table are read."""

    def row_of(path: str) -> Row:
        row = earlier.get(digest := head.files[path].oid)
        if row and row["recall"] == recall_text(labels[path]):
            return row
        label = read(path)
        return summary_row(label, graphs[label.graph_digest], digest)

    return rows_to_bytes(readable(row_of, labels))


# --- graphs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishedGraph:
    """The result of the publication of a graph.

    Attributes:
        graph: The commit of the concepts.
        images: The commit of the images; None if they were not to be published.
        location: Where the images are; empty if they are not on the Hub.
    """

    graph: Published
    images: Published | None
    location: str


def publish_graph(
    folder: Path,
    dataset: str,
    images_to: str | None = None,
    access: Access = Access.PRIVATE,
    *,
    token: str | None = None,
) -> PublishedGraph:
    """Publish a graph in a public dataset repo, and its images in one of their own.

    Each is one commit, of what is new: first the images, so that the graph never names images that are not there. An
    interrupted upload resumes. Repos that do not exist are created. Without ``images_to``, the graph names the same
    images as before, if they are the ones in the folder.

    Args:
        folder: With ``graph.json``, and usually ``images*.parquet``; a card and ``build.json`` go to the images.
        dataset: ``hf://datasets/org/name`` for the graph.
        images_to: The same for its images; by default these are not published.
        access: Who may read a new repo of images. An existing one keeps its settings.
        token: Hub token; None for the token of the logged-in user.

    Raises:
        InputError: A repo has other content, or the one of the images is open to more people than ``access`` says.
        GraphError: The graph or its images cannot be read.
        HubError: The Hub refuses.
    """
    graph, files = load_graph(folder), image_files(folder)
    probes = count_probes(graph, folder) if files else graph.probes
    api, repo_id, images_repo = connect(token), _repo_of(dataset), _repo_of(images_to) if images_to else None
    if images_repo == repo_id:
        raise InputError("the images go to a repo of their own; name another one with --images-to")
    if images_repo and not files:
        raise InputError(f"{folder} has no {IMAGE_FILES} to publish; leave out --images-to")
    if (found := _ensure_repo(api, repo_id, "dataset", Access.PUBLIC)) is not Access.PUBLIC:
        _log.warning(
            "%s is %s, so others cannot use labels on this graph; make it public in its settings", repo_id, found
        )
    head = _head_with_only(api, repo_id, dataset, (GRAPH_FILE,))
    if GRAPH_FILE in head.files and probes:
        before = read_graph(api, repo_id, GRAPH_FILE, head.sha).probes
        same_place = before and (images_repo is None or before.location.startswith(f"hf://datasets/{images_repo}@"))
        if before and same_place and before.digest == probes.digest:
            probes = replace(probes, location=before.location)
    images = None
    if images_repo and images_to and probes:
        images = _publish_images(api, graph, folder, images_repo, images_to, repo_id, access)
        if not probes.location:
            probes = replace(probes, location=str(DatasetLocation(images_repo, images.revision)))
    graph = replace(graph, probes=probes)

    def of_graph(head: Head, _: bool) -> Mapping[str, bytes | Path | None]:
        card = _edited(head, lambda text: graph_card(repo_id, graph, text), _read_readme(api, head))
        return {GRAPH_FILE: graph_to_bytes(graph), README: card}

    published = _publish_own(api, _Change(repo_id, "dataset", of_graph, "Add graph", graph.digest))
    return PublishedGraph(published, images, probes.location if probes else "")


def _publish_images(
    api: HfApi, graph: SemanticGraph, folder: Path, repo_id: str, location: str, graph_repo: str, access: Access
) -> Published:
    names = [path.name for path in image_files(folder)]
    _ensure_repo(api, repo_id, "dataset", access)
    _head_with_only(api, repo_id, location, (IMAGE_FILES, _BUILD_FILE))

    def of_images(head: Head, _: bool) -> Mapping[str, bytes | Path | None]:
        old = {path: None for path in head.files if fnmatchcase(path, IMAGE_FILES)}
        of_build = {name: folder / name for name in (README, _BUILD_FILE) if (folder / name).exists()}
        if README not in of_build:
            card = _edited(head, lambda text: images_card(graph, graph_repo, text), _read_readme(api, head))
            return {**old, **{name: folder / name for name in names}, **of_build, README: card}
        return {**old, **{name: folder / name for name in names}, **of_build}

    return _publish_own(api, _Change(repo_id, "dataset", of_images, "Add probe images", "\n".join(names)))


def _publish_own(api: HfApi, change: _Change) -> Published:
    """Publish in a repo that must be the user's own: nobody looks for a graph in a pull request."""
    try:
        return _publish(api, change, create_pr=False)
    except HubError as error:
        if error.status != 403:
            raise
        reason = "you have no write access to it; name a repo of your own, or log in with a token that can write"
        raise HubError(change.repo_id, reason, 403) from error


def _head_with_only(api: HfApi, repo_id: str, dataset: str, patterns: Sequence[str]) -> Head:
    with hub_errors(repo_id):
        head = fetch_head(api, repo_id, "dataset")
    _check_only(head, dataset, patterns)
    return head


# --- model repos of their own -----------------------------------------------------------------------------------------


def publish_repo(
    repo_id: str,
    content: Mapping[str, bytes],
    marker: str,
    edit: Callable[[str], str],
    title: str,
    *,
    create_pr: bool = False,
    private: bool = False,
    token: str | None = None,
) -> Published:
    """Publish files and their card in a model repo that is for nothing else, in one commit.

    Creates the repo if it does not exist.

    Args:
        repo_id: ``org/name``.
        content: Files by path.
        marker: The file that says what kind of repo this is. A repo without it must be empty.
        edit: Given the README so far, which may be empty, the new one.
        title: Of the commit.
        create_pr: Open a pull request instead; without write access nothing else can be done.
        private: Make a new repo private.
        token: Hub token; None for the token of the logged-in user.

    Raises:
        InputError: The repo has other content, or is public although ``private``.
        HubError: The Hub refuses.
        CardError: The repo's README cannot be edited.
    """
    api = connect(token)
    _ensure_repo(api, repo_id, "model", Access.PRIVATE if private else Access.PUBLIC)

    def files(head: Head, _: bool) -> Mapping[str, bytes]:
        if marker not in head.files:
            _check_only(head, repo_id)
        return {**content, README: _edited(head, edit, _read_readme(api, head))}

    return _publish(api, _Change(repo_id, "model", files, title), create_pr)


# --- repositories -----------------------------------------------------------------------------------------------------


def _repo_of(dataset: str) -> str:
    location = parse_dataset(dataset)
    if location.revision not in (None, "main"):
        raise InputError(f"'{dataset}' names a revision, but only main can be published to; leave out the @...")
    return location.repo_id


def _ensure_repo(api: HfApi, repo_id: str, repo_type: str, access: Access) -> Access:
    """Create a repo that so many people may read; returns who may read the one that there is.

    Raises:
        InputError: It exists and is open to more people.
    """
    with hub_errors(repo_id):
        try:
            info = retried(partial(api.repo_info, repo_id, repo_type=repo_type))
        except RepositoryNotFoundError:
            is_private = access is not Access.PUBLIC
            api.create_repo(repo_id, repo_type=repo_type, private=is_private, exist_ok=True)
            if access is Access.GATED:  # open only now that it is gated; it is empty still
                api.update_repo_settings(repo_id, gated="auto", private=False, repo_type=repo_type)
            return access
    found = Access.PRIVATE if info.private else Access.GATED if info.gated else Access.PUBLIC
    order = list(Access)
    if order.index(found) < order.index(access):
        raise InputError(f"{repo_id} exists already and is {found}; change that in its settings, or name another repo")
    return found


def _check_only(head: Head, name: str, patterns: Sequence[str] = ()) -> None:
    """Refuse a repo with files that do not match the patterns."""
    files = head.files.keys() - _EMPTY_REPO
    if others := sorted(path for path in files if not any(fnmatchcase(path, pattern) for pattern in patterns)):
        raise InputError(
            f"{name} is a {head.repo_type} of another kind ({abridged(others, 3)}); name a new one, or an empty one"
        )


def _read_readme(api: HfApi, head: Head) -> bytes:
    return _read(api, head, README, _MOST_README_BYTES)


def _read(api: HfApi, head: Head, path: str, most_bytes: int) -> bytes:
    """A file of a repository; nothing if it has no such file."""
    if path not in head.files:
        return b""
    return download(api, head.repo_id, head.repo_type, path, head.sha, most_bytes).read_bytes()


def _edited(head: Head, edit: Callable[[str], str], readme: bytes) -> bytes:
    try:
        return edit(readme.decode("utf-8")).encode("utf-8")
    except UnicodeDecodeError:
        raise CardError(f"{head.repo_id}: its {README} is no UTF-8; repair it, or publish elsewhere") from None
    except CardError as error:
        raise CardError(f"{head.repo_id}: {error}") from None


# --- commits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """Desired content of a repository.

    Attributes:
        repo_id: ``org/name``.
        repo_type: ``model`` or ``dataset``.
        files: Given the head, and whether this is for a pull request: desired content by path, in memory or in a file
            of this machine; None for no file.
        title: Of the commit; an open pull request of ours with this title is continued.
        description: Of the commit.
    """

    repo_id: str
    repo_type: str
    files: Callable[[Head, bool], Mapping[str, bytes | Path | None]]
    title: str
    description: str = ""


def _publish(api: HfApi, change: _Change, create_pr: bool) -> Published:
    """Commit a change on the newest head or in a pull request; try again after conflicts and transient errors.

    Raises:
        HubError: The Hub refuses, for example for want of write access.
    """
    conflicts = 0
    with hub_errors(change.repo_id):
        while True:
            try:
                return retried(partial(_try_to_publish, api, change, create_pr))
            except HfHubHTTPError as error:
                if status_of(error) == 403 and not create_pr:
                    raise HubError(
                        change.repo_id,
                        "you or your token may not write to it; publish in a collection with --to, ask for a pull "
                        "request with --pr, or log in with one that can write: hf auth login",
                        403,
                    ) from error
                if status_of(error) == 412 and conflicts < _MOST_CONFLICTS:  # another commit came first
                    conflicts += 1
                    time.sleep(min(_FIRST_WAIT * 2**conflicts, _LONGEST_WAIT) * random.uniform(0.5, 1.5))  # noqa: S311
                else:
                    raise


def _try_to_publish(api: HfApi, change: _Change, create_pr: bool) -> Published:
    repo_id, repo_type = change.repo_id, change.repo_type
    number = _my_open_pull_request(api, change) if create_pr else None
    branch = f"refs/pr/{number}" if number else None
    head = fetch_head(api, repo_id, repo_type, branch)
    operations = [
        CommitOperationDelete(path) if content is None else CommitOperationAdd(path, content)
        for path, content in change.files(head, create_pr).items()
        if (path in head.files if content is None else not _holds(head, path, content))
    ]
    page = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    if not operations:
        url = f"{page}/discussions/{number}" if number else f"{page}/tree/{head.sha}"
        return Published(url, head.sha, number, changed=False)
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
    url = commit.pr_url or (f"{page}/discussions/{number}" if number else commit.commit_url)
    return Published(url, commit.oid, number, changed=True)


def _holds(head: Head, path: str, content: bytes | Path) -> bool:
    """Whether the commit has a file with this content; files that the Hub stores by hash are not read again."""
    if isinstance(content, bytes):
        return head.holds(path, content)
    if path not in head.files:
        return False
    is_large = len(head.files[path].oid) == _SHA256_LENGTH
    return head.files[path].oid == file_digest(content).hex() if is_large else head.holds(path, content.read_bytes())


@contextmanager
def _card_errors(repo_id: str) -> Iterator[None]:
    """Turn the Hub's complaint about a card's metadata, which precedes the commit, into a CardError."""
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


def _my_open_pull_request(api: HfApi, change: _Change) -> int | None:
    """Number of our open pull request for this change, if there is one."""
    with sensible_answers(change.repo_id):
        me = api.whoami()["name"]
        mine = [
            discussion.num
            for discussion in api.get_repo_discussions(change.repo_id, repo_type=change.repo_type, author=me)
            if discussion.is_pull_request
            and discussion.status in ("open", "draft")
            and discussion.title == change.title
            and discussion.author == me
        ]
        return min(mine, default=None)
