"""`wodmail demo`: see it work, without root, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Empty folder to use; else a temporary."
)
@click.option("--keep", is_flag=True, help="Leave the processor running and say how to talk to it.")
def demo(folder: Path | None, keep: bool) -> None:
    """Start a processor, send it mails, show what comes of them.

    Example: wodmail demo --keep
    """
    from wodmail import demo as show

    show.run(folder, keep=keep)
