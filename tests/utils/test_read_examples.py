"""Images with their class: folders, CSV files, and what is wrong with them."""

from __future__ import annotations

import logging

import pytest
from PIL import Image

from mll_hf.errors import InputError
from mll_hf.utils.examples import check_examples, read_examples
from worlds import encoded

CLASSES = ("corroded pipe", "intact pipe", "weld")


def png(color=(200, 10, 10)):
    return encoded(Image.new("RGB", (8, 6), color))


@pytest.fixture
def folder(tmp_path):
    """Three examples of the first class, two of the last, and what does not count."""
    for name in ("corroded pipe/b.png", "corroded pipe/a.PNG", "corroded pipe/c.jpg", "weld/1.png", "weld/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    for name in ("notes.txt", "weld/notes.txt", "weld/.hidden.png", ".cache/x.png", "intact pipe/readme"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_a_folder_per_class(folder):
    pairs = read_examples(folder)
    names = [(path.relative_to(folder).as_posix(), name) for path, name, _ in pairs]
    assert names == [
        ("corroded pipe/a.PNG", "corroded pipe"),
        ("corroded pipe/b.png", "corroded pipe"),
        ("corroded pipe/c.jpg", "corroded pipe"),
        ("weld/1.png", "weld"),
        ("weld/2.png", "weld"),
    ]
    examples = check_examples(pairs, CLASSES)  # no example of one class is fine
    assert examples.images == tuple(path for path, *_ in pairs)
    assert examples.classes.tolist() == [0, 0, 0, 2, 2]


def test_spellings_of_a_name_are_one_class(tmp_path):
    for name in ("caf\u00e9", "cafe\u0301 ", "cat\u200b"):  # as files come from Linux, macOS and the web
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png())
    assert sorted(name for _, name, _ in read_examples(tmp_path)) == ["caf\u00e9", "caf\u00e9", "cat"]
    (tmp_path / "list.csv").write_text("path,class\na.png,cafe\u0301\n", encoding="utf-8")
    assert read_examples(tmp_path / "list.csv")[0][1] == "caf\u00e9"


def test_a_csv_file_with_paths_relative_to_it_or_absolute(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.png"
    elsewhere.write_bytes(png())
    table = folder / "examples.csv"
    table.write_text(f'\ufeffclass,note,path\nweld,"a, b",weld/1.png\n"intact pipe",,{elsewhere}\n', encoding="utf-8")
    assert read_examples(table) == [(folder / "weld/1.png", "weld", 1), (elsewhere, "intact pipe", 1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "file,class\na.png,weld\n",
            r"examples.csv has no column 'path' \(columns: file, class\); the columns must be named path and",
        ),
        ("path;class\na.png;weld\n", r"has no column 'path' \(columns: path;class\)"),
        ("", r"has no column 'path' \(columns: none\)"),
        ("path,class\na.png,weld\nb.png\n", "examples.csv: row 2 lacks a path or a class; fill in both"),
        ("path,class\na.png,\n", "row 1 lacks a path or a class"),
        ("path,class\n", "examples.csv holds no examples; give a folder"),
        ("path,class\n\x00\xff", "cannot be read"),
    ],
)
def test_csv_files_that_are_no_list_of_examples(tmp_path, content, message):
    (tmp_path / "examples.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        read_examples(tmp_path / "examples.csv")


def test_unknown_classes_are_named_with_the_nearest_one():
    pairs = [(png(), name) for name in ("weld", "Corroded_Pipe", "Corroded_Pipe", "wield", "weld")]
    with pytest.raises(InputError) as caught:
        check_examples(pairs, CLASSES)
    assert str(caught.value) == (
        "examples of unknown classes: 'Corroded_Pipe' (nearest: 'corroded pipe'), "
        "'wield' (nearest: 'weld'); use the class names of the task"
    )
    with pytest.raises(InputError, match="and 4 more; use the class names"):
        check_examples([(png(), f"class {n}") for n in range(7)], CLASSES)


def test_unreadable_images_are_skipped_with_a_warning(folder, caplog):
    (folder / "weld/broken.png").write_bytes(png()[:30])
    pairs = [*read_examples(folder), (folder / "weld/missing.png", "weld"), (b"no picture", "weld")]
    with caplog.at_level(logging.WARNING):
        examples = check_examples(pairs, CLASSES)
    assert [path.name for path in examples.images] == ["a.PNG", "b.png", "c.jpg", "1.png", "2.png"]
    assert examples.classes.tolist() == [0, 0, 0, 2, 2]
    beside, no_images, *_, unreadable = caplog.messages
    assert beside == f"left out of {folder}, beside its folders: .cache, notes.txt"
    assert no_images == f"left out of {folder / 'intact pipe'}: 1 not named like images (readme)"
    assert unreadable.startswith("left out 3 unreadable of the examples: ")
    assert f"{folder / 'weld/missing.png'} (No such file or directory)" in unreadable
    assert "an image without a path (not an image, or of an unknown format)" in unreadable
