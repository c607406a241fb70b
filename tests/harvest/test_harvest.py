"""Gathering images from data sets of the Hub: what labels mean, which images are kept, and what survives a fault."""

import io
import json
import os
from collections import Counter
from hashlib import sha256
from itertools import count

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image as PILImage

from harvest_worlds import no_waits, pictures, put_parquet, put_tars, streamed
from mll_hf.errors import HubError, InputError, MLLError, StorageError
from mll_hf.graph.concepts import Concept, SemanticGraph, load_graph
from mll_hf.graph.probes import SamplingConfig, load_probes
from mll_hf.graph.wordnet import ClassList, class_wnids, leaf_names
from mll_hf.harvest import (
    BUILT_IN,
    PAPER_SOURCES,
    HarvestConfig,
    ImageSource,
    finished_build,
    gathering,
    harvest,
    open_all,
    parse_source,
    pin_all,
    read_label_file,
)
from mll_hf.harvest.dataset import file_count
from mll_hf.harvest.gathering import prepared
from mll_hf.harvest.record import BUILD_FILE, build_from_bytes, build_to_bytes
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


# --- naming sources ---------------------------------------------------------------------------------------------------


def test_the_five_sources_of_the_paper():
    assert [source.name for source in PAPER_SOURCES] == [
        "imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r"
    ]  # fmt: skip
    assert Counter(source.domain for source in PAPER_SOURCES) == {"photo": 3, "sketch": 1, "rendition": 1}
    assert all(parse_source(name) == source for name, source in BUILT_IN.items())


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
        ("imagenet-x", "there is no image source 'imagenet-x'; built in are imagenet, "),
        ("hf://models/org/birds?labels=wnid&domain=photo", "is not of the form hf://datasets/ORG/NAME"),
        ("hf://datasets/org/birds", "say labels=..."),
        ("hf://datasets/org/birds?labels=wnid", "say domain=..."),
        ("hf://datasets/org/birds?labels=wnid&domain=", "say domain=..."),
        ("hf://datasets/org/birds?labels=wnid&domain=photo&color=red", "unknown option color"),
        ("hf://datasets/org/birds?labels", "is not of the form labels=wnid&domain=photo"),
    ],
)
def test_sources_that_are_none(text, said):
    with pytest.raises(InputError) as refused:
        parse_source(text)
    assert said in str(refused.value)


def test_two_sources_of_one_name_are_refused():
    with pytest.raises(InputError, match="two image sources are called birds"):
        opened([BY_WNID, BY_WNID])


def test_files_of_labels(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"0": DOG, "tabby": CAT}))
    (tmp_path / "a.csv").write_text(f'0,{DOG}\n"tabby", {CAT}\n')
    assert read_label_file(tmp_path / "a.json") == read_label_file(tmp_path / "a.csv") == {"0": DOG, "tabby": CAT}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "[1]", "cannot be read as labels"),
        ("a.json", "{", "cannot be read as labels"),
        ("a.csv", "a,b,c", "cannot be read as labels"),
        ("a.csv", "", "has no labels"),
        ("a.csv", "0,dog", "'dog' is no wnid; write n and eight digits"),
        ("a.json", '{"0": 7}', "'7' is no wnid"),
        ("b.csv", None, "cannot be read as labels"),
    ],
)
def test_files_of_labels_that_are_none(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        read_label_file(tmp_path / name)


# --- what labels mean -------------------------------------------------------------------------------------------------


def nodes_of(folder):
    return Counter(row["node"] for row in rows_of(folder))


def test_labels_that_are_wnids(tmp_path):
    put_parquet("org/birds", pictures([DOG, CAT, CAT, "n00000099"]))
    folder = gathered(tmp_path, [BY_WNID])
    assert nodes_of(folder) == {DOG: 1, CAT: 2}
    assert build_from_bytes((folder / BUILD_FILE).read_bytes()).sources[0].tally.outside == 1


def test_classes_that_are_called_by_wnids(tmp_path):
    put_parquet("org/birds", pictures([0, 1, 1]), names=[CAT, CORGI])
    assert nodes_of(gathered(tmp_path, [BY_WNID])) == {CAT: 1, CORGI: 2}


def test_classes_by_name_and_by_number_in_a_file(tmp_path):
    (tmp_path / "labels.csv").write_text(f"tabby,{CAT}\n1,{CORGI}\n")
    put_parquet("org/birds", pictures([0, 1, 1, 2]), names=["tabby", "dwarf", "teapot"])
    source = ImageSource("birds", "org/birds", str(tmp_path / "labels.csv"), "photo")
    folder = gathered(tmp_path, [source])
    assert nodes_of(folder) == {CAT: 1, CORGI: 2}
    assert build_from_bytes((folder / BUILD_FILE).read_bytes()).sources[0].tally.outside == 1  # the teapot


def test_labels_that_are_names(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"tabby": CAT}))
    put_parquet("org/birds", pictures(["tabby", "teapot"]))
    assert nodes_of(gathered(tmp_path, [ImageSource("b", "org/birds", str(tmp_path / "labels.json"), "p")])) == {CAT: 1}


