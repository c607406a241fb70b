"""What strangers publish: it is listed apart, and can neither win, nor stop, nor slow down anybody's selection."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli_worlds import run
from fuzzing import Attack, with_metadata
from hub_worlds import GRAPH, clock, graph_file, put_labeled_model
from mll_hf import Client, client
from mll_hf.errors import GraphError, InputError, LabelError
from mll_hf.graph.concepts import graph_to_bytes, load_graph
from mll_hf.graph.files import read_columns
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.trust import remember_verified
from mll_hf.labels.file_format import label_from_bytes, label_to_bytes, rivals_from_bytes
from selection_worlds import WordEncoder
from worlds import make_graph, make_label, write_graph_folder

__all__ = ["clock"]  # a fixture
pytestmark = pytest.mark.usefixtures("clock")
CLASSES = ["cat", "car"]
ESCAPE = "\x1b[31m"


@pytest.fixture(autouse=True)
def _words(monkeypatch):
    monkeypatch.setattr(client, "DefaultEncoder", WordEncoder)
    monkeypatch.setattr(client, "CachedEncoder", lambda encoder: encoder)


@pytest.fixture
def place(hub):
    return f"hf://datasets/alice/graph@{hub.put('dataset', 'alice/graph', graph_file())}"


@pytest.fixture
def honest(place):
    """A label of alice, whom the user names."""
    return put_labeled_model("alice/model", hits=[5] * 7, graph_location=place)


def chosen(hub, **settings):
    """Ids of the models, the chosen one first, and the number of requests of a question."""
    hub.requests.clear()
    selection = Client("hub", encoder=WordEncoder(), **{"trust": ["alice"], **settings}).select(CLASSES)
    return [model.ref.repo_id for model in selection.models], len(hub.requests)


# ---- who is ranked


def test_a_label_of_a_publisher_whom_the_user_has_not_named_is_only_listed(hub, honest, place, caplog, capsys):
    put_labeled_model("mallory/model", graph_location=place)
    assert chosen(hub)[0] == ["alice/model"]
    assert "not ranked, since you have not named the publishers (mallory): mallory/model (recall 1.000" in caplog.text
    assert "--trust mallory" in caplog.text
    assert "with them, mallory/model would be chosen" in caplog.text
    assert chosen(hub, trust=["alice", "Mallory"])[0] == ["mallory/model", "alice/model"]
    status, out, _ = run(capsys, "labels", "ls", "--labels", "hub", "--trust", "alice")
    assert status == 0
    assert [line.split()[-2:] for line in out.splitlines()[1:]] == [["mallory", "no"], ["alice", "yes"]]
    with pytest.raises(InputError, match=r"not ranked, .* \(alice, mallory\)"):
        chosen(hub, trust=[])


def test_a_verified_label_is_ranked_until_it_changes(hub, honest, place):
    remember_verified(put_labeled_model("mallory/model", graph_location=place))
    assert chosen(hub)[0] == ["mallory/model", "alice/model"]
    put_labeled_model("mallory/model", graph_location=place, temperature=2.0)
    assert chosen(hub)[0] == ["alice/model"]


def test_whoever_names_a_collection_or_a_folder_ranks_it(hub, honest):
    from hub_worlds import COLLECTION, put_collection

    put_collection([make_label(GRAPH, repo_id="mallory/model")])
    assert [model.ref.repo_id for model in Client(COLLECTION, encoder=WordEncoder()).select(CLASSES).models] == [
        "mallory/model"
    ]


# ---- floods


def test_junk_paths_and_many_publishers_cost_few_requests(hub, honest, place, clock, caplog):
    quiet = chosen(hub)[1]
    junk = {f"mll/{i:012x}/label.safetensors": b"x" for i in range(3000)}
    put_labeled_model("mallory/model", graph_location=place)
    hub.put("model", "mallory/model", junk)
    for n in range(60):
        put_labeled_model(f"mallory-{n}/model", make_graph({"a": (), f"b{n}": ("a",)}, f"graph-{n}"), hits=[1, 1])
    put_labeled_model("carol/model", graph_location=place)
    for repo in hub.repos.values():
        repo.downloads = 100 * (repo.owner == "carol")
    caplog.clear()
    models, requests = chosen(hub)
    assert models == ["alice/model"]
    assert requests <= quiet + 50
    assert not clock.waits
    assert "carol/model" in caplog.text  # more downloaded than the others
    assert "not read: 54 of the most downloaded models of publishers whom you have not named" in caplog.text
    assert len(caplog.records) <= 3


def test_graphs_of_a_named_publisher_are_limited(hub, honest, caplog):
    for n in range(30):
        graph = make_graph({"a": (), f"b{n}": ("a",)}, f"graph-{n}")
        sha = hub.put("dataset", f"alice/graph-{n}", graph_file(graph))
        put_labeled_model(f"alice/model-{n}", graph, hits=[1, 1], graph_location=f"hf://datasets/alice/graph-{n}@{sha}")
    assert chosen(hub)[0]
    assert "left out: labels on 21 more graphs" in caplog.text
    assert len({request.split("/")[-1] for request in hub.requests if "/api/datasets/" in request}) <= 10


# ---- sizes and ranges


def with_header(header):
    return len(header).to_bytes(8, "little") + header


def test_what_would_fill_the_memory_is_refused_before_it_is_parsed(tmp_path):
    with pytest.raises(LabelError, match="its header has over 262,144 bytes"):
        label_from_bytes(with_header(b'{"a":' + b"[" * 10 + b"1," * 1_500_000))
    many = b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(9_000))
    with pytest.raises(LabelError, match="its header has over 262,144 bytes"):
        rivals_from_bytes(with_header(b"{" + many + b"}"), make_label(make_graph()))
    (tmp_path / "graph.json").write_bytes(b'{"nodes":[' + b"[]," * 1_500_000 + b"[]]}")
    with pytest.raises(GraphError, match="more than 1,000,000 values"):
        load_graph(tmp_path)


@pytest.mark.parametrize(
    ("rows", "node", "said"),
    [(2_000_000, "cat", "2,000,000 rows, more than images fit"), (9_000, "c" * 10**6, "texts of over 2,000 bytes")],
)
def test_a_small_image_file_does_not_become_gigabytes(tmp_path, rows, node, said):
    folder = write_graph_folder(tmp_path / "graph")
    index = pa.array(np.zeros(rows, np.int32))
    columns = {
        "image": pa.DictionaryArray.from_arrays(index, pa.array([b""])),
        "node": pa.DictionaryArray.from_arrays(index, pa.array([node])),
    }
    pq.write_table(pa.table(columns), folder / "images.parquet", store_schema=False, compression="zstd")
    assert (folder / "images.parquet").stat().st_size < 10**6
    with pytest.raises(GraphError, match=said):
        read_columns(folder)


def test_a_number_out_of_range_leaves_its_label_out(hub, honest, place, caplog):
    label = put_labeled_model("alice/wrong", graph_location=place)
    for name, value in (("config.images_per_concept", 10**30), ("cost.gflops", 1e300), ("cost.parameters", -1)):
        hub.put("model", "alice/wrong", {LABEL_PATH: with_metadata(label_to_bytes(label), {name: value})})
        assert chosen(hub)[0] == ["alice/model"]
        assert f"metadata '{name}' is not" in caplog.text


def test_no_escape_code_reaches_the_terminal(hub, honest, tmp_path, capsys):
    document = json.loads(graph_to_bytes(make_graph()))
    document["name"] = f"graph{ESCAPE}"
    for node in document["nodes"]:
        node["names"] = [f"{name}{ESCAPE}" for name in node["names"]]
    folder = write_graph_folder(tmp_path / "graph")
    (folder / "graph.json").write_text(json.dumps(document))
    status, out, _ = run(capsys, "graph", "show", folder)
    assert status == 0
    assert ESCAPE not in out
    graph = load_graph(folder)
    assert graph.name == "graph?[31m"
    sha = hub.put("dataset", "alice/odd", {"graph.json": json.dumps(document).encode()})
    put_labeled_model("alice/odd", graph, graph_location=f"hf://datasets/alice/odd@{sha}")
    for command in (["select", "--classes", "cat, car"], ["labels", "show", "alice/odd"], ["labels", "ls"]):
        _, out, err = run(capsys, *command, "--labels", "hub", "--trust", "alice")
        assert "\x1b" not in out + err


def test_hundreds_of_hostile_files_leave_only_themselves_out(hub):
    attack = Attack(hub, seed=1)
    for _ in range(20):
        attack.round()
    assert attack.files >= 300
    assert attack.most_requests <= 50
    assert attack.valid > 10  # the attack is not stopped by its first bytes alone
