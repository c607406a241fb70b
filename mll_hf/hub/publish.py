"""Publish labels, graphs and images of graphs, each with its card in one commit."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants

from mll_hf.errors import HubError, InputError, LabelError
from mll_hf.graph.concepts import GRAPH_FILE, graph_to_bytes, load_graph
from mll_hf.graph.files import IMAGE_FILES, image_files
from mll_hf.graph.probes import count_probes
from mll_hf.hub.card import GRAPH_TAG, LABEL_PATH, add_label, collection_card, graph_card, graph_tag, images_card
from mll_hf.hub.connection import connect, hub_errors, read_head
from mll_hf.hub.locations import DatasetLocation, fetch_graph, is_public, parse_dataset
from mll_hf.hub.repos import (
    README,
    Access,
    Published,
    access_of,
    check_contents,
    ensure_repo,
    hidden_models,
    not_writable,
    own_names,
    publish_files,
)
from mll_hf.hub.sources import fetch_from_model, is_collection, open_labels
from mll_hf.labels.file_format import label_to_bytes, tensors_to_bytes
from mll_hf.labels.store import graph_path, label_path, rivals_path
from mll_hf.labels.summary import SUMMARY_PATH, summary_to_bytes
from mll_hf.utils.files import file_digest
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from huggingface_hub import HfApi

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.hub.connection import Head
    from mll_hf.hub.repos import Content
    from mll_hf.labels.label import Label, ModelRef, Rivals

_BUILD_FILE = "build.json"
_log = logging.getLogger(__name__)


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
    ``create_pr`` opens a pull request even if the user has write access. A HubError if the Hub refuses, or the weights
    in the repo differ from those measured; a CardError if its README cannot be edited safely.
    """
    _check_publishable([label], [graph])
    api, repo_id = connect(token), label.model.repo_id
    label, _ = _for_others(label, graph, own_graph(api, label.graph_digest, token))
    if not is_public(label.graph_location):
        _log.warning(
            "others cannot use this label, since its graph is not public; publish the graph, and push the label again: "
            "mll-hf graph push GRAPH --to hf://datasets/%s/NAME", repo_id.partition("/")[0],
        )  # fmt: skip

    def files(head: Head) -> Mapping[str, Content]:
        path = _label_in(api, head, label.model, label.graph_digest)[0]
        beside = rivals_path(Path(path)).as_posix()  # of an earlier label, unless it has new content
        card = partial(add_label, label=label, path=path)
        return {path: label_to_bytes(label), README: card, beside: tensors_to_bytes(rivals) if rivals else None}

    description = f"Mean recall {label.mean_recall:.3f} on {label.n_tested} concepts of {label.graph_name}."
    return publish_files(api, repo_id, "model", "Add MLL label", files, description, create_pr)


def own_graph(api: HfApi, digest: str, token: str | None = None) -> tuple[SemanticGraph, str] | None:
    """A graph that the user has published, and its location; found by its tag, so the folder does not matter."""
    for owner in sorted(own_names(token)):
        with hub_errors(owner):
            tags = [GRAPH_TAG, graph_tag(digest)]
            found = list(api.list_datasets(filter=tags, author=owner, expand=["sha", "private"], limit=10))
        for info in found:
            place = str(DatasetLocation(info.id, info.sha))
            if not info.private and (graph := fetch_graph(place, token)).digest == digest:
                return graph, place
    return None


def _for_others(
    label: Label, graph: SemanticGraph, public: tuple[SemanticGraph, str] | None
) -> tuple[Label, SemanticGraph]:
    """A label and its graph as they are published: with public locations, and without names of local folders."""
    name, place, images = graph.name, label.graph_location, label.probes_location
    if not is_public(place):
        name, place = (public[0].name, public[1]) if public else (name, "")
        if not public and name == label.graph_location:
            name = f"graph-{graph.digest[:12]}"
    if not is_public(images):
        same = public and public[0].probes and public[0].probes.digest == label.probes_digest
        images = public[0].probes.location if public and public[0].probes and same else ""
    probes = graph.probes and replace(graph.probes, location=images if is_public(images) else "")
    label = replace(label, graph_name=name, graph_location=place, probes_location=images)
    return label, replace(graph, name=name, probes=probes)


