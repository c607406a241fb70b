"""Labels from the Hub: a collection, or all models that have one in their own repo.

A label is an untrusted claim: it is limited in size before the download, validated, and must be of the model and graph
that its path names. Labels that fail are skipped, with one warning for all. Of publishers whom the user has not named,
only a few labels are read, to be listed, and no graphs. Reading labels never counts as a download of a model.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mll_hf.errors import LabelError, MLLError, NoLabelsError
from mll_hf.hub.card import LABEL_TAG
from mll_hf.hub.connection import (
    FULL_SHA,
    Head,
    answered,
    connect,
    download,
    download_listed,
    hub_errors,
    map_parallel,
    read_head,
)
from mll_hf.hub.locations import (
    HUB,
    MAX_GRAPH_BYTES,
    REPO_ID,
    DatasetLocation,
    default_graph,
    fetch_default_graph,
    fetch_graph,
    is_on_hub,
    is_public,
    parse_dataset,
)
from mll_hf.hub.trust import claims_text, named_owners, ranked_and_claimed, verified_repos
from mll_hf.labels.file_format import MAX_LABEL_BYTES, MAX_RIVALS_BYTES
from mll_hf.labels.join import JoinedLabels, join_labels
from mll_hf.labels.store import GRAPH_PATH, LABEL_PATH, LabelStore, Origin, read_all, read_label, rivals_path
from mll_hf.utils.text import abridged, listed_reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from huggingface_hub import HfApi, ModelInfo

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label

REPO_LABEL_PATH = re.compile(r"mll/([0-9a-f]{12}/)?label\.safetensors")
_LABEL_PLACE = re.compile(r"hf://(?P<dataset>datasets/)?(?P<repo_id>[^/@]+/[^/@]+)@(?P<sha>[0-9a-f]{40})/(?P<path>.+)")
_MAX_LABELS_PER_REPO = 8
_MAX_LABELS, _MAX_GRAPHS = 10_000, 100  # in a collection; of models' own repos of publishers that the user named
_MAX_CLAIMS = 8  # labels of publishers whom the user has not named
_LISTED_CLAIMS = 100  # models of such publishers in a listing, most downloaded first
_MAX_FETCHED_GRAPHS, _MAX_LOCATIONS = 10, 3  # for labels in models' own repos; where each is searched
_log = logging.getLogger(__name__)


def open_labels(
    location: str | Path, graph: str | Path | None = None, token: str | None = None, trust: Sequence[str] = ()
) -> LabelStore:
    """The labels that a user names: ``hub``, ``hf://datasets/org/name[@revision]``, a folder, or several of these.

    Several are separated by commas; those that cannot be read are skipped with a warning. ``graph`` is the folder or
    dataset of a graph, for labels whose graph is not at the location that they name. ``trust`` names the users and
    organizations whose labels in their models' repos are ranked.
    """
    parts = [part.strip() for part in str(location).split(",")]
    if len(parts) > 1 and not Path(location).is_dir():
        return _joined(parts, partial(open_labels, graph=graph, token=token, trust=trust), connect(token))
    if location != HUB and not is_on_hub(location):
        return LabelStore(Path(location))
    given = (fetch_graph(graph, token),) if graph else ()
    if location == HUB:
        return _fetch_tagged(given, token, trust)
    return _fetch_collection(parse_dataset(str(location)), given, token)


def _joined(parts: Sequence[str], open_part: Callable[[str], LabelStore], api: HfApi) -> LabelStore:
    """The labels of several sources as one."""

    def read(part: str) -> tuple[LabelStore, dict[Path, Origin]]:
        store = open_part(part)
        return store, {store.path_of(label): store.origin_of(label) for label in store.labels()}

    found, errors = read_all(read, parts)
    if not found:
        raise errors[0]
    name = ",".join(store.name for store, _ in found.values())
    return LabelStore(
        Path(name),
        location=name,
        files={path: origin for _, files in found.values() for path, origin in files.items()},
        given_graphs=tuple(graph for store, _ in found.values() for graph in store.graphs),
        fetch=partial(_fetch_rivals, api),
    )


def _fetch_rivals(api: HfApi, location: str) -> None:
    """Download the rivals of a label at ``hf://...@commit/path``, if there are any; nothing for a local file."""
    if place := _LABEL_PLACE.fullmatch(location):
        head = read_head(api, place["repo_id"], "dataset" if place["dataset"] else "model", place["sha"])
        if (path := rivals_path(Path(place["path"])).as_posix()) in head.files:
            download_listed(api, head, path, MAX_RIVALS_BYTES)


