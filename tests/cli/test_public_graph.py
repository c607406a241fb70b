"""Concepts apart from images, for two users and a visitor without login: alice pushes a graph, its private images and a
label in her model's own repo; bob and the visitor find the label by its tag, select from it and show it.
"""

from __future__ import annotations

import json
import re

import pytest
from huggingface_hub import constants

from cli_worlds import fails, run, write_graph
from hub_worlds import READ_ONLY, READER, THIRD, clock, put_labeled_model
from mll_hf import Client
from mll_hf.cli import main
from mll_hf.cli.options import ACCESS
from mll_hf.errors import GraphError, HubError, InputError
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.probes import count_probes
from mll_hf.hub.locations import fetch_graph, graph_with_images
from mll_hf.hub.publish import publish_graph
from mll_hf.hub.repos import Access
from mll_hf.labels.store import LabelStore
from selection_worlds import WordEncoder

__all__ = ["clock"]  # a fixture

GRAPH, IMAGES, MODEL = "hf://datasets/alice/graph", "hf://datasets/alice/images", "alice/clip"
CLASSES = "cat, car"
PUSH = ["--to", GRAPH, "--images-to", IMAGES]


@pytest.fixture(autouse=True)
def _named(monkeypatch):
    """The user has named the publishers."""
    monkeypatch.setenv("MLL_TRUST", "alice, bob,carol")


@pytest.fixture
def be(monkeypatch, tmp_path):
    """Be the user of a token on a machine of his own; None for nobody."""

    def act_as(token):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN")
        for cache in ("HF_HUB_CACHE", "HF_ASSETS_CACHE"):
            monkeypatch.setattr(constants, cache, str(tmp_path / f"home of {token}" / cache))

    return act_as


@pytest.fixture
def folder(tmp_path):
    return write_graph(tmp_path / "graph")


@pytest.fixture
def published(folder):
    """The graph on the Hub, with private images."""
    return publish_graph(folder, GRAPH, IMAGES)


def commits(hub, repo_id, kind="dataset"):
    repo = hub.repos[kind, repo_id]
    return [repo.commits[oid]["title"] for oid in repo.history(repo.refs["main"])][::-1][1:]


def test_a_label_on_a_graph_with_private_images_is_for_everyone(hub, api, folder, tmp_path, be, capsys, tiny_open_clip):
    api.create_repo(MODEL)
    api.upload_folder(repo_id=MODEL, folder_path=tiny_open_clip)
    labels = tmp_path / "labels"
    assert main(["graph", "push", str(folder), *PUSH]) == 0
    assert main(["label", MODEL, "--graph", GRAPH, "--labels", str(labels)]) == 0
    assert main(["push", MODEL, "--labels", str(labels)]) == 0
    (label,) = LabelStore(labels).labels()
    heads = {name: hub.repos["dataset", f"alice/{name}"].refs["main"] for name in ("graph", "images")}
    assert label.graph_location == f"{GRAPH}@{heads['graph']}"
    assert label.probes_location == f"{IMAGES}@{heads['images']}"
    assert label.probes_digest == count_probes(load_graph(folder), folder).digest
    verify = ["labels", "verify", MODEL, "--labels", "hub", "--concepts", "50"]
    run(capsys, *verify)  # undecided on so few concepts, but measured
    assert run(capsys, *verify, "--json")[2] == ""

    for token in (READER, None):
        be(token)
        hub.requests.clear()
        status, out, err = run(capsys, "select", "--classes", CLASSES, "--labels", "hub", "--json")
        assert (status, err) == (0, "")
        assert [model["id"] for model in json.loads(out)["models"]] == [MODEL]
        assert len(hub.requests) <= 12  # four listings; the label with its size and place, and the graph, unless cached
        assert not [request for request in hub.requests if "alice/images" in request]
        assert not hub.counted
        status, out, err = run(capsys, "labels", "show", MODEL, "--labels", "hub")
        assert (status, err) == (0, "")
        assert re.search(r"published by +alice", out)
        assert run(capsys, "labels", "ls", "--labels", "hub")[0] == 0
        status, out, err = run(capsys, "graph", "show", GRAPH)
        assert (status, err) == (0, "")
        assert IMAGES in out
        said = fails(capsys, *verify)
        assert "alice/images: its probe images are private, gated or gone; ask for access at " in said
        assert f"{constants.ENDPOINT}/datasets/alice/images, or give a copy with --images" in said
        assert "its probe images are private" in fails(capsys, "label", MODEL, "--graph", GRAPH, "--labels", labels)


