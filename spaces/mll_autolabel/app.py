"""A Space that labels models when they change: a webhook, and a status page of its events."""

from __future__ import annotations

import hmac
import os
import sys
from typing import TYPE_CHECKING

import gradio as gr
import uvicorn
from autolabel import Queue, Settings, read_event, status_html, worker
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from mll_hf.errors import InputError, MLLError

if TYPE_CHECKING:
    from fastapi import Request

_MAX_BYTES = 2**20
_REFRESH_SECONDS = 5


def build_app(settings: Settings, queue: Queue) -> FastAPI:
    """The webhook at ``/webhook`` and the status page at ``/``."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def receive(request: Request) -> JSONResponse:
        given = request.headers.get("x-webhook-secret")
        if given is None:
            return _answer(401, error="the header X-Webhook-Secret is missing")
        if not hmac.compare_digest(given.encode("latin-1"), settings.secret.encode()):  # in constant time
            return _answer(403, error="the header X-Webhook-Secret is wrong")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BYTES:
                return _answer(413, error="the body is too large for an event")
        try:
            event = read_event(bytes(body))
        except InputError as error:
            return _answer(400, error=str(error))
        state = queue.offer(event)
        if state == "full":
            return _answer(503, error="too many models are waiting; try again later")
        if state == "ignored":
            return _answer(200, ignored=event.detail)
        return _answer(202, queued=event.repo_id)

    app.add_route("/webhook", receive, methods=["POST"])
    return gr.mount_gradio_app(app, build_page(queue), path="/", ssr_mode=False)


def _answer(status: int, **content: str) -> JSONResponse:
    return JSONResponse(content, status)


def build_page(queue: Queue) -> gr.Blocks:
    """The status page; its table is also served as ``/events``."""

    def events() -> str:
        return status_html(queue.events())

    with gr.Blocks(title="MLL autolabel") as page:
        gr.Markdown("# MLL autolabel\nLabels models when their repos change. The newest events:")
        table = gr.HTML()
        page.load(events, outputs=table, api_name="events", show_progress="hidden")
        timer = gr.Timer(_REFRESH_SECONDS)
        timer.tick(events, outputs=table, api_visibility="private", show_progress="hidden")
    return page


def main() -> int:
    """Serve until the Space is stopped; returns the exit status."""
    try:
        settings = Settings.from_environment(os.environ)
        queue = Queue(worker(settings), settings.settle_seconds, settings.max_waiting)
    except MLLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    queue.start()
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    uvicorn.run(build_app(settings, queue), host="0.0.0.0", port=port)  # noqa: S104 - a Space is in a container
    return 0


if __name__ == "__main__":
    sys.exit(main())
