"""A database that only reads for a while, as after a failover: who is connected to it stays so until he goes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection

from routing import database
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_calls import post
from ziggie.errors import Unavailable

END = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE application_name = 'ziggie' AND datname = current_database()
"""
# For all sessions that begin from now on. A database has to be named there as it is written, so a block finds its name.
ALTER = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {}', current_database()); END $$"
ONLY_READS = ALTER.format("SET default_transaction_read_only = on")
WRITES = ALTER.format("RESET default_transaction_read_only")


@pytest.fixture
def staff(transactional_db: None) -> Iterator[psycopg.Connection]:
    own = {**database.connection_parameters(), "application_name": "tests"}
    with psycopg.connect(**own, autocommit=True) as connected:
        yield connected
        connected.execute(WRITES)
        connected.execute(END)
    connection.close()


def test_a_database_that_only_reads_is_left_for_one_that_writes(gateway: Gateway, staff: psycopg.Connection) -> None:
    assert post(gateway).status_code == 200
    gateway.settled(1)
    staff.execute(ONLY_READS)
    staff.execute(END)
    with ThreadPoolExecutor() as pool:
        called = [pool.submit(post, gateway) for _ in range(3)]
        time.sleep(2)
        assert {call.result().status_code for call in called if call.done()} <= {503}
        assert len(gateway.openai.calls) == 1
        staff.execute(WRITES)
        assert {call.result().status_code for call in called} <= {200, 503}
    wait_until(lambda: post(gateway).status_code == 200)
    assert post(gateway).status_code == 200


async def test_a_connection_that_only_reads_is_not_lent_again(staff: psycopg.Connection) -> None:
    staff.execute(ONLY_READS)
    for _ in range(2):
        with pytest.raises(Unavailable, match="only reads"):
            async with database.connection() as standby:
                await standby.execute("UPDATE routing_configepoch SET epoch = epoch")
    staff.execute(WRITES)
    async with database.connection() as writes:
        await writes.execute("UPDATE routing_configepoch SET epoch = epoch")
    await database.close()
