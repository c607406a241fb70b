"""A Space that labels models when they change: a webhook, and a status page of its events."""

from __future__ import annotations

import hmac
import os
import sys
from typing import TYPE_CHECKING

import gradio as gr
import uvicorn
from autolabel import Queue, Settings, read_event, rows, worker
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
            return JSONResponse({"error": "the header X-Webhook-Secret is missing"}, 401)
        if not hmac.compare_digest(given.encode("latin-1"), settings.secret.encode()):  # in constant time
            return JSONResponse({"error": "the header X-Webhook-Secret is wrong"}, 403)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BYTES:
                return JSONResponse({"error": "the body is too large for an event"}, 413)
        try:
            event = read_event(bytes(body))
        except InputError as error:
            return JSONResponse({"error": str(error)}, 400)
        state = queue.offer(event)
        if state == "full":
            return JSONResponse({"error": "too many models are waiting; try again later"}, 503)
        if state == "ignored":
            return JSONResponse({"ignored": event.detail}, 200)
        return JSONResponse({"queued": event.repo_id}, 202)

    app.add_route("/webhook", receive, methods=["POST"])
    return gr.mount_gradio_app(app, build_page(queue), path="/", ssr_mode=False)


def build_page(queue: Queue) -> gr.Blocks:
    """The status page; its table is also served as ``/events``."""

    def events() -> list[list[str]]:
        return rows(queue.events())

    with gr.Blocks(title="MLL autolabel") as page:
        gr.Markdown("# MLL autolabel\nLabels models when their repos change. The newest events:")
        table = gr.Dataframe(headers=["time (UTC)", "model", "commit", "state", "detail"], datatype="str", wrap=True)
        ticks = gr.Timer(_REFRESH_SECONDS).tick
        gr.on([page.load, ticks], events, outputs=table, api_name="events", show_progress="hidden")
    return page


def main() -> int:
    """Serve until the Space is stopped; returns the exit status."""
    try:
        settings = Settings.from_environment(os.environ)
        queue = Queue(worker(settings), settings.settle_seconds)
    except MLLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    queue.start()
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    uvicorn.run(build_app(settings, queue), host="0.0.0.0", port=port)  # noqa: S104 - a Space is in a container
    return 0


if __name__ == "__main__":
    sys.exit(main())
