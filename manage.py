#!/usr/bin/env python
"""Ziggie's command line."""

import gc
import os
import sys


def main() -> int:
    gc.disable()  # until all is loaded (ziggie.commands): it stays, and walking over it is a third of a start
    serves_alone = sys.argv[1:2] == ["gateway"]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ziggie.gateway_settings" if serves_alone else "ziggie.settings")
    from ziggie.commands import run

    return run(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
