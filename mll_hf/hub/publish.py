"""Publish labels, graphs, images of graphs, and content of dedicated model repos, such as selections.

A publication is one commit on the head that it was prepared for, or one pull request, so an interruption leaves the
repo as it was. If another commit came first, the change is prepared again on the new head. Publishing the same
content twice changes nothing. A pull request is opened only on request.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from mll_hf.errors import CardError, HubError, InputError, LabelError
from mll_hf.graph.concepts import GRAPH_FILE, graph_to_bytes, load_graph
from mll_hf.graph.files import IMAGE_FILES, image_files
from mll_hf.graph.probes import count_probes
from mll_hf.hub.card import LABEL_PATH, add_label, collection_card, graph_card, images_card
from mll_hf.hub.connection import (
    Head,
    connect,
    download,
    fetch_head,
    hub_errors,
    names_of_user,
    retried,
    status_of,
)
from mll_hf.hub.locations import DatasetLocation, is_on_hub, parse_dataset, read_graph
from mll_hf.hub.sources import is_collection, open_source
from mll_hf.labels.file_format import MAX_LABEL_BYTES, label_to_bytes, rivals_to_bytes
from mll_hf.labels.store import graph_path, label_path, read_label
from mll_hf.labels.summary import SUMMARY_PATH, summary_to_bytes
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from huggingface_hub import HfApi

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label, ModelRef, Rivals

LABEL_TITLE, LABELS_TITLE = "Add MLL label", "Add MLL labels"  # of commits to a model's repo, to a collection
README = "README.md"
_MAX_README_BYTES = 2**20
_EMPTY_REPO = {".gitattributes", README}  # files of a dataset repo that may become a collection
_BUILD_FILE = "build.json"
_CONFLICTS = (409, 412)  # another commit is in progress, or came first
_MAX_CONFLICTS = 30
_FIRST_WAIT, _MAX_WAIT = 0.1, 8.0
_COMMIT_QUOTA = "repository commits"  # in the message after 128 commits to a repository within an hour
_QUOTA_WAIT, _MAX_QUOTA_WAITS = 300.0, 12
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """The result of a publication.

    Attributes:
        url: Page of the commit or the pull request.
        revision: The commit.
        pull_request: Number of the pull request; None if the commit is on the main branch.
        changed: False if the repo had this content already.
    """

    url: str
    revision: str
    pull_request: int | None
    changed: bool

    def __str__(self) -> str:
        return f"{'published' if self.changed else 'published already'}: {self.url}"


class Access(StrEnum):
    """Who may read a dataset repo, from everyone to few."""

    PUBLIC = "public"
    GATED = "gated"  # everyone who asks for access and accepts the terms
    PRIVATE = "private"


# --- models -----------------------------------------------------------------------------------------------------------


def publish_label(
    label: Label,
    graph: SemanticGraph,
    *,
    rivals: Rivals | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> Published:
    """Publish a label in its model's own repo: file and card in one commit or pull request.

    The first label of a repo is ``mll/label.safetensors``; labels on other graphs have their own folders.
    ``create_pr`` opens a pull request even if the user has write access.

    Raises:
        InputError: The model is a local folder, or the label is not of this graph.
        HubError: The Hub refuses, or the weights in the repo differ from those measured.
        CardError: The repo's README cannot be edited safely.
    """
    _check_publishable([label], [graph])
    if not is_on_hub(label.graph_location):
        _log.warning(
            "the graph of this label is a local folder (%s), and others cannot use the label without a copy of it; "
            "publish it (mll-hf graph push) and label with --graph hf://datasets/ORG/NAME", label.graph_location,
        )  # fmt: skip
    api, repo_id = connect(token), label.model.repo_id
    blob = label_to_bytes(label)
    sha256 = hashlib.sha256(blob).hexdigest()

    def files(head: Head) -> Mapping[str, bytes]:
        main = fetch_head(api, repo_id, "model") if create_pr else head  # a pull request's branch may be older
        if not same_weights(api, main, label.model):
            raise HubError(
                repo_id,
                f"its weights have changed since {label.model.revision[:12]}, where it was measured; label it again, "
                "or publish to a collection with --to",
            )
        path = _path_in_repo(api, head, label.graph_digest)
        card = _card(api, head, lambda text: add_label(text, label, graph, sha256, path))
        beside = {path.replace("label.", "rivals."): rivals_to_bytes(rivals)} if rivals else {}
        return {path: blob, README: card, **beside}

    return _publish(api, repo_id, "model", LABEL_TITLE, files, _describe([label]), create_pr)


def _path_in_repo(api: HfApi, head: Head, digest: str) -> str:
    """Path of the label on a graph in a model's repo, whether or not it exists."""
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


