"""Labeling from images to file: once per image, resumable to the byte, nothing lost."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.errors import GraphError, InputError, StorageError
from mll_hf.graph.probes import load_probes
from mll_hf.labeling import run
from mll_hf.labeling.run import Plan, label_model
from mll_hf.labels.label import ModelRef
from mll_hf.labels.store import LabelStore, embeddings_path, read_label
from worlds import CAR, CAT, CORGI, DOG, PET, SHA, FakeModel, Probe, make_graph, probes_of_all, write_graph_folder

GRAPH = make_graph()
REF = ModelRef("org/model", SHA, "open_clip")


class World:
    """A graph's folder, a store, and the fake models that were loaded."""

    def __init__(self, folder, monkeypatch, probes=None):
        self.folder = write_graph_folder(folder / "graph", probes)
        self.store = LabelStore(folder / "labels")
        self.batches_left, self.models = None, []
        monkeypatch.setattr(run, "load_model", self.load)

    def load(self, ref, device):
        assert device is None
        self.models.append(FakeModel(GRAPH, ref, self.batches_left))
        return self.models[-1]

    def label(self, ref=REF, images_per_concept=75, store=None, **options):
        probes = load_probes(GRAPH, self.folder, images_per_concept)
        return label_model(ref, Plan(GRAPH, probes, store or self.store, **{"batch_size": 4, **options}))

    @property
    def encoded(self):
        return [serial for model in self.models for serial in model.encoded]


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch, probes_of_all(7))  # 21 images: five batches of 4 and one of 1


def test_a_label_by_hand(tmp_path, monkeypatch):
    # Two cats, one of which looks like a car; a corgi drawn and a corgi photographed; an image filed under dog only.
    probes = [
        Probe("cat", CAT),
        Probe("cat", CAR),
        Probe("corgi", CORGI, "drawing"),
        Probe("corgi", CORGI),
        Probe("dog", DOG),
    ]
    result = World(tmp_path, monkeypatch, probes).label()
    label = result.label
    assert result.outcome == "labeled"
    assert result.undecodable == 0
    #                                 animal car cat corgi dog pet vehicle
    assert label.support.tolist() == [5, 0, 2, 2, 3, 4, 0]
    assert label.hits.tolist() == [4, 0, 1, 2, 3, 3, 0]  # the cat that looks like a car is no cat, pet or animal
    assert label.domain_names == ("drawing", "photo")
    assert label.domain_hits.tolist() == [[1, 0, 0, 1, 1, 1, 0], [3, 0, 1, 1, 2, 2, 0]]
    assert label.domain_support.tolist() == [[1, 0, 0, 1, 1, 1, 0], [4, 0, 2, 1, 2, 3, 0]]
    np.testing.assert_allclose(label.node_precision, [0.8, 0, 0.5, 1, 1, 0.75, 0])
    rivals = LabelStore(tmp_path / "labels").rivals_of(label)
    assert (rivals.rivals[CAT, 0], rivals.wins[CAT, 0]) == (CAR, 1)
    assert label.ranks[CORGI].tolist() == [2] + [0] * 13
    assert label.model == REF
    assert label.cost == FakeModel.cost
    assert label.graph_digest == GRAPH.digest
    assert read_label(result.path).hits.tolist() == label.hits.tolist()


def test_a_second_run_does_nothing(world):
    first = world.label()
    content, stamp = first.path.read_bytes(), first.path.stat().st_mtime_ns
    second = world.label()
    assert second.outcome == "skipped"
    assert len(world.models) == 1
    assert second.path.read_bytes() == content
    assert second.path.stat().st_mtime_ns == stamp


def test_another_commit_of_the_same_model_changes_nothing(world):
    first, moved = (replace(REF, digest="d" * 64, revision=revision * 40) for revision in "12")
    world.batches_left = 2
    with pytest.raises(KeyboardInterrupt):
        world.label(first)
    world.batches_left = None
    path = world.label(moved).path  # goes on where the first stopped
    assert sorted(world.encoded) == list(range(21))
    content = path.read_bytes()
    assert world.label(first).outcome == "skipped"  # else each label published in the model's repo would need a new one
    assert path.read_bytes() == content


def test_a_label_is_measured_again_on_request_or_if_it_is_damaged(world):
    path = world.label().path
    content = path.read_bytes()
    assert world.label(overwrite=True).outcome == "labeled"
    assert path.read_bytes() == content
    path.write_bytes(content[:-1])
    assert world.label().outcome == "labeled"
    assert path.read_bytes() == content


