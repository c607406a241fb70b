"""Gathering images from datasets on the Hub: labels, sampling, output files, and recovery from errors."""

import io
import json
import os
from collections import Counter
from itertools import count

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image as PILImage

from graph.dataset import BUILD_FILE, build_from_bytes, build_to_bytes
from graph.gathering import HarvestConfig, open_all, prepared, source_key
from graph.harvest import finished_build, harvest
from graph.sources import ImageSource, parse_source, pin_all
from graph.wordnet import ClassList, class_wnids, leaf_names
from harvest_worlds import no_waits, pictures, put_parquet, put_tars, streamed
from mll_hf.errors import HubError, InputError, MLLError, StorageError
from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.graph.probes import SamplingConfig
from mll_hf.hub.locations import fetch_graph_with_images
from mll_hf.hub.publish import publish_graph
from worlds import picture

__all__ = ["no_waits"]  # a fixture

pytestmark = pytest.mark.usefixtures("no_waits")

DOG, CORGI, CAT, CAR = "n00000001", "n00000002", "n00000003", "n00000004"
GRAPH = SemanticGraph(
    "small",
    (
        Concept(DOG, "dog", ("dog", "hound"), "it barks", ()),
        Concept(CORGI, "corgi", ("corgi", "Welsh corgi"), "a low dog", (DOG,)),
        Concept(CAT, "cat", ("cat",), "it purrs", ()),
        Concept(CAR, "car", ("car",), "it hums", ()),
    ),
)
BY_WNID = ImageSource("birds", "org/birds", "wnid", "photo")


def opened(sources, graph=GRAPH):
    return open_all(pin_all(sources), graph)


def gathered(tmp_path, sources, config=None, graph=GRAPH, name="out"):
    """Build a graph with images; returns the folder."""
    harvest(graph, opened(sources, graph), config or HarvestConfig(), tmp_path / name)
    return tmp_path / name


def rows_of(folder):
    return [row for file in sorted(folder.glob("images*.parquet")) for row in pq.read_table(file).to_pylist()]


def contents_of(folder):
    """Content of every file of a folder, whatever is hidden left out."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


# --- sources --------------------------------------------------------------------------------------------------------


def test_any_data_set_can_be_a_source():
    assert parse_source("hf://datasets/org/birds?labels=wnid&domain=drawing") == ImageSource(
        "org/birds", "org/birds", "wnid", "drawing"
    )
    text = "hf://datasets/org/birds@v1?labels=b%20c.csv&domain=photo&split=train&config=big&image=img&label=cls&name=b"
    assert parse_source(text) == ImageSource(
        "b", "org/birds", "b c.csv", "photo", revision="v1", config="big", split="train", image="img", label="cls"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imagenet-x", "there is no image source 'imagenet-x'; built-in sources are imagenet, "),
        ("hf://models/org/birds?labels=wnid&domain=photo", "is not of the form hf://datasets/ORG/NAME"),
        ("hf://datasets/org/birds", "add labels=..."),
        ("hf://datasets/org/birds?labels=wnid", "add domain=..."),
        ("hf://datasets/org/birds?labels=wnid&domain=", "add domain=..."),
        ("hf://datasets/org/birds?labels=wnid&domain=photo&color=red", "unknown option color"),
        ("hf://datasets/org/birds?labels", "must have the form labels=wnid&domain=photo"),
    ],
)
def test_invalid_sources(text, said):
    with pytest.raises(InputError) as refused:
        parse_source(text)
    assert said in str(refused.value)


# --- what labels mean -------------------------------------------------------------------------------------------------


def nodes_of(folder):
    return Counter(row["node"] for row in rows_of(folder))


def test_labels_that_are_wnids(tmp_path):
    put_parquet("org/birds", pictures([DOG, CAT, CAT, "n00000099"]))
    folder = gathered(tmp_path, [BY_WNID])
    assert nodes_of(folder) == {DOG: 1, CAT: 2}
    assert build_from_bytes((folder / BUILD_FILE).read_bytes()).sources[0]["outside"] == 1


def test_classes_by_name_and_by_number_in_a_file(tmp_path):
    (tmp_path / "labels.csv").write_text(f"tabby,{CAT}\n1,{CORGI}\n")
    put_parquet("org/birds", pictures([0, 1, 1, 2]), names=["tabby", "dwarf", "teapot"])
    source = ImageSource("birds", "org/birds", str(tmp_path / "labels.csv"), "photo")
    folder = gathered(tmp_path, [source])
    assert nodes_of(folder) == {CAT: 1, CORGI: 2}
    assert build_from_bytes((folder / BUILD_FILE).read_bytes()).sources[0]["outside"] == 1  # the teapot


@pytest.fixture(scope="module")
def imagenet():
    """A graph of ImageNet's classes, without anything above them."""
    names = leaf_names(ClassList.IMAGENET_1K)
    return SemanticGraph("imagenet", tuple(Concept(w, n[0], n, "", ()) for w, n in names.items()))