def _check_publishable(labels: Sequence[Label], graphs: Sequence[SemanticGraph]) -> None:
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


def same_weights(api: HfApi, head: Head, measured: ModelRef) -> bool:
    """Whether a repo's head has the model files of the measured commit; one request unless it is that commit."""
    if head.sha == measured.revision:
        return True
    return fetch_head(api, head.repo_id, "model", measured.revision).model_files == head.model_files


def _describe(labels: Sequence[Label]) -> str:
    shown = [
        f"- {label.model.repo_id} at {label.model.revision[:12]}: mean recall {label.mean_recall:.3f} on "
        f"{label.n_tested} concepts of {label.graph_name}"
        for label in labels[:20]
    ]
    return "\n".join([*shown, *([f"and {len(labels) - 20} more"] if len(labels) > 20 else [])])


# --- collections ------------------------------------------------------------------------------------------------------


def publish_to_collection(
    labels: Sequence[Label],
    graphs: Sequence[SemanticGraph],
    collection: str,
    *,
    rivals_of: Callable[[Label], Rivals | None] = lambda _label: None,
    create_pr: bool = False,
    private: bool = False,
    token: str | None = None,
) -> Published:
    """Publish labels in a collection: labels, their rivals, graphs and card in one commit.

    Creates the collection, ``hf://datasets/org/name``, if it does not exist. With ``private``, a new collection is
    private and a public one is refused. A pull request has no card, so that several do not conflict.

    Raises:
        InputError: A model is a local folder, or a label's graph is not among the graphs.
        HubError: The Hub refuses.
    """
    _check_publishable(labels, graphs)
    api, repo_id = connect(token), _repo_of(collection)
    _ensure_repo(api, repo_id, "dataset", Access.PRIVATE if private else Access.PUBLIC)
    used = {label.graph_digest for label in labels}
    blobs = {label_path(label.model, label.key): label_to_bytes(label) for label in labels}
    for label in labels:
        if rivals := rivals_of(label):
            path = label_path(label.model, label.key).replace(".safetensors", ".rivals.safetensors")
            blobs[path] = rivals_to_bytes(rivals)
    blobs |= {graph_path(graph.digest): graph_to_bytes(graph) for graph in graphs if graph.digest in used}

    def files(head: Head) -> Mapping[str, bytes | None]:
        if not is_collection(head):
            _check_contents(head, collection)
        shown = [graph for graph in graphs if graph.digest in used]
        card = {} if create_pr else {README: _card(api, head, lambda text: collection_card(repo_id, shown, text))}
        return {**blobs, **card}

    return _publish(api, repo_id, "dataset", LABELS_TITLE, files, _describe(labels), create_pr)


def publish_summary(collection: str, *, token: str | None = None) -> Published:
    """Publish the table of a collection's labels, which the Hub's viewer opens, and update its card.

    Raises:
        InputError: The dataset is not a collection.
        HubError: The Hub refuses.
    """
    api, repo_id = connect(token), _repo_of(collection)

    def files(head: Head) -> Mapping[str, bytes]:
        store = open_source(str(DatasetLocation(head.repo_id, head.sha)), token=token)
        card = _card(api, head, lambda text: collection_card(head.repo_id, store.graphs, text))
        return {SUMMARY_PATH: summary_to_bytes(store.labels(), store.graphs), README: card}

    return _publish(api, repo_id, "dataset", "Update the table of labels", files)


