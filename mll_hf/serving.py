"""A pipeline over HTTP, and for Inference Endpoints: images of many callers are classified together, in batches.

Requests and answers have the form of Hugging Face's Inference Endpoints, so their clients work with this server. An
image is sent, never its link: a server that fetches links of strangers can be sent to any machine that it reaches.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import logging
import socket
import time
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub.utils.tqdm import disable_progress_bars

from mll_hf.errors import InputError, MissingExtraError, MLLError
from mll_hf.matching.prompts import check_class_names, fill
from mll_hf.pipelines import pipeline
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from PIL import Image
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.types import Message, Receive

    from mll_hf.pipelines import Answers, Pipeline

_BATCH_SIZE = 64
_WAIT_SECONDS = 0.005  # for more images of a batch
_UPLOAD_SECONDS, _STOP_SECONDS = 30, 60  # for a request to arrive, and for the last ones to be answered
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others make Pillow run programs, such as Ghostscript
_PARAMETERS = ("candidate_labels", "hypothesis_template", "top_k")
_UNREADABLE = f"this cannot be read as an image; send a whole file of {', '.join(_FORMATS)}"
_FAILED = "the models cannot answer this now; try again later"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What callers may ask for."""

    bytes: int = 32 * 2**20  # of a request
    images: int = 32  # of a request
    pixels: int = 50 * 10**6  # of an image
    classes: int = 100  # given as candidate_labels; the selection itself may have more
    requests: int = 64  # at the same time; further ones are sent away with status 503


_LIMITS = Limits()

# --- requests ---------------------------------------------------------------------------------------------------------


class _Options(NamedTuple):
    """Images with equal options are classified together."""

    classes: tuple[str, ...] | None = None
    template: str | None = None


@dataclass(frozen=True)
class _Asked:
    """What a request asks for."""

    images: Sequence[bytes | Image.Image]  # encoded; opened ones from the toolkit of Inference Endpoints
    several: bool  # whether the answer is a list with an item per image, rather than that of the only image
    options: _Options  # for all images
    top_k: int | None  # number of classes to answer with; None for all

    def shaped(self, answers: Sequence[Answers | MLLError]) -> Any:  # noqa: ANN401 - whatever JSON has
        """The answer in the form of the request. Of several images, those that failed have an ``error``.

        Raises:
            MLLError: The only image failed.
        """
        items = [{"error": str(a)} if isinstance(a, MLLError) else a[: self.top_k] for a in answers]
        if self.several:
            return items
        if isinstance(answers[0], MLLError):
            raise answers[0]
        return items[0]


def _asked(inputs: object, parameters: object, limits: Limits) -> _Asked:
    """Check a request. Raises InputError if it cannot be answered.

    The inputs are an image or a list, encoded as bytes or base64, or opened; the parameters are None, or a mapping with
    some of `_PARAMETERS`.
    """
    several = isinstance(inputs, list)
    given = inputs if isinstance(inputs, list) else [inputs]
    if not 1 <= len(given) <= limits.images:
        raise InputError(f"{len(given)} images in one request; send 1 to {limits.images}")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict) or parameters.keys() - set(_PARAMETERS):
        named = abridged(list(parameters), 5) if isinstance(parameters, dict) else repr(parameters)[:50]
        raise InputError(f"parameters are {named}; give an object with any of {', '.join(_PARAMETERS)}")
    classes, template, top_k = map(parameters.get, _PARAMETERS)
    if classes is not None:
        if not isinstance(classes, list) or len(classes) > limits.classes:
            raise InputError(f"candidate_labels must be a list of at most {limits.classes} class names")
        classes = check_class_names(classes)
    if template is not None:
        if not isinstance(template, str):
            raise InputError("hypothesis_template must be a text with one {} for the class")
        fill([template], "class")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k is {top_k!r:.20}; give a whole number, at least 1")
    return _Asked([_image(image) for image in given], several, _Options(classes, template), top_k)


