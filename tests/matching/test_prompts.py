"""Class names and prompt templates."""

import json

import pytest

from mll_hf.errors import InputError
from mll_hf.matching.prompts import (
    DEFAULT_TEMPLATE,
    TEMPLATES,
    check_class_names,
    clean_class_name,
    fill,
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
        ("DVDPlayer", "DVD Player"),
        ("7", "7"),
        ("3d printer", "3d printer"),
        ("3.5 inch disk", "3.5 inch disk"),
        ("7-Eleven", "7-Eleven"),
        ("iPhone", "iPhone"),
        ("McDonald", "McDonald"),
        ("BMWs", "BMWs"),
        ("MacBook pro", "MacBook pro"),
        ("Granny Smith", "Granny Smith"),
        ("___", ""),
    ],
)
def test_clean_class_name(name, cleaned):
    assert clean_class_name(name) == cleaned
    assert clean_class_name(cleaned) == cleaned


def test_names_are_stripped_and_otherwise_the_users_own():
    assert check_class_names([" 001.Dog", "ice_cream", "Zürich"]) == ("001.Dog", "ice_cream", "Zürich")


def test_all_faults_are_told_in_one_line():
    with pytest.raises(InputError) as caught:
        check_class_names(["dog", "  ", "Dog", "ice_cream", "Ice  cream", "x" * 201, 5, "___"])
    message = str(caught.value)
    assert "\n" not in message
    for part in ("name 2 is empty", "'Dog' repeats 'dog'", "'Ice  cream' repeats 'ice_cream'", "longer than 200"):
        assert part in message
    assert "name 7 is no text (5)" in message
    assert "name 8 is empty" in message


@pytest.mark.parametrize("names", [[], (), "dog"])
def test_what_is_no_list_of_names_is_refused(names):
    with pytest.raises(InputError, match="class name"):
        check_class_names(names)


def test_names_on_the_command_line():
    assert parse_class_names('a, "b, c" ,d') == ("a", "b, c", "d")
    assert parse_class_names('5" floppy, dog\ncat') == ('5" floppy', "dog", "cat")
    assert parse_class_names("and/or gate") == ("and/or gate",)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("c.txt", "\ufeffdog\n\n# pets\n  wild cat  \nred, white\n"),
        ("noending", "dog\r\nwild cat\r\nred, white"),
        ("c.json", json.dumps(["dog", "wild cat", "red, white"])),
        ("task.json", json.dumps({"name": "x", "classes": ["dog", "wild cat", "red, white"]})),
        ("c.csv", 'class,count\ndog,1\n"wild cat",2\n\n"red, white",3\n'),
        ("c.CSV", 'dog,1\nwild cat,2\n"red, white",3\n'),
    ],
)
def test_names_in_a_file(tmp_path, file, content):
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    assert parse_class_names(str(path)) == ("dog", "wild cat", "red, white")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("c.json", b"{"),
        ("c.json", b'{"labels": ["a"]}'),
        ("c.json", b'["a", 3]'),
        ("c.txt", b"# nothing\n"),
        ("c.txt", b"\xff\xfe\x00"),
        ("c.csv", b"class\n"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, file, content):
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        parse_class_names(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["classes.txt", "lists/animals", "~/animals", "./animals", "/nowhere/c.json"])
def test_a_missing_file_is_no_class_name(text):
    with pytest.raises(InputError, match="no file of class names"):
        parse_class_names(text)


@pytest.mark.parametrize("text", ["", "a,,b", "a,", "a, A", '"a, b'])
def test_bad_lists_of_names(text):
    with pytest.raises(InputError):
        parse_class_names(text)


def test_every_template_takes_one_class():
    assert set(TEMPLATES) >= {"photo", "sketch", "icon", "digit", "letter", "sign", "satellite", "texture", "face"}
    for templates in TEMPLATES.values():
        assert 3 <= len(set(templates)) == len(templates) <= 7
        assert all(template.count("{}") == 1 for template in templates)


@pytest.mark.parametrize(
    ("domain", "task", "key"),
    [
        (None, None, "photo"),
        ("photo", "object recognition", "photo"),
        ("photo", "fine-grained groceries", "photo"),
        ("Sketches", "object recognition", "sketch"),
        ("icon", "flag recognition", "flag"),
        ("photo", "traffic sign recognition", "sign"),
        ("glyph", "handwritten digit recognition", "digit"),
        ("glyph", "letter recognition", "letter"),
        ("satellite", "scene recognition", "satellite"),
        ("satellite image", None, "satellite"),
        ("texture", "texture recognition", "texture"),
        ("chest X-rays", "diagnosis", "medical"),
        ("photo", "facial expression recognition", "face"),
        ("photograph", "design of signal lamps", "photo"),
        (None, "emoji search", "emoji"),
    ],
)
def test_templates_follow_domain_and_task(domain, task, key):
    assert templates_for(domain, task) == TEMPLATES[key]


def test_the_standard_prompt_is_filled_verbatim():
    assert fill([DEFAULT_TEMPLATE], "apple") == ("a photo of a apple.",)
    assert fill([DEFAULT_TEMPLATE], "a cappella choir") == ("a photo of a a cappella choir.",)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("apple", "a drawing of an apple."),
        ("dog", "a drawing of a dog."),
        ("unicorn", "a drawing of a unicorn."),
        ("umbrella", "a drawing of an umbrella."),
        ("one-way street", "a drawing of a one-way street."),
        ("hourglass", "a drawing of an hourglass."),
        ("house", "a drawing of a house."),
        ("SUV", "a drawing of an SUV."),
        ("USB stick", "a drawing of a USB stick."),
        ("x-ray", "a drawing of an x-ray."),
        ("8", "a drawing of an 8."),
        ("7", "a drawing of a 7."),
        ("the Louvre", "a drawing of the Louvre."),
        ("an old man", "a drawing of an old man."),
        ("002.polar_bear", "a drawing of a polar bear."),
    ],
)
def test_articles_follow_the_class(name, prompt):
    assert fill(["a drawing of a(n) {}."], name) == (prompt,)


def test_words_are_not_said_twice():
    assert fill(["the flag of {}."], "flag of Peru") == ("the flag of Peru.",)
    assert fill(["a handwritten digit {}."], "digit eight") == ("a handwritten digit eight.",)
    assert fill(["a photo of a(n) {} sign by a road."], "stop sign") == ("a photo of a stop sign by a road.",)
    assert fill(["a photo of a(n) {} sign."], "no entry traffic sign") == ("a photo of a no entry traffic sign.",)
    assert fill(["a photo of a(n) {} sign."], "design") == ("a photo of a design sign.",)
    assert fill(["an aye {}."], "aye aye") == ("an aye aye.",)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}"])
def test_a_template_must_have_one_place_for_the_class(template):
    with pytest.raises(InputError, match="exactly one"):
        fill([template], "dog")


def test_a_text_alone_reads_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\ncat")
    assert parse_class_names("classes.txt") == ("dog", "cat")
    assert split_class_names("classes.txt") == ("classes.txt",)
    assert split_class_names('dog, "cat, tabby"\ncar') == ("dog", "cat, tabby", "car")
    with pytest.raises(InputError, match="close every quote"):
        split_class_names('dog, "cat')
