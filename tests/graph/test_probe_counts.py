"""Numbers of probe images in graph.json: what they say, and that they are read as hostile input."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.errors import GraphError, LabelError
from mll_hf.graph.concepts import graph_from_json, graph_to_bytes, load_graph
from mll_hf.graph.probes import count_probes, load_probes
from mll_hf.labels.store import check_label_fits
from worlds import CAR, CAT, CORGI, Probe, make_graph, make_label, write_graph_folder

GRAPH = make_graph()
PROBES = [Probe("car", CAR, "photo", "mine")] * 4 + [Probe("cat", CAT, "sketch", "mine")] * 3
PROBES += [Probe("corgi", CORGI, "photo", "yours"), Probe("corgi", CORGI, None)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_graph_folder(tmp_path_factory.mktemp("graph") / "tiny", PROBES)


@pytest.fixture(scope="module")
def counted(folder):
    """The graph with the numbers of its images."""
    return GRAPH.with_probes(count_probes(GRAPH, folder, "somewhere"))


def label_of(graph, folder, most=75, **changes):
    """A label as it is measured on the images of a folder."""
    probes = load_probes(graph, folder, most)
    images, concepts = probes.pairs_by_image
    support = np.zeros((len(probes.domain_names), len(graph)), int)
    np.add.at(support, (probes.domains[images], concepts), 1)
    settings = {"domain_names": probes.domain_names, "domain_support": support, "domain_hits": support}
    given = {"probes_digest": probes.digest, "images_per_concept": probes.images_per_concept}
    return make_label(graph, **settings | given | changes)


def test_numbers_by_concept_domain_and_source(counted, folder):
    probes = counted.probes
    assert probes.kinds == (("photo", "mine"), ("photo", "yours"), ("sketch", "mine"), ("unknown", "unknown"))
    assert dict(probes.images) == {"car": ((0, 4),), "cat": ((2, 3),), "corgi": ((1, 1), (3, 1))}
    assert (probes.total, probes.by_domain) == (9, {"photo": 5, "sketch": 3, "unknown": 1})
    pools = counted.probe_pools
    assert pools[:, GRAPH.index["pet"]].tolist() == [1, 3, 1]
    assert pools.sum(axis=0).tolist() == [5, 4, 3, 2, 2, 5, 4]
    assert load_probes(GRAPH, folder).digest == probes.digest


def test_they_are_part_of_the_file_and_not_of_the_graph(counted, tmp_path):
    (tmp_path / "graph.json").write_bytes(graph_to_bytes(counted))
    read = load_graph(tmp_path)
    assert read.probes == counted.probes
    assert (read, read.digest) == (GRAPH, GRAPH.digest)
    assert graph_to_bytes(read) == graph_to_bytes(counted) != graph_to_bytes(GRAPH)
    assert counted.with_probes(read.probes) is counted


GOOD = {"location": "x", "files": ["a" * 64], "kinds": [["photo", "b"], ["photo", "c"]], "images": {"car": [[0, 2]]}}


@pytest.mark.parametrize(
    "changes",
    [
        {"location": 3},
        {"files": ["../x"]},
        {"files": None},
        {"kinds": [["photo", "c"], ["photo", "b"]]},
        {"kinds": [["photo", "b"], ["photo", "b"]]},
        {"kinds": [["photo"]]},
        {"kinds": [3]},
        {"kinds": [[f"domain {n:03}", "b"] for n in range(256)]},  # these by concepts would fill the memory
        {"images": {"car": [[2, 1]]}},
        {"images": {"car": [[0, -1]]}},
        {"images": {"car": [[0, 2**40]]}},
        {"images": {"car": [[0, 1], [0, 1]]}},
        {"images": {"car": [[True, 1]]}},
        {"images": {"car": [0, 1]}},
        {"images": {"car": 3}},
        {"images": {"train": [[0, 1]]}},
        {"images": []},
    ],
)
def test_malformed_numbers_are_refused_in_one_line(changes):
    document = {**json.loads(graph_to_bytes(GRAPH)), "probes": GOOD}
    assert graph_from_json(document).probes.total == 2
    with pytest.raises(GraphError, match="'probes'") as caught:
        graph_from_json({**document, "probes": {**GOOD, **changes}})
    assert "\n" not in str(caught.value)


# --- labels that contradict them


def test_honest_labels_pass(counted, folder):
    for most in (1, 2, 75):
        check_label_fits(label_of(GRAPH, folder, most), counted)
    many = GRAPH.with_probes(replace(counted.probes, images={"car": ((0, 100),)}))
    undecodable = make_label(GRAPH, support=[0, 58, 0, 0, 0, 0, 58], probes_digest=many.probes.digest)
    check_label_fits(replace(undecodable, images_per_concept=60), many)
    few = make_label(GRAPH, support=[0, 56, 0, 0, 0, 0, 56], probes_digest=many.probes.digest)
    with pytest.raises(LabelError, match="has 112 tests instead of 120"):
        check_label_fits(replace(few, images_per_concept=60), many)


def test_a_label_that_lies_about_its_probe_images(counted, folder):
    digest = counted.probes.digest
    easy = make_label(GRAPH, support=1, probes_digest=digest)  # measured on an image of each concept
    with pytest.raises(LabelError, match=f"was not measured on the probe images that it names .{digest[:12]}.: it has"):
        check_label_fits(easy, counted)
    with pytest.raises(LabelError, match="has 35 tests instead of 25"):
        check_label_fits(make_label(GRAPH, support=5, probes_digest=digest), counted)
    honest = label_of(GRAPH, folder)
    swapped = label_of(GRAPH, folder, domain_names=("drawing", *honest.domain_names[1:]))
    with pytest.raises(LabelError, match="has more tests on 'drawing' than possible"):
        check_label_fits(swapped, counted)
    # with the digest of its own images it is honest, and compares with none of the others
    check_label_fits(make_label(GRAPH, support=1), counted)
    assert make_label(GRAPH, support=1).key != honest.key