def _image(given: object) -> bytes | Image.Image:
    if isinstance(given, bytes) or hasattr(given, "getbands"):
        return given  # type: ignore[return-value]
    if not isinstance(given, str):
        raise InputError(f"an image is given as {type(given).__name__}; encode its file in base64")
    if given.startswith(("http://", "https://")):
        raise InputError("links are not fetched; send the image itself, encoded in base64")
    try:
        return base64.b64decode(given.rpartition(",")[2] if given.startswith("data:") else given, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("an image is given as text that is no base64; encode its file in base64") from None


def _fault(image: bytes | Image.Image, limits: Limits) -> InputError | None:
    """What is wrong with an image according to its header; nothing is decoded."""
    from PIL import Image

    try:
        size = Image.open(io.BytesIO(image), formats=_FORMATS).size if isinstance(image, bytes) else image.size
    except Image.DecompressionBombError:
        return InputError("the image has too many pixels; send a smaller one")
    except Exception:  # headers of strangers make Pillow raise anything
        return InputError(_UNREADABLE)
    if size[0] * size[1] > limits.pixels:
        return InputError(
            f"the image has {size[0]} x {size[1]} pixels, over {limits.pixels / 1e6:.0f} million; send a smaller one"
        )
    return None


# --- batches ----------------------------------------------------------------------------------------------------------


class _Waiting(NamedTuple):
    image: bytes | Image.Image
    options: _Options
    answer: Future[Answers | MLLError]


class Batches:
    """Classifies images of many callers in one thread: what waits when the models are free is the next batch.

    Attributes:
        loaded: Done when the models are loaded, with the MLLError if they cannot be.

    Args:
        classifier: Classifies; used by the thread alone.
        batch_size: Images per batch, at most.
    """

    def __init__(self, classifier: Pipeline, batch_size: int = _BATCH_SIZE) -> None:
        self.loaded: Future[None] = Future()
        self._classifier, self._batch_size = classifier, batch_size
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()  # None: no more will come
        self._thread = Thread(target=self._work, name="mll-hf-batches", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether the models are loaded."""
        return self.loaded.done() and self.loaded.exception() is None

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Load the models and start to classify."""
        disable_progress_bars("mll_hf.predict")  # one for each batch
        self._thread.start()

    def close(self) -> None:
        """Classify what waits, and stop."""
        self._queue.put(None)
        self._thread.join(_STOP_SECONDS)

    def submit(self, image: bytes | Image.Image, options: _Options) -> Future[Answers | MLLError]:
        """Let an image be classified; the answer is that of the pipeline, or why there is none."""
        waiting = _Waiting(image, options, Future())
        self._queue.put(waiting)
        return waiting.answer

    def _work(self) -> None:
        from PIL import Image

        try:
            self._classifier([Image.new("RGB", (64, 64))])
            self._classifier.ensemble.answered.clear()  # this picture is nobody's
        except Exception as error:  # whatever it is, who waits for the models is told
            self.loaded.set_exception(error)
            return
        self.loaded.set_result(None)
        for batch in self._batches():
            by_options: dict[_Options, list[_Waiting]] = {}
            for waiting in batch:
                if waiting.answer.set_running_or_notify_cancel():
                    by_options.setdefault(waiting.options, []).append(waiting)
            for options, group in by_options.items():
                answers = self._answers([waiting.image for waiting in group], options)
                for waiting, answer in zip(group, answers, strict=True):
                    waiting.answer.set_result(answer)

    def _batches(self) -> Iterator[list[_Waiting]]:
        while (first := self._queue.get()) is not None:
            batch, deadline = [first], time.monotonic() + _WAIT_SECONDS
            while len(batch) < self._batch_size:
                try:
                    following = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
                except Empty:
                    break
                if following is None:
                    self._queue.put(None)
                    break
                batch.append(following)
            yield batch

    def _answers(self, images: Sequence[bytes | Image.Image], options: _Options) -> list[Answers | MLLError]:
        """The answer to each image. Nothing that an image or full memory raises stops the thread.

        The models try smaller batches themselves; halves are for the memory in which a batch is put together.
        """
        try:
            found = self._classifier(images, options.classes, hypothesis_template=options.template)
            return [answers or InputError(_UNREADABLE) for answers in found]
        except InputError as error:
            return [error] * len(images)
        except MLLError as error:
            _log.error("%d images failed: %s", len(images), error)
            return [MLLError(_FAILED)] * len(images)
        except Exception as error:
            reason = one_line(error)
        if len(images) == 1:
            _log.error("an image failed: %s", reason)
            return [MLLError(_FAILED)]
        middle = len(images) // 2
        return self._answers(images[:middle], options) + self._answers(images[middle:], options)


def _submitted(batches: Batches, asked: _Asked, limits: Limits) -> list[Future[Answers | MLLError] | MLLError]:
    return [_fault(image, limits) or batches.submit(image, asked.options) for image in asked.images]


# --- HTTP -------------------------------------------------------------------------------------------------------------


def serve(
    classifier: Pipeline,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    limits: Limits = _LIMITS,
    batch_size: int = _BATCH_SIZE,
) -> None:
    """Answer HTTP requests until SIGTERM or SIGINT, and then those that are being answered.

    ``POST /`` takes one image as it is, several as ``multipart/form-data``, or JSON ``{"inputs": base64 or a list,
    "parameters": {...}}``; parameters may also come in the query or the form. It answers as the pipeline does, in a
    list if images came in one. ``GET /health`` says whether the server can go on, ``GET /ready`` whether it has
    its models.

    Args:
        classifier: From :func:`~mll_hf.pipelines.pipeline`.
        host: Address to listen on; by default only this machine can connect.
        port: Port to listen on; 0 for any that is free, which a log message names.
        limits: What callers may ask for.
        batch_size: Images that are classified together, at most.

    Raises:
        InputError: Host and port cannot be listened on.
        MLLError: The models cannot be loaded.
        MissingExtraError: uvicorn or starlette is not installed.
    """
    try:
        import uvicorn

        batches = Batches(classifier, batch_size)
        app = make_app(batches, limits)
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "serve") from error
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_STOP_SECONDS))
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}, port {port} ({error}); choose another") from None

    def stop_if_failed(loaded: Future[None]) -> None:
        server.should_exit |= loaded.exception() is not None

    batches.loaded.add_done_callback(stop_if_failed)
    with listening:
        _log.warning("listening on http://%s:%d/", host, listening.getsockname()[1])
        server.run([listening])
    if batches.loaded.done():
        batches.loaded.result()


