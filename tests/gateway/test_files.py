"""How many connections a gateway may have at a time."""

import os
import subprocess
import sys

import psutil
from django.conf import settings
from django.db import connection

from tests.gateway.conftest import Gateway, wait_until
from tests.ports import free_port
from tests.ziggie.live_process import database_url

FEW = 256


def test_a_gateway_opens_as_many_connections_as_its_system_allows(gateway: Gateway) -> None:
    environment = {**os.environ, "DATABASE_URL": database_url(connection.settings_dict)}
    environment["DJANGO_SETTINGS_MODULE"] = "ziggie.gateway_settings"
    gateways = [sys.executable, "-m", "tests.gateway.gateways", str(free_port())]
    words = ["/bin/sh", "-c", f'ulimit -S -n {FEW} && exec "$0" "$@"', *gateways]
    with subprocess.Popen(words, cwd=settings.BASE_DIR, env=environment, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        process = psutil.Process(int(starter.stdout.readline()))
        try:
            wait_until(lambda: process.rlimit(psutil.RLIMIT_NOFILE)[0] > FEW, seconds=60)
        finally:
            process.terminate()
