"""Serve a pipeline over HTTP and on Inference Endpoints. Images of concurrent requests are classified in batches.

Requests and responses have the format of Hugging Face Inference Endpoints, so their clients work with this server.
URLs of images are not fetched, to prevent server-side request forgery.
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
_WAIT_SECONDS = 0.005  # for more images in a batch
_UPLOAD_SECONDS, _STOP_SECONDS = 30, 60  # for receiving a request, and for finishing on shutdown
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # for others, Pillow may run external programs
_PARAMETERS = ("candidate_labels", "hypothesis_template", "top_k")
_UNREADABLE = f"cannot be read as an image; send a complete file in one of the formats {', '.join(_FORMATS)}"
_FAILED = "classification failed; try again later"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits on requests."""

    bytes: int = 32 * 2**20  # per request
    images: int = 32  # per request
    pixels: int = 50 * 10**6  # per image
    classes: int = 100  # in candidate_labels; the selection itself may have more
    requests: int = 64  # concurrent; others get status 503


_LIMITS = Limits()

# --- requests ---------------------------------------------------------------------------------------------------------


class _Options(NamedTuple):
    """Options of a request; images with equal options are classified together."""

    classes: tuple[str, ...] | None = None
    template: str | None = None


@dataclass(frozen=True)
class _Request:
    """A parsed request."""

    images: Sequence[bytes | Image.Image]  # encoded, or PIL images from the toolkit of Inference Endpoints
    is_list: bool  # whether the response is a list with an item per image
    options: _Options
    top_k: int | None  # maximum number of classes to return; None for all

    def format_answers(self, answers: Sequence[Answers | MLLError]) -> Any:  # noqa: ANN401 - JSON
        """The response. Failed images in a list have an ``error``.

        Raises:
            MLLError: The only image failed.
        """
        items = [{"error": str(a)} if isinstance(a, MLLError) else a[: self.top_k] for a in answers]
        if self.is_list:
            return items
        if isinstance(answers[0], MLLError):
            raise answers[0]
        return items[0]


def _parse_inputs(inputs: object, parameters: object, limits: Limits) -> _Request:
    """Parse a request; raises InputError if it is invalid.

    The inputs are an image or a list of images: bytes, base64 or PIL images. The parameters are None, or a mapping with
    some of `_PARAMETERS`.
    """
    is_list = isinstance(inputs, list)
    images = inputs if isinstance(inputs, list) else [inputs]
    if not 1 <= len(images) <= limits.images:
        raise InputError(f"{len(images)} images in one request; send 1 to {limits.images}")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict) or parameters.keys() - set(_PARAMETERS):
        shown = abridged(list(parameters), 5) if isinstance(parameters, dict) else repr(parameters)[:50]
        raise InputError(f"parameters are {shown}; give an object with any of {', '.join(_PARAMETERS)}")
    classes, template, top_k = map(parameters.get, _PARAMETERS)
    if classes is not None:
        if not isinstance(classes, list) or len(classes) > limits.classes:
            raise InputError(f"candidate_labels must be a list of at most {limits.classes} class names")
        classes = check_class_names(classes)
    if template is not None:
        if not isinstance(template, str):
            raise InputError("hypothesis_template must be a string with one {} for the class")
        fill([template], "class")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k is {top_k!r:.20}; give a whole number, at least 1")
    return _Request([_parse_image(image) for image in images], is_list, _Options(classes, template), top_k)


