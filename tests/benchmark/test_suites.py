"""Target tasks from suites and image folders."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.suites import (
    load_tasks,
    read_image_folder,
    sampled,
)

CLASSES = ["cat", "dog", "red_fox"]


def picture(n):
    """Stands for an encoded image; nothing here decodes it."""
    return f"image {n}".encode()


# --- suites -----------------------------------------------------------------------------------------------------------


def write_task(folder, *, name="animals", labels=(0, 2, 1, 1), **facts):
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"name": name, "classes": CLASSES, **facts}))
    images = [picture(n) for n in range(len(labels))]
    pq.write_table(pa.table({"image": images, "label": list(labels)}), folder / "test.parquet")


def test_a_suite_is_read_in_the_order_of_its_folders(tmp_path):
    write_task(tmp_path / "b", name="second")
    write_task(tmp_path / "a", name="first", domain="photo", task="animal recognition")
    (tmp_path / "notes").mkdir()
    first, second = load_tasks(tmp_path)
    assert (first.name, first.domain, first.task) == ("first", "photo", "animal recognition")
    assert (second.name, second.domain, second.task) == ("second", None, None)
    assert first.classes == tuple(CLASSES)
    assert first.labels.tolist() == [0, 2, 1, 1]
    assert list(first.batches(3)) == [(picture(0), picture(1), picture(2)), (picture(3),)]
    assert first.revision == second.revision  # of what is in it, not of its name


# --- image folders ----------------------------------------------------------------------------------------------------


def fill_folder(folder):
    for name, count in {"dog": 3, "001.cat": 2}.items():
        (folder / name).mkdir()
        for n in range(count):
            (folder / name / f"{n}.JPG").write_bytes(picture(f"{name}-{n}"))
    (folder / "dog" / "notes.txt").write_text("no image")
    (folder / "dog" / ".0.jpg").write_bytes(b"hidden")
    (folder / "empty").mkdir()
    (folder / ".git").mkdir()
    (folder / ".git" / "0.jpg").write_bytes(b"hidden")
    (folder / "readme.jpg").write_bytes(b"not in a class")
    return folder


def test_folders_are_classes_and_what_is_no_image_does_not_count(tmp_path):
    task = read_image_folder(fill_folder(tmp_path))
    assert task.classes == ("001.cat", "dog")
    assert task.labels.tolist() == [0, 0, 1, 1, 1]
    assert task.images == tuple(
        picture(f"{name}-{n}") for name, n in (("001.cat", 0), ("001.cat", 1), ("dog", 0), ("dog", 1), ("dog", 2))
    )
    assert (task.name, task.domain, task.task) == (tmp_path.name, None, None)
    capped = read_image_folder(tmp_path, 2)
    some = sampled(5, 2)
    assert capped.images == tuple(task.images[n] for n in some)
    assert capped.labels.tolist() == task.labels[some].tolist()