def published_label(model: ModelRef, digest: str) -> tuple[str, Label] | None:
    """The page of the label on a graph in a model's own repo, and the label; None if there is none.

    A HubError where :func:`publish_label` would be refused: no write access, or other weights.
    """
    api, repo_id = connect(), model.repo_id
    if not_writable([repo_id]):
        raise HubError(repo_id, "you or your token may not write to it; publish its label in a collection", 403)
    head = read_head(api, repo_id, "model")
    path, label = _label_in(api, head, model, digest)
    return (f"{constants.ENDPOINT}/{head.repo_id}/blob/{head.sha}/{path}", label) if label else None


def _label_in(api: HfApi, head: Head, model: ModelRef, digest: str) -> tuple[str, Label | None]:
    """Path of the label on a graph in a model's repo, and the label there, None if it is missing or damaged.

    A HubError if the repo holds another model than the one that was measured, whatever else was committed since.
    """
    if head.sha != model.revision:
        # without the digest of the model, the listing of the measured commit is asked for
        measured = model.digest or read_head(api, head.repo_id, "model", model.revision).digest(model.backend)
        if measured is None or head.digest(model.backend) != measured:
            raise HubError(
                head.repo_id,
                f"its files have changed since {model.revision[:12]}, where it was measured; label it again, or "
                "publish to a collection",
            )
    own = f"mll/{digest[:12]}/label.safetensors"
    path = own if own in head.files else LABEL_PATH
    if path not in head.files:
        return path, None
    try:
        label = fetch_from_model(api, head.repo_id, head.sha, path)[1]
    except LabelError as error:
        _log.warning("%s is replaced: %s", path, error)
        return path, None
    return (path, label) if label.graph_digest == digest else (own, None)


