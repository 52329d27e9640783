"""
What makes a cancel slow in an adopted database: indexes, triggers, publications and full pages of the contacts' table.

A cancel updates every dialable contact of a batch, and one row of ``call_batches``. So only the contacts' table is
examined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from django.db import DatabaseError, connection, transaction

from calls.database.adoption.catalog import fetch_column, fetch_count
from calls.database.adoption.storage import STORAGE
from calls.statuses import BatchStatus, ContactStatus, skip_note

CONTACTS = "campaign_contacts"
WRITTEN_COLUMNS = ["status", "outcome_notes", "updated_at"]

# Measured by benchmarks/adopted.py on the app's own table with 100,000 contacts and one of these (benchmarks/README.md,
# "Adopted databases"). The BEFORE trigger sets updated_at, the AFTER trigger does nothing. With a million contacts it
# is more: an adopted schema with an index, a trigger and full pages took 12 times as long. docs/adopt.md has these
# figures too.
PRICES = {
    "index": "about 5 times as long",
    "full pages": "about 5 times as long",
    "BEFORE": "about 1.5 times as long",
    "AFTER": "about 1.3 times as long",
    "publication": "about 400 MB for a million",
    "replica identity": "about twice as much",
}

FILLFACTOR = int(STORAGE[CONTACTS]["fillfactor"])
# With a larger fillfactor, the new versions of many rows do not fit into their page.
MAX_FILLFACTOR = 50
# The estimate from PostgreSQL's statistics is rough, so the table counts as full only above this fraction.
MAX_FILL = 0.6
# In a smaller table no cancel is slow.
MIN_ROWS = 10_000
ROW_OVERHEAD = 28
PAGE = 8192

# The condition that keeps a trigger from firing when a contact is skipped.
UNLESS_SKIPPED = f"NEW.status IS DISTINCT FROM '{ContactStatus.SKIPPED}' OR OLD.status = '{ContactStatus.SKIPPED}'"

# A contact before and after a cancel, as JSON.
QUEUED = json.dumps({"status": ContactStatus.QUEUED})
SKIPPED = json.dumps(
    {"status": ContactStatus.SKIPPED, "outcome_notes": skip_note(BatchStatus.CANCELLED), "updated_at": "now"}
)

# The bits of pg_trigger.tgtype.
FOR_EACH_ROW, UPDATE = 1, 16


@dataclass(frozen=True)
class Cost:
    """Something that makes a cancel slower, or makes it send an event for each contact, and how to change that."""

    problem: str
    advice: str
    statements: tuple[str, ...]

    def __str__(self) -> str:
        """Return a note with each statement on a line of its own."""
        return "\n        ".join([f"{self.problem}. {self.advice}", *self.statements])


def costs_of_cancel(table: str) -> list[Cost]:
    """Return what slows down a cancel in ``table``. Empty for every table but the contacts'."""
    if table != CONTACTS:
        return []
    written = _written_columns()
    return [*_index_costs(written), *_trigger_costs(written), *_publication_costs(), *_full_page_costs()]


def _written_columns() -> list[str]:
    """Return the columns that change when a contact is skipped, including generated columns that depend on them."""
    generated = fetch_column(
        f"""
        SELECT DISTINCT made.attname FROM pg_attribute made
        JOIN pg_attrdef ON adrelid = made.attrelid AND adnum = made.attnum
        JOIN pg_depend ON refclassid = 'pg_class'::regclass AND refobjid = adrelid AND (
            (classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid)
            OR (classid = 'pg_class'::regclass AND objid = adrelid AND objsubid = adnum)
        )
        JOIN pg_attribute source ON source.attrelid = adrelid AND source.attnum = refobjsubid
        WHERE made.attrelid = '{CONTACTS}'::regclass AND made.attgenerated <> '' AND source.attname = ANY (%s)
        """,
        WRITTEN_COLUMNS,
    )
    return [*WRITTEN_COLUMNS, *sorted(generated)]