def test_classes_whose_names_say_something_else_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text(f"0,{CAT}\n1,{DOG}\n")
    put_parquet("org/birds", pictures([0, 1]), names=["hound", "Cat"])
    source = ImageSource("birds", "org/birds", str(tmp_path / "labels.csv"), "photo")
    said = rf"org/birds: its class names contradict labels=\.\.\. in 2 of 2 classes, such as 'hound' for {CAT}; correct"
    with pytest.raises(HubError, match=said):
        opened([source])
    put_parquet("org/birds", pictures([0, 1]), names=[DOG, CAT])
    with pytest.raises(HubError, match=f"such as '{DOG}' for {CAT}"):
        opened([source])
    put_parquet("org/birds", pictures([0, 1]), names=["tabby, cat", "my own word"])
    opened([source])


def test_class_names_that_should_be_wnids_are_refused():
    put_parquet("org/birds", pictures([0, 1]), names=["hound", "cat"])
    with pytest.raises(HubError, match="its labels are no wnids but such as 'hound'; give a file: labels=FILE"):
        opened([BY_WNID])


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


def test_numbers_count_through_the_list(tmp_path, imagenet):
    put_tars("org/v2", pictures([0, 263, 999, 263]), names=curated(ClassList.IMAGENET_1K))
    put_tars("org/a", pictures([0, 199], start=50), names=curated(ClassList.IMAGENET_A))
    folder = gathered(tmp_path, [OF_1K, OF_A], graph=imagenet)
    whole, few = class_wnids(ClassList.IMAGENET_1K), class_wnids(ClassList.IMAGENET_A)
    assert nodes_of(folder) == {whole[0]: 1, whole[263]: 2, whole[999]: 1, few[0]: 1, few[199]: 1}


def test_numbers_of_another_list_are_refused(imagenet):
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


@pytest.mark.parametrize("label", [200, -1])
def test_a_number_beyond_the_list_is_refused(tmp_path, imagenet, label):
    put_tars("org/a", pictures([0, 1, label]), shards=1)
    with pytest.raises(HubError, match=f"org/a: has a label '{label}', which imagenet-a lacks"):
        gathered(tmp_path, [OF_A], graph=imagenet)


# --- data sets that cannot be read ------------------------------------------------------------------------------------


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
    assert "has no column 'cls', but image, label; say label=COLUMN" in refusal([parse_source(f"{other}&label=cls")])
    assert "has no column of images 'img', but image" in refusal([parse_source(f"{other}&image=img")])
    assert "has no column of images 'label', but image" in refusal([parse_source(f"{other}&image=label")])
    hub.repos["dataset", "org/birds"].gated = "auto"
    assert "org/birds: is gated; accept its terms at http://127.0.0.1" in refusal([BY_WNID])
    hub.put("dataset", "org/empty", {"README.md": b"# nothing"})
    assert "org/empty: cannot be streamed" in refusal([ImageSource("e", "org/empty", "wnid", "photo")])
    hub.put("dataset", "org/text", {"test.csv": b"a,label\n1,2\n"})
    assert "has no single column of images, but none" in refusal([ImageSource("t", "org/text", "wnid", "photo")])


