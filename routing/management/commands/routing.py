"""The routing file, the import of older rules, and the question which model would serve."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from routing.models import AGENT_LEVELS, CREATOR_TIERS, STRATEGIES
from routing.types import Hints
from ziggie.commands import ZiggieCommand
from ziggie.errors import InvalidInput, NotFound, ZiggieError

BY = "command line"


class Command(ZiggieCommand):
    help = "Load, print, import and explain the routing configuration."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(
            dest="action", required=True, metavar="apply|export|import-cortex|explain|replay"
        )
        apply = actions.add_parser("apply", help="Load a routing file, all or nothing.")
        apply.add_argument("file", metavar="FILE")
        export = actions.add_parser("export", help="Print the configuration as a routing file.")
        export.add_argument("--format", choices=("yaml", "json"), default="yaml")
        cortex = actions.add_parser("import-cortex", help="Turn the older JSON of rules into a draft policy.")
        cortex.add_argument("file", metavar="FILE")
        cortex.add_argument("--slug", default="cortex", help="The policy's name (cortex).")
        cortex.add_argument("--json", action="store_true", help="Print the report as one JSON document.")
        _add_explain(actions)
        _add_replay(actions)

    def handle(self, *args: Any, **options: Any) -> None:
        {
            "apply": self._apply,
            "export": self._export,
            "import-cortex": self._import_cortex,
            "explain": self._explain,
            "replay": self._replay,
        }[options["action"]](options)

    def _apply(self, options: dict[str, Any]) -> None:
        from routing.configuration.routing_file import apply

        changes = apply(read_text(options["file"]), by=BY, name=options["file"])
        for warning in changes.warnings:
            self.stderr.write(f"warning: {options['file']}:{warning}")
        written = changes.written or ["nothing: all of it is in force already"]
        self.emit({}, "Changed " + ", ".join(written))

    def _export(self, options: dict[str, Any]) -> None:
        from routing.configuration.routing_file import export

        self.emit({}, export(options["format"]))

    def _import_cortex(self, options: dict[str, Any]) -> None:
        from routing.importing.cortex import import_draft

        report = import_draft(read_text(options["file"]), slug=options["slug"], by=BY, name=options["file"])
        self.emit(report.as_json(), report.as_text())

    def _explain(self, options: dict[str, Any]) -> None:
        from routing.evidence import explaining

        hints = Hints(
            task_kind=options["task_kind"],
            agent_level=options["agent_level"],
            creator_tier=options["creator_tier"],
            complexity=options["complexity"],
            context_tokens=options["context"],
            capabilities=frozenset(options["capability"]),
            strategy=options["strategy"],
        )
        explained = explaining.explain(explaining.request_of(hints, model=options["model"], prompt=options["prompt"]))
        self.emit(explained, explaining.as_text(explained))

    def _replay(self, options: dict[str, Any]) -> None:
        from routing.evidence import replay

        if options["check"] == bool(options["policy"]):
            raise InvalidInput("name a policy to replay, or say --check")
        if options["check"]:
            report = replay.check(days=options["days"])
            self.emit(report, replay.check_as_text(report))
            if report["different"]:
                raise ZiggieError(f"{report['different']} decisions do not come out again as they were recorded")
            return
        name = options["policy"]
        is_file = "." in name or "/" in name  # no policy's name has these
        target = replay.target_of_file(read_text(name), name=name) if is_file else replay.target(name)
        report = replay.replay(target, days=options["days"])
        self.emit(report, replay.as_text(report))


def _add_replay(actions: Any) -> None:
    parser = actions.add_parser("replay", help="Put recorded traffic through a policy that is not live.")
    parser.add_argument("policy", metavar="POLICY", nargs="?", help="SLUG, SLUG@VERSION or a routing file.")
    parser.add_argument("--days", type=int, default=7, metavar="N", help="How many days of traffic (7).")
    parser.add_argument("--check", action="store_true", help="Make each recorded decision again and compare.")
    parser.add_argument("--json", action="store_true", help="Print one JSON document and nothing else.")


def _add_explain(actions: Any) -> None:
    parser = actions.add_parser("explain", help="Say which model would serve, and why not the others.")
    parser.add_argument("--task-kind", default="")
    parser.add_argument("--agent-level", choices=AGENT_LEVELS, default="")
    parser.add_argument("--creator-tier", choices=CREATOR_TIERS, default="")
    parser.add_argument("--complexity", type=float, help="0.0 to 1.0; estimated unless stated.")
    parser.add_argument("--context", type=int, metavar="TOKENS")
    parser.add_argument("--capability", action="append", default=[], metavar="C", help="May be given several times.")
    parser.add_argument("--strategy", choices=STRATEGIES, default="")
    parser.add_argument("--model", default="auto", help="A model's name instead of auto.")
    parser.add_argument("--prompt", default="?", help="The prompt to estimate from.")
    parser.add_argument("--json", action="store_true", help="Print one JSON document and nothing else.")


def read_text(path: str) -> str:
    """Raises NotFound, TooLarge or InvalidInput. No more than the limit is ever read."""
    from routing.configuration.text import MAX_BYTES, decode

    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    return decode(raw, path)