# --- a collection -----------------------------------------------------------------------------------------------------


def _fetch_collection(dataset: DatasetLocation, given: tuple[SemanticGraph, ...], token: str | None) -> LabelStore:
    api = connect(token)
    head = read_head(api, dataset.repo_id, "dataset", dataset.revision)
    if not is_collection(head):
        raise NoLabelsError(
            f"hf://datasets/{head.repo_id} has no labels yet; publish some: mll-hf push MODEL --to "
            f"hf://datasets/{head.repo_id} --labels DIR"
        )
    wanted = [*_small(head, GRAPH_PATH, MAX_GRAPH_BYTES, _MAX_GRAPHS)]
    wanted += _small(head, LABEL_PATH, MAX_LABEL_BYTES, _MAX_LABELS)
    if not wanted:
        raise NoLabelsError(f"{dataset} has no labels within the limits; name another collection")

    fetch = partial(download_listed, api, head, max_bytes=MAX_GRAPH_BYTES)
    files, errors = read_all(fetch, wanted, partial(map_parallel, name=str(dataset)))
    if not files:
        raise errors[0]
    path, file = next(iter(files.items()))
    folder = file.parents[path.count("/")]  # the snapshot in the client's cache

    place = DatasetLocation(head.repo_id, head.sha)
    return LabelStore(folder, _owner(head.repo_id), str(place), given_graphs=given, fetch=partial(_fetch_rivals, api))


def _small(head: Head, pattern: re.Pattern[str], max_bytes: int, max_files: int) -> list[str]:
    """Paths of a kind within the limits; others are skipped with a warning."""
    found = sorted(path for path in head.files if pattern.fullmatch(path))
    small = [path for path in found if head.files[path].size <= max_bytes][:max_files]
    if left_out := sorted(set(found) - set(small)):
        limit = f"over {max_bytes // 2**20} MB or more than {max_files:,}"
        _log.warning("left out: %s in %s (%s)", abridged(left_out, 3), head.repo_id, limit)
    return small


def is_collection(head: Head) -> bool:
    """Whether a dataset repo has labels, or graphs for them."""
    return any(GRAPH_PATH.fullmatch(path) or LABEL_PATH.fullmatch(path) for path in head.files)


def _owner(repo_id: str) -> str:
    return repo_id.partition("/")[0]


# --- labels in models' own repos --------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A label in its model's own repo."""

    repo_id: str
    sha: str
    path: str


def _fetch_tagged(given: tuple[SemanticGraph, ...], token: str | None, trust: Sequence[str]) -> LabelStore:
    """Labels on the Hub that are in their model's own repo.

    All of publishers whom the user has named, or one of whose labels was verified; a few of others, most downloaded
    first, each of another publisher, which are only listed.
    """
    api, named, verified = connect(token), named_owners(trust), verified_repos()

    def is_named(repo_id: str) -> bool:
        return _owner(repo_id).lower() in named

    def is_known(place: _Place) -> bool:
        return is_named(place.repo_id) or place.repo_id in verified

    owners = sorted(named | {_owner(repo_id) for repo_id in verified})
    known = [place for owner in owners for place in _list_tagged(api, owner) if is_known(place)]
    others = [place for place in _list_tagged(api) if not is_known(place)]
    first = {_owner(place.repo_id): place for place in reversed(others)}
    claims = sorted(first.values(), key=others.index)[:_MAX_CLAIMS]
    if unread := len({place.repo_id for place in others}) - len(claims):
        message = "not read: %d of the most downloaded models of publishers whom you have not named (--trust OWNER)"
        _log.warning(message, unread)
    places = [*known[:_MAX_LABELS], *claims]
    found, _ = read_all(lambda place: fetch_from_model(api, *place), places, partial(map_parallel, name=HUB))
    files = {
        file: Origin(f"hf://{repo_id}@{sha}/{path}", _owner(repo_id), is_named(repo_id))
        for (repo_id, sha, path), (file, _) in found.items()
    }

    missing: dict[str, list[Label]] = defaultdict(list)
    for place, (_, label) in found.items():
        if is_known(place) and label.graph_digest not in {graph.digest for graph in given}:
            missing[label.graph_digest].append(label)
    order = sorted(missing, key=lambda digest: (-len(missing[digest]), digest))
    if more_graphs := order[_MAX_FETCHED_GRAPHS:]:
        _log.warning("left out: labels on %d more graphs; give one with --graph", len(more_graphs))
    graphs = [graph for digest in order[:_MAX_FETCHED_GRAPHS] if (graph := _find_graph(missing[digest], token))]
    return LabelStore(
        Path(HUB), location=HUB, files=files, given_graphs=(*given, *graphs), fetch=partial(_fetch_rivals, api)
    )