def test_one_commit_per_repo_and_none_if_nothing_changed(hub, folder, published, capsys):
    assert published.graph.changed
    assert published.images.changed
    assert published.location == f"{IMAGES}@{published.images.revision}"
    files = hub.files("dataset", "alice/graph")
    assert sorted(files) == ["README.md", "graph.json"]
    assert sorted(hub.files("dataset", "alice/images")) == ["README.md", "images.parquet"]
    assert not hub.repos["dataset", "alice/graph"].private
    assert hub.repos["dataset", "alice/images"].private
    card = files["README.md"].decode()
    assert f"mll-hf select --classes 'dog, cat, car' --graph {GRAPH}" in card
    assert "probe images (icon, photo; digest" in card
    status, out, _ = run(capsys, "graph", "push", folder, *PUSH)
    assert (status, out.count("published already: ")) == (0, 2)
    assert run(capsys, "graph", "push", folder, "--to", GRAPH)[0] == 0  # keeps the place of the images
    assert fetch_graph(GRAPH).probes.location == published.location
    assert (commits(hub, "alice/graph"), commits(hub, "alice/images")) == (["Add graph"], ["Add probe images"])
    hub.put("dataset", "alice/images", {"README.md": files["README.md"] + b"\nMine.\n"})
    again = publish_graph(folder, GRAPH, IMAGES)
    assert not again.graph.changed
    assert b"Mine." in hub.files("dataset", "alice/images")["README.md"]


def test_without_images_to_only_the_concepts_and_numbers_are_published(hub, folder, capsys):
    status, out, _ = run(capsys, "graph", "push", folder, "--to", GRAPH)
    assert status == 0
    assert "the images are not on the Hub, so only you can measure models on them; add --images-to" in out
    assert list(hub.repos) == [("dataset", "alice/graph")]
    graph = fetch_graph(GRAPH)
    assert (graph.probes.total, graph.probes.location) == (24, "")
    with pytest.raises(GraphError, match="does not say where they are; give them with --images"):
        graph_with_images(GRAPH)


def test_who_may_read_new_images(hub, folder):
    assert tuple(Access) == ACCESS
    for access in Access:
        publish_graph(folder, f"{GRAPH}-{access}", f"{IMAGES}-{access}", access)
        repo = hub.repos["dataset", f"alice/images-{access}"]
        assert (repo.private, bool(repo.gated)) == (access is Access.PRIVATE, access is Access.GATED)
    # an existing repo keeps its settings, but must not be more open than was asked for
    publish_graph(folder, GRAPH, f"{IMAGES}-private", Access.PUBLIC)
    assert hub.repos["dataset", "alice/images-private"].private
    with pytest.raises(InputError, match="alice/images-gated exists already and is gated; change that in its settings"):
        publish_graph(folder, GRAPH, f"{IMAGES}-gated", Access.PRIVATE)


