"""The front door: a folder of labels and class names in, a selection out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mll_hf import SelectionConfig, Strategy
from mll_hf.client import Client
from mll_hf.describe import Description
from mll_hf.embeddings import ProbeEmbeddings, write_embeddings
from mll_hf.ensemble import run
from mll_hf.errors import GraphError, InputError, LabelError
from mll_hf.selection import Selection
from mll_hf.selection.paper import precision_from_label
from mll_hf.store import LabelStore
from selection_worlds import WordEncoder
from worlds import CAR, CAT, CORGI, DOG, make_graph, make_label, probe_set, unit

GRAPH = make_graph()
#            animal car cat corgi dog pet vehicle
CAT_EXPERT = [9, 1, 10, 2, 2, 9, 1]
CAR_EXPERT = [2, 10, 1, 1, 1, 2, 10]
ALL_ROUNDER = [6, 7, 6, 6, 6, 6, 7]


@pytest.fixture
def store(tmp_path):
    store = LabelStore(tmp_path / "labels")
    store.adopt(GRAPH)
    for name, hits in (("cats", CAT_EXPERT), ("cars", CAR_EXPERT), ("all", ALL_ROUNDER)):
        hits = [100 * images for images in hits]  # so many that no lead is by chance
        store.write(
            make_label(
                GRAPH, hits=hits, support=1000, repo_id=f"org/{name}", revision=name.encode().hex().ljust(40, "0")
            )
        )
    return LabelStore(tmp_path / "labels")


def chosen(selection):
    ids = [model.ref.repo_id for model in selection.models]
    return {name: {ids[m] for m in np.flatnonzero(selection.chosen[:, y])} for y, name in enumerate(selection.classes)}


def test_each_strategy_from_class_names_to_models(store):
    client = Client(store.folder, encoder=WordEncoder())
    mll = client.select(["cat"])
    assert mll.strategy is Strategy.MLL
    assert chosen(mll) == {"cat": {"org/cats"}}
    assert chosen(client.select(["car"])) == {"car": {"org/cars"}}
    assert mll.explain("cat")[0].id == "cat"
    assert mll.coverage.tolist() == [1]
    assert chosen(client.select(["cat", "car"])) == {name: {"org/all"} for name in ("cat", "car")}
    general = client.select(["cat", "car"], SelectionConfig(Strategy.GENERAL))
    assert chosen(general) == {name: {"org/all"} for name in ("cat", "car")}
    uniform = client.select(["cat"], SelectionConfig(Strategy.UNIFORM))
    assert chosen(uniform) == {"cat": {"org/all", "org/cars", "org/cats"}}
    paper = client.select(["cat", "car"], SelectionConfig(Strategy.PAPER))
    assert all(len(models) == 1 for models in chosen(paper).values())
    # the paper's Z are the raw cosines of five captions; ours are shares of the weight of all seven
    assert len(paper.explain("cat")) == 5
    assert sum(concept.weight for concept in paper.explain("cat")) != pytest.approx(1, abs=0.01)
    assert len(mll.explain("cat")) == 7
    assert sum(concept.weight for concept in mll.explain("cat")) == pytest.approx(1)


def test_classes_keep_their_names_and_order(store):
    selection = Client(store.folder, encoder=WordEncoder()).select(
        ["02_Car", " cat ", "Zxq"], task="naming", domain="x"
    )
    assert selection.classes == ("02_Car", "cat", "Zxq")
    assert selection.coverage[:2].tolist() == [1, 1]
    assert selection.coverage[2] < 1
    assert (selection.task, selection.domain) == ("naming", "x")


def test_the_graph_is_embedded_once(store):
    encoder = WordEncoder()
    client = Client(store.folder, encoder=encoder)
    client.select(["cat"])
    client.select(["dog"])
    client.select(["dog"], SelectionConfig(Strategy.PAPER))
    assert encoder.texts.count(GRAPH.concepts[CORGI].caption) == 1


def test_the_default_encoder_is_asked_for_only_when_needed(store, monkeypatch):
    monkeypatch.setattr("mll_hf.client.default_encoder", WordEncoder)
    monkeypatch.setattr("mll_hf.client.CachedEncoder", lambda encoder: encoder)
    client = Client(str(store.folder))
    assert client.index.encoder.id == "words"
    assert chosen(client.select(["cat"])) == {"cat": {"org/cats"}}


def test_own_descriptions_replace_the_templates(store):
    client = Client(store.folder, encoder=WordEncoder())
    said = Description("Felix", ("cat which is the kind cat", "the kind cat"), "file")
    selection = client.select(["Felix"], SelectionConfig(Strategy.PAPER), descriptions=[said])
    assert selection.explain("Felix")[0].id == "cat"


@pytest.mark.parametrize(
    ("descriptions", "message"),
    [
        ([("car", "a"), ("cat", "b")], "not those of the classes"),
        ([("cat", "a")], "not those of the classes"),
        ([("cat", "a"), ("car", "b"), ("dog", "c")], "not those of the classes"),
        ([], "not those of the classes"),
        ([("cat", "a"), ("car",)], "description of 'car' has no text"),
    ],
)
def test_descriptions_must_fit_the_classes(store, descriptions, message):
    given = [Description(name, tuple(texts), "file") for name, *texts in descriptions]
    with pytest.raises(InputError, match=message):
        Client(store.folder, encoder=WordEncoder()).select(["cat", "car"], descriptions=given)


@pytest.mark.parametrize("classes", [[], "cat", ["cat", ""], ["cat", "Cat"], ["cat", 7], ["x" * 300]])
def test_impossible_classes(store, classes):
    with pytest.raises(InputError):
        Client(store.folder, encoder=WordEncoder()).select(classes)


def test_no_labels(tmp_path):
    with pytest.raises(InputError, match="holds no labels; make some"):
        Client(tmp_path / "nowhere", encoder=WordEncoder()).select(["cat"])
    LabelStore(tmp_path).adopt(GRAPH)
    assert Client(tmp_path, encoder=WordEncoder()).select(["cat"]).strategy is Strategy.IMAGENET
    (tmp_path / "graph.json").write_text("no JSON")
    with pytest.raises(GraphError):
        Client(tmp_path, encoder=WordEncoder()).select(["cat"])


def test_labels_of_another_graph_and_damaged_labels(store):
    path = store.paths()[0]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(LabelError, match="no readable label"):
        Client(store.folder, encoder=WordEncoder()).select(["cat"])
    other = make_graph({"cat": (), "car": ()})
    LabelStore(store.folder).write(make_label(other, repo_id="org/other"))
    path.write_bytes(content)
    with pytest.raises(LabelError, match="of graph tiny"):
        Client(store.folder, encoder=WordEncoder()).select(["cat"])


# --- Eq. 5 with and without embeddings --------------------------------------------------------------------------------


def write_sidecar(store, label):
    """Embeddings of a model that takes cats for dogs and knows the rest: unlike any label of the store."""
    texts = unit(np.eye(7))
    looks = [CAT, CAR, DOG]
    images = texts[[DOG, CAR, DOG]]
    members = [[looks.index(v)] if v in looks else [] for v in range(7)]
    embeddings = ProbeEmbeddings.quantize(images, texts, probe_set(members, looks))
    write_embeddings(embeddings, store.path_of(label.model).parent)
    return embeddings


def test_eq_5_is_exact_only_if_the_embeddings_of_all_models_are_there(store):
    config, classes = SelectionConfig(Strategy.PAPER, k=3), ["cat", "dog", "car"]
    labels = {label.model.repo_id: label for label in store.labels}

    def precision_of_cat():
        selection = Client(store.folder, encoder=WordEncoder()).select(classes, config)
        index = [concept.id for concept in selection.explain("cat")].index("cat")
        return {selection.models[m].ref.repo_id: selection.explain("cat")[index].precision[at]
                for at, m in enumerate(selection.union)}  # fmt: skip

    selected = np.arange(7)  # the five nearest concepts of three classes are all seven
    estimates = {name: precision_from_label(label, selected)[CAT] for name, label in labels.items()}
    assert precision_of_cat() == pytest.approx(estimates)
    *some, last = labels.values()
    for label in some:
        write_sidecar(store, label)
    assert precision_of_cat() == pytest.approx(estimates)
    write_sidecar(store, last)
    assert precision_of_cat() == dict.fromkeys(labels, 0)


def test_other_strategies_do_not_read_embeddings(store):
    for label in store.labels:
        (store.path_of(label.model).parent / "embeddings.safetensors").write_bytes(b"broken")
    client = Client(store.folder, encoder=WordEncoder())
    client.select(["cat"])
    with pytest.raises(LabelError, match="no readable file of embeddings"):
        client.select(["cat"], SelectionConfig(Strategy.PAPER))


def test_embeddings_of_another_graph_are_refused(store):
    label = store.labels[0]
    embeddings = write_sidecar(store, label)
    fewer = replace(embeddings, concepts=embeddings.concepts[:3], offsets=np.array([0, 1, 2, 3]))
    write_embeddings(fewer, store.path_of(label.model).parent)
    with pytest.raises(LabelError, match="has 3 concepts, the graph 7"):
        Client(store.folder, encoder=WordEncoder()).select(["cat"], SelectionConfig(Strategy.PAPER))


# --- from a selection to predictions ----------------------------------------------------------------------------------


def test_a_selection_can_be_kept_and_loaded(store, monkeypatch):
    client = Client(store.folder, encoder=WordEncoder(), device="cpu")
    selection = client.select(["cat", "car"], SelectionConfig(k=2), domain="sketch")
    kept = Selection.from_json(json.loads(json.dumps(selection.to_json())))
    asked = []

    def load(ref, device):
        asked.append((ref, device))
        raise InputError("enough seen")

    monkeypatch.setattr(run, "load_model", load)
    for each in (selection, kept):
        ensemble = client.load(each, ["a {}"])
        assert ensemble.templates == ("a {}",)
        with pytest.raises(InputError, match="enough seen"):
            ensemble.predict([b"picture"])
    assert asked == [(selection.models[0].ref, "cpu")] * 2
    assert client.load(selection).templates is None
