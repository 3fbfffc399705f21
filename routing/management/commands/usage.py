"""`manage.py usage check`: proves that all sums agree. `manage.py usage export`: records as CSV."""

import csv
import sys
from argparse import ArgumentParser
from typing import Any

from routing import usage
from ziggie.commands import ZiggieCommand
from ziggie.errors import ZiggieError


class BooksDisagree(ZiggieError):
    code = "books_disagree"


class Command(ZiggieCommand):
    help = "Checks the sums of the ledger, or writes its records as CSV."
    offers_json = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("check", help="Compares records, rollups and receipts to the micro-dollar.")
        export = actions.add_parser("export", help="Writes records as CSV to stdout.")
        export.add_argument("--from", dest="since", default="", metavar="DATE")
        export.add_argument("--to", dest="until", default="", metavar="DATE")

    def handle(self, **options: Any) -> None:
        if options["action"] == "export":
            found = usage.records({"from": options["since"], "to": options["until"]}).order_by("id")
            csv.writer(sys.stdout).writerows(usage.csv_rows(found.iterator(chunk_size=2_000)))
            return
        differences = usage.differences()
        if differences:
            raise BooksDisagree(f"{len(differences)} sums disagree", details=[{"at": text} for text in differences])
        self.emit({"ok": True, "differences": []}, "Records, rollups and receipts agree to the micro-dollar.")
