"""Several gateways, each a process of its own as `manage.py gateway` runs it, forked from one start.

    python -m tests.gateway.gateways PORT...

Prints one line a gateway: its process id. Ends once all of them have.
"""

import os
import sys


def main(ports: list[int]) -> None:
    from routing.gateway.serving import server

    for port in ports:
        pid = os.fork()
        if pid == 0:
            server.serve(host="127.0.0.1", port=port, workers=1)
            return
        print(pid, flush=True)
    for _ in ports:
        os.wait()


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