def _index_costs(written: list[str]) -> Iterator[Cost]:
    """
    Yield the indexes that contain a written column as a key, in an expression or in their condition.

    With one of them, PostgreSQL adds an entry for the new version of a row to every index. From version 16 on, BRIN
    indexes are exempt.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT indexrelid::regclass::text, string_agg(DISTINCT attname, ', '), indisunique, (
                SELECT quote_ident(conname) FROM pg_constraint
                WHERE conindid = indexrelid AND conrelid = indrelid AND contype IN ('p', 'u', 'x')
            )
            FROM pg_index
            JOIN pg_class index ON index.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
            JOIN pg_attribute ON attrelid = indrelid AND (attnum = ANY (indkey) OR EXISTS (
                SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = indexrelid
                    AND refclassid = 'pg_class'::regclass AND refobjid = indrelid AND refobjsubid = attnum
            ))
            WHERE indrelid = '{CONTACTS}'::regclass AND attname = ANY (%s)
                AND (amname <> 'brin' OR current_setting('server_version_num')::int < 160000)
            GROUP BY indexrelid, indrelid, indisunique ORDER BY 1
            """,
            [written],
        )
        rows = cursor.fetchall()
    for name, columns, is_unique, constraint in rows:
        drop = f"DROP INDEX CONCURRENTLY {name};"
        advice = "If no query needs it"
        if constraint:
            drop = f"ALTER TABLE {CONTACTS} DROP CONSTRAINT {constraint};"
            advice = f"It belongs to a constraint. If the rule holds without {columns}, add one without it first, then"
        elif is_unique:
            advice = (
                f"It keeps rows unique. If the rule holds without {columns}, create an index without it first, then"
            )
        yield Cost(
            f"the index {name} contains {columns}, which a cancel writes: with one or more such indexes, a cancel takes"
            f" {PRICES['index']}",
            f"{advice}:",
            (drop,),
        )


def _trigger_costs(written: list[str]) -> Iterator[Cost]:
    """Yield the row triggers of other services that fire for a contact that a cancel skips."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger
            WHERE tgrelid = '{CONTACTS}'::regclass AND NOT tgisinternal AND tgname NOT LIKE 'pgtrigger\\_%%'
                AND tgtype & %s = %s AND tgenabled IN ('O', 'A') AND (tgattr::text = '' OR EXISTS (
                    SELECT FROM pg_attribute
                    WHERE attrelid = tgrelid AND attnum = ANY (tgattr) AND attname = ANY (%s)
                ))
            ORDER BY 1
            """,
            [FOR_EACH_ROW | UPDATE, FOR_EACH_ROW | UPDATE, written],
        )
        rows = cursor.fetchall()
    for name, definition in rows:
        trigger = _Trigger.parse(definition)
        if not trigger.fires_for_skipped():
            continue
        yield Cost(
            f"the trigger {name} is called {trigger.timing} the update of each contact that a cancel skips: a"
            f" cancel takes {PRICES[trigger.timing]}, or more if its function does much",
            "If it need not run for skipped contacts:",
            trigger.statements_excluding_skips(),
        )


@dataclass(frozen=True)
class _Trigger:
    """A row trigger, as PostgreSQL prints its definition."""

    create: str
    """From CREATE to the name."""
    timing: str
    events: str
    table: str
    """From ON to FOR EACH ROW."""
    condition: str
    """Empty if it has none."""
    function: str

    @classmethod
    def parse(cls, definition: str) -> _Trigger:
        match = re.fullmatch(
            r"(CREATE (?:CONSTRAINT )?TRIGGER (?:\"(?:[^\"]|\"\")+\"|\S+)) (BEFORE|AFTER) (.+?)"
            r" (ON .+? FOR EACH ROW) (?:WHEN \((.+)\) )?EXECUTE FUNCTION (.+)",
            definition,
            re.DOTALL,
        )
        if match is None:
            raise ValueError(definition)
        return cls(*(part or "" for part in match.groups()))

    def fires_for_skipped(self) -> bool:
        """
        Return whether the condition would be true for some contact if a cancel skipped it.

        Up to 100 contacts and a row of NULLs are tried. A condition that fails counts as true.
        """
        if not self.condition:
            return True
        try:
            with transaction.atomic():
                count = fetch_count(
                    f"""
                    SELECT count(*) FROM (
                        (SELECT contact AS stored FROM {CONTACTS} AS contact LIMIT 100)
                        UNION ALL SELECT NULL::{CONTACTS}
                    ) AS sample,
                    LATERAL (SELECT (jsonb_populate_record(stored, '{QUEUED}')).*) AS old,
                    LATERAL (SELECT (jsonb_populate_record(stored, '{SKIPPED}')).*) AS new
                    WHERE {self.condition}
                    """
                )
                # Undo whatever a function in the condition has written.
                transaction.set_rollback(True)
                return count > 0
        except DatabaseError:
            return True

    def statements_excluding_skips(self) -> tuple[str, ...]:
        """
        Return the statements that stop the trigger from firing when a contact is skipped.

        If it also fires on INSERT or DELETE, it becomes two triggers, so that nothing changes for these.
        """
        condition = UNLESS_SKIPPED
        if self.condition:
            condition = f"({UNLESS_SKIPPED}) AND {self.condition}"
        events = self.events.split(" OR ")
        others = [event for event in events if not event.startswith("UPDATE")]
        (update,) = (event for event in events if event.startswith("UPDATE"))
        if not others:
            statements = self._replace_statements(update, condition)
            return statements if len(statements) == 1 else ("BEGIN;", *statements, "COMMIT;")
        quote = '"' if self._name.endswith('"') else ""
        return (
            "BEGIN;",
            *self._replace_statements(" OR ".join(others), self.condition),
            self._create_statement(f"{self.create.removesuffix(quote)}_on_update{quote}", update, condition),
            "COMMIT;",
        )

    @property
    def _name(self) -> str:
        return self.create.partition("TRIGGER ")[2]

    def _replace_statements(self, events: str, condition: str) -> tuple[str, ...]:
        if self.create.startswith("CREATE CONSTRAINT"):
            return (f"DROP TRIGGER {self._name} ON {CONTACTS};", self._create_statement(self.create, events, condition))
        return (self._create_statement(self.create.replace("CREATE", "CREATE OR REPLACE", 1), events, condition),)

    def _create_statement(self, create: str, events: str, condition: str) -> str:
        when = f"WHEN ({condition}) " if condition else ""
        return f"{create} {self.timing} {events} {self.table} {when}EXECUTE FUNCTION {self.function};"


