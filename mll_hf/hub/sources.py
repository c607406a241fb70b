"""Sources of labels: tagged model repos, a collection on the Hub, or a local folder.

A label is an untrusted claim: it is validated, and must be of the model and graph that its path names. Labels that fail
are skipped with a warning. Reading labels never counts as a download of a model.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import snapshot_download

from mll_hf.errors import HubError, InputError, LabelError, MLLError
from mll_hf.hub.card import LABEL_PATH as REPO_LABEL
from mll_hf.hub.card import LABEL_TAG
from mll_hf.hub.connection import (
    FULL_SHA,
    Head,
    ask_or_cached,
    cache_response,
    cached_response,
    connect,
    download,
    hub_errors,
    list_model_repos,
    map_parallel,
    read_head,
)
from mll_hf.hub.locations import (
    HUB,
    MAX_GRAPH_BYTES,
    REPO_ID,
    DatasetLocation,
    fetch_default_graph,
    fetch_graph,
    is_on_hub,
    parse_dataset,
)
from mll_hf.labels.file_format import MAX_LABEL_BYTES, MAX_RIVALS_BYTES
from mll_hf.labels.join import JoinedLabels, join_labels
from mll_hf.labels.store import GRAPH_PATH, LABEL_PATH, LabelStore, Origin, read_label
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from huggingface_hub import HfApi

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label
    from mll_hf.labels.store import LabelSource

A = TypeVar("A")
B = TypeVar("B")

_MAX_LOCATIONS = 10  # where a graph is searched
REPO_LABEL_PATH = re.compile(r"mll/([0-9a-f]{12}/)?label\.safetensors")
_log = logging.getLogger(__name__)


def open_source(location: str | Path, graph: str | Path | None = None, token: str | None = None) -> LabelStore:
    """The labels that a user names: ``hub``, ``hf://datasets/org/name[@revision]``, or a local folder.

    ``graph`` is the folder or dataset of a graph, for labels whose graph is not at the location that they name.

    Raises:
        InputError: The location is malformed, or the dataset has no labels.
        HubError: The labels cannot be downloaded.
    """
    if location != HUB and not is_on_hub(location):
        return LabelStore(Path(location))
    given = (fetch_graph(graph, token),) if graph else ()
    if location == HUB:
        return _fetch_tagged(given, token)
    return _fetch_collection(parse_dataset(str(location)), given, token)


# --- a collection -----------------------------------------------------------------------------------------------------


def _fetch_collection(dataset: DatasetLocation, given: tuple[SemanticGraph, ...], token: str | None) -> LabelStore:
    head = read_head(connect(token), dataset.repo_id, "dataset", dataset.revision)
    if not is_collection(head):
        raise InputError(
            f"hf://datasets/{head.repo_id} has no labels yet; publish some: mll-hf push MODEL --to "
            f"hf://datasets/{head.repo_id} --labels DIR"
        )
    wanted = [path for path in head.files if _is_small_enough(head, path)]
    with hub_errors(head.repo_id):
        folder = snapshot_download(
            head.repo_id, repo_type="dataset", revision=head.sha, allow_patterns=wanted, token=token
        )
    owner, place = head.repo_id.partition("/")[0], DatasetLocation(head.repo_id, head.sha)
    return LabelStore(Path(folder), owner, str(place), given_graphs=given)


def _is_small_enough(head: Head, path: str) -> bool:
    """Whether a file of a collection is a label, its rivals or a graph, within the limits."""
    is_rivals = path.endswith(".rivals.safetensors") and LABEL_PATH.fullmatch(path.replace(".rivals", ""))
    limit = (
        MAX_RIVALS_BYTES
        if is_rivals
        else MAX_LABEL_BYTES
        if LABEL_PATH.fullmatch(path)
        else (MAX_GRAPH_BYTES if GRAPH_PATH.fullmatch(path) else 0)
    )
    if limit and head.files[path].size > limit:
        _log.warning("left out: %s/%s is larger than %d MB", head.repo_id, path, limit // 2**20)
    return head.files[path].size <= limit and limit > 0


def is_collection(head: Head) -> bool:
    """Whether a dataset repo has labels, or graphs for them."""
    return any(GRAPH_PATH.fullmatch(path) or LABEL_PATH.fullmatch(path) for path in head.files)


# --- labels in models' own repos --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tagged:
    """A label file in a tagged model repo."""

    repo_id: str
    sha: str
    path: str


def _fetch_tagged(given: tuple[SemanticGraph, ...], token: str | None) -> LabelStore:
    """All labels on the Hub that are in their model's own repo: a request per 1,000 models, and one per new label."""
    api, files = connect(token), dict[Path, Origin]()

    def fetch(tagged: _Tagged) -> tuple[Path, Origin]:
        owner = tagged.repo_id.partition("/")[0]
        origin = Origin(f"hf://{tagged.repo_id}@{tagged.sha}/{tagged.path}", owner)
        path = download(api, tagged.repo_id, "model", tagged.path, tagged.sha, MAX_LABEL_BYTES)
        check_owner(api, read_label(path, name=Path(tagged.repo_id, tagged.path)), tagged.repo_id, tagged.path)
        return path, origin

    files = dict(map_readable(fetch, _list_tagged(api), HUB))
    store = LabelStore(Path(HUB), location=HUB, files=files, given_graphs=given)
    known = {graph.digest for graph in given}
    missing: dict[str, list[Label]] = defaultdict(list)
    for label in store.labels():
        if label.graph_digest not in known:
            missing[label.graph_digest].append(label)
    found = [graph for _, labels in sorted(missing.items()) if (graph := _find_graph(labels, token))]
    return LabelStore(Path(HUB), location=HUB, files=files, given_graphs=(*given, *found))