def _list_tagged(api: HfApi, owner: str | None = None) -> list[_Place]:
    """The labels in the tagged models of an owner, or in the most downloaded of anyone.

    From the stored listing if the Hub cannot be reached.
    """

    def ask() -> list[_Place]:
        limit = _MAX_LABELS if owner else _LISTED_CLAIMS
        with hub_errors(HUB):
            models = api.list_models(
                filter=LABEL_TAG, author=owner, sort="downloads", limit=limit, expand=["sha", "siblings"]
            )
            return [_Place(model.id, model.sha or "", path) for model in models for path in paths(model)]

    def paths(model: ModelInfo) -> list[str]:  # the main label first
        names = [file.rfilename for file in model.siblings or () if REPO_LABEL_PATH.fullmatch(file.rfilename)]
        return sorted(names, reverse=True)[:_MAX_LABELS_PER_REPO]

    def parse(answer: list[list[str]]) -> list[_Place]:
        places = [_Place(*each) for each in answer]
        return [place for place in places if REPO_ID.fullmatch(place.repo_id) and FULL_SHA.fullmatch(place.sha)]

    return answered(api, f"labels in models by {owner or 'anyone'}", ask, parse)


def fetch_from_model(api: HfApi, repo_id: str, sha: str, path: str) -> tuple[Path, Label]:
    """Fetch and validate one label in its model's own repo; returns its file, too."""
    file, name = download(api, repo_id, "model", path, sha, MAX_LABEL_BYTES), f"{repo_id}/{path}"
    label = read_label(file, name=name)
    if label.model.repo_id != repo_id:  # unless the repo was renamed: its files have the label's digest
        digest = label.model.digest
        if not digest or read_head(api, repo_id, "model", sha).digest(label.model.backend) != digest:
            raise LabelError(f"is a label of another model ({label.model.repo_id})", name)
    return file, label


def _find_graph(labels: Sequence[Label], token: str | None) -> SemanticGraph | None:
    """The graph of some labels: the default graph, or one at a location that they name, the most frequent first.

    The graph must have the digest that the labels name, so nobody can replace it by another one.
    """
    digest = labels[0].graph_digest
    named = Counter(label.graph_location for label in labels if is_public(label.graph_location))
    locations = sorted(named, key=lambda location: (-named[location], location))[:_MAX_LOCATIONS]
    for location in filter(None, [default_graph(), *locations]):
        try:
            graph = fetch_graph(location, token)
        except MLLError as error:
            _log.warning("%s", error)
            continue
        if graph.digest == digest:
            return graph
    where = f"cannot be read at {abridged(locations, 3)}" if locations else "is only on the machine of its publisher"
    _log.warning(
        "graph '%s' (%s) %s; its publisher can make it public with mll-hf graph push, or give it with --graph",
        labels[0].graph_name, digest[:12], where,
    )  # fmt: skip
    return None


def join_source(source: LabelStore, graph: str | Path | None = None, token: str | None = None) -> JoinedLabels:
    """The ranked labels of a source, joined over graphs; see :func:`~mll_hf.labels.join.join_labels`.

    ``graph`` is the reference graph; by default the default graph, if there is one and it has labels. Labels on the
    images that the graph names are preferred.
    """
    labels, claimed = ranked_and_claimed(source)
    if claimed and not labels:
        raise NoLabelsError(claims_text(source, claimed))
    wanted = fetch_graph(graph, token) if graph else fetch_default_graph(token)
    graphs = [wanted if wanted and wanted.probes and wanted.digest == g.digest else g for g in source.graphs]
    joined = join_labels(
        labels,
        graphs,
        reference=wanted.digest if wanted and graph else None,
        default=wanted,
        publisher_of=lambda label: source.origin_of(label).publisher,
    )
    if joined.left_out:
        _log.warning("left out: %s", listed_reasons(joined.left_out))
    return joined