def _parse_image(given: object) -> bytes | Image.Image:
    if isinstance(given, bytes) or hasattr(given, "getbands"):
        return given  # type: ignore[return-value]
    if not isinstance(given, str):
        raise InputError(f"an image is given as {type(given).__name__}; encode the file in base64")
    if given.startswith(("http://", "https://")):
        raise InputError("URLs are not fetched; send the image itself, encoded in base64")
    try:
        return base64.b64decode(given.rpartition(",")[2] if given.startswith("data:") else given, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("an image is given as a string that is not base64; encode the file in base64") from None


def _image_error(image: bytes | Image.Image, limits: Limits) -> InputError | None:
    """The error of an image according to its header, or None; the image is not decoded."""
    from PIL import Image

    try:
        size = Image.open(io.BytesIO(image), formats=_FORMATS).size if isinstance(image, bytes) else image.size
    except Image.DecompressionBombError:
        return InputError("the image has too many pixels; send a smaller one")
    except Exception:  # Pillow may raise anything on untrusted headers
        return InputError(_UNREADABLE)
    if size[0] * size[1] > limits.pixels:
        return InputError(
            f"the image has {size[0]} x {size[1]} pixels, over {limits.pixels / 1e6:.0f} million; send a smaller one"
        )
    return None


# --- batches ----------------------------------------------------------------------------------------------------------


class _Job(NamedTuple):
    image: bytes | Image.Image
    options: _Options
    answer: Future[Answers | MLLError]


class Batches:
    """Classifies images of concurrent requests in one thread; all waiting images form the next batch.

    Attributes:
        loaded: Done when the models are loaded, or with an MLLError if loading failed.

    Args:
        classifier: The classifier, which is only used in the thread.
        batch_size: Maximum number of images per batch.
    """

    def __init__(self, classifier: Pipeline, batch_size: int = _BATCH_SIZE) -> None:
        self.loaded: Future[None] = Future()
        self._classifier, self._batch_size = classifier, batch_size
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()  # None to stop
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
        disable_progress_bars("mll_hf.predict")  # shown per batch otherwise
        self._thread.start()

    def close(self) -> None:
        """Classify waiting images, then stop."""
        self._queue.put(None)
        self._thread.join(_STOP_SECONDS)

    def submit(self, image: bytes | Image.Image, options: _Options) -> Future[Answers | MLLError]:
        """Enqueue an image; the result is that of the pipeline, or an error."""
        job = _Job(image, options, Future())
        self._queue.put(job)
        return job.answer

    def _work(self) -> None:
        from PIL import Image

        try:
            self._classifier([Image.new("RGB", (64, 64))])
        except Exception as error:  # reported to those who wait for the models
            self.loaded.set_exception(error)
            return
        self.loaded.set_result(None)
        for batch in self._batches():
            by_options: dict[_Options, list[_Job]] = {}
            for job in batch:
                if job.answer.set_running_or_notify_cancel():
                    by_options.setdefault(job.options, []).append(job)
            for options, jobs in by_options.items():
                answers = self._answers([job.image for job in jobs], options)
                for job, answer in zip(jobs, answers, strict=True):
                    job.answer.set_result(answer)

    def _batches(self) -> Iterator[list[_Job]]:
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
        """The result of each image. Errors of an image, or from lack of memory, never stop the thread.

        Batches are split in halves in case memory is too small to assemble them; models split batches themselves.
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


def _submit_all(batches: Batches, request: _Request, limits: Limits) -> list[Future[Answers | MLLError] | MLLError]:
    return [_image_error(image, limits) or batches.submit(image, request.options) for image in request.images]


# --- HTTP -------------------------------------------------------------------------------------------------------------


def serve(
    classifier: Pipeline,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    limits: Limits = _LIMITS,
    batch_size: int = _BATCH_SIZE,
) -> None:
    """Serve HTTP requests until SIGTERM or SIGINT, then finish pending requests.

    ``POST /`` accepts the bytes of one image, several images as ``multipart/form-data``, or JSON ``{"inputs": base64 or
    a list, "parameters": {...}}``; parameters may also be in the query or the form. The response is that of the
    pipeline, as a list if there is a list of images. ``GET /health`` returns whether the server is alive, ``GET
    /ready`` whether the models are loaded.

    Args:
        classifier: Result of :func:`~mll_hf.pipelines.pipeline`.
        host: Address to listen on; by default only local connections are accepted.
        port: Port to listen on; 0 for any free port, which is logged.
        limits: Limits on requests.
        batch_size: Maximum number of images per batch.

    Raises:
        InputError: The server cannot listen on this host and port.
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
    """The ASGI application for :func:`serve`; it starts and closes ``batches``."""
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
            raise HTTPException(503, "the models are still loading; try again later", {"Retry-After": "5"})
        if busy >= limits.requests:
            raise HTTPException(503, "too many concurrent requests; try again later", {"Retry-After": "1"})
        busy += 1
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                parsed = await _parse_request(Request(request.scope, limited(request)), limits)
            answers = [
                answer if isinstance(answer, MLLError) else await asyncio.wrap_future(answer)
                for answer in await run_in_threadpool(_submit_all, batches, parsed, limits)
            ]
            return JSONResponse(parsed.format_answers(answers))
        except TimeoutError:
            raise HTTPException(408, f"the request took over {_UPLOAD_SECONDS} s to arrive") from None
        except ClientDisconnect:
            return Response(status_code=400)  # not received by anyone
        finally:
            busy -= 1

    def limited(request: Request) -> Receive:
        """Receive a request up to the maximum size."""
        size = 0

        async def receive() -> Message:
            nonlocal size
            message = await request.receive()
            size += len(message.get("body", b""))
            if size > limits.bytes:
                raise HTTPException(
                    413, f"the request is larger than {limits.bytes / 2**20:.4g} MB; send fewer or smaller images"
                )
            return message

        return receive

    def health(_: Request) -> Response:
        return JSONResponse({"ok": batches.alive}, 200 if batches.alive else 500)

    def ready(_: Request) -> Response:
        return JSONResponse({"ready": batches.ready}, 200 if batches.ready else 503)

    def error_response(_: Request, error: Exception) -> Response:
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
        exception_handlers={HTTPException: error_response, MLLError: error_response},
        lifespan=lifespan,
    )