OF_1K = ImageSource("v2", "org/v2", ClassList.IMAGENET_1K, "photo", files="test/*.tar", label="cls")
OF_A = ImageSource("a", "org/a", ClassList.IMAGENET_A, "photo", files="test/*.tar", label="cls")


def curated(classes):
    """Names that open_clip gives classes; 178 of the 1,000 are none of WordNet's."""
    whole = class_wnids(ClassList.IMAGENET_1K)
    return [IMAGENET_CLASSNAMES[whole.index(wnid)] for wnid in class_wnids(classes)]


def test_labels_that_are_indices_into_a_list(tmp_path, imagenet):
    put_tars("org/v2", pictures([0, 263, 999, 263]), names=curated(ClassList.IMAGENET_1K))
    put_tars("org/a", pictures([0, 199], start=50), names=curated(ClassList.IMAGENET_A))
    folder = gathered(tmp_path, [OF_1K, OF_A], graph=imagenet)
    whole, few = class_wnids(ClassList.IMAGENET_1K), class_wnids(ClassList.IMAGENET_A)
    assert nodes_of(folder) == {whole[0]: 1, whole[263]: 2, whole[999]: 1, few[0]: 1, few[199]: 1}


def test_indices_into_another_list_are_refused(imagenet):
    shifted = curated(ClassList.IMAGENET_1K)
    put_tars("org/v2", pictures([0]), shards=1, names=[*shifted[1:], shifted[0]])
    with pytest.raises(HubError, match=r"org/v2: its class names contradict labels=\.\.\. in 820 of 1000 classes"):
        opened([OF_1K], imagenet)
    put_tars("org/v2", pictures([0]), shards=1, names=curated(ClassList.IMAGENET_A))
    with pytest.raises(HubError, match="has 200 classes, not the 1000 of imagenet-1k; correct labels"):
        opened([OF_1K], imagenet)
    put_tars("org/a", pictures([0]), shards=1, names=curated(ClassList.IMAGENET_R))
    with pytest.raises(HubError, match="org/a: its class names contradict"):
        opened([OF_A], imagenet)


# --- datasets that cannot be read ------------------------------------------------------------------------------------


def refusal(sources, graph=GRAPH):
    with pytest.raises(MLLError) as refused:
        opened(sources, graph)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_data_sets_that_cannot_be_read(hub, imagenet):
    assert refusal([BY_WNID]) == (
        "org/birds: is not on the Hub, or private; check the name, or log in with: hf auth login"
    )
    put_parquet("org/birds", pictures([DOG, CAT]))
    assert "has no such revision" in refusal([parse_source("hf://datasets/org/birds@v9?labels=wnid&domain=p")])
    other = "hf://datasets/org/birds?labels=wnid&domain=p"
    assert "cannot be streamed (Bad split: train." in refusal([parse_source(f"{other}&split=train")])
    assert "cannot be streamed (BuilderConfig 'big' not found." in refusal([parse_source(f"{other}&config=big")])
    assert "has no column 'cls', only image, label; add label=COLUMN" in refusal([parse_source(f"{other}&label=cls")])
    assert "has no image column 'img', only image" in refusal([parse_source(f"{other}&image=img")])
    assert "has no image column 'label', only image" in refusal([parse_source(f"{other}&image=label")])
    hub.repos["dataset", "org/birds"].gated = "auto"
    assert "org/birds: is gated; accept its terms at http://127.0.0.1" in refusal([BY_WNID])
    hub.put("dataset", "org/empty", {"README.md": b"# nothing"})
    assert "org/empty: cannot be streamed" in refusal([ImageSource("e", "org/empty", "wnid", "photo")])
    hub.put("dataset", "org/text", {"test.csv": b"a,label\n1,2\n"})
    assert "has no single image column, only none" in refusal([ImageSource("t", "org/text", "wnid", "photo")])


