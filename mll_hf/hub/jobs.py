"""Start scripts on HF Jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub import get_token

from mll_hf.hub.connection import connect, hub_errors

if TYPE_CHECKING:
    from collections.abc import Sequence


def start_script(
    script: str,
    arguments: Sequence[str],
    repo_id: str,
    *,
    flavor: str,
    timeout: str,
    labels: dict[str, str] | None = None,
    namespace: str | None = None,
) -> str:
    """Start a job that runs a uv script with the user's token; returns its URL.

    Args:
        script: Path or URL of the script.
        arguments: Its arguments.
        repo_id: The repository that the job is about, for messages.
        flavor: Hardware, such as ``a10g-small``.
        timeout: Time limit, such as ``6h``.
        labels: Labels to find the job by.
        namespace: User or organization that pays; None for the user.

    Raises:
        HubError: The Hub refuses.
    """
    with hub_errors(repo_id):
        job = connect().run_uv_job(
            script,
            script_args=list(arguments),
            flavor=flavor,
            timeout=timeout,
            secrets={"HF_TOKEN": get_token()},
            labels=labels,
            namespace=namespace,
        )
    return job.url