def make_app(batches: Batches, limits: Limits = _LIMITS) -> Starlette:
    """The ASGI application that :func:`serve` runs; it starts and closes the batches."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    busy = 0

    async def classify(request: Request) -> Response:
        nonlocal busy
        if not batches.ready:
            raise HTTPException(503, "the models are still being loaded; try again later", {"Retry-After": "5"})
        if busy >= limits.requests:
            raise HTTPException(503, "too many requests at the same time; try again later", {"Retry-After": "1"})
        busy += 1
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                asked = await _read(Request(request.scope, limited(request)), limits)
            answers = [
                answer if isinstance(answer, MLLError) else await asyncio.wrap_future(answer)
                for answer in await run_in_threadpool(_submitted, batches, asked, limits)
            ]
            return JSONResponse(asked.shaped(answers))
        except TimeoutError:
            raise HTTPException(408, f"the request took over {_UPLOAD_SECONDS} s to arrive") from None
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        finally:
            busy -= 1

    def limited(request: Request) -> Receive:
        """Receives a request up to the largest that is allowed."""
        size = 0

        async def receive() -> Message:
            nonlocal size
            message = await request.receive()
            size += len(message.get("body", b""))
            if size > limits.bytes:
                raise HTTPException(
                    413, f"the request has over {limits.bytes / 2**20:.4g} MB; send fewer or smaller images"
                )
            return message

        return receive

    def health(_: Request) -> Response:
        return JSONResponse({"ok": batches.alive}, 200 if batches.alive else 500)

    def ready(_: Request) -> Response:
        return JSONResponse({"ready": batches.ready}, 200 if batches.ready else 503)

    def refusal(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        return JSONResponse({"error": str(error)}, 400 if isinstance(error, InputError) else 503)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        batches.start()
        yield
        await run_in_threadpool(batches.close)

    return Starlette(
        routes=[Route("/", classify, methods=["POST"]), Route("/health", health), Route("/ready", ready)],
        exception_handlers={HTTPException: refusal, MLLError: refusal},
        lifespan=lifespan,
    )


async def _read(request: Request, limits: Limits) -> _Asked:
    """Read a request in any of its forms. Raises InputError if it cannot be answered."""
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import UploadFile

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = request.query_params.multi_items()
    if kind == "multipart/form-data":
        async with request.form(max_files=limits.images, max_fields=limits.classes + len(_PARAMETERS)) as form:
            parts = form.multi_items()
            images = [await part.read() for _, part in parts if isinstance(part, UploadFile)]
            fields = [(name, text) for name, text in parts if isinstance(text, str)]
        return _asked(images, _parameters([*query, *fields]), limits)
    body = await request.body()
    if kind == "application/json":
        return await run_in_threadpool(_from_json, body, _parameters(query), limits)
    return _asked(body, _parameters(query), limits)


def _from_json(body: bytes, parameters: dict[str, Any], limits: Limits) -> _Asked:
    try:
        document = json.loads(body)
        inputs = document["inputs"]
        return _asked(inputs, document.get("parameters", parameters), limits)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError('this is no JSON with "inputs"; send {"inputs": an image in base64, or a list}') from None


def _parameters(texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Parameters from a query or a form, in which all values are texts."""
    found: dict[str, Any] = dict(texts)
    if "candidate_labels" in found:
        found["candidate_labels"] = [text for name, text in texts if name == "candidate_labels"]
    if "top_k" in found and found["top_k"].isdecimal() and len(found["top_k"]) < 10:
        found["top_k"] = int(found["top_k"])
    return found


# --- Inference Endpoints ----------------------------------------------------------------------------------------------


class EndpointHandler:
    """What Hugging Face's Inference Endpoints call: the ``handler.py`` of a pushed selection names this class.

    Args:
        path: Folder with a selection.

    Raises:
        MLLError: This is no selection, or its models cannot be loaded.
    """

    def __init__(self, path: str = "") -> None:
        self._batches = Batches(pipeline(path))
        self._batches.start()
        self._batches.loaded.result()

    def __call__(self, data: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever JSON has
        """Answer a request ``{"inputs": ..., "parameters": ...}``; an image is in base64, or was opened before.

        Raises:
            MLLError: It cannot be answered.
        """
        asked = _asked(data.get("inputs"), data.get("parameters"), _LIMITS)
        answers = _submitted(self._batches, asked, _LIMITS)
        return asked.shaped([a if isinstance(a, MLLError) else a.result() for a in answers])