def _publication_costs() -> Iterator[Cost]:
    """Yield the publications that send an event for each skipped contact, and a replica identity that sends more."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT quote_ident(pubname), EXISTS (
                SELECT FROM pg_publication_rel WHERE prpubid = pg_publication.oid AND prrelid = '{CONTACTS}'::regclass
            )
            FROM pg_publication JOIN pg_publication_tables USING (pubname)
            WHERE pubupdate AND (schemaname, tablename) = ('public', '{CONTACTS}') ORDER BY 1
            """
        )
        rows = cursor.fetchall()
        cursor.execute(f"SELECT relreplident = 'f' FROM pg_class WHERE oid = '{CONTACTS}'::regclass")
        (has_full_identity,) = cursor.fetchone()
    for name, is_listed in rows:
        advice = "Send one event for each batch instead (docs/adopt.md), and remove the contacts"
        yield Cost(
            f"the publication {name} sends an event for each contact that a cancel skips: {PRICES['publication']}",
            f"{advice}:" if is_listed else f"{advice}: it has all tables, so create it again with a list of tables.",
            (f"ALTER PUBLICATION {name} DROP TABLE {CONTACTS};",) if is_listed else (),
        )
    if rows and has_full_identity:
        yield Cost(
            "REPLICA IDENTITY FULL makes the publication send the old version of each contact that a cancel skips as"
            f" well: {PRICES['replica identity']}",
            "If no subscriber needs it:",
            (f"ALTER TABLE {CONTACTS} REPLICA IDENTITY DEFAULT;",),
        )


def _full_page_costs() -> Iterator[Cost]:
    """Yield the cost of full pages, if skipped contacts do not fit into the page of their old version."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT coalesce((
                SELECT option_value::int FROM pg_options_to_table(reloptions) WHERE option_name = 'fillfactor'
            ), 0), reltuples, coalesce(reltuples * (%s + (
                SELECT sum(avg_width * (1 - null_frac)) FROM pg_stats
                WHERE schemaname = 'public' AND tablename = relname
            )) / nullif(relpages::float * %s, 0), 0), (SELECT count(*) FROM pg_index WHERE indrelid = pg_class.oid)
            FROM pg_class WHERE oid = '{CONTACTS}'::regclass
            """,
            [ROW_OVERHEAD, PAGE],
        )
        fillfactor, rows, fill, indexes = cursor.fetchone()
    price = f"needs an entry in each of the {indexes} indexes: a cancel takes {PRICES['full pages']}"
    set_fillfactor = (f"ALTER TABLE {CONTACTS} SET (fillfactor = {FILLFACTOR});",)
    if rows >= MIN_ROWS and fill > MAX_FILL:
        yield Cost(
            f"its pages are about {min(fill, 1):.0%} full, so each contact that is stored already and skipped {price}",
            "If large batches with such contacts may be cancelled, rewrite the table, which locks it while it runs."
            " pg_repack does the same without the lock:",
            (*(() if 0 < fillfactor <= MAX_FILLFACTOR else set_fillfactor), f"VACUUM FULL {CONTACTS};"),
        )
    elif fillfactor > MAX_FILLFACTOR:
        yield Cost(
            f"its fillfactor is {fillfactor}, so each new contact that is skipped {price}",
            "For contacts that are added from now on:",
            set_fillfactor,
        )
