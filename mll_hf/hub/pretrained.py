"""Load and publish one label in its model's own repo: ``Label.from_pretrained`` and ``push_to_hub``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mll_hf.errors import InputError
from mll_hf.graph.concepts import SemanticGraph
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.commits import Published
from mll_hf.hub.connection import connect, read_head
from mll_hf.hub.locations import fetch_graph, is_on_hub
from mll_hf.hub.publish import publish_label, publish_to_collection
from mll_hf.hub.sources import REPO_LABEL_PATH, fetch_from_model

if TYPE_CHECKING:
    from pathlib import Path

    from mll_hf.labels.label import Label

__all__ = ["Published", "label_of", "push_label"]


def label_of(model: str, graph: SemanticGraph | str | Path | None, revision: str | None, token: str | None) -> Label:
    """See :meth:`mll_hf.labels.label.Label.from_pretrained`."""
    repo_id, _, named = model.partition("@")
    api = connect(token)
    head = read_head(api, repo_id, "model", revision or named or None)
    paths = sorted(filter(REPO_LABEL_PATH.fullmatch, head.files), key=lambda path: (path != LABEL_PATH, path))
    if not paths:
        raise InputError(
            f"{head.repo_id} holds no label; make one with: mll-hf label {head.repo_id} --graph GRAPH --labels DIR, or "
            "look for one in a collection: mll-hf labels ls --labels hf://datasets/ORG/NAME"
        )
    if graph is None:
        return fetch_from_model(api, head.repo_id, head.sha, paths[0])[1]
    graph = _graph(graph, token)
    for path in paths:
        if path in (LABEL_PATH, f"mll/{graph.digest[:12]}/label.safetensors"):
            label = fetch_from_model(api, head.repo_id, head.sha, path)[1]
            if label.graph_digest == graph.digest:
                return label
    raise InputError(f"{head.repo_id} holds no label on the graph {graph.name}, only on others; leave out the graph")


def push_label(
    label: Label,
    to: str | None,
    graph: SemanticGraph | str | Path | None,
    create_pr: bool,
    private: bool,
    token: str | None,
) -> Published:
    """See :meth:`mll_hf.labels.label.Label.push_to_hub`."""
    collection = to if to and is_on_hub(to) else None
    if to not in (None, collection, label.model.repo_id):
        raise InputError(
            f"a label belongs in the repo of its model, {label.model.repo_id}, or in a collection, "
            f"hf://datasets/ORG/NAME, not in {to}"
        )
    if graph is None and not is_on_hub(label.graph_location):
        raise InputError(
            f"the label's graph is a local folder ({label.graph_location}); pass it: push_to_hub(graph=...)"
        )
    graph = _graph(graph or label.graph_location, token)
    if collection:
        return publish_to_collection([label], [graph], collection, create_pr=create_pr, private=private, token=token)
    return publish_label(label, graph, create_pr=create_pr, token=token)


def _graph(graph: SemanticGraph | str | Path, token: str | None) -> SemanticGraph:
    return graph if isinstance(graph, SemanticGraph) else fetch_graph(graph, token)