def test_a_full_label_is_not_replaced_by_a_quick_one_for_its_embeddings(world):
    path = world.label().path
    content = path.read_bytes()
    with pytest.raises(InputError, match="was measured on 75 images per concept and has no embeddings"):
        world.label(images_per_concept=2, keep_embeddings=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize(("batches", "torn"), [(0, 0), (2, 27), (5, 1)])
def test_an_interrupted_run_goes_on(world, tmp_path, batches, torn):
    whole = world.label(store=LabelStore(tmp_path / "whole")).path.read_bytes()
    world.models.clear()
    world.batches_left = batches
    with pytest.raises(KeyboardInterrupt):
        world.label()
    assert all(model.closed for model in world.models)
    log = next(world.store.folder.rglob("*.log"))
    assert log.stat().st_size == batches * 4 * 28  # 7 dimensions of 4 bytes
    with log.open("ab") as file:
        file.write(b"x" * torn)  # half a row, as a power cut leaves it
    world.batches_left = None
    result = world.label(batch_size=4 if batches else 5)
    assert result.path.read_bytes() == whole
    assert sorted(world.encoded) == list(range(21))  # no image was encoded twice
    assert not list(world.store.folder.rglob("*.log"))
    assert not (world.store.folder / ".partial").exists()


def test_a_run_in_another_environment_leaves_the_work_of_the_first(world, monkeypatch):
    world.batches_left = 2
    with pytest.raises(KeyboardInterrupt):
        world.label()
    world.batches_left = 1
    with monkeypatch.context() as patch:
        patch.setattr(FakeModel, "dtype", "float16")
        with pytest.raises(KeyboardInterrupt):
            world.label()
    world.batches_left = None
    world.models.clear()
    assert world.label().label.environment.dtype == "float32"
    assert len(world.models[-1].encoded) < 21  # resumed


@pytest.mark.parametrize("last", [1, 5])
def test_a_model_that_overflows_is_labeled_again_in_full_precision(world, tmp_path, monkeypatch, caplog, last):
    whole = world.label(store=LabelStore(tmp_path / "whole")).path.read_bytes()
    world.models.clear()
    encode = FakeModel.encode_pixels

    def overflowing(self, pixels):
        if self.batches == last:
            self.dtype = "float32"
        self.batches += 1
        return encode(self, pixels)

    monkeypatch.setattr(FakeModel, "dtype", "float16")
    monkeypatch.setattr(FakeModel, "batches", 0, raising=False)
    monkeypatch.setattr(FakeModel, "encode_pixels", overflowing)
    result = world.label()
    assert result.label.environment.dtype == "float32"
    assert result.path.read_bytes() == whole
    (model,) = world.models
    assert sorted(model.encoded[-21:]) == list(range(21))
    assert not (world.store.folder / ".partial").exists()


def test_a_label_carries_the_license_of_its_model(world, hub):
    hub.put("model", "org/licensed", {"README.md": b"---\nlicense: Apache-2.0\n---\n"})
    assert world.label(replace(REF, repo_id="org/licensed")).label.license == "apache-2.0"
    assert world.label(replace(REF, repo_id="org/unlicensed")).label.license is None


def test_undecodable_images_are_left_out_and_counted(tmp_path, monkeypatch):
    probes = [*probes_of_all(40), *[Probe("cat", CAT, content=b"no picture")] * 5]
    world = World(tmp_path, monkeypatch, probes)
    result = world.label()
    assert result.undecodable == 5  # one of the batches of four holds nothing else
    assert result.label.support[[CAT, PET]].tolist() == [40, 70]
    assert result.label.hits[CAT] == 40
    assert len(LabelStore(world.store.folder).labels()) == 1


def test_a_label_that_no_reader_would_accept_is_not_made(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, [*probes_of_all(5), Probe("cat", CAT, content=b"no picture")])
    with pytest.raises(GraphError, match="1 of the 16 probe images in graph cannot be decoded"):
        world.label()
    assert not world.store.paths()


def test_another_run_in_the_same_folder_is_refused_before_it_loads_the_model(world, monkeypatch):
    def label_too(self, pixels):
        with pytest.raises(InputError, match="another run labels the same model"):
            world.label()
        return plain(self, pixels)

    plain = FakeModel.encode_pixels
    monkeypatch.setattr(FakeModel, "encode_pixels", label_too)
    assert world.label().outcome == "labeled"
    assert len(world.models) == 1


def test_a_full_disk_loses_nothing(world, tmp_path):
    resource = pytest.importorskip("resource")
    whole = world.label(store=LabelStore(tmp_path / "whole")).path.read_bytes()
    world.models.clear()
    shutil.copytree(tmp_path / "whole" / "graphs", world.store.folder / "graphs")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # four batches of 4 images, 28 bytes each, and half of one
    try:
        with pytest.raises(StorageError, match=r"cannot write .*\.log: File too large; free some space"):
            world.label()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert next(world.store.folder.rglob("*.log")).stat().st_size == 500
    assert world.label().path.read_bytes() == whole


def test_embeddings_are_kept_on_request(world):
    result = world.label()
    assert world.store.embeddings_of(result.label) is None
    again = world.label(keep_embeddings=True)
    assert again.outcome == "labeled"
    embeddings = world.store.embeddings_of(again.label)
    assert embeddings.images.shape == (21, 7)
    selected = np.array([CAR, CAT, CORGI])
    np.testing.assert_array_equal(embeddings.restricted_precision(selected), [1, 1, 1])
    assert world.label(keep_embeddings=True).outcome == "skipped"
    damaged = embeddings_path(again.path)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert world.label(keep_embeddings=True).outcome == "labeled"
    assert world.label(keep_embeddings=True).outcome == "skipped"
    world.label(images_per_concept=2, overwrite=True)
    assert world.store.embeddings_of(again.label) is None
