"""The version of our tables: what an older wodmail left is brought up to date, what a newer one left is not touched.

Columns that a newer wodmail has added are added to the tables that are there. A change that an older wodmail could not
live with raises `FORMAT` (docs/decisions/versions.md).
"""

from __future__ import annotations

import json

import sqlalchemy as sa

from wodmail import __version__
from wodmail.errors import ConfigError, Problem

FORMAT = 1
FACT = "format"


def check(connection: sa.Connection, facts: sa.Table) -> None:
    """Refuse a database that a newer wodmail has worked with.

    Args:
        connection: a transaction.
        facts: the table of facts, which may be missing.

    Raises:
        ConfigError: the words name the version that it needs.
    """
    if not sa.inspect(connection).has_table(facts.name):
        return
    known = connection.execute(sa.select(facts.c.value).where(facts.c.name == FACT)).scalar()
    found = json.loads(known) if known else {"format": 0}
    if found["format"] > FORMAT:
        words = (
            f"wodmail {found['wodmail']} has worked with this database, and this is {__version__}, which is too old "
            f"for it (format {found['format']}, not above {FORMAT}). Install that version again, or restore the state "
            "folder from before the update"
        )
        raise ConfigError([Problem("WODSTATEDIR", words)])


def bring_up(connection: sa.Connection, metadata: sa.MetaData) -> list[str]:
    """Make the tables and columns that are missing; returns the columns that were added, as TABLE.COLUMN."""
    metadata.create_all(connection)
    inspector = sa.inspect(connection)
    added = []
    for table in metadata.sorted_tables:
        there = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                connection.execute(sa.text(_addition(connection.dialect, table, column)))
                added.append(f"{table.name}.{column.name}")
    return added


def note(connection: sa.Connection, facts: sa.Table) -> None:
    """Write down which version works with the database from now on."""
    value = json.dumps({"format": FORMAT, "wodmail": __version__})
    done = connection.execute(facts.update().where(facts.c.name == FACT).values(value=value))
    if done.rowcount == 0:
        connection.execute(facts.insert(), {"name": FACT, "value": value})


def _addition(dialect: sa.Dialect, table: sa.Table, column: sa.Column[object]) -> str:
    """The statement that adds a column: rows that are there get its default."""
    kind = column.type.compile(dialect)
    text = f'ALTER TABLE {table.name} ADD COLUMN "{column.name}" {kind}'
    default = column.default
    if isinstance(default, sa.ColumnDefault) and default.is_scalar:
        literal = sa.literal(default.arg, column.type).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        text += f" DEFAULT {literal}"
        text += "" if column.nullable else " NOT NULL"
    return text.replace(":", r"\:")
