"""Runs the measurements one after another and shows each figure beside its goal."""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import accept, create, deliver, guard, idle, pipe, students, yardstick
from benchmarks.figures import Figure, spread

BUSY = 1.3
Part = Callable[[Path, float], list[Figure]]


def parts(quick: bool) -> dict[str, Part]:
    """The measurements by name, each given its folder and the yardstick's seconds.

    Args:
        quick: fewer runs, to try whether it all works.
    """
    return {
        "idle": lambda folder, _: idle.idle(folder, 3 if quick else 20),
        "pipe": lambda folder, _: pipe.pipe(folder, 5 if quick else 30),
        "one": lambda folder, stick: create.one(folder, stick, 2 if quick else 7),
        "burst": lambda folder, stick: create.burst(folder, stick, 10 if quick else 50),
        "students": lambda folder, stick: students.students(folder, stick, 50 if quick else 2000, 1 if quick else 3),
        "deliver": lambda folder, stick: deliver.deliver(folder, stick, 1 if quick else 5),
        "guard": lambda folder, _: guard.guard(folder, 5 if quick else 50),
        "accept": lambda folder, _: accept.accept(folder, 100 if quick else 1000, 1 if quick else 3),
    }


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "cores": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "python": platform.python_version(),
        "ansible-core": version("ansible-core"),
        "wodmail": version("wodmail"),
        "load before": round(psutil.getloadavg()[0], 2),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(figures: list[Figure]) -> Table:
    """The figures for people."""
    shown = Table(title="wodmail benchmarks", title_justify="left")
    for column, justify in (("what", "left"), ("value", "right"), ("goal", "right"), ("", "left"), ("detail", "left")):
        shown.add_column(column, justify="right" if justify == "right" else "left", overflow="fold")
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:.2f} {figure.unit}"
        goal = "" if figure.goal is None else f"{figure.want} {figure.goal:g}"
        colour = {"met": "green", "missed": "red", "failed": "red"}.get(figure.verdict, "yellow")
        shown.add_row(figure.name, value, goal, f"[{colour}]{figure.verdict}[/]", figure.detail)
    return shown


def markdown(figures: list[Figure], facts: dict[str, object]) -> str:
    """The figures as docs/benchmarks.md shows them."""
    lines = ["| what | value | goal | | detail |", "|---|--:|--:|---|---|"]
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:.2f} {figure.unit}"
        goal = "" if figure.goal is None else f"{figure.want} {figure.goal:g}"
        verdict = f"**{figure.verdict}**" if figure.verdict in ("missed", "failed") else figure.verdict
        lines.append(f"| {figure.name} | {value} | {goal} | {verdict} | {figure.detail} |")
    return "\n".join([*lines, "", ", ".join(f"{key} {value}" for key, value in facts.items())])


def run(names: tuple[str, ...], quick: bool, folder: Path, say: Console) -> list[Figure]:
    """Measure.

    Args:
        names: which parts; all when empty.
        quick: see `parts`.
        folder: for everything that is written; every part gets one of its own.
        say: where progress goes.
    """
    sticks = yardstick.measure(folder / "yardstick", 1 if quick else 3)
    stick = statistics.median(sticks)
    figures = [Figure("yardstick: ansible-playbook, 20 command tasks", stick, "s", detail=spread(sticks))]
    say.print(f"yardstick {stick:.2f} s")
    figures += _measured(names, quick, folder, say, stick)
    (again,) = yardstick.measure(folder / "yardstick-again", 1)
    figures.append(Figure("yardstick once more, at the end", again, "s", detail=drift(stick, again)))
    return figures


def drift(before: float, after: float) -> str:
    """Whether the machine was as fast at the end as at the start; figures of a busy machine mean little (pure)."""
    if max(before, after) > BUSY * min(before, after):
        return "the machine was busy with something else meanwhile: the multiples above mean little"
    return ""


def _measured(names: tuple[str, ...], quick: bool, folder: Path, say: Console, stick: float) -> list[Figure]:
    """The figures of the wanted parts; one that fails is a figure too."""
    figures: list[Figure] = []
    for name, part in parts(quick).items():
        if names and name not in names:
            continue
        say.print(f"measuring {name} ...")
        try:
            figures += part(folder / name, stick)
        except (OSError, RuntimeError) as error:
            say.print(f"{name}: {error}", style="red", markup=False)
            figures.append(Figure(name, None, "", detail=str(error).splitlines()[0], broken=True))
    return figures


@click.command()
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON instead of a table.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the figures as docs/benchmarks.md has them.")
@click.option("--quick", is_flag=True, help="Fewer runs, to try whether it all works; figures mean little.")
@click.option("--keep", is_flag=True, help="Leave the folder with configurations, logs and homes, and name it.")
def main(names: tuple[str, ...], as_json: bool, as_markdown: bool, quick: bool, keep: bool) -> None:
    """Measure speed and memory: idle, pipe, one, burst, students, deliver, guard, accept, or those NAMES
    that are given.

    Exit status 0 when everything could be measured, also when goals are missed; 1 otherwise, 64 for an unknown name.
    """
    unknown = set(names) - set(parts(quick))
    if unknown:
        click.echo(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(parts(quick))}", err=True)
        sys.exit(64)
    say = Console(stderr=True)
    facts = machine()
    folder = Path(tempfile.mkdtemp(prefix="wodmail-bench-"))
    folder.chmod(0o755)  # the Postfix to compare with runs as a user of its own
    try:
        figures = run(names, quick, folder, say)
    finally:
        if keep:
            say.print(f"left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        rows = [figure.as_json() for figure in figures]
        print(json.dumps({"version": 1, "machine": facts, "figures": rows}, indent=2))
    elif as_markdown:
        print(markdown(figures, facts))
    else:
        Console().print(table(figures))
        Console().print(", ".join(f"{key} {value}" for key, value in facts.items()))
    sys.exit(1 if any(figure.broken for figure in figures) else 0)