async def _parse_request(request: Request, limits: Limits) -> _Request:
    """Read and parse a request in any format; raises InputError if it is invalid."""
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import UploadFile

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = request.query_params.multi_items()
    if kind == "multipart/form-data":
        async with request.form(max_files=limits.images, max_fields=limits.classes + len(_PARAMETERS)) as form:
            parts = form.multi_items()
            images = [await part.read() for _, part in parts if isinstance(part, UploadFile)]
            fields = [(name, text) for name, text in parts if isinstance(text, str)]
        return _parse_inputs(images, _parameters([*query, *fields]), limits)
    body = await request.body()
    if kind == "application/json":
        return await run_in_threadpool(_from_json, body, _parameters(query), limits)
    return _parse_inputs(body, _parameters(query), limits)


def _from_json(body: bytes, parameters: dict[str, Any], limits: Limits) -> _Request:
    try:
        document = json.loads(body)
        inputs = document["inputs"]
        return _parse_inputs(inputs, document.get("parameters", parameters), limits)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError('not JSON with "inputs"; send {"inputs": an image in base64, or a list of them}') from None


def _parameters(texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Parameters from a query or a form, in which all values are strings."""
    found: dict[str, Any] = dict(texts)
    if "candidate_labels" in found:
        found["candidate_labels"] = [text for name, text in texts if name == "candidate_labels"]
    if "top_k" in found and found["top_k"].isdecimal() and len(found["top_k"]) < 10:
        found["top_k"] = int(found["top_k"])
    return found


# --- Inference Endpoints ----------------------------------------------------------------------------------------------


class EndpointHandler:
    """Custom handler of Inference Endpoints, imported by the ``handler.py`` of a pushed selection.

    Args:
        path: Folder with a selection.

    Raises:
        MLLError: This is not a selection, or its models cannot be loaded.
    """

    def __init__(self, path: str = "") -> None:
        self._batches = Batches(pipeline(path))
        self._batches.start()
        self._batches.loaded.result()

    def __call__(self, data: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Handle a request ``{"inputs": ..., "parameters": ...}`` with images in base64, or PIL images.

        Raises:
            MLLError: The request is invalid or fails.
        """
        request = _parse_inputs(data.get("inputs"), data.get("parameters"), _LIMITS)
        answers = _submit_all(self._batches, request, _LIMITS)
        return request.format_answers([a if isinstance(a, MLLError) else a.result() for a in answers])
