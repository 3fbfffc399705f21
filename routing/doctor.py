"""What `manage.py doctor` finds out about providers. None of them is needed: the offline model always serves."""

import asyncio
from collections.abc import Iterator

from routing.adapters import transport
from routing.configuration import snapshot
from routing.types import ProviderError, ProviderSpec, Source, UnsupportedByProvider
from ziggie.background import background_loop
from ziggie.doctor import Finding, check

SECONDS = 5.0


@check("providers")
def providers() -> Iterator[Finding]:
    """A line for each enabled provider, all asked at once."""
    configuration = snapshot.current()
    specs = {model.provider.slug: model.provider for model in configuration.models.values() if model.provider.enabled}
    asked = [spec for _, spec in sorted(specs.items()) if spec.location != Source.OFFLINE]
    yield from background_loop().submit(_ask_all(asked)).result()


async def _ask_all(specs: list[ProviderSpec]) -> list[Finding]:
    return list(await asyncio.gather(*(_ask(spec) for spec in specs)))


async def _ask(spec: ProviderSpec) -> Finding:
    if spec.needs_api_key and not spec.api_key:
        return Finding(spec.slug, "warning", "has no API key", "set its variable in .env, or type the key in the admin")
    try:
        async with asyncio.timeout(SECONDS):
            status = await transport.status(spec)
    except (ProviderError, UnsupportedByProvider, TimeoutError) as error:
        what = str(error) or f"no answer within {SECONDS:g} s"
        return Finding(spec.slug, "warning", what, f"start it, correct {spec.base_url} in the admin, or switch it off")
    count = "" if status.models is None else f", {len(status.models)} models"
    return Finding(spec.slug, "ok", f"answers{count}")
