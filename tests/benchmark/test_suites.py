"""Target tasks from suites."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.suites import (
    load_tasks,
)
from mll_hf.errors import InputError

CLASSES = ["cat", "dog", "red_fox"]


def picture(n):
    """Stands for an encoded image; nothing here decodes it."""
    return f"image {n}".encode()


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
    with pytest.raises(InputError, match="is not a task, and has none"):
        load_tasks(tmp_path / "notes")