# --- graphs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishedGraph:
    """The result of publishing a graph.

    Attributes:
        graph: The commit of the concepts.
        images: The commit of the images; None if only the graph was published.
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
    """Publish a graph in a public dataset repo, and its images in a repo of their own.

    Each is one commit of the changed files. The images come first, so that the graph never names missing images. An
    interrupted upload resumes. Repos that do not exist are created; ``access`` says who may read a new repo of images.
    Without ``images_to``, the graph keeps naming the published images, if they are the ones in the folder.

    The folder has ``graph.json`` and usually ``images*.parquet``; its README and ``build.json`` are published with the
    images.

    Raises:
        InputError: A repo has other content, or more people may read the repo of the images than ``access`` says.
        GraphError: The graph or its images cannot be read.
        HubError: The Hub refuses.
    """
    graph, files = load_graph(folder), image_files(folder)
    probes = count_probes(graph, folder) if files else graph.probes
    api, repo_id, images_repo = connect(token), _repo_of(dataset), _repo_of(images_to) if images_to else None
    if images_repo == repo_id:
        raise InputError("the images need a repo of their own; name another one with --images-to")
    if images_repo and not files:
        raise InputError(f"{folder} has no {IMAGE_FILES} to publish; leave out --images-to")
    if (found := _ensure_repo(api, repo_id, "dataset", Access.PUBLIC)) is not Access.PUBLIC:
        _log.warning(
            "%s is %s, so others cannot use labels on this graph; make it public in its settings", repo_id, found
        )
    with hub_errors(repo_id):
        head = fetch_head(api, repo_id, "dataset")
    _check_contents(head, dataset, (GRAPH_FILE,))
    if GRAPH_FILE in head.files and probes:
        before = read_graph(api, repo_id, head.sha).probes
        same_place = before and (images_repo is None or before.location.startswith(f"hf://datasets/{images_repo}@"))
        if before and same_place and before.digest == probes.digest:
            probes = replace(probes, location=before.location)
    images = None
    if images_repo and images_to and probes:
        images = _publish_images(api, graph, folder, images_repo, images_to, repo_id, access)
        if not probes.location:
            probes = replace(probes, location=str(DatasetLocation(images_repo, images.revision)))
    graph = replace(graph, probes=probes)

    def files_of_graph(head: Head) -> Mapping[str, bytes]:
        return {
            GRAPH_FILE: graph_to_bytes(graph),
            README: _card(api, head, lambda text: graph_card(repo_id, graph, text)),
        }

    published = _publish(api, repo_id, "dataset", "Add graph", files_of_graph, graph.digest)
    return PublishedGraph(published, images, probes.location if probes else "")


def _publish_images(
    api: HfApi, graph: SemanticGraph, folder: Path, repo_id: str, location: str, graph_repo: str, access: Access
) -> Published:
    names = [path.name for path in image_files(folder)]
    _ensure_repo(api, repo_id, "dataset", access)

    def files(head: Head) -> Mapping[str, bytes | Path | None]:
        _check_contents(head, location, (IMAGE_FILES, _BUILD_FILE))
        new: dict[str, bytes | Path | None] = {path: None for path in head.files if fnmatchcase(path, IMAGE_FILES)}
        new |= {name: folder / name for name in names}
        new |= {name: folder / name for name in (README, _BUILD_FILE) if (folder / name).exists()}
        if README not in new:
            new[README] = _card(api, head, lambda text: images_card(graph, graph_repo, text))
        return new

    return _publish(api, repo_id, "dataset", "Add probe images", files, "\n".join(names))


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
    """Publish files and their card in a dedicated model repo, in one commit.

    Creates the repo if it does not exist, ``private`` or not. ``edit`` maps the current README, which may be empty, to
    the new one. The file ``marker`` identifies the kind of repo: a repo without it must be empty.

    Raises:
        InputError: The repo has other content, or is public although ``private``.
        HubError: The Hub refuses.
        CardError: The repo's README cannot be edited.
    """
    api = connect(token)
    _ensure_repo(api, repo_id, "model", Access.PRIVATE if private else Access.PUBLIC)

    def files(head: Head) -> Mapping[str, bytes]:
        if marker not in head.files:
            _check_contents(head, repo_id)
        return {**content, README: _card(api, head, edit)}

    return _publish(api, repo_id, "model", title, files, create_pr=create_pr)


# --- repos -----------------------------------------------------------------------------------------------------


def _repo_of(dataset: str) -> str:
    location = parse_dataset(dataset)
    if location.revision not in (None, "main"):
        raise InputError(f"'{dataset}' names a revision, but only main can be published to; leave out the @...")
    return location.repo_id


def _ensure_repo(api: HfApi, repo_id: str, repo_type: str, access: Access) -> Access:
    """Create a repo with this access, unless it exists; returns who may read it.

    Raises:
        InputError: It exists, and more people may read it.
    """
    with hub_errors(repo_id):
        try:
            info = retried(partial(api.repo_info, repo_id, repo_type=repo_type))
        except RepositoryNotFoundError:
            is_private = access is not Access.PUBLIC
            api.create_repo(repo_id, repo_type=repo_type, private=is_private, exist_ok=True)
            if access is Access.GATED:  # made public only after it is gated, and still empty
                api.update_repo_settings(repo_id, gated="auto", private=False, repo_type=repo_type)
            return access
    found = Access.PRIVATE if info.private else Access.GATED if info.gated else Access.PUBLIC
    order = list(Access)
    if order.index(found) < order.index(access):
        raise InputError(f"{repo_id} exists already and is {found}; change that in its settings, or name another repo")
    return found


def _check_contents(head: Head, name: str, patterns: Sequence[str] = ()) -> None:
    """Refuse a repo with files that do not match the patterns."""
    files = head.files.keys() - _EMPTY_REPO
    if others := sorted(path for path in files if not any(fnmatchcase(path, pattern) for pattern in patterns)):
        raise InputError(
            f"{name} is a {head.repo_type} of another kind ({abridged(others, 3)}); name a new one, or an empty one"
        )


def _read(api: HfApi, head: Head, path: str, max_bytes: int) -> bytes:
    """The content of a repo's file; empty if there is no such file."""
    if path not in head.files:
        return b""
    return download(api, head.repo_id, head.repo_type, path, head.sha, max_bytes).read_bytes()