def _check_publishable(labels: Sequence[Label], graphs: Sequence[SemanticGraph]) -> None:
    digests = {graph.digest for graph in graphs}
    if not labels:
        raise InputError("there are no labels to publish; name at least one labeled model")
    for label in labels:
        if label.model.is_local:
            raise InputError(
                f"{label.model.repo_id} is a local folder, so others cannot use its label; upload the model "
                "(hf upload $ORG/NAME FOLDER) and label $ORG/NAME"
            )
        if label.graph_digest not in digests:
            names = abridged([graph.name for graph in graphs], 3)
            raise InputError(f"the label of {label.model.repo_id} is not of the graph {names}; give its own graph")


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
    private and a public one is refused; without, labels of models that not everyone can see.
    """
    _check_publishable(labels, graphs)
    api, repo_id = connect(token), repo_of(collection)
    is_private = private or access_of(api, repo_id, "dataset") is Access.PRIVATE
    if not is_private and (hidden := hidden_models(label.model.repo_id for label in labels)):
        raise InputError(
            f"private, or no longer on the Hub: {abridged(hidden, 3)}; name the models to publish, without these, or "
            "publish in a private collection with --private"
        )
    ensure_repo(api, repo_id, "dataset", Access.PRIVATE if private else Access.PUBLIC)
    by_digest = {graph.digest: graph for graph in graphs}
    public = {digest: own_graph(api, digest, token) for digest in {label.graph_digest for label in labels}}
    blobs: dict[str, Content] = {}
    for label in labels:
        path, digest = label_path(label.model, label.key), label.graph_digest
        shown, graph = _for_others(label, by_digest[digest], public[digest])
        blobs |= {path: label_to_bytes(shown), graph_path(digest): graph_to_bytes(graph)}
        rivals = rivals_of(label)
        blobs[rivals_path(Path(path)).as_posix()] = tensors_to_bytes(rivals) if rivals else None

    def files(head: Head) -> Mapping[str, Content]:
        if not is_collection(head):
            check_contents(head, collection)
        return {**blobs, README: partial(collection_card, head.repo_id)}

    return publish_files(api, repo_id, "dataset", "Add MLL labels", files, create_pr=create_pr)


def publish_summary(collection: str) -> Published:
    """Publish the table of a collection's labels, which the Hub's viewer opens."""

    def files(head: Head) -> Mapping[str, Content]:
        store = open_labels(str(DatasetLocation(head.repo_id, head.sha)))
        return {SUMMARY_PATH: summary_to_bytes(store.labels(), store.graphs)}

    return publish_files(connect(), repo_of(collection), "dataset", "Update the table of labels", files)


# --- graphs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishedGraph:
    """The commits of a graph and of its images, None if only the graph was published."""

    graph: Published
    images: Published | None
    location: str  # of the images; empty if they are not on the Hub


def publish_graph(
    folder: Path,
    dataset: str,
    images_to: str | None = None,
    access: Access = Access.PRIVATE,
    *,
    name: str = "",
) -> PublishedGraph:
    """Publish a graph in a public dataset repo, and its images in a repo of their own.

    Each is one commit of the changed files. The images come first, so that the graph never names missing images. An
    interrupted upload resumes. Repos that do not exist are created; ``access`` says who may read a new repo of images.
    Without ``images_to``, the graph keeps naming the published images, if they are the ones in the folder.

    The folder has ``graph.json`` and usually ``images*.parquet``; the text of its README and ``build.json`` are
    published with the images. Of existing READMEs only our section changes. ``name`` is the public name of the graph,
    by default that of the repo; the folder's name is not published. An InputError if a repo has other content, or more
    people may read the repo of the images than ``access`` says.
    """
    graph, files = replace(load_graph(folder), name=name or repo_of(dataset).partition("/")[2]), image_files(folder)
    probes = count_probes(graph, folder) if files else graph.probes
    api, repo_id, images_repo = connect(), repo_of(dataset), repo_of(images_to) if images_to else None
    if images_repo == repo_id:
        raise InputError("the images need a repo of their own; name another one with --images-to")
    if images_repo and not files:
        raise InputError(f"{folder} has no {IMAGE_FILES} to publish; leave out --images-to")
    if (found := ensure_repo(api, repo_id, "dataset", Access.PUBLIC)) is not Access.PUBLIC:
        _log.warning(
            "%s is %s, so others cannot use labels on this graph; make it public in its settings", repo_id, found
        )
    head = read_head(api, repo_id, "dataset")
    check_contents(head, dataset, (GRAPH_FILE,))
    if GRAPH_FILE in head.files and probes:
        before = fetch_graph(str(DatasetLocation(repo_id, head.sha))).probes
        same_place = before and (images_repo is None or before.location.startswith(f"hf://datasets/{images_repo}@"))
        if before and same_place and before.digest == probes.digest:
            probes = replace(probes, location=before.location)
    images = None
    if images_repo and probes:
        images = _publish_images(api, graph, folder, images_repo, repo_id, access)
        location = probes.location or str(DatasetLocation(images_repo, images.revision))
        probes = replace(probes, location=location)
    graph = replace(graph, probes=probes)
    content: dict[str, Content] = {GRAPH_FILE: graph_to_bytes(graph), README: partial(graph_card, repo_id, graph)}
    published = publish_files(api, repo_id, "dataset", "Add graph", lambda _: content)
    return PublishedGraph(published, images, probes.location if probes else "")


def _publish_images(
    api: HfApi, graph: SemanticGraph, folder: Path, repo_id: str, graph_repo: str, access: Access
) -> Published:
    names, readme = [path.name for path in image_files(folder)], folder / README
    own = readme.read_text(encoding="utf-8") if readme.exists() else ""
    ensure_repo(api, repo_id, "dataset", access)

    def files(head: Head) -> Mapping[str, Content]:
        check_contents(head, f"hf://datasets/{repo_id}", (IMAGE_FILES, _BUILD_FILE))
        new: dict[str, Content] = {path: None for path in head.files if fnmatchcase(path, IMAGE_FILES)}
        new |= {name: folder / name for name in names}
        for name in new.keys() & head.files & set(names):  # the client would hash them; ours are cached
            if head.files[name].oid == file_digest(folder / name).hex():
                del new[name]
        if (folder / _BUILD_FILE).exists():
            new[_BUILD_FILE] = folder / _BUILD_FILE
        return {**new, README: lambda text: images_card(graph, graph_repo, text, own)}

    return publish_files(api, repo_id, "dataset", "Add probe images", files)


def repo_of(dataset: str) -> str:
    """The repo of ``hf://datasets/org/name``; an InputError for another revision than main."""
    location = parse_dataset(dataset)
    if location.revision not in (None, "main"):
        raise InputError(f"'{dataset}' names a revision, but only main can be published to; leave out the @...")
    return location.repo_id