# --- sampling ---------------------------------------------------------------------------------------------------------


def ids(folder):
    return {(row["node"], row["image_id"]) for row in rows_of(folder)}


@pytest.fixture
def many():
    """Pictures of three concepts, in an order of their own."""
    labels = [CORGI, CAT, CAT, CAR, CORGI, CAT, CAR] * 9
    return pictures(labels)


def test_the_sample_depends_on_the_images_only(tmp_path, many):
    config, found = HarvestConfig(images_per_concept=5, seed=3), []
    for number, (rows, shards) in enumerate([(many, 1), (many, 4), (many[::-1], 5), (many + many[:20], 7)]):
        put_parquet(f"org/birds{number}", rows, shards=shards)
        source = ImageSource("birds", f"org/birds{number}", "wnid", "photo")
        found.append(gathered(tmp_path, [source], config, name=f"out{number}"))
    assert Counter(node for node, _ in ids(found[0])) == {CORGI: 5, CAT: 5, CAR: 5}
    assert all(ids(folder) == ids(found[0]) for folder in found)
    put_tars("org/wds", [(content, [CORGI, CAT, CAR].index(label)) for content, label in many], shards=3)
    (tmp_path / "l.json").write_text(json.dumps({"0": CORGI, "1": CAT, "2": CAR}))
    source = ImageSource("birds", "org/wds", str(tmp_path / "l.json"), "photo", label="cls")
    assert ids(gathered(tmp_path, [source], config, name="wds")) == ids(found[0])


def test_sources_take_turns_until_they_have_no_more_images(tmp_path):
    put_parquet("org/a", pictures([CAT] * 20 + [CAR] * 20 + [CORGI] * 3))
    put_parquet("org/b", pictures([CAT] * 20 + [CAR] * 2, start=100))
    put_parquet("org/c", pictures([CAT] * 20, start=200))
    sources = [ImageSource(name, f"org/{name}", "wnid", f"style of {name}") for name in "abc"]
    folder = gathered(tmp_path, sources, HarvestConfig(images_per_concept=9))
    found = Counter((row["node"], row["source"], row["style"]) for row in rows_of(folder))
    assert found == {
        (CAT, "a", "style of a"): 3,
        (CAT, "b", "style of b"): 3,
        (CAT, "c", "style of c"): 3,
        (CAR, "a", "style of a"): 7,
        (CAR, "b", "style of b"): 2,
        (CORGI, "a", "style of a"): 3,
    }


def test_an_image_of_two_sources_is_taken_once(tmp_path):
    same = pictures([CAT] * 4)
    put_parquet("org/a", same + same[:2])
    put_parquet("org/b", same[2:] + pictures([CAT], start=50))
    folder = gathered(tmp_path, [ImageSource(n, f"org/{n}", "wnid", "photo") for n in "ab"])
    assert len(rows_of(folder)) == len(ids(folder)) == 5
    record = build_from_bytes((folder / BUILD_FILE).read_bytes())
    assert sum(source["images"] for source in record.sources) == record.images == 5


def encoded(width, height, kind="PNG", mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), np.uint8)
    content = io.BytesIO()
    PILImage.fromarray(noise).save(content, format=kind)
    return content.getvalue()


def test_only_large_images_are_made_smaller():
    at_most = encoded(64, 40)
    assert prepared(at_most, 64) == at_most
    smaller = PILImage.open(io.BytesIO(prepared(encoded(100, 50), 64)))
    assert (smaller.size, smaller.format) == ((64, 32), "JPEG")
    assert PILImage.open(io.BytesIO(prepared(encoded(50, 100, mode="RGBA"), 64))).size == (32, 64)
    assert prepared(encoded(100, 50), None) == encoded(100, 50)
    assert prepared(encoded(100, 2), 10) is not None


@pytest.mark.parametrize("content", [b"", b"no picture", picture(1)[:40], encoded(30, 30, "JPEG")[:300]])
def test_undecodable_images_are_skipped_and_counted(tmp_path, content):
    assert prepared(content, 64) is None
    put_parquet("org/birds", [*pictures([CAT, CAT]), (content, CAT), (content, "n00000099")], shards=2)
    folder = gathered(tmp_path, [BY_WNID])
    assert len(rows_of(folder)) == 2
    record = build_from_bytes((folder / BUILD_FILE).read_bytes()).sources[0]
    assert (record["seen"], record["undecodable"], record["outside"]) == (4, 1, 1)