def _card(api: HfApi, head: Head, edit: Callable[[str], str]) -> bytes:
    """A repo's README, edited."""
    try:
        return edit(_read(api, head, README, _MAX_README_BYTES).decode("utf-8")).encode("utf-8")
    except UnicodeDecodeError:
        raise CardError(f"{head.repo_id}: its {README} is not UTF-8; repair it, or publish elsewhere") from None
    except CardError as error:
        raise CardError(f"{head.repo_id}: {error}") from None


# --- commits ----------------------------------------------------------------------------------------------------------


def _publish(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    title: str,
    files: Callable[[Head], Mapping[str, bytes | Path | None]],
    description: str = "",
    create_pr: bool = False,
) -> Published:
    """Commit files on the newest head or in a pull request; try again after conflicts and transient errors.

    ``files`` returns, for a head, the desired content by path: bytes, a local file, or None to delete the file. Our
    open pull request with this title is continued, if there is one.

    Raises:
        HubError: The Hub refuses, for example without write access.
        CardError: The Hub refuses the metadata of the card.
    """
    page = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"

    def attempt() -> Published:
        number = own_open_pull_request(api, repo_id, repo_type, title) if create_pr else None
        branch = f"refs/pr/{number}" if number else None
        head = fetch_head(api, repo_id, repo_type, branch)
        operations = [
            CommitOperationDelete(path) if content is None else CommitOperationAdd(path, content)
            for path, content in files(head).items()
            if (path in head.files if content is None else not head.holds(path, content))
        ]
        if not operations:
            url = f"{page}/discussions/{number}" if number else f"{page}/tree/{head.sha}"
            return Published(url, head.sha, number, changed=False)
        try:
            commit = api.create_commit(
                head.repo_id,
                operations,
                commit_message=title,
                commit_description=description,
                repo_type=repo_type,
                revision=branch,
                create_pr=create_pr and number is None,
                parent_commit=head.sha,
            )
        except RuntimeError as error:
            raise error.__cause__ or error from None  # the client wraps what fails an upload
        except ValueError as error:
            if "metadata" not in str(error):
                raise
            reason = one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            message = f"{repo_id}: the Hub refuses the metadata of its card ({reason}); correct its {README}"
            raise CardError(message) from None
        number = number or commit.pr_num
        url = commit.pr_url or (f"{page}/discussions/{number}" if number else commit.commit_url)
        return Published(url, commit.oid, number, changed=True)

    conflicts = quota_waits = 0
    with hub_errors(repo_id):
        while True:
            try:
                return retried(attempt)
            except HfHubHTTPError as error:
                if status_of(error) == 403 and not create_pr:
                    raise HubError(
                        repo_id,
                        "you or your token may not write to it; name a repo of your own with --to, ask for a pull "
                        "request with --pr (labels, selections), or log in with one that can write: hf auth login",
                        403,
                    ) from error
                if _COMMIT_QUOTA in str(error) and quota_waits < _MAX_QUOTA_WAITS:
                    _log.warning("%s: the Hub allows no more commits this hour; trying again every 5 minutes", repo_id)
                    quota_waits += 1
                    time.sleep(_QUOTA_WAIT)
                    continue
                if status_of(error) not in _CONFLICTS or conflicts == _MAX_CONFLICTS:
                    raise
            conflicts += 1
            time.sleep(min(_FIRST_WAIT * 2**conflicts, _MAX_WAIT) * random.uniform(0.5, 1.5))  # noqa: S311


def own_open_pull_request(api: HfApi, repo_id: str, repo_type: str, title: str) -> int | None:
    """Number of our open pull request with a title, if there is one."""
    me = names_of_user(api)[0]
    mine = [
        discussion.num
        for discussion in api.get_repo_discussions(repo_id, repo_type=repo_type, author=me)
        if discussion.is_pull_request
        and discussion.status in ("open", "draft")
        and (discussion.title, discussion.author) == (title, me)
    ]
    return min(mine, default=None)
