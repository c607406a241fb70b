"""Catalogs: the same choice as among the labels themselves, from files that nobody has to believe."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mll_hf.selection as selecting
from mll_hf.cli import main
from mll_hf.cli.report import selection_report
from mll_hf.client import Client
from mll_hf.errors import GraphError, InputError, LabelError
from mll_hf.hub.sources import open_source
from mll_hf.labels.catalog import Catalog, chances_among, is_catalog, write_catalog
from mll_hf.labels.counts import RANK_BINS, chance_to_win
from mll_hf.labels.label import Cost, Extension, LabelSummary, ModelRef, PackPart
from mll_hf.labels.store import LabelStore, Origin
from mll_hf.selection import (
    Candidates,
    Selection,
    SelectionConfig,
    Strategy,
    bounds,
    score,
    select,
    select_from_catalog,
    shortlisting,
)
from mll_hf.selection.mll import task_needs
from selection_worlds import WordEncoder, forest, make_match, random_match
from worlds import SHA, make_graph, make_label

few_examples = settings(max_examples=40, deadline=None, database=None, derandomize=True)
DOMAINS = ("drawing", "photo", "sketch")


def origin(model):
    return Origin(f"hf://{model.repo_id}@{model.revision}/label.safetensors", "alice")


def summaries(graph, n_models, seed=0, most_images=75, n_samples=1, n_packs=0):
    """Summaries of models of different strength, some equal, measured on one of a few samples of images."""
    rng = np.random.default_rng(seed)
    V = len(graph)
    extension, of_pack = None, np.zeros(V, np.bool_)
    if n_packs:
        pieces = np.array_split(rng.permutation(V)[: V // 2], n_packs)
        of_pack[np.concatenate(pieces)] = True
        packs = [
            PackPart(f"pack {n}", f"{n:064x}", "packs", SHA, "0", domains, tuple(sorted(piece.tolist())))
            for n, (piece, domains) in enumerate(zip(pieces, (("sketch",), DOMAINS), strict=False))
        ]
        extension = Extension("b" * 64, tuple(packs))
    samples = rng.integers(0, most_images + 1, (n_samples, V)) * (rng.random((n_samples, V)) < 0.9)
    last_bin, found = min((V - 1).bit_length(), RANK_BINS - 1), []
    for m in range(n_models):
        identity = {
            "model": ModelRef(f"org/m{rng.integers(1000):03d}-{m}", f"{m:040x}", "open_clip"),
            "cost": Cost(int(rng.integers(10**6, 10**9)), float(rng.uniform(0.1, 100))),
        }
        if found and rng.random() < 0.2:
            found.append(replace(found[rng.integers(len(found))], **identity))
            continue
        shares = rng.gamma(np.exp(-rng.uniform(0, 1) * np.arange(last_bin + 1)), size=(V, last_bin + 1)) + 1e-9
        ranks = np.zeros((V, RANK_BINS), np.uint16)
        sample = samples[rng.integers(n_samples)]
        ranks[:, : last_bin + 1] = rng.multinomial(sample, shares / shares.sum(axis=1, keepdims=True))
        totals = ranks[~of_pack].sum(axis=0, dtype=np.int32)
        domain_ranks = np.stack([totals // 4, totals // 3, totals - totals // 4 - totals // 3])
        label = make_label(graph, domain_names=DOMAINS, domain_hits=np.zeros((3, V)), domain_support=np.zeros((3, V)),
                           ranks=ranks, domain_ranks=rng.permuted(domain_ranks, axis=0), extension=extension,
                           temperature=float(rng.uniform(0.5, 2)), **identity_fields(identity))  # fmt: skip
        found.append(replace(label.summary, sampling=replace(label.sampling, images_per_concept=most_images)))
    return tuple(found)


def identity_fields(identity):
    return {"repo_id": identity["model"].repo_id, "revision": identity["model"].revision, "cost": identity["cost"]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """New folders, one after another."""
    top = tmp_path_factory.mktemp("catalogs")
    return (top / str(number) for number in count())


def catalog_of(folder, graph, labels, per_shard=16):
    assert write_catalog(folder, graph, iter(labels), origin, per_shard) == len(labels)
    return Catalog(folder)


@pytest.fixture
def _tight(monkeypatch):
    """Of few labels still fewer are looked at closely."""
    tighten(monkeypatch)


def tighten(patch):
    patch.setattr(selecting, "_KEPT", 3)
    patch.setattr(bounds, "_BATCH", 4)


@pytest.fixture
def looked_at(monkeypatch):
    """Positions of the labels that were scored exactly."""
    seen, scores = [], bounds._scores
    monkeypatch.setattr(bounds, "_scores", lambda query, p, r: (seen.extend(p.tolist()), scores(query, p, r))[1])
    return seen


def assert_same_choice(catalog, labels, match, config, domain=None, published=()):
    """The catalog's choice is that among all labels; returns it."""
    ours = select_from_catalog(catalog, match, config, domain=domain, published=published, task="t")
    theirs = select(Candidates(labels, catalog.graph, match, domain, published=published), config, "t")
    kept = min(max(selecting._KEPT, config.k), len(theirs.models))
    assert ours.models == theirs.models[:kept]
    np.testing.assert_allclose(ours.scores, theirs.scores[:kept], rtol=0, atol=1e-9)
    assert (ours.chosen == theirs.chosen[:kept]).all()
    assert ours.among == len(theirs.models)
    assert ours.coverage.tolist() == theirs.coverage.tolist()
    assert ours.images.tolist() == theirs.images.tolist()
    for mine, yours in zip(sum(ours.matches, ()), sum(theirs.matches, ()), strict=True):
        assert replace(mine, precision=()) == replace(yours, precision=())
        np.testing.assert_allclose(mine.precision, yours.precision, rtol=0, atol=1e-9)
    return ours