def test_a_file_that_is_no_parquet(hub):
    hub.put("dataset", "org/birds", {"data/test-00000-of-00001.parquet": b"not parquet at all"})
    assert refusal([BY_WNID]).startswith("org/birds: cannot be streamed (")


# --- which images -----------------------------------------------------------------------------------------------------


def ids(folder):
    return {(row["node"], row["image_id"]) for row in rows_of(folder)}


@pytest.fixture
def many():
    """Pictures of three concepts, in an order of their own."""
    labels = [CORGI, CAT, CAT, CAR, CORGI, CAT, CAR] * 9
    return pictures(labels)


def test_the_sample_depends_on_the_images_alone(tmp_path, many):
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


def test_another_seed_draws_others_and_a_smaller_sample_is_part_of_a_larger(tmp_path, many):
    put_parquet("org/birds", many)
    found = [
        ids(gathered(tmp_path, [BY_WNID], HarvestConfig(most, seed), name=f"{most}-{seed}"))
        for most, seed in ((4, 0), (8, 0), (4, 1))
    ]
    assert found[0] < found[1]
    assert found[0] != found[2]


def test_the_draw_is_even(tmp_path):
    rows = pictures([CAT] * 60)
    put_parquet("org/birds", rows, shards=1)
    sources, drawn = opened([BY_WNID]), Counter()
    position = {sha256(content).hexdigest()[:32]: at for at, (content, _) in enumerate(rows)}
    for seed in range(40):
        harvest(GRAPH, sources, HarvestConfig(6, seed), tmp_path / str(seed))
        drawn.update(position[id] // 20 for _, id in ids(tmp_path / str(seed)))
    assert sum(drawn.values()) == 240
    assert all(55 <= drawn[third] <= 105 for third in range(3))  # 80 expected, 3.4 standard deviations


def test_sources_take_turns_and_leave_what_they_lack_to_others(tmp_path):
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


def test_a_picture_that_two_sources_have_is_taken_once(tmp_path):
    same = pictures([CAT] * 4)
    put_parquet("org/a", same + same[:2])
    put_parquet("org/b", same[2:] + pictures([CAT], start=50))
    folder = gathered(tmp_path, [ImageSource(n, f"org/{n}", "wnid", "photo") for n in "ab"])
    assert len(rows_of(folder)) == len(ids(folder)) == 5
    record = build_from_bytes((folder / BUILD_FILE).read_bytes())
    assert sum(source.images for source in record.sources) == 5


def test_images_are_kept_as_they_are_encoded(tmp_path):
    rows = pictures([CAT, CORGI, CAR])
    put_parquet("org/birds", rows)
    stored = {row["node"]: row["image"]["bytes"] for row in rows_of(gathered(tmp_path, [BY_WNID]))}
    assert stored == {label: content for content, label in rows}


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
def test_what_cannot_be_decoded_is_left_out_and_counted(tmp_path, content):
    assert prepared(content, 64) is None
    put_parquet("org/birds", [*pictures([CAT, CAT]), (content, CAT), (content, "n00000099")], shards=2)
    folder = gathered(tmp_path, [BY_WNID])
    assert len(rows_of(folder)) == 2
    tally = build_from_bytes((folder / BUILD_FILE).read_bytes()).sources[0].tally
    assert (tally.seen, tally.undecodable, tally.outside) == (4, 1, 1)


def test_a_row_without_an_image_is_left_out(tmp_path):
    put_parquet("org/birds", [*pictures([CAT, CAT]), (None, CAT)], shards=1)
    assert len(rows_of(gathered(tmp_path, [BY_WNID]))) == 2


def test_no_image_of_any_concept(tmp_path):
    put_parquet("org/birds", pictures(["n00000099"]), shards=1)
    with pytest.raises(InputError, match="no source has an image of any of the graph's concepts"):
        gathered(tmp_path, [BY_WNID])
    assert contents_of(tmp_path / "out") == {}


@pytest.mark.parametrize("values", [{"images_per_concept": 0}, {"max_side": 0}])
def test_settings_that_make_no_sense(values):
    with pytest.raises(InputError, match="at least 1"):
        HarvestConfig(**values)


# --- the files --------------------------------------------------------------------------------------------------------


def test_how_many_files():
    assert [file_count(images) for images in (1, 2000, 2001, 75_000, 470_000, 10**7)] == [1, 1, 2, 48, 240, 720]


def test_files_of_a_larger_build(tmp_path, monkeypatch):
    monkeypatch.setattr("mll_hf.harvest.dataset._ROWS_PER_FILE", 130)
    put_parquet("org/birds", pictures([CAT, CAR] * 200), shards=3)
    folder = gathered(tmp_path, [BY_WNID], HarvestConfig(images_per_concept=200))
    files = [pq.ParquetFile(path) for path in sorted(folder.glob("images*.parquet"))]
    assert [path.name for path in sorted(folder.glob("images*"))] == [
        f"images-{i:05}-of-00004.parquet" for i in range(4)
    ]
    assert [file.metadata.num_rows for file in files] == [100] * 4
    assert all(f.metadata.row_group(g).num_rows <= 100 for f in files for g in range(f.num_row_groups))
    assert all(30 <= sum(n == CAT for n in f.read().column("node").to_pylist()) <= 70 for f in files)  # each a sample
    features = json.loads(files[0].schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert list(features) == files[0].schema_arrow.names == ["image", "node", "style", "source", "image_id"]


def test_graph_and_probes_are_read_back(tmp_path, many):
    put_parquet("org/birds", many)
    folder = gathered(tmp_path, [BY_WNID])
    graph = load_graph(folder)
    assert graph == GRAPH
    probes = load_probes(graph, folder, SamplingConfig(images_per_concept=7))
    assert [len(probes.images_of(v)) for v in range(4)] == [7, 7, 7, 7]  # dogs are the corgis
    assert sorted(content for batch in probes.iter_image_bytes(8) for content in batch) == sorted(
        row["image"]["bytes"] for at, row in enumerate(rows_of(folder)) if at in set(probes.rows.tolist())
    )


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
    assert (build.images, build.concepts_with_images, build.concepts_tested, build.is_gated) == (27, 3, 4, True)
    assert [(s.name, s.images, s.concepts, s.tally.seen) for s in build.sources] == [
        ("birds", 26, 3, 63),
        ("art", 1, 1, 1),
    ]
    card = (folder / "README.md").read_text()
    assert (
        f"| birds | [org/birds](https://huggingface.co/datasets/org/birds) | `{sha[:12]}` | photo | 26 | 3 | 63 |"
        in card
    )
    assert "| sketch | 1 |" in card
    assert "- art: CC0 (gated)" in card
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["dataset_info"]["splits"][0]["num_examples"] == 27
    assert metadata["size_categories"] == ["n<1K"]
    assert f"mll-graph-{GRAPH.digest[:12]}" in metadata["tags"]
    for other in (b"{}", b"[1]", b"{", content.replace(b'"seen"', b'"sawn"')):
        with pytest.raises(InputError, match=r"build\.json is not of this version"):
            build_from_bytes(other)


# --- faults on the way ------------------------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(tmp_path, many):
    """What comes out if nothing goes wrong."""
    put_parquet("org/birds", many, shards=4)
    return contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6), name="undisturbed"))


