"""Probe images that may be passed on: licenses and authors, and the layout of Open Images."""

import datasets
import pytest

from graph import build_graph
from graph.credits import credit_in
from graph.wordnet import ClassList, leaf_names
from harvest_worlds import no_waits, picture, put_features, streamed
from wordnet_worlds import imagenet_nouns, write_nouns

__all__ = ["no_waits"]  # a fixture

pytestmark = pytest.mark.usefixtures("no_waits")

BY, BY_NC, BY_ND = (f"http://creativecommons.org/licenses/{kind}/2.0/" for kind in ("by", "by-nc", "by-nd"))
OPEN_IMAGES_COLUMNS = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,"
    "Thumbnail300KURL,Rotation"
)


@pytest.mark.parametrize(
    ("row", "open_"),
    [
        ({"license": "cc-by-sa-4.0", "author": "Ann"}, True),
        ({"license": "http://flickr.com/commons/usage/", "url": "page"}, True),
        ({"license": BY_NC, "author": "Ann"}, False),
        ({"license": BY_ND, "author": "Ann"}, False),
        ({"license": "all rights reserved", "author": "Ann"}, False),
        ({"license": 4, "author": "Ann"}, False),  # numberings differ
        ({"license": None, "author": "Ann"}, False),
        ({"license": "", "License": "  ", "author": "Ann"}, False),
        ({"author": "Ann"}, False),
        ({"license": BY}, False),
        ({"license": BY, "author": " ", "url": None}, False),
    ],
)
def test_which_images_may_be_passed_on(row, open_):
    assert credit_in(row).is_redistributable == open_


def open_images_file(file, images):
    """Image metadata of Open Images with the license and author of each image."""
    rows = [f'{id},test,u,https://flickr.test/{id},{of},p,"{author}","T, and",1,m,t,0' for id, of, author in images]
    file.write_text("\n".join([OPEN_IMAGES_COLUMNS, *rows, ""]))
    return file


PUSH = [
    "--push-to",
    "hf://datasets/alice/graph",
    "--images-to",
    "hf://datasets/alice/open",
    "--images-access",
    "public",
]


@pytest.fixture
def open_images(tmp_path, hub):
    """A dataset as the card of vikhyatk/openimages-human-labels describes it; returns the file of credits."""
    label = {"label": datasets.Value("string"), "confidence": datasets.Value("float32")}
    features = {key: datasets.Value("string") for key in ("image_id", "original_url", "title")}
    features |= {"image": datasets.Image(), "labels": datasets.List(label)}
    labels = [
        [("Zebra", 1), ("Ladder", 0)], [("Zebra", 1), ("Goldfish", 1)], [("Zebra", 1)], [("Goldfish", 1)],
        [("Mouse", 1)], [("Goldfish", 1), ("Jacuzzi", 1)],
    ]  # fmt: skip
    rows = [
        {
            "image_id": f"00{i}", "original_url": "u", "title": "t", "image": {"bytes": picture(3, i), "path": None},
            "labels": [{"label": name, "confidence": sure} for name, sure in of],
        }
        for i, of in enumerate(labels)
    ]  # fmt: skip
    put_features("vikhyatk/openimages-human-labels", rows, features, split="test")
    images = [("000", BY, "Ann"), ("001", BY, "Ann"), ("002", BY_NC, "Bob"), ("003", BY, ""), ("004", BY, "Cem")]
    return open_images_file(tmp_path / "test-images-with-rotation.csv", images)


@pytest.fixture
def command(tmp_path):
    """Arguments of the script, for a graph of ImageNet's classes."""
    folder = write_nouns(tmp_path / "nouns", imagenet_nouns(leaf_names(ClassList.IMAGENET_1K)))
    return ["--leaves", "imagenet-1k", "--wordnet", str(folder), "--out", str(tmp_path / "out"), "--redistributable"]


def test_build_and_publish_images_that_may_be_passed_on(tmp_path, capsys, hub, open_images, command):
    arguments = [*command, "--source", f"open-images?credits={open_images}", *PUSH]
    assert build_graph.main(arguments) == 0
    said = capsys.readouterr().out
    counts = "2 images of 2 concepts, of 6 seen (1 without a concept here, 0 undecodable, 2 unlicensed, 1 ambiguous)"
    assert f"open-images: {counts}" in said
    assert not hub.repos["dataset", "alice/open"].private
    rows = datasets.load_dataset("alice/open", split="test")
    assert sorted(zip(rows["node"], rows["license"], rows["author"], rows["url"], strict=True)) == [
        ("n01443537", "cc-by-2.0", None, "https://flickr.test/003"),
        ("n02391049", "cc-by-2.0", "Ann", "https://flickr.test/000"),
    ]
    assert b"## Attribution" in hub.files("dataset", "alice/open")["README.md"]
    hub.requests.clear()
    assert build_graph.main(arguments) == 0
    assert not streamed("human-labels/resolve")