# ---- the same choice


@few_examples
@given(
    seed=st.integers(0, 10_000),
    n_concepts=st.integers(2, 40),
    n_models=st.integers(1, 50),
    n_classes=st.sampled_from([1, 2, 5, 30]),
    n_samples=st.sampled_from([1, 2, 5]),
    n_packs=st.sampled_from([0, 0, 1, 2]),
    most_images=st.sampled_from([3, 75, 255, 3000]),
    domain=st.sampled_from([None, "photo", "a pencil sketch", "drawing of a photo"]),
    strategy=st.sampled_from([Strategy.MLL, Strategy.MLL, Strategy.MLL, Strategy.GENERAL]),
    k=st.integers(1, 5),
)
def test_a_catalog_gives_the_choice_among_all_its_labels(
    folders, seed, n_concepts, n_models, n_classes, n_samples, n_packs, most_images, domain, strategy, k
):
    graph = forest(n_concepts, seed)
    labels = summaries(graph, n_models, seed, most_images, n_samples, min(n_packs, n_concepts // 2))
    catalog = catalog_of(next(folders), graph, labels)
    match, config = random_match(graph, n_classes, seed=seed), SelectionConfig(strategy, k)
    caps = replace(
        config,
        max_parameters=int(np.median([label.cost.parameters for label in labels])),
        max_gflops=float(np.max([label.cost.gflops for label in labels])),
    )
    with pytest.MonkeyPatch.context() as patch:
        tighten(patch)
        assert_same_choice(catalog, labels, match, config, domain)
        assert_same_choice(catalog, labels, match, caps, domain)


@pytest.mark.usefixtures("_tight")
@pytest.mark.parametrize(("domain", "n_classes"), [(None, 20), ("photo", 20), (None, 3), ("sketch", 3)])
def test_few_of_many_labels_are_looked_at(folders, looked_at, domain, n_classes):
    graph = forest(60)
    labels = summaries(graph, 300, n_samples=2)
    catalog = catalog_of(next(folders), graph, labels, per_shard=64)
    assert_same_choice(catalog, labels, random_match(graph, n_classes), SelectionConfig(k=2), domain)
    assert 0 < len(looked_at) < 100


@pytest.mark.usefixtures("_tight")
def test_labels_of_rare_samples_are_all_looked_at(folders, looked_at, monkeypatch):
    monkeypatch.setattr(bounds, "_MOST_SAMPLES", 1)
    graph = forest(30)
    labels = summaries(graph, 40, n_samples=3)
    catalog = catalog_of(next(folders), graph, labels)
    assert_same_choice(catalog, labels, random_match(graph, 4), SelectionConfig(k=2))
    common = np.bincount(catalog.columns.sample).max()
    assert len(catalog.columns.support) == 3
    assert len(set(looked_at)) >= 40 - common


@pytest.mark.usefixtures("_tight")
def test_ids_decide_between_equals_wherever_they_are(folders):
    graph = forest(10)
    one = summaries(graph, 1)[0]
    order = random.Random(0).sample(range(40), 40)
    labels = tuple(replace(one, model=replace(one.model, repo_id=f"org/m{n:02d}")) for n in order)
    selection = assert_same_choice(
        catalog_of(next(folders), graph, labels), labels, random_match(graph, 3), SelectionConfig(k=2)
    )
    assert [model.ref.repo_id for model in selection.models] == ["org/m00", "org/m01", "org/m02"]


@pytest.mark.usefixtures("_tight")
def test_models_without_a_label_take_part(folders, monkeypatch):
    graph = forest(20)
    labels = summaries(graph, 40)
    ids = [label.model.repo_id for label in labels]
    table = tuple(
        replace(selecting.best_published()[0], repo_id=name, imagenet=value)
        for name, value in [*zip(ids[::9], [0.3, 0.4, 0.5, 0.55, 0.6], strict=True), ("org/x", 0.9), ("org/y", 0.42)]
    )
    monkeypatch.setattr("mll_hf.selection.published_models", lambda: table)
    catalog = catalog_of(next(folders), graph, labels)
    for strategy in (Strategy.MLL, Strategy.GENERAL):
        config = SelectionConfig(strategy, k=8)
        assert_same_choice(catalog, labels, random_match(graph, 3), config, published=table[-2:])


def test_the_shortlist_for_a_trial_on_images(folders):
    graph = forest(20)
    labels = summaries(graph, 150)
    config = shortlisting(SelectionConfig(candidates=110))
    selection = assert_same_choice(catalog_of(next(folders), graph, labels), labels, random_match(graph, 3), config)
    assert len(selection.union) == len(selection.models) == 110


# ---- bounds


@pytest.mark.parametrize("n_rivals", [0, 1, 6, 299, 8999, 59_999])
@pytest.mark.parametrize("n_candidates", [2, 3, 10, 100, 1000, 20_000])
def test_a_combination_is_as_near_as_it_says(n_rivals, n_candidates):
    found = bounds.combination(n_rivals, n_candidates)
    rng = np.random.default_rng(0)
    shares = np.concatenate([np.eye(RANK_BINS), rng.dirichlet(np.ones(RANK_BINS), 50)])
    kept = np.rint(shares @ chances_among(np.array([n_rivals]), bounds.CANDIDATES)[0].T * 255) / 255
    near = found.constant + kept[:, found.first : found.first + 3] @ found.weights
    wanted = shares @ chance_to_win(n_rivals, n_candidates)
    assert np.abs(near - wanted).max() <= found.error
    if n_rivals == 8999 and n_candidates <= 1000:
        assert found.error < 0.025


@few_examples
@given(seed=st.integers(0, 10_000), n_packs=st.integers(0, 2), domain=st.sampled_from([None, "photo", "sketch"]))
def test_no_score_exceeds_its_bound_and_bounds_are_near(folders, seed, n_packs, domain):
    graph, config = forest(40, seed), SelectionConfig()
    labels = summaries(graph, 30, seed, n_samples=2, n_packs=n_packs)
    catalog, match = catalog_of(next(folders), graph, labels), random_match(graph, 5, seed=seed)
    candidates = Candidates(labels, graph, match, domain)
    exact = score(candidates, config).mean(axis=1)
    query = bounds._query(catalog, task_needs(candidates, config.class_weight), domain)
    most = bounds._bounds(query, selecting.mll.generally_best(labels))
    assert (exact <= most + 1e-9).all()
    assert (most - exact).max() < 0.15
    np.testing.assert_allclose(
        bounds._scores(query, np.arange(30), selecting.mll.generally_best(labels)), exact, atol=1e-9
    )


# ---- a source like others


def test_labels_come_back_as_they_were(folders):
    graph = forest(25)
    labels = summaries(graph, 40, n_samples=2, n_packs=1)
    catalog = catalog_of(next(folders), graph, labels)
    assert len(catalog) == 40
    assert len(catalog.shards) == 3
    assert catalog.graph.digest == graph.digest
    for position, (label, listed) in enumerate(zip(labels, catalog.list(), strict=True)):
        for ours in (listed, catalog.label(position)):
            for name in LabelSummary.__dataclass_fields__:
                expected, found = getattr(label, name), getattr(ours, name)
                same = np.array_equal(expected, found) if isinstance(expected, np.ndarray) else expected == found
                assert same, name
            assert ours.mean_precision == label.mean_precision
        assert catalog.origin_of(label.model) == origin(label.model)
    with pytest.raises(InputError, match="there is no label of org/unknown at 0000"):
        catalog.origin_of(ModelRef("org/unknown", "0" * 40, "open_clip"))
    with pytest.raises(InputError, match=r"a catalog, which holds of org/.* only what strategies"):
        catalog.fetch([labels[0].model])
    assert catalog.embeddings_of(labels[0].model) is None


def test_counts_that_need_two_bytes(folders):
    graph = forest(10)
    labels = (*summaries(graph, 3, seed=1, most_images=60_000), *summaries(graph, 3, seed=2))
    labels = tuple(replace(label, model=replace(label.model, revision=f"{n:040x}")) for n, label in enumerate(labels))
    catalog = catalog_of(next(folders), graph, labels, per_shard=4)
    assert [shard.tensors["ranks"].dtype for shard in catalog.shards] == [np.uint16, np.uint8]
    assert_same_choice(catalog, labels, random_match(graph, 2), SelectionConfig())


@pytest.fixture
def store(tmp_path):
    graph = make_graph()
    store = LabelStore(tmp_path / "labels")
    store.adopt(graph)
    for n in range(5):
        store.write(make_label(graph, [10 - n, n, 3, 7, n + 2, 8, 5], repo_id=f"org/m{n}", revision=f"{n:040x}"))
    return LabelStore(tmp_path / "labels")


def run(capsys, *arguments):
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_from_a_folder_of_labels_to_a_choice(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mll_hf.client.default_encoder", WordEncoder)
    monkeypatch.setattr("mll_hf.client.CachedEncoder", lambda encoder: encoder)
    out = tmp_path / "catalog"
    for _ in range(2):  # the second time in place of the first
        status, said, err = run(capsys, "labels", "index", "--labels", store.folder, "--out", out, "--json")
        assert (status, json.loads(said)) == (0, {"catalog": str(out), "labels": 5}), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog", "labels"]
    assert isinstance(open_source(out), Catalog)
    listed = [
        json.loads(run(capsys, "labels", "ls", "--json", "--labels", source)[1]) for source in (store.folder, out)
    ]
    assert listed[0] == listed[1]
    chosen = []
    for source in (store.folder, out):
        status, said, err = run(capsys, "select", "--classes", "cat, car", "-k", "2", "--json", "--labels", source)
        assert status == 0, err
        chosen.append(json.loads(said))
    assert chosen[1].pop("among") == 5
    assert chosen[0].pop("among") is None
    assert chosen[0] == chosen[1]
    status, said, err = run(capsys, "select", "--classes", "cat", "--strategy", "paper", "--labels", out)
    assert status == 1
    assert re.fullmatch(r"mll-hf: error: strategy 'paper' looks at all labels, .* made from\n", err)
    status, said, err = run(capsys, "labels", "show", "m1", "--labels", out)
    assert (status, said, err.count("\n")) == (1, "", 1)
    status, said, err = run(capsys, "labels", "index", "--labels", store.folder)
    assert (status, err.count("\n")) == (1, 1)


def test_the_report_and_json_say_among_how_many(folders):
    graph = forest(12)
    labels = summaries(graph, 130)
    selection = select_from_catalog(catalog_of(next(folders), graph, labels), random_match(graph, 2), SelectionConfig())
    assert "130 models, of which the best 100 are here" in selection_report(selection)
    document = json.loads(json.dumps(selection.to_json()))
    assert document["among"] == 130
    assert json.loads(json.dumps(Selection.from_json(document).to_json())) == document


def test_the_client_needs_no_label_for_imagenet(folders):
    graph = forest(5)
    folder = next(folders)
    catalog_of(folder, graph, summaries(graph, 2))
    selection = Client(folder, encoder=WordEncoder()).select(["a", "b"], SelectionConfig(Strategy.IMAGENET))
    assert not any(model.labeled for model in selection.models)


def test_nothing_fits(folders):
    graph = forest(5)
    catalog = catalog_of(next(folders), graph, summaries(graph, 2))
    with pytest.raises(InputError, match="none of the 2 labeled models is within the caps"):
        select_from_catalog(catalog, random_match(graph, 2), SelectionConfig(max_parameters=5))
    with pytest.raises(InputError, match="strategy 'uniform' looks at all labels"):
        select_from_catalog(catalog, random_match(graph, 2), SelectionConfig(Strategy.UNIFORM))


# ---- writing


def test_what_does_not_go_together_is_refused_and_leaves_nothing(tmp_path):
    graph, other = forest(12), forest(12, seed=1)
    labels = summaries(graph, 5)
    cases = {
        "are no labels to make a catalog of": [],
        "is of another graph; leave it out": [*labels, *summaries(other, 1)],
        "cover different packs": [*labels, *summaries(graph, 1, n_packs=1)],
        "two labels of the same model": [*labels, labels[2]],
    }
    for message, wrong in cases.items():
        for per_shard in (2, 100):
            with pytest.raises(InputError, match=message):
                write_catalog(tmp_path / "new", graph, wrong, origin, per_shard)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="is there already and holds more than a catalog"):
            write_catalog(taken, graph, labels, origin)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    write_catalog(tmp_path / "catalog", graph, labels, origin)
    (tmp_path / "catalog" / "labels").mkdir()  # as an older version of label made them there
    with pytest.raises(InputError, match="holds more than a catalog"):
        write_catalog(tmp_path / "catalog", graph, labels, origin)
    assert (tmp_path / "catalog" / "labels").exists()


def test_an_old_catalog_stays_if_a_new_one_cannot_be_written(folders):
    graph, folder = forest(12), next(folders)
    labels = summaries(graph, 5)
    catalog_of(folder, graph, labels)

    def broken():
        yield from labels[:4]
        raise LabelError("is damaged")

    with pytest.raises(LabelError):
        write_catalog(folder, graph, broken(), origin, 2)
    assert len(Catalog(folder)) == 5
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_the_same_labels_give_the_same_bytes(folders):
    graph, labels = forest(12), summaries(forest(12), 5)
    first, second = next(folders), next(folders)
    for folder in (first, second):
        catalog_of(folder, graph, labels, per_shard=2)
    names = sorted(path.name for path in first.iterdir())
    assert names == ["graph.json", "shard-00000.safetensors", "shard-00001.safetensors", "shard-00002.safetensors"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_shards_are_safetensors(folders):
    from safetensors.numpy import load_file

    graph, folder = forest(12), next(folders)
    labels = summaries(graph, 5)
    catalog_of(folder, graph, labels)
    tensors = load_file(folder / "shard-00000.safetensors")
    assert (tensors["ranks"] == np.stack([label.ranks for label in labels])).all()


# ---- strangers' files

GRAPH = forest(20)
LABELS = summaries(GRAPH, 12)
MATCH = make_match([[1, 2, 3], [4, 5, 6]], [[0.5, 0.3, 0.2]] * 2)


def choose_from(folder):
    catalog = Catalog(folder)
    select_from_catalog(catalog, MATCH, SelectionConfig(k=2), domain="photo")
    catalog.list()


def complaint_of(folder):
    with pytest.raises(LabelError) as caught:
        choose_from(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    assert "write it again" in message
    return message


def changed_header(blob, change):
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    metadata = json.loads(header["__metadata__"]["mll"])
    change(header, metadata)
    if "__metadata__" in header:
        header["__metadata__"]["mll"] = json.dumps(metadata)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + blob[8 + length :]


@pytest.fixture
def damaged(folders):
    """Writes a catalog and lets a function change the bytes of its only shard."""

    def damage(change):
        folder = next(folders)
        catalog_of(folder, GRAPH, LABELS)
        path = folder / "shard-00000.safetensors"
        path.write_bytes(change(path.read_bytes()))
        return folder

    return damage


@pytest.mark.parametrize(
    "change",
    [
        lambda h, m: m.update(schema=2),
        lambda h, m: m.update(schema=True),
        lambda h, m: m.update(graph_digest="0" * 64),
        lambda h, m: m.update(models=m["models"][1:]),
        lambda h, m: m.update(models=[[5, 6]] * 12),
        lambda h, m: m.update(models=m["models"][::-1]),
        lambda h, m: m.update(models=None),
        lambda h, m: m.update(domains=[]),
        lambda h, m: m.update(domains=[["photo"]]),
        lambda h, m: m.update(domains=[["photo", "x", "y"]]),
        lambda h, m: m.update(domains=[[1, 2, 3]]),
        lambda h, m: m.update(parts=["b" * 64, ["c" * 64, [1, 2]]]),
        lambda h, m: m.update(parts=["b" * 64, ["c" * 64, [1, 99]]]),
        lambda h, m: m.update(parts=["b" * 64]),
        lambda h, m: m.update(parts=7),
        lambda h, m: m.pop("parts"),
        lambda h, m: h.pop("__metadata__"),
        lambda h, m: h.pop("shares"),
        lambda h, m: h.update(more=h["crc"]),
        lambda h, m: h["ranks"].update(dtype="F64"),
        lambda h, m: h["ranks"].update(shape=[12, 20]),
        lambda h, m: h["ranks"].update(shape=[-12, -20, 14]),
        lambda h, m: h["ranks"].update(shape=[10**12, 20, 14]),
        lambda h, m: h["ranks"].update(data_offsets=[0, 12 * 20 * 14]),
        lambda h, m: h["ranks"].update(data_offsets=["a", "b"]),
        lambda h, m: h["claims"].update(data_offsets=[h["claims"]["data_offsets"][0], 10**15]),
        lambda h, m: h.update(shares=[]),
    ],
)
def test_headers_that_do_not_fit_are_refused(damaged, change):
    complaint_of(damaged(lambda blob: changed_header(blob, change)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sample", np.int32(1)),
        ("sample", np.int32(-1)),
        ("mean_rank_shares", np.float64("nan")),
        ("mean_rank_shares", np.float64(0.5)),
        ("mean_precision", np.float64("inf")),
        ("mean_precision", np.float64(0.987)),
        ("domain_ranks", np.int32(-5)),
        ("domain_ranks", np.int32(2**31 - 1)),
        ("temperature", np.float32("nan")),
        ("parameters", np.int64(-1)),
        ("parameters", np.int64(7)),
        ("gflops", np.float64("nan")),
        ("crc", np.uint32(0)),
        ("claim_ends", np.int64(2**62)),
        ("claim_ends", np.int64(0)),
        ("claims", np.uint8(0)),
        ("ranks", np.uint8(0)),
        ("ranks", np.uint8(255)),
        ("support", np.uint16(0)),
        ("support", np.uint16(65535)),
        ("shares", np.uint8(0)),
    ],
)
def test_values_that_contradict_one_another_are_refused(damaged, name, values):
    def change(blob):
        length = int.from_bytes(blob[:8], "little")
        start, end = json.loads(blob[8 : 8 + length])[name]["data_offsets"]
        new = np.full((end - start) // values.itemsize, values).tobytes()
        return blob[: 8 + length + start] + new + blob[8 + length + end :]

    complaint_of(damaged(change))


@pytest.mark.parametrize("length", [0, 7, 8, 100, 4096, 5000, -1])
def test_truncated_files_are_refused(damaged, length):
    complaint_of(damaged(lambda blob: blob[:length]))
    complaint_of(damaged(lambda blob: blob + b"more"))


def test_another_graph_or_none(damaged, tmp_path):
    folder = damaged(lambda blob: blob)
    (folder / "graph.json").unlink()
    with pytest.raises(GraphError):
        choose_from(folder)
    assert is_catalog(folder)
    assert not is_catalog(tmp_path)


def test_random_damage_never_surprises(damaged):
    rng, refused, surprises = random.Random(0), 0, 0
    for _ in range(150):

        def change(blob):
            blob = bytearray(blob)
            for _ in range(rng.choice([1, 3, 30])):
                blob[rng.randrange(rng.choice([600, len(blob)]))] = rng.randrange(256)
            return bytes(blob)

        try:
            choose_from(damaged(change))
        except LabelError as error:
            refused += 1
            surprises += "\n" in str(error)
    assert refused > 50
    assert surprises == 0


def test_shards_of_other_packs_are_refused(folders):
    folder, other = next(folders), next(folders)
    catalog_of(folder, GRAPH, LABELS)
    catalog_of(other, GRAPH, summaries(GRAPH, 2, n_packs=1))
    (other / "shard-00000.safetensors").rename(folder / "shard-00001.safetensors")
    assert "other packs than those before" in complaint_of(folder)