# --- the files --------------------------------------------------------------------------------------------------------


def test_the_record_and_the_card(tmp_path, hub, many):
    sha = put_parquet("org/birds", many)
    put_parquet("alice/art", pictures([CAT], start=400))
    hub.repos["dataset", "alice/art"].gated = "manual"  # she has access
    sources = [BY_WNID, ImageSource("art", "alice/art", "wnid", "sketch", "CC0")]
    folder = gathered(tmp_path, sources, HarvestConfig(9, max_side=None))
    content = (folder / BUILD_FILE).read_bytes()
    build = build_from_bytes(content)
    assert build_to_bytes(build) == content
    assert str(tmp_path) not in content.decode()
    assert (build.images, build.concepts_with_images, build.concepts_tested) == (27, 3, 4)
    columns = ("name", "is_gated", "images", "concepts", "seen")
    assert [tuple(source[column] for column in columns) for source in build.sources] == [
        ("birds", False, 26, 3, 63),
        ("art", True, 1, 1, 1),
    ]
    card = (folder / "README.md").read_text()
    assert (
        f"| birds | [org/birds](https://huggingface.co/datasets/org/birds) | `{sha[:12]}` | photo | 26 | 3 | 63 |"
        in card
    )
    assert "| sketch | 1 |" in card
    assert "- art: CC0 (gated)" in card
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["configs"][0]["data_files"] == [{"split": "test", "path": "images-*.parquet"}]
    assert f"mll-graph-{GRAPH.digest[:12]}" in metadata["tags"]
    for other in (b"{}", b"[1]", b"{", content.replace(b'"files"', b'"flies"')):
        with pytest.raises(InputError, match=r"build\.json is not from this version"):
            build_from_bytes(other)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(tmp_path, many):
    """What comes out if nothing goes wrong."""
    put_parquet("org/birds", many, shards=4)
    return contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6), name="undisturbed"))


@pytest.mark.parametrize("how", [{"status": 503}, {"drop": "before"}, {"cut": 100}])
def test_a_stream_recovers_from_a_few_errors(tmp_path, hub, undisturbed, how):
    hub.fail("test-00002-of", times=2, method="GET", **how)
    assert contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6))) == undisturbed


def test_a_broken_stream_loses_no_finished_shard(tmp_path, hub, undisturbed):
    sources = opened([BY_WNID])
    hub.fail("test-00002-of", 500, times=10_000)
    with pytest.raises(
        HubError, match=r"org/birds: the stream broke off in shard 3 of 4 \(.*run the same command again"
    ):
        harvest(GRAPH, sources, HarvestConfig(6), tmp_path / "out")
    assert contents_of(tmp_path / "out") == {}  # nothing that could be taken for a result
    hub.disturbances.clear()
    sources = opened([BY_WNID])
    hub.requests.clear()
    harvest(GRAPH, sources, HarvestConfig(6), tmp_path / "out")
    assert contents_of(tmp_path / "out") == undisturbed
    assert not streamed("test-00000-of")
    assert not streamed("test-00001-of")
    assert streamed("test-00002-of")
    assert not (tmp_path / "out" / ".harvest").exists()


@pytest.mark.parametrize("stop", range(4))
def test_an_interrupted_run_resumes(tmp_path, hub, undisturbed, stop, monkeypatch):
    decoded = count()

    def interrupted(*args):
        if next(decoded) == 5 + 10 * stop:
            raise KeyboardInterrupt
        return prepared(*args)

    with monkeypatch.context() as patch:
        patch.setattr("graph.gathering.prepared", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gathered(tmp_path, [BY_WNID], HarvestConfig(6))
    assert contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6))) == undisturbed


def test_a_finished_build_is_reused(tmp_path, hub, undisturbed):
    folder = tmp_path / "undisturbed"
    sources = opened([BY_WNID])
    hub.requests.clear()
    build = harvest(GRAPH, sources, HarvestConfig(6), folder)
    assert build.images == 18
    assert not streamed()
    assert finished_build(GRAPH, [source.pinned for source in sources], HarvestConfig(6), folder) == build
    assert finished_build(GRAPH, [source.pinned for source in sources], HarvestConfig(6), tmp_path / "none") is None
    (folder / build.files[0]).unlink()
    assert harvest(GRAPH, sources, HarvestConfig(6), folder) == build
    assert contents_of(folder) == undisturbed


