"""The rival of the verification benchmark: vLLM's own OpenAI server, asked question by question.

What a scorer without this project does: one HTTP request per question, each with the picture as a
data URI, one token, its five likeliest. The server gets the engine arguments that the verifier's
engine gets.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from alphagrpo.cli.ray_start import free_ports
from alphagrpo.images import encode_png_base64
from alphagrpo.types import Question

START_S = 600.0
_POLL_S = 0.5
BARE = (
    "{%- for message in messages -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- else -%}<image>{%- endif -%}"
    "{%- endfor -%}{%- endfor -%}"
)
"""The chat template that makes of a picture and a question what the verifier's bare one makes."""


def command_line(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as options of the server: `enforce_eager=True` is `--enforce-eager`."""
    words: list[str] = []
    for name, value in arguments.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is False:
            words.append("--no-" + name.replace("_", "-"))
        elif value is not None:
            words += [option, value if isinstance(value, str) else json.dumps(value)]
    return words


@contextmanager
def plain_server(verifier_args: Mapping[str, Any], scratch: Path) -> Iterator[str]:
    """A server of the model that the verifier's ``args`` name; yields its URL, stops it after.

    Its log lies in ``scratch``. Raises RuntimeError with the log's end where it does not start.
    """
    from services.engine_start import engine_arguments, set_environment
    from services.paths import resolve_model
    from services.settings import VerifierSettings, parse_settings

    settings = parse_settings(VerifierSettings, dict(verifier_args), "verifier")
    model = resolve_model(settings.engine.model)
    arguments = engine_arguments(settings.engine, model, set_environment(settings.engine))
    arguments |= {"limit_mm_per_prompt": {"image": 1}}
    if settings.template == "bare":
        template = scratch / "bare.jinja"
        template.write_text(BARE, encoding="utf-8")
        arguments |= {"chat_template": str(template), "chat_template_content_format": "openai"}
    (port,) = free_ports(1)
    server = ["-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    words = [*server, "--port", str(port), "--served-model-name", "judge"]
    words += ["--disable-uvicorn-access-log", *command_line(arguments)]
    log = scratch / "plain-server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            env={**os.environ, "VLLM_LOGGING_LEVEL": "WARNING"},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url, log)
        yield url
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(_POLL_S)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(
        f"vLLM's server must answer within {START_S:.0f} s and does not, the end of its log says:\n"
        f"{tail}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the engine it has started: they share a process group."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        pass
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


async def ask_plainly(
    http: httpx.AsyncClient, pixels: np.ndarray, questions: Sequence[Question]
) -> None:
    """All questions of a picture at once, one request each."""
    image = {"url": f"data:image/png;base64,{encode_png_base64(pixels)}"}
    picture = {"type": "image_url", "image_url": image}
    bodies = [
        {
            "model": "judge",
            "messages": [
                {"role": "user", "content": [picture, {"type": "text", "text": question.text}]}
            ],
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": 5,
        }
        for question in questions
    ]
    posts = (http.post("/v1/chat/completions", json=body) for body in bodies)
    for answer in await asyncio.gather(*posts):
        answer.raise_for_status()
        assert answer.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
