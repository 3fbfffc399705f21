#!/usr/bin/env python
"""Ziggie's command line."""

import os
import sys


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ziggie.settings")
    from ziggie.commands import run

    return run(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