def test_other_builds_and_images_are_not_overwritten(tmp_path, undisturbed):
    folder = tmp_path / "undisturbed"
    with pytest.raises(InputError, match="holds another build, of small; choose an empty folder"):
        gathered(tmp_path, [BY_WNID], HarvestConfig(7), name="undisturbed")
    assert contents_of(folder) == undisturbed
    (folder / BUILD_FILE).unlink()
    with pytest.raises(InputError, match=r"already holds images \(images-00000-of-00001\.parquet\)"):
        gathered(tmp_path, [BY_WNID], HarvestConfig(7), name="undisturbed")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk(tmp_path, hub, undisturbed):
    sources = opened([BY_WNID])
    folder = tmp_path / "out" / ".harvest" / source_key(sources[0].pinned, GRAPH, HarvestConfig(6))
    folder.mkdir(parents=True)
    (folder / "00002.partial").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"cannot write .*00002\.partial: .*No space left on device.*; free"):
        harvest(GRAPH, sources, HarvestConfig(6), tmp_path / "out")
    assert contents_of(tmp_path / "out") == {}
    (folder / "00002.partial").unlink()
    assert contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6))) == undisturbed


# --- on the Hub -------------------------------------------------------------------------------------------------------

REPO, IMAGES = "hf://datasets/alice/graph", "hf://datasets/alice/images"


def test_the_data_set_on_the_hub(tmp_path, hub, undisturbed):
    import datasets

    folder = tmp_path / "undisturbed"
    (folder / "notes.txt").write_text("not for others")
    published = publish_graph(folder, REPO, IMAGES)
    assert published.graph.changed
    images = {path: content for path, content in undisturbed.items() if path != "graph.json"}
    assert hub.files("dataset", "alice/images") == images
    assert sorted(hub.files("dataset", "alice/graph")) == ["README.md", "graph.json"]
    loaded = datasets.load_dataset("alice/images", split="test")
    assert len(loaded) == 18
    assert loaded.features["image"] == datasets.Image()
    assert loaded[0]["image"].size == (4, 4)
    streamed_ = datasets.load_dataset("alice/images", split="test", streaming=True)
    assert [row["image_id"] for row in streamed_] == loaded["image_id"][:]

    location = fetch_graph_with_images(REPO)
    assert location.graph == GRAPH
    assert len(location.probes(SamplingConfig())) == 18
    again = publish_graph(folder, REPO, IMAGES)
    assert (again.graph.changed, again.graph.revision) == (False, published.graph.revision)
    assert (again.images.changed, again.images.revision) == (False, published.images.revision)


def test_a_build_replaces_the_previous_one_on_the_hub(tmp_path, hub, undisturbed, many, monkeypatch):
    publish_graph(tmp_path / "undisturbed", REPO, IMAGES)
    monkeypatch.setattr("graph.dataset._ROWS_PER_FILE", 10)
    publish_graph(gathered(tmp_path, [BY_WNID], HarvestConfig(6)), REPO, IMAGES)
    assert sorted(path for path in hub.files("dataset", "alice/images") if "images" in path) == [
        "images-00000-of-00002.parquet", "images-00001-of-00002.parquet"
    ]  # fmt: skip


def test_an_upload_recovers_from_a_few_errors(tmp_path, hub, undisturbed):
    hub.fail("/commit/", 503, times=2)
    hub.fail("/_lfs/", drop="before")
    publish_graph(tmp_path / "undisturbed", REPO, IMAGES)
    assert set(undisturbed) - {"graph.json"} == set(hub.files("dataset", "alice/images"))


def test_an_interrupted_upload_resumes(tmp_path, hub, undisturbed):
    hub.fail("/commit/", 500, times=1000)
    with pytest.raises(HubError, match="alice/images: the Hub answered with status 500"):
        publish_graph(tmp_path / "undisturbed", REPO, IMAGES)
    hub.disturbances.clear()
    hub.requests.clear()
    publish_graph(tmp_path / "undisturbed", REPO, IMAGES)
    assert not [request for request in hub.requests if request.startswith("PUT /_lfs")]  # they are there
    assert set(undisturbed) - {"graph.json"} == set(hub.files("dataset", "alice/images"))
