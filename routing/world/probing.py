"""Asks a provider whether it answers, for people who want to know now."""

from django.contrib import messages

from routing.adapters import transport
from routing.configuration import snapshot
from routing.types import ProviderError
from routing.world.health import found, may_not_ask
from ziggie.background import background_loop

LONGEST_SECONDS = 20


def probe(slug: str) -> tuple[int, str]:
    """A level of Django's messages, and what was found."""
    configuration = snapshot.load()
    models = [model for model in configuration.models.values() if model.provider.slug == slug]
    if not models:
        return messages.WARNING, "has no model yet, so nothing would call it"
    provider = models[0].provider
    if provider.kind == "offline":
        return messages.SUCCESS, "is built in and always answers"
    if provider.needs_api_key and not provider.api_key:
        return messages.ERROR, f"has no API key: {provider.api_key_problem or 'none is set'}"
    try:
        status = background_loop().submit(transport.status(provider)).result(timeout=LONGEST_SECONDS)
    except ProviderError as error:
        if may_not_ask(error):
            return messages.WARNING, f"answers, though its key may not read the list of models: {error.message}"
        return messages.ERROR, f"does not serve: {error.message}"
    except TimeoutError:
        return messages.ERROR, f"gave no answer in {LONGEST_SECONDS} seconds"
    if status.models is None:
        return messages.SUCCESS, "answers"
    _, missing = found((model for model in models if model.enabled), status.models)
    text = f"answers and has {len(status.models)} models"
    return (messages.WARNING, f"{text}, but not {', '.join(sorted(missing))}") if missing else (messages.SUCCESS, text)
