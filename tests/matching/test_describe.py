"""Descriptions from glosses, from files, and from a language model on a local server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.matching.describe import (
    DescribeError,
    from_file,
    from_llm,
    from_templates,
    llm_prompt,
)

GRAPH = SemanticGraph(
    "toy",
    (
        Concept("n1", ("crane",), "lifts heavy objects", ()),
        Concept("n2", ("crane",), "large long-necked wading bird", ()),
        Concept("n0", ("Crane family", "crane"), "a family of birds", ()),
        Concept("n3", ("crane fly", "daddy longlegs", "crane"), "long-legged slender flies", ()),
        Concept("n4", ("bell_pepper",), "large sweet pepper", ()),
        Concept("n5", ("flag",), "piece of cloth", ()),
        Concept("n7", ("leaf", "leafage"), "green organ of plants", ()),
        Concept("n8", ("person",), "a human being", ()),
        Concept("n9", ("untold",), "", ()),
        Concept("lens", ("lens",), "piece of glass", ()),
    ),
)


def describe(name, domain=None, task=None):
    (description,) = from_templates([name], GRAPH, domain, task)
    assert description.class_name == name
    return description


def test_every_sense_gets_a_text_common_senses_first():
    description = describe("crane")
    assert description.source == "gloss"
    assert description.texts == (
        "The photo of crane, which is lifts heavy objects",
        "The photo of crane, which is large long-necked wading bird",
        "The photo of crane, which is a family of birds",
    )


@pytest.mark.parametrize(
    ("name", "gloss"),
    [
        ("004.Bell_Peppers", "large sweet pepper"),
        ("flag of Person Island", "piece of cloth"),
        ("leaves", "green organ of plants"),
        ("People", "a human being"),
        ("leaf (autumn)", "green organ of plants"),
        ("lenses", "piece of glass"),
    ],
)
def test_a_class_is_found_by_its_singular_or_head(name, gloss):
    assert describe(name).texts[0].endswith(f", which is {gloss}")


@pytest.mark.parametrize("name", ["corroded pipe", "untold", "letter A", "(?)", "glass"])
def test_a_class_without_a_sense_is_described_by_task_and_name(name):
    description = describe(name, "satellite", "pipe inspection")
    assert description.texts == (f"The satellite image of {name}, in pipe inspection", name)
    assert description.source == "template"
    assert describe(name).texts[0] == f"The photo of {name}"


def test_descriptions_from_a_file(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"ice cream": " cold\nand sweet ", "Dog": ["barks", "wags"], "dog": "b", "cat": 3}))
    found = from_file(path, ["Ice_Cream", "Dog"])
    assert [d.class_name for d in found] == ["Ice_Cream", "Dog"]
    assert [d.texts for d in found] == [("cold and sweet",), ("barks", "wags")]
    assert {d.source for d in found} == {"file"}


def test_all_faults_of_a_file_are_listed_in_one_line(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"a": "", "b": [], "c": ["x", 1], "d": {"e": 1}, "f": "fine", "n": None}))
    with pytest.raises(DescribeError) as caught:
        from_file(path, ["a", "b", "c", "d", "f", "g", "h", "n"])
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "no description of 'g', 'h', 'n'" in message
    assert "no text or list of texts for 'a', 'b', 'c', 'd'" in message


@pytest.mark.parametrize("content", [b"{", b"[]", b'"x"', b"\xff\xfe"])
def test_files_that_are_not_json_objects(tmp_path, content):
    path = tmp_path / "d.json"
    path.write_bytes(content)
    with pytest.raises(DescribeError, match="JSON"):
        from_file(path, ["a"])
    with pytest.raises(DescribeError, match="cannot read"):
        from_file(tmp_path / "none.json", ["a"])


# ------------------------------------------------------------------------------------------- a server on this machine


@pytest.fixture
def server():
    """Answers chat completions with the texts in ``replies`` by class, or with status 500; records ``requests``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            listener.requests.append({"path": self.path, "body": body, "headers": dict(self.headers)})
            name = body["messages"][0]["content"].split("of the class '")[1].split("'")[0]
            message = {"role": "assistant", "content": listener.replies.get(name)}
            self.send_response(200 if name in listener.replies else 500)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"index": 0, "message": message}]}).encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.requests, listener.replies = [], {}
        listener.url = f"http://127.0.0.1:{listener.server_port}/v1"
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield listener
        listener.shutdown()


def test_a_language_model_is_asked_once_per_class_without_the_hub_token(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_the_users_own")
    server.replies = {"wild cat": "A sketch of\n a cat.", "dog": '<think>Hm.</think>"A dog."'}
    found = from_llm(["wild_cat", "dog"], "sketch", "pet recognition", "tiny-llm", server.url)
    assert [(d.class_name, d.texts, d.source) for d in found] == [
        ("wild_cat", ("A sketch of a cat.",), "llm"),
        ("dog", ("A dog.",), "llm"),
    ]
    assert len(server.requests) == 2
    request = next(r for r in server.requests if "dog" in r["body"]["messages"][0]["content"])
    assert request["path"] == "/v1/chat/completions"
    assert (request["body"]["model"], request["body"]["temperature"]) == ("tiny-llm", 0.0)
    assert request["body"]["messages"][0]["content"] == llm_prompt("dog", "sketch", "pet recognition")
    assert "hf_the_users_own" not in json.dumps(server.requests)


def test_a_language_model_that_gives_no_description(server):
    server.replies = {"dog": "<think>hm", "cat": None}
    for name in ("dog", "cat"):
        with pytest.raises(DescribeError, match=f"an empty description of '{name}'"):
            from_llm([name], None, None, "tiny-llm", server.url)
    with pytest.raises(DescribeError, match=r"no description of 'cow' from tiny-llm .*; check model, base URL"):
        from_llm(["cow"], None, None, "tiny-llm", server.url)
    with pytest.raises(DescribeError, match="no description of 'cow'"):
        from_llm(["cow"], None, None, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(DescribeError, match="no language model given"):
        from_llm(["cow"], None, None)