@pytest.mark.parametrize("how", [{"status": 503}, {"drop": "before"}, {"cut": 100}])
def test_a_stream_that_stumbles_goes_on(tmp_path, hub, undisturbed, how):
    hub.fail("test-00002-of", times=2, method="GET", **how)
    assert contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6))) == undisturbed


def test_a_stream_that_breaks_off_loses_nothing(tmp_path, hub, undisturbed):
    sources = opened([BY_WNID])
    hub.fail("test-00002-of", 500, times=10_000)
    with pytest.raises(HubError, match=r"org/birds: the stream broke off in shard 3 of 4 \(.*the same command goes on"):
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


def test_a_tar_that_is_cut_is_read_again(tmp_path, hub, many):
    labels = [CORGI, CAT, CAR]
    put_tars("org/wds", [(content, labels.index(label)) for content, label in many], shards=3)
    (tmp_path / "l.json").write_text(json.dumps(dict(zip("012", labels, strict=True))))
    source = ImageSource("birds", "org/wds", str(tmp_path / "l.json"), "photo", label="cls")
    whole = contents_of(gathered(tmp_path, [source], name="whole"))
    sources = opened([source])
    hub.fail("test/1.tar", times=1, method="GET", alter=lambda body: body[:5000])
    harvest(GRAPH, sources, HarvestConfig(), tmp_path / "out")
    assert contents_of(tmp_path / "out") == whole


