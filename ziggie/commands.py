"""How every command of `manage.py` behaves: the database is there, errors are one line, `--json` is clean.

Exit codes: 0 done, 1 the work failed, 2 wrong usage or input, 130 interrupted.
"""

import atexit
import contextlib
import errno
import gc
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import BaseCommand, CommandParser, ManagementUtility, get_commands
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError

from ziggie import embedded
from ziggie.errors import ConfigurationError, ZiggieError

# Commands of others that never look into the database; ours say so themselves (`needs_database`).
NO_DATABASE = frozenset(
    {"check", "collectstatic", "compilemessages", "diffsettings", "findstatic", "makemessages", "sendtestemail"}
    | {"spectacular", "startapp", "startproject"}
)
# What our own output may meet where it is written to a file.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ZiggieCommand(BaseCommand):
    """A command whose errors are ZiggieErrors and whose result can be one JSON document.

    With `offers_json`, `handle` ends in `self.emit(document, text)`. While `--json` is given, everything
    else that is printed, by whomever, goes to stderr.
    """

    offers_json = False
    needs_database = True

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        if self.offers_json:
            parser.add_argument("--json", action="store_true", help="Print one JSON document and nothing else.")
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        self._as_json = bool(options.get("json"))
        self._result_stream = options.get("stdout") or self.stdout
        if not self._as_json:
            return super().execute(*args, **options)
        options["stdout"] = options.get("stderr") or sys.stderr
        with contextlib.redirect_stdout(options["stdout"]):
            return super().execute(*args, **options)

    def emit(self, document: Any, text: str) -> None:
        """The result: `document` with --json (decimals and times become strings), else `text`."""
        if self._as_json:
            text = json.dumps(document, cls=DjangoJSONEncoder, ensure_ascii=False, indent=2)
        self._result_stream.write(text if text.endswith("\n") else f"{text}\n")

    def emit_list(self, documents: Iterable[Any]) -> None:
        """The result as one JSON list, written as its documents come: for what is too long to hold."""
        between = "["
        for document in documents:
            text = json.dumps(document, cls=DjangoJSONEncoder, ensure_ascii=False)
            self._result_stream.write(f"{between}{text}\n")
            between = ","
        self._result_stream.write("]\n" if between == "," else "[]\n")


class Utility(ManagementUtility):
    """Django's command line, with a database that runs once the arguments are understood."""

    def fetch_command(self, subcommand: str) -> BaseCommand:
        if subcommand not in get_commands():
            with contextlib.suppress(SystemExit):
                super().fetch_command(subcommand)  # says which name may have been meant
            sys.exit(2)
        command = super().fetch_command(subcommand)
        if getattr(command, "needs_database", subcommand not in NO_DATABASE):
            _prepare_before(command)
        gc.freeze()  # what is loaded by now stays to the end
        gc.enable()
        return command


def run(argv: list[str]) -> int:
    """The exit code of one command line."""
    # Registered before everything else, so run after it: other connections close first.
    atexit.register(_give_database_back)
    try:
        _load_settings()
        Utility(argv).execute()
        sys.stdout.flush()  # here, where it is told if it cannot be written
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        _write_no_more()
    except OSError as error:
        if error.errno not in NO_ROOM or "--traceback" in argv:
            raise
        _write_no_more()
        sys.stderr.write(f"The output could not be written: {error.strerror}\n")
        return 1
    except (ZiggieError, ImproperlyConfigured, DatabaseError) as error:
        if "--traceback" in argv:
            raise
        return report(error)
    return 0


def _write_no_more() -> None:
    """What is still to be flushed goes nowhere, so that the interpreter ends without a word about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(error: Exception) -> int:
    """Say on stderr in one line (and one for each detail) what failed. Returns the exit code."""
    if isinstance(error, DatabaseError):
        from ziggie import database

        error = database.explain(error)
    message = error.message if isinstance(error, ZiggieError) else f"The settings are wrong: {error}"
    sys.stderr.write(" ".join(message.split()) + "\n")
    if not isinstance(error, ZiggieError):
        return 1
    for detail in error.details:
        if all(str(value) in error.message for value in detail.values()):
            continue  # one fault alone is told in the message itself
        sys.stderr.write("  " + ": ".join(" ".join(str(value).split()) for value in detail.values()) + "\n")
    return error.exit_code


def _give_database_back() -> None:
    if settings.configured:
        embedded.stop(settings.ZIGGIE_HOME)


def _load_settings() -> None:
    try:
        _ = settings.INSTALLED_APPS
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The settings cannot be loaded: {error}") from error


def _prepare_before(command: BaseCommand) -> None:
    execute = command.execute

    def execute_prepared(*args: Any, **options: Any) -> str | None:
        from ziggie import database

        database.prepare()
        return execute(*args, **options)

    command.execute = execute_prepared  # type: ignore[method-assign]  # this one instance, before it runs