def fetch_from_model(api: HfApi, repo_id: str, sha: str, path: str) -> Label:
    """Fetch and validate one label in its model's own repo.

    Raises:
        HubError: It cannot be downloaded.
        LabelError: It is not a valid label, or of another model.
    """
    label = read_label(download(api, repo_id, "model", path, sha, MAX_LABEL_BYTES), name=Path(repo_id, path))
    check_owner(api, label, repo_id, path)
    return label


def check_owner(api: HfApi, label: Label, repo_id: str, path: str) -> None:
    """Check that a label is of the model in whose repo it is, also after the repo was renamed."""
    if label.model.repo_id != repo_id and not _is_named(api, label.model.repo_id, repo_id):
        raise LabelError(f"is a label of another model ({label.model.repo_id})", Path(repo_id, path))


def _is_named(api: HfApi, old_name: str, repo_id: str) -> bool:
    """Whether a name is an old one of a model's repo; asked once, since anybody can publish many false labels."""
    question = f"{old_name} is now {repo_id}"
    if isinstance(kept := cached_response(question), bool):
        return kept
    try:
        answer = read_head(api, old_name, "model").repo_id == repo_id
    except HubError as error:
        if error.status not in (401, 404):
            return False
        answer = False
    cache_response(question, answer)
    return answer


def _find_graph(labels: Sequence[Label], token: str | None) -> SemanticGraph | None:
    """The graph of some labels: the default graph, or one at a location that they name, most publishers first.

    The graph must have the digest that the labels name, so nobody can replace it by another one.
    """
    default = fetch_default_graph(token)
    if default and default.digest == labels[0].graph_digest:
        return default
    publishers: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        if is_on_hub(label.graph_location):
            publishers[label.graph_location].add(label.model.repo_id.partition("/")[0])
    locations = sorted(publishers, key=lambda location: (-len(publishers[location]), location))
    for location in locations[:_MAX_LOCATIONS]:
        try:
            graph = fetch_graph(location, token)
        except MLLError as error:
            _log.warning("%s", error)
            continue
        if graph.digest == labels[0].graph_digest:
            return graph
    where = f"cannot be read at {abridged(locations, 3)}" if locations else "is only on the machine of its publisher"
    _log.warning(
        "graph '%s' (%s) %s; its publisher can make it public with mll-hf graph push, or give it with --graph",
        labels[0].graph_name,
        labels[0].graph_digest[:12],
        where,
    )
    return None


def join_source(
    source: LabelSource, graph: str | Path | None = None, probes: Sequence[str] = (), token: str | None = None
) -> JoinedLabels:
    """The labels of a source, joined over graphs; see :func:`~mll_hf.labels.join.join_labels`.

    ``graph`` is the reference graph; by default the default graph, if there is one and it has labels. Labels on the
    images in ``probes`` (names or digests) are preferred, then those on the images that the graph names.

    Raises:
        InputError: There are no labels that can be used.
    """
    wanted = fetch_graph(graph, token) if graph else fetch_default_graph(token)
    graphs = [wanted if wanted and wanted.probes and wanted.digest == g.digest else g for g in source.graphs]
    return join_labels(
        source.labels(),
        graphs,
        reference=wanted.digest if wanted and graph else None,
        probes=probes,
        default=wanted,
        publisher_of=lambda label: source.origin_of(label).publisher,
    )


def _list_tagged(api: HfApi) -> list[_Tagged]:
    """Label files of all tagged models; from the cached listing if the Hub cannot be reached."""
    question = f"models tagged {LABEL_TAG}"
    cached = cached_response(question)
    cached = cached if isinstance(cached, list) and all(map(_tagged, cached)) else None
    query = {"filter": LABEL_TAG, "expand": ["sha", "siblings"]}
    with hub_errors(HUB):
        listed = ask_or_cached(cached, lambda patient: list(list_model_repos(api, query, patient=patient)))
    files = {entry["id"]: (entry, found) for entry in listed if (found := _tagged(entry))}
    cache_response(question, [entry for entry, _ in files.values()])
    return [file for _, found in files.values() for file in found]


def _tagged(entry: object) -> list[_Tagged]:
    """Label files of a model in a listing; none if the entry is malformed."""
    match entry:
        case {"id": str(repo_id), "sha": str(sha), "siblings": list(siblings)}:
            names = [sibling.get("rfilename") for sibling in siblings if isinstance(sibling, dict)]
            paths = sorted(name for name in names if isinstance(name, str) and REPO_LABEL_PATH.fullmatch(name))
            if REPO_ID.fullmatch(repo_id) and FULL_SHA.fullmatch(sha):
                return [_Tagged(repo_id, sha, path) for path in sorted(paths, key=lambda path: path != REPO_LABEL)]
    return []


def map_readable(function: Callable[[A], B], items: Iterable[A], name: str = "") -> list[B]:
    """Apply a function to items in parallel; labels that cannot be read are skipped with a warning."""

    def attempt(item: A) -> list[B]:
        try:
            return [function(item)]
        except (LabelError, HubError) as error:
            _log.warning("left out: %s", error)
            return []

    return [result for results in map_parallel(attempt, list(items), name) for result in results]