def test_access_that_is_lost_is_not_tried_again(tmp_path, hub, undisturbed, no_waits):
    sources = opened([BY_WNID])
    hub.fail("test-00001-of", 403, times=100)
    no_waits.waits.clear()
    with pytest.raises(HubError, match="org/birds: "):
        harvest(GRAPH, sources, HarvestConfig(6), tmp_path / "out")
    assert not [wait for wait in no_waits.waits if wait >= 30]


@pytest.mark.parametrize("stop", range(4))
def test_a_run_that_is_stopped_goes_on(tmp_path, hub, undisturbed, stop, monkeypatch):
    decoded = count()

    def interrupted(*args):
        if next(decoded) == 5 + 10 * stop:
            raise KeyboardInterrupt
        return prepared(*args)

    with monkeypatch.context() as patch:
        patch.setattr("mll_hf.harvest.gathering.prepared", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gathered(tmp_path, [BY_WNID], HarvestConfig(6))
    assert contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6))) == undisturbed


@pytest.mark.parametrize("step", ["write_files", "save_graph", "write_atomically"])
def test_a_run_that_is_stopped_while_it_writes_goes_on(tmp_path, hub, undisturbed, step, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"mll_hf.harvest.{step}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gathered(tmp_path, [BY_WNID], HarvestConfig(6))
    sources = opened([BY_WNID])
    hub.requests.clear()
    harvest(GRAPH, sources, HarvestConfig(6), tmp_path / "out")
    assert contents_of(tmp_path / "out") == undisturbed
    assert not streamed()  # all was gathered


@pytest.mark.parametrize("damage", ["json", "images"])
def test_a_working_folder_that_was_damaged_is_read_again(tmp_path, hub, undisturbed, damage):
    sources = opened([BY_WNID])
    hub.fail("test-00003-of", 500, times=10_000)
    with pytest.raises(HubError):
        harvest(GRAPH, sources, HarvestConfig(6), tmp_path / "out")
    hub.disturbances.clear()
    (file,) = (tmp_path / "out").glob(f".harvest/*/00001.{damage}")
    file.write_bytes(file.read_bytes()[:-9])
    assert contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6))) == undisturbed


def test_what_is_finished_is_not_built_again(tmp_path, hub, undisturbed):
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


def test_one_source_more_reads_the_others_not_again(tmp_path, hub, many):
    put_parquet("org/birds", many, shards=4)
    put_parquet("org/more", pictures([CAT], start=300), shards=1)
    sources = opened([BY_WNID, ImageSource("more", "org/more", "wnid", "sketch")])
    hub.fail("more/.*test-00000-of", 500, times=10_000, method="GET")
    with pytest.raises(HubError, match="org/more: the stream broke off in shard 1 of 1"):
        harvest(GRAPH, sources, HarvestConfig(), tmp_path / "out")
    hub.disturbances.clear()
    hub.requests.clear()
    harvest(GRAPH, sources, HarvestConfig(), tmp_path / "out")
    assert not streamed("birds")


def test_a_folder_with_something_else_is_left_alone(tmp_path, undisturbed):
    folder = tmp_path / "undisturbed"
    with pytest.raises(InputError, match="holds another build, of small; choose an empty folder"):
        gathered(tmp_path, [BY_WNID], HarvestConfig(7), name="undisturbed")
    assert contents_of(folder) == undisturbed
    (folder / BUILD_FILE).unlink()
    with pytest.raises(InputError, match=r"holds images already \(images-00000-of-00001\.parquet\)"):
        gathered(tmp_path, [BY_WNID], HarvestConfig(7), name="undisturbed")


