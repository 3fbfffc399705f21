"""Gateways that run without workers look for themselves for what a killed one of them left held."""

import asyncio
import logging
import random

import psycopg

from routing.money import envelopes, ledger
from ziggie.errors import Unavailable

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0


async def sweep_now_and_then() -> None:
    """Until it is cancelled. Several may do it at once: a hold ends once, whoever finds it."""
    while True:
        await asyncio.sleep(EVERY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - processes begin together
        try:
            await ledger.sweep()
            await envelopes.sweep()
        except (Unavailable, psycopg.Error) as error:
            logger.warning("what was left held is looked for again in a minute: %s", error)
