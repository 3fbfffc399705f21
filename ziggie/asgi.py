"""What the web server runs: pages and REST through Django, /ws/live/ through channels."""

import gc
import os
import sys
from typing import Any

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ziggie.settings")
gc.disable()  # as in manage.py
http = get_asgi_application()  # fills the app registry, which the import below needs

from routing.gateway.app import application as gateway  # noqa: E402 - see above
from routing.gateway.app import is_meant  # noqa: E402 - see above
from ziggie.consumers import live_socket  # noqa: E402 - see above
from ziggie.database import check_sessions  # noqa: E402 - see above

check_sessions()
if "daphne.http_protocol" in sys.modules:  # it runs us: it is to read no more than we take
    from routing.gateway.serving import mounted

    mounted.install()


async def web(scope: Any, receive: Any, send: Any) -> None:
    """The gateway is an application of its own: its way through Django would cost more than its work."""
    await (gateway if is_meant(scope) else http)(scope, receive, send)


application = ProtocolTypeRouter({"http": web, "websocket": live_socket})
gc.freeze()
gc.enable()