def test_a_folder_that_cannot_be_written(tmp_path, many):
    put_parquet("org/birds", many)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot write .*out.*; choose another folder"):
        gathered(tmp_path, [BY_WNID])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_disk_that_is_full(tmp_path, hub, undisturbed, monkeypatch):
    full = tmp_path / "full" / "00002.images"
    full.parent.mkdir()
    full.symlink_to("/dev/full")
    real = gathering._blob
    with monkeypatch.context() as patch:
        patch.setattr(gathering, "_blob", lambda folder, shard: full if shard == 2 else real(folder, shard))
        with pytest.raises(StorageError, match=r"cannot write .*00002\.images: No space left on device; free"):
            gathered(tmp_path, [BY_WNID], HarvestConfig(6))
    assert contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6))) == undisturbed


# --- on the Hub -------------------------------------------------------------------------------------------------------

REPO = "hf://datasets/alice/graph"


def test_the_data_set_on_the_hub(tmp_path, hub, undisturbed):
    import datasets

    folder = tmp_path / "undisturbed"
    (folder / "notes.txt").write_text("not for others")
    published = publish_graph(folder, REPO)
    assert published.changed
    assert hub.files("dataset", "alice/graph") == {**hub.files("dataset", "alice/graph"), **undisturbed}
    assert not {"notes.txt"} & set(hub.files("dataset", "alice/graph"))
    loaded = datasets.load_dataset("alice/graph", split="test")
    assert len(loaded) == 18
    assert loaded.features["image"] == datasets.Image()
    assert loaded[0]["image"].size == (4, 4)
    streamed_ = datasets.load_dataset("alice/graph", split="test", streaming=True)
    assert [row["image_id"] for row in streamed_] == loaded["image_id"][:]

    location = fetch_graph_with_images(REPO)
    assert location.graph == GRAPH
    assert len(location.probes(SamplingConfig())) == 18
    again = publish_graph(folder, REPO)
    assert (again.changed, again.revision) == (False, published.revision)


def test_a_build_replaces_the_one_before(tmp_path, hub, undisturbed, many, monkeypatch):
    publish_graph(tmp_path / "undisturbed", REPO)
    monkeypatch.setattr("mll_hf.harvest.dataset._ROWS_PER_FILE", 10)
    publish_graph(gathered(tmp_path, [BY_WNID], HarvestConfig(6)), REPO)
    assert sorted(path for path in hub.files("dataset", "alice/graph") if "images" in path) == [
        "images-00000-of-00002.parquet", "images-00001-of-00002.parquet"
    ]  # fmt: skip


def test_an_upload_that_stumbles_goes_on(tmp_path, hub, undisturbed):
    hub.fail("/commit/", 503, times=2)
    hub.fail("/_lfs/", drop="before")
    publish_graph(tmp_path / "undisturbed", REPO)
    assert undisturbed.items() <= hub.files("dataset", "alice/graph").items()


def test_an_upload_that_was_broken_off_goes_on(tmp_path, hub, undisturbed):
    hub.fail("/commit/", 500, times=1000)
    with pytest.raises(HubError, match="alice/graph: the Hub answered with status 500"):
        publish_graph(tmp_path / "undisturbed", REPO)
    hub.disturbances.clear()
    hub.requests.clear()
    publish_graph(tmp_path / "undisturbed", REPO)
    assert not [request for request in hub.requests if request.startswith("PUT /_lfs")]  # they are there
    assert undisturbed.items() <= hub.files("dataset", "alice/graph").items()


def test_publishing_where_it_may_not_be(tmp_path, hub, undisturbed):
    folder = tmp_path / "undisturbed"
    hub.put("dataset", "alice/other", {"data.csv": b"1"})
    with pytest.raises(InputError, match=r"is a dataset of another kind \(data\.csv\)"):
        publish_graph(folder, "hf://datasets/alice/other")
    hub.put("dataset", "bob/graph", {})
    with pytest.raises(HubError, match="bob/graph: your token may not do this"):
        publish_graph(folder, "hf://datasets/bob/graph")
    with pytest.raises(InputError, match="names a revision"):
        publish_graph(folder, f"{REPO}@v1")
    publish_graph(folder, REPO, private=True)
    assert hub.repos["dataset", "alice/graph"].private
    hub.put("dataset", "alice/public", {})
    with pytest.raises(InputError, match="exists already and is public"):
        publish_graph(folder, "hf://datasets/alice/public", private=True)
