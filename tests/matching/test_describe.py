"""Descriptions from glosses, from files, and from a language model on a local server."""

import json
import socket
import threading
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.matching import describe as describing
from mll_hf.matching.describe import (
    DescribeError,
    LanguageModel,
    from_file,
    from_llm,
    from_templates,
    llm_prompt,
    tidy_answer,
)

GRAPH = SemanticGraph(
    "toy",
    (
        Concept("n1", "crane", ("crane",), "lifts heavy objects", ()),
        Concept("n2", "crane", ("crane",), "large long-necked wading bird", ()),
        Concept("n0", "Crane family", ("Crane family", "crane"), "a family of birds", ()),
        Concept("n3", "crane fly", ("crane fly", "daddy longlegs", "crane"), "long-legged slender flies", ()),
        Concept("n4", "bell_pepper", ("bell_pepper",), "large sweet pepper", ()),
        Concept("n5", "flag", ("flag",), "piece of cloth", ()),
        Concept("n6", "binoculars", ("binoculars",), "an optical instrument", ()),
        Concept("n7", "leaf", ("leaf", "leafage"), "green organ of plants", ()),
        Concept("n8", "person", ("person",), "a human being", ()),
        Concept("n9", "untold", ("untold",), "", ()),
        Concept("hoof", "hoof", ("hoof",), "foot of a horse", ()),
        Concept("lens", "lens", ("lens",), "piece of glass", ()),
        Concept("potato", "potato", ("potato",), "edible tuber", ()),
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
        ("Orange Bell Pepper", "large sweet pepper"),
        ("flag of Person Island", "piece of cloth"),
        ("flags of the world", "piece of cloth"),
        ("binocular", "an optical instrument"),
        ("leaves", "green organ of plants"),
        ("People", "a human being"),
        ("leaf (autumn)", "green organ of plants"),
        ("hooves", "foot of a horse"),
        ("lenses", "piece of glass"),
        ("potatoes", "edible tuber"),
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


@pytest.mark.parametrize(
    "answer",
    [
        "The photo of dog, which is small.",
        "the photo of dog, which is\n small.",
        '"The photo of dog, which is small."',
        "“The photo of dog, which is small.”",
        "Sure! Here it is:\n\n**The photo of dog, which is small.**\n\nLet me know if you want more.",
        'Here is a caption: "The photo of dog, which is small." I hope it helps.',
        "<think>The photo of dog, which is what?\n\nHm.</think>\nThe photo of dog, which is small.",
    ],
)
def test_answers_are_tidied(answer):
    assert tidy_answer(answer, "The photo of dog").lower() == "the photo of dog, which is small."


def test_answers_with_another_opening_are_tidied_too():
    assert tidy_answer('Sure!\nHere is one:\n\nA dog that says "wau" loudly.\n\nBye!', "x") == (
        'A dog that says "wau" loudly.'
    )
    for nothing in ("", " \n", '""', "<think>hm", "Sure!"):
        assert tidy_answer(nothing, "x") == ""


# ------------------------------------------------------------------------------------------- a server on this machine


def completion(text):
    return 200, json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})


class Server:
    """Answers chat completions with what ``reply(prompt, number of earlier requests with it)`` returns."""

    def __init__(self, reply):
        self.requests = []
        self.reply = reply
        self.lock = threading.Lock()

    def handle(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        prompt = body["messages"][0]["content"]
        with self.lock:
            earlier = sum(request["body"]["messages"][0]["content"] == prompt for request in self.requests)
            self.requests.append({"path": handler.path, "body": body, "headers": dict(handler.headers)})
        status, text, *headers = self.reply(prompt, earlier)
        with suppress(ConnectionError):  # a client that waits no longer
            handler.send_response(status)
            for name, value in headers:
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(text.encode())))
            handler.end_headers()
            handler.wfile.write(text.encode())


