"""Class names and prompt templates."""

import json

import pytest

from mll_hf.errors import InputError
from mll_hf.matching.prompts import (
    TEMPLATES,
    check_class_names,
    clean_class_name,
    fill,
    named_domain,
    parse_class_names,
    split_class_names,
    templates_for,
)


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("12_dog", "dog"),
        ("0 - zero", "zero"),
        ("  ice \t cream ", "ice cream"),
        ("ApplyEyeMakeup", "Apply Eye Makeup"),
        ("7", "7"),
        ("3d printer", "3d printer"),
        ("7-Eleven", "7-Eleven"),
        ("McDonald", "McDonald"),
        ("___", ""),
    ],
)
def test_clean_class_name(name, cleaned):
    assert clean_class_name(name) == cleaned
    assert clean_class_name(cleaned) == cleaned


def test_all_faults_are_listed_in_one_line():
    with pytest.raises(InputError) as caught:
        check_class_names(["dog", "  ", "Dog", "ice_cream", "Ice  cream", "x" * 201, 5, "___"])
    message = str(caught.value)
    assert "\n" not in message
    for part in ("name 2 is empty", "'Dog' repeats 'dog'", "'Ice cream' repeats 'ice_cream'", "longer than 200"):
        assert part in message
    assert "name 7 is not a string (5)" in message
    assert "name 8 is empty" in message


def test_names_by_number_are_taken_in_that_order():
    assert check_class_names({10: "newt", 0: " cat", 2: "dog"}) == ("cat", "dog", "newt")
    assert check_class_names({"cat": 1, "dog": 0}) == ("cat", "dog")
    with pytest.raises(InputError, match="no class names"):
        check_class_names({})


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "caf\udce9", "\x00"])
def test_names_that_are_no_text_are_refused(name):
    with pytest.raises(InputError, match="not text") as caught:
        check_class_names(["dog", name])
    assert str(caught.value).isprintable()
    check_class_names(["dog", "\U0001f469\u200d\U0001f680", "a\u00a0b", "two\nlines"])


def test_names_that_only_differ_in_their_numbering_are_refused_with_the_reason():
    with pytest.raises(InputError, match=r"'20_euro' repeats '10_euro' \(both are read as 'euro'\)"):
        check_class_names(["10_euro", "20_euro"])
    assert check_class_names(["10 euro", "20 euro"]) == ("10 euro", "20 euro")


def test_names_on_the_command_line():
    assert parse_class_names('a, "b, c" ,d') == ("a", "b, c", "d")
    assert parse_class_names('5" floppy, dog\ncat') == ('5" floppy', "dog", "cat")
    assert parse_class_names("and/or gate") == ("and/or gate",)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("c.txt", "\ufeffdog\n\n# pets\n  wild cat  \nred, white\n"),
        ("c.json", json.dumps(["dog", "wild cat", "red, white"])),
        ("id2label.json", json.dumps({"10": "red, white", "0": "dog", "2": "wild cat"})),
        ("by number.json", json.dumps({"classes": {"0": "dog", "1": "wild cat", "2": "red, white"}})),
        ("task.json", json.dumps({"name": "x", "classes": ["dog", "wild cat", "red, white"]})),
        ("c.csv", 'class,count\ndog,1\n"wild cat",2\n\n"red, white",3\n'),
        ("c.csv", '\ufeff"id";"Name"\r\n0;dog\r\n1;"wild\ncat"\r\n;\r\n2;red, white\r\n'),  # of a spreadsheet
        ("c.tsv", "id\tlabel\n0\tdog\n1\twild cat\n2\tred, white"),
        ("c.csv", "dog\twild\nwild cat\twild\nred, white\t\n"),
        ("c.txt", '["dog", "wild cat", "red, white"]'),
        ("c.txt", '# one line\ndog, wild cat, "red, white"\n'),
        ("c.yaml", "- dog\n- wild cat\n- red, white\n"),
        ("c.txt", "dog,\nwild cat,\nred, white"),
    ],
)
def test_names_in_a_file(tmp_path, file, content):
    path = tmp_path / file
    path.write_text(content, encoding="utf-8", newline="")
    assert parse_class_names(str(path)) == ("dog", "wild cat", "red, white")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("c.json", b"{"),
        ("c.json", b'{"labels": ["a"]}'),
        ("c.json", b'{"0": "a", "b": "c"}'),
        ("c.json", b'["a", "\\ud83d"]'),
        ("c.txt", b"# nothing\n"),
        ("c.txt", b"\xff\xfe\x00"),
        ("c.jsonl", b'{"name": "a"}\n{"name": "b"}'),
    ],
)
def test_errors_name_the_bad_file_in_one_line(tmp_path, file, content):
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        parse_class_names(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ("this is not text in UTF-8; save it as such" in str(caught.value)) is (b"\xff" in content)


def test_a_long_list_of_unusable_names_gives_a_short_error():
    with pytest.raises(InputError, match=r"^class names cannot be used: name 1 is not a .* and 1990 more"):
        parse_class_names(json.dumps(list(range(1, 2001))))


@pytest.mark.parametrize("text", ["classes.txt", "lists/animals", "~/animals", "./animals", "/nowhere/c.json"])
def test_missing_files_are_not_taken_for_class_names(text):
    with pytest.raises(InputError, match="no file of class names"):
        parse_class_names(text)


@pytest.mark.parametrize(
    ("domain", "task", "key"),
    [
        (None, None, "photo"),
        ("Sketches", "object recognition", "sketch"),
        ("icon", "flag recognition", "flag"),
        ("photo", "traffic sign recognition", "sign"),
        ("glyph", "handwritten digit recognition", "digit"),
        ("satellite image", None, "satellite"),
        ("chest X-rays", "diagnosis", "medical"),
        ("photograph", "design of signal lamps", "photo"),
        (None, "emoji search", "emoji"),
    ],
)
def test_templates_follow_domain_and_task(domain, task, key):
    assert templates_for(domain, task) == TEMPLATES[key]


@pytest.mark.parametrize(
    ("domain", "position"),
    [
        ("photo", 0),
        ("a photograph of an animal", 0),
        ("illustration", 1),
        ("remote sensing", 2),
        ("satellite photo", None),  # names two domains
        ("illustrated photograph", 0),
        ("watercolour", None),  # a painting: no label domain has images of it
        ("rendition", 3),
        (None, None),
    ],
)
def test_domains_of_a_label_are_found_under_the_synonyms_of_templates(domain, position):
    assert named_domain(("photo", "drawing", "satellite", "rendition"), domain) == position


def test_words_shared_by_template_and_name_appear_once():
    assert fill(["the flag of {}."], "flag of Peru") == ("the flag of Peru.",)
    assert fill(["a handwritten digit {}."], "digit eight") == ("a handwritten digit eight.",)
    assert fill(["a photo of a(n) {} sign by a road."], "stop sign") == ("a photo of a stop sign by a road.",)
    assert fill(["a photo of a(n) {} sign."], "no entry traffic sign") == ("a photo of a no entry traffic sign.",)
    assert fill(["a photo of a(n) {} sign."], "design") == ("a photo of a design sign.",)
    assert fill(["an aye {}."], "aye aye") == ("an aye aye.",)


def test_split_class_names_reads_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\ncat")
    assert parse_class_names("classes.txt") == ("dog", "cat")
    assert split_class_names("classes.txt") == ("classes.txt",)
    assert split_class_names('dog, "cat, tabby"\ncar') == ("dog", "cat, tabby", "car")
    with pytest.raises(InputError, match="close every quote"):
        split_class_names('dog, "cat')
