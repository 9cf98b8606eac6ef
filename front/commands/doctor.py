"""sdedit doctor: is this installation sound?"""

import dataclasses
import sys
from pathlib import Path

import click

from ..console import to_json
from ..errors import printable

COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red"}


@click.command(epilog="Example: sdedit doctor --json")
@click.option("--bundle", type=click.Path(path_type=Path), help="Folder of the model.  [default: the shipped model]")
@click.option("--json", "as_json", is_flag=True, help="Print a list of verdict, what and detail.")
def doctor_command(bundle: Path | None, as_json: bool) -> None:
    """Check the versions, the kernels' bits, the model's files, and each engine against the model's reference.

    The exit code is 2 if anything is wrong. A warning names an optional part that is missing.
    """
    from sdedit.runtime.bundle import SHIPPED, read_bundle
    from sdedit.runtime.checks.doctor import examine

    findings = []
    for finding in examine(read_bundle(SHIPPED if bundle is None else bundle, verify_all=True)):
        findings.append(finding)
        if not as_json:
            verdict = click.style(f"{finding.verdict:8}", COLOURS[finding.verdict])
            click.echo(f"{verdict}{finding.what}: {printable(finding.detail)}")
    if as_json:
        click.echo(to_json([dataclasses.asdict(finding) for finding in findings]))
    if any(finding.verdict == "wrong" for finding in findings):
        sys.exit(2)
