"""`manage.py doctor`: is everything there that Ziggie needs? One line each, and what to do where not."""

import sys
from dataclasses import asdict
from typing import Any

from ziggie import doctor
from ziggie.commands import ZiggieCommand


class Command(ZiggieCommand):
    help = "Checks database, queue, live layer, providers, disk and clock. Exit code 1 if anything needed fails."
    offers_json = True
    needs_database = False  # that it cannot start is a finding
    requires_system_checks: list[str] = []

    def handle(self, **options: Any) -> None:
        findings = []
        for finding in doctor.examine():
            findings.append(finding)
            if not options["json"]:
                hint = f"  -> {finding.hint}" if finding.hint else ""
                self.stdout.write(f"{finding.state:<8} {finding.name:<12} {finding.text}{hint}")
                self.stdout.flush()
        failed = [finding.name for finding in findings if finding.state == "failed"]
        if options["json"]:
            self.emit({"ok": not failed, "checks": [asdict(finding) for finding in findings]}, "")
        if failed:
            sys.exit(1)
