"""For controls: statements without their row locks."""

import re
from typing import Any

from calls.dialler import claims

ROW_LOCK = re.compile(r"\bFOR (NO KEY )?UPDATE( OF \S+)?( SKIP LOCKED)?(?=\s*(\)|$))")


def unlocked(sql: Any) -> Any:
    """Return a statement without its row lock, and without what keeps a claim from calling a number twice."""
    if not isinstance(sql, str):
        return sql
    sql = ROW_LOCK.sub("", sql).replace(claims._TRY_TO_LOCK_NUMBER, "true")
    return sql.replace(claims._NUMBER_IS_FREE, "true")