def test_nothing_is_half_published(hub, folder, tmp_path, be, clock):
    with pytest.raises(InputError, match="the images need a repo of their own"):
        publish_graph(folder, GRAPH, GRAPH)
    with pytest.raises(InputError, match="names a revision"):
        publish_graph(folder, GRAPH, f"{IMAGES}@v1")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "graph.json").write_bytes((folder / "graph.json").read_bytes())
    with pytest.raises(InputError, match=r"has no images.* to publish; leave out --images-to"):
        publish_graph(tmp_path / "text", GRAPH, IMAGES)
    assert not hub.requests
    hub.put("dataset", "alice/other", {"data.csv": b"1"})
    hub.repos["dataset", "alice/other"].private = True
    for where in ((f"{GRAPH}", "hf://datasets/alice/other"), ("hf://datasets/alice/other", IMAGES)):
        with pytest.raises(InputError, match=r"is a dataset of another kind \(data\.csv\)"):
            publish_graph(folder, *where)
    assert all("graph.json" not in hub.files(*repo) for repo in hub.repos)
    # the images fail, so the graph does not name them
    hub.fail("/api/datasets/alice/images/commit/", 500, times=1000)
    with pytest.raises(HubError, match="alice/images: the Hub answered with status 500"):
        publish_graph(folder, GRAPH, IMAGES)
    assert "graph.json" not in hub.files("dataset", "alice/graph")
    hub.disturbances.clear()
    publish_graph(folder, GRAPH, IMAGES)
    be(READ_ONLY)
    with pytest.raises(HubError, match="alice/new: your token may not do this"):
        publish_graph(folder, "hf://datasets/alice/new", IMAGES)
    be(THIRD)
    with pytest.raises(HubError, match="alice/graph: you or your token may not write to it; name a repo of your own"):
        publish_graph(write_graph(tmp_path / "more", broken_images=2), GRAPH)
    assert not hub.repos["dataset", "alice/graph"].discussions


def test_a_graph_that_names_other_images_than_are_there(hub, published, folder):
    document = json.loads(hub.files("dataset", "alice/graph")["graph.json"])
    document["probes"]["files"] = ["0" * 64]
    hub.put("dataset", "alice/graph", {"graph.json": json.dumps(document).encode()})
    with pytest.raises(GraphError, match=r"are not those that .* names .*; publish the graph again: mll-hf graph push"):
        graph_with_images(GRAPH).probes()


def test_a_graph_cannot_name_a_folder_of_its_reader(hub, published, folder):
    document = json.loads(hub.files("dataset", "alice/graph")["graph.json"])
    document["probes"]["location"] = str(folder)
    hub.put("dataset", "alice/graph", {"graph.json": json.dumps(document).encode()})
    with pytest.raises(GraphError, match="does not say where they are"):
        graph_with_images(GRAPH)


@pytest.mark.parametrize("fault", ["private", "gated", "gone"])
def test_a_label_whose_graph_cannot_be_read(hub, published, be, capsys, fault):
    graph, repo = fetch_graph(GRAPH), hub.repos["dataset", "alice/graph"]
    put_labeled_model(graph=graph, graph_location=f"{GRAPH}@{published.graph.revision}")
    if fault == "gone":
        del hub.repos["dataset", "alice/graph"]
    else:
        setattr(repo, fault, True)
    be(READER)
    status, _, err = run(capsys, "select", "--classes", CLASSES, "--labels", "hub")
    last = err.splitlines()[-1]
    assert status == 1
    assert "no label can be used: alice/model on graph graph: the graph cannot be read; its publisher must make" in last
    assert f"cannot be read at {GRAPH}@{published.graph.revision}; its publisher can make it public with mll-hf" in err
    assert len(err.splitlines()) == 3  # what the Hub says, what that means, and the end
    assert run(capsys, "labels", "ls", "--labels", "hub")[0] == 0


@pytest.fixture
def honest(hub, published):
    """Labels of two publishers on the probe images of the graph; the graph, and where it is."""
    graph, place = fetch_graph(GRAPH), f"{GRAPH}@{published.graph.revision}"
    support, probes = graph.probe_pools, graph.probes
    for repo_id, share in (("alice/model", 0.5), ("bob/model", 0.4)):
        put_labeled_model(
            repo_id,
            graph,
            domain_support=support,
            domain_hits=(support * share).astype(int),
            domain_names=list(probes.by_domain),
            graph_location=place,
            probes_digest=probes.digest,
        )
    return graph, place


def chosen(source="hub", **settings):
    labels = Client(source, encoder=WordEncoder(), **settings).labels
    return [model.repo_id for model in labels.models], labels.left_out


def test_a_stranger_who_names_the_honest_images_is_found_out_by_the_numbers(hub, honest, caplog):
    graph, place = honest
    put_labeled_model("carol/model", graph, support=1, graph_location=place, probes_digest=graph.probes.digest)
    assert chosen()[0] == ["alice/model", "bob/model"]
    assert "carol/model" in caplog.text
    assert "was not measured on the probe images that it names" in caplog.text
