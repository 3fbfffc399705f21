"""`manage.py usage`: proves that all sums agree, writes records as CSV, refreshes prices, and holds providers'
statements against the records."""

import csv
import sys
from argparse import SUPPRESS, ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from routing.reporting import price_list, proof, retention, statements, usage
from ziggie.commands import ZiggieCommand
from ziggie.errors import InvalidInput, ZiggieError


class BooksDisagree(ZiggieError):
    code = "books_disagree"


class Command(ZiggieCommand):
    help = "Checks the sums of the ledger, writes its records, refreshes prices, reconciles statements."
    offers_json = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("check", help="Compares records, rollups, receipts and budgets to the micro-dollar.")
        export = actions.add_parser("export", help="Writes records as CSV (or JSON) to stdout.")
        export.add_argument("--from", dest="since", default="", metavar="DATE")
        export.add_argument("--to", dest="until", default="", metavar="DATE")
        prices = actions.add_parser("prices", help="Compares prices with those of the genai-prices package.")
        what = prices.add_mutually_exclusive_group(required=True)
        what.add_argument("--diff", action="store_true", help="Shows what differs; changes nothing.")
        what.add_argument("--accept", nargs="+", metavar="MODEL", help="Takes over what differs for these models.")
        reconcile = actions.add_parser("reconcile", help="Loads a provider's export and compares it with the records.")
        reconcile.add_argument("file", type=Path)
        reconcile.add_argument("--provider", required=True, metavar="SLUG")
        reconcile.add_argument("--replace", action="store_true", help="Takes the place of the same file.")
        actions.add_parser("keep", help="Makes months' tables and drops what is too old, as the schedule does.")

        for action in actions.choices.values():
            action.add_argument("--json", action="store_true", default=SUPPRESS, help="Print one JSON document.")

    def handle(self, **options: Any) -> None:
        getattr(self, f"_{options['action']}")(options)

    def _export(self, options: dict[str, Any]) -> None:
        found = usage.oldest_first(usage.records({"from": options["since"], "to": options["until"]}))
        if options["json"]:
            self.emit_list(map(usage.record_json, found))
        else:
            csv.writer(sys.stdout).writerows(usage.csv_rows(found))

    def _check(self, options: dict[str, Any]) -> None:
        differences, reach, overruns = proof.differences(), proof.reach(), proof.overruns()
        if differences:
            raise BooksDisagree(f"{len(differences)} sums disagree", details=[{"at": text} for text in differences])
        document = {
            "ok": True,
            "differences": [],
            "records_from": reach.records_from,
            "months_from": reach.months_from,
            "months_until": reach.months_until,
            "overruns": [asdict(overrun) for overrun in overruns],
        }
        agreed = f"Records, rollups, receipts and the budgets' counters agree to the micro-dollar: {reach}."
        self.emit(document, "\n".join([agreed, *map(str, overruns)]))

    def _prices(self, options: dict[str, Any]) -> None:
        comparison = price_list.compare()
        if options["accept"]:
            seen = price_list.digests(comparison, options["accept"])
            names = price_list.accept(seen, by="the command line")
            self.emit({"accepted": names}, f"New prices, in force from now on: {', '.join(names)}.")
        else:
            self.emit(price_list.as_json(comparison), price_list.as_text(comparison))

    def _reconcile(self, options: dict[str, Any]) -> None:
        path: Path = options["file"]
        try:
            with path.open("rb") as file:
                content = file.read(statements.MAX_BYTES + 1)
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
        statement = statements.load(
            content,
            file_name=path.name,
            provider=options["provider"],
            by="the command line",
            replace=options["replace"],
        )
        report = statements.compare(statement)
        self.emit(statements.as_json(report), statements.as_text(report))

    def _keep(self, options: dict[str, Any]) -> None:
        kept = retention.keep_house()
        document = {name: getattr(kept, name) for name in ("made", "dropped", "receipts", "bodies", "refused")}
        lines = [
            f"Made {kept.made} months, dropped {len(kept.dropped)} ({', '.join(kept.dropped) or 'none'}), with "
            f"{kept.receipts} receipts and {kept.bodies} bodies.",
            *(f"{month} stays: {reason}" for month, reason in kept.refused.items()),
        ]
        self.emit(document, "\n".join(lines))