@contextmanager
def serving(reply):
    server = Server(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            server.handle(self)

        def log_message(self, *args):
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    server.url = f"http://127.0.0.1:{listener.server_port}/v1"
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of cached answers: in the assets cache of Hugging Face."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets" / "mll_hf" / "descriptions"


@pytest.fixture
def llm(cache, monkeypatch):
    monkeypatch.setattr(describing, "_BACKOFF", 0.01)
    return partial(LanguageModel, "tiny-llm")


def name_in(prompt):
    return prompt.split("of the class '")[1].split("'")[0]


def echo(prompt, _):
    return completion(f"Sure!\n\nThe sketch of {name_in(prompt)}, which is an\nanimal.")


def test_one_request_per_class_with_the_right_payload(llm):
    with serving(echo) as server:
        found = from_llm(["wild_cat", "dog"], "sketch", "pet recognition", llm(server.url, token="secret"))
    assert [(d.class_name, d.texts, d.source) for d in found] == [
        ("wild_cat", ("The sketch of wild cat, which is an animal.",), "llm"),
        ("dog", ("The sketch of dog, which is an animal.",), "llm"),
    ]
    assert len(server.requests) == 2
    request = next(r for r in server.requests if "dog" in r["body"]["messages"][0]["content"])
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["authorization"] == "Bearer secret"
    assert request["body"] == {
        "model": "tiny-llm",
        "messages": [{"role": "user", "content": llm_prompt("dog", "sketch", "pet recognition")}],
        "temperature": 0.0,
        "stream": False,
    }
    prompt = llm_prompt("dog", "sketch", "pet recognition")
    for part in ("at most 50 words", '"The sketch of dog, which is"', "pet recognition"):
        assert part in prompt


def test_the_hub_token_is_not_sent_to_other_servers(llm, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_the_users_own")
    with serving(echo) as server:
        from_llm(["dog"], None, None, llm(server.url))
    assert "hf_the_users_own" not in json.dumps(server.requests)
    assert "secret" not in repr(llm(server.url, token="secret"))


def test_cached_answers_are_not_requested_again(llm):
    with serving(echo) as server:
        first = from_llm(["cat", "dog"], "sketch", None, llm(server.url))
        assert from_llm(["dog", "cat"], "sketch", None, llm(server.url)) == first[::-1]
        assert len(server.requests) == 2
        from_llm(["cat", "dog", "cow"], "sketch", None, llm(server.url))
        assert len(server.requests) == 3
        from_llm(["cat"], "photo", None, llm(server.url))
        assert len(server.requests) == 4  # another domain is another question
    assert from_llm(["cat", "dog"], "sketch", None, llm(server.url)) == first  # the server is gone


def test_damaged_cache_files_are_requested_again(llm, cache):
    with serving(echo) as server:
        first = from_llm(["cat"], "sketch", None, llm(server.url))
        (file,) = cache.iterdir()
        for damage in ("{", "[]", '{"caption": ""}', '{"caption": 5}'):
            file.write_text(damage)
            assert from_llm(["cat"], "sketch", None, llm(server.url)) == first
        assert len(server.requests) == 5
    assert json.loads(file.read_text())["caption"] == "The sketch of cat, which is an animal."


def test_answers_that_cannot_be_cached_are_returned(llm, cache, caplog):
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    with serving(echo) as server:
        (found,) = from_llm(["cat"], "sketch", None, llm(server.url))
    assert found.texts == ("The sketch of cat, which is an animal.",)
    assert "cannot cache" in caplog.text


@pytest.mark.parametrize("status", [429, 500, 503])
def test_requests_to_a_busy_server_are_retried(llm, status):
    def reply(prompt, earlier):
        return echo(prompt, earlier) if earlier == 2 else (status, "busy", ("retry-after", "0"))

    with serving(reply) as server:
        (found,) = from_llm(["dog"], "sketch", None, llm(server.url))
        assert found.texts == ("The sketch of dog, which is an animal.",)
        assert len(server.requests) == 3


def test_answers_before_a_failure_stay_cached(llm, monkeypatch):
    monkeypatch.setattr(describing, "_ATTEMPTS", 3)
    monkeypatch.setattr(describing, "_MAX_REQUESTS", 1)

    def reply(prompt, earlier):
        return (500, "out of order") if name_in(prompt) == "dog" else echo(prompt, earlier)

    with serving(reply) as server:
        with pytest.raises(DescribeError) as caught:
            from_llm(["cat", "dog"], "sketch", None, llm(server.url))
        message = str(caught.value)
        assert "\n" not in message
        for part in ("tiny-llm", server.url, "'dog'", "HTTP 500", "cached"):
            assert part in message
        assert len(server.requests) == 4
        from_llm(["cat"], "sketch", None, llm(server.url))
        assert len(server.requests) == 4


def test_a_failure_stops_the_other_requests(llm, monkeypatch):
    monkeypatch.setattr(describing, "_MAX_REQUESTS", 1)
    with serving(lambda prompt, earlier: (401, '{"error": "bad key"}')) as server:
        with pytest.raises(DescribeError, match=r"HTTP 401.*check the token"):
            from_llm([f"class {n}" for n in range(50)], "sketch", None, llm(server.url))
        assert len(server.requests) < 5


@pytest.mark.parametrize(
    "body",
    ["<html>", "[]", "{}", '{"choices": []}', '{"choices": 3}', '{"choices": [3]}', '{"choices": [{"message": "x"}]}'],
)
def test_answers_that_are_not_chat_completions(llm, body):
    with serving(lambda prompt, earlier: (200, body)) as server:
        with pytest.raises(DescribeError) as caught:
            from_llm(["dog"], None, None, llm(server.url))
        assert "\n" not in str(caught.value)
        assert len(server.requests) == 1


@pytest.mark.parametrize("text", ["", "  ", '""'])
def test_empty_answers(llm, text):
    with serving(lambda prompt, earlier: completion(text)) as server, pytest.raises(DescribeError, match="is empty"):
        from_llm(["dog"], None, None, llm(server.url))


def test_slow_servers(llm, monkeypatch):
    monkeypatch.setattr(describing, "_TIMEOUT", 0.2)
    monkeypatch.setattr(describing, "_ATTEMPTS", 2)
    release = threading.Event()

    def reply(prompt, earlier):
        release.wait(5)
        return echo(prompt, earlier)

    with serving(reply) as server:
        with pytest.raises(DescribeError, match="no answer in time"):
            from_llm(["dog"], None, None, llm(server.url))
        release.set()
        assert len(server.requests) == 2


def test_unreachable_servers(llm):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(DescribeError, match="cannot connect"):
            from_llm(["dog"], None, None, llm(url))


def test_a_language_model_needs_a_name_or_a_url():
    with pytest.raises(DescribeError, match="name a model"):
        LanguageModel()
    with pytest.raises(DescribeError, match="http"):
        LanguageModel("m", "localhost:8000/v1")
