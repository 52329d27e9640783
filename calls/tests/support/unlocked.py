"""For controls: statements without their row locks."""

import re

from django.db.backends.utils import CursorWrapper

from calls.dialler import claims

ROW_LOCK = re.compile(r"\bFOR (NO KEY )?UPDATE( OF \S+)?( SKIP LOCKED)?\s*$")

execute = CursorWrapper.execute


def unlocked(sql: str) -> str:
    """Return a statement without its row lock, and without what keeps a claim from calling a number twice."""
    sql = ROW_LOCK.sub("", sql).replace(claims._TRY_TO_LOCK_NUMBER, "true")
    return sql.replace(claims._NUMBER_IS_FREE, "true")


def execute_unlocked(self, sql, params=None):
    """Execute like :class:`CursorWrapper`, and lock no row."""
    return execute(self, unlocked(sql) if isinstance(sql, str) else sql, params)
