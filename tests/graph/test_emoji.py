"""The graph that comes with the package: small, complete, and with a credit for every image."""

from pathlib import Path

import pytest

import mll_hf
from mll_hf.graph.authoring import check_graph
from mll_hf.hub.locations import PACKAGE_GRAPH, graph_with_images

OPEN = {"Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT"}


@pytest.fixture(scope="module")
def located():
    return graph_with_images(PACKAGE_GRAPH)


def test_it_is_valid_and_in_the_package(located):
    assert (located.location, located.images) == (PACKAGE_GRAPH, PACKAGE_GRAPH)
    assert Path(mll_hf.__file__).parent in located.folder.parents  # whose files are all in the wheel
    assert sum(path.stat().st_size for path in located.folder.iterdir()) < 5 * 10**6
    check_graph(located.graph, located.folder)
    assert list(located.graph.probes.by_domain) == ["emoji"]


def test_every_image_is_credited(located):
    readme = (located.folder / "README.md").read_text("utf-8")
    rows = [row for row in readme.splitlines() if "@iconify-json/" in row]
    for _, source in located.graph.probes.kinds:
        name, package, license = source.split(", ")
        (row,) = [row for row in rows if f"| {name} |" in row]
        assert package.removeprefix("npm ") in row
        assert license in OPEN
        assert row.rstrip().endswith(f"| {license} |")
    assert "Copyright (c) Microsoft Corporation" in readme
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in readme
    assert "says little about photos" in readme
