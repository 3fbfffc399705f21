"""Has Ollama load a model that was left because it said nothing in time.

Ollama ends the loading of a model with the request that wanted it. Where a model takes longer to load than a call waits
for its first token, each call would begin the loading anew and end it, and the model would never serve. So once a call
has left it, it is asked for without a prompt, and that request lives until the model is there.
"""

import asyncio
import logging
from functools import partial

from routing.adapters import transport
from routing.adapters.base import WireRequest
from routing.adapters.sending.deadlines import Timeouts
from routing.loops import OfLoop
from routing.types import Candidate, ChatRequest, ProviderError, Source, UnsupportedByProvider
from ziggie.values import replace

logger = logging.getLogger(__name__)

LONGEST_SECONDS = 900.0
_Wanted = tuple[int, str]  # a provider's id and a model's name

_loading: OfLoop[dict[_Wanted, asyncio.Task[None]]] = OfLoop(dict)


def begin(candidate: Candidate, request: ChatRequest) -> None:
    """Begins to load the model as this request needs it, unless that is under way from here or cannot help."""
    model = candidate.model
    wanted, loading = (model.provider.id, model.name), _loading.get()
    if wanted in loading or not _is_loaded_here(candidate):
        return
    try:
        asked = transport.codec_for(model.provider).encode_chat(
            request, model, max_output_tokens=candidate.max_output_tokens, stream=False
        )
    except (ProviderError, UnsupportedByProvider):
        return
    task = loading[wanted] = asyncio.get_running_loop().create_task(_load(candidate, _without_prompt(asked)))
    task.add_done_callback(partial(_forget, loading, wanted))


def _is_loaded_here(candidate: Candidate) -> bool:
    """False for what Ollama passes on to its cloud, and for a model that is not to stay once it is there."""
    provider, name = candidate.model.provider, candidate.model.name
    stays = str(provider.options.get("keep_alive", "5m")).strip(" smh") != "0"
    return provider.kind == "ollama" and candidate.model.source == Source.LOCAL and stays and not name.endswith("cloud")


def _without_prompt(asked: WireRequest) -> WireRequest:
    """The same context, since another one would have the model loaded again."""
    said = asked.body or {}
    body = {"model": said["model"], "messages": [], "stream": False, "options": {"num_ctx": said["options"]["num_ctx"]}}
    return replace(asked, body=body | ({"keep_alive": said["keep_alive"]} if "keep_alive" in said else {}))


async def _load(candidate: Candidate, sent: WireRequest) -> None:
    model = candidate.model
    try:
        answer = await transport.fetch(model.provider, sent, Timeouts(total_seconds=LONGEST_SECONDS))
        if answer.status >= 300:
            raise transport.codec_for(model.provider).decode_error(answer, sent)
    except ProviderError as error:
        logger.info("%s did not load %s: %s", model.provider.slug, model.slug, error.message)


def _forget(loading: dict[_Wanted, asyncio.Task[None]], wanted: _Wanted, task: asyncio.Task[None]) -> None:
    loading.pop(wanted, None)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("loading %s failed in an unforeseen way", wanted[1], exc_info=error)
