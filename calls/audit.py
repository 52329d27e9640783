"""Who changed a batch, and through which entry point: the history's context and the log line."""

from __future__ import annotations

import logging
import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import pghistory
from django.db import connection, models, transaction
from django.dispatch import Signal

from calls.exceptions import CallsError, DatabaseFailed

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger(__name__)


class Source(models.TextChoices):
    """The entry point that a change came through."""

    API = "api", "API"
    ADMIN = "admin"
    COMMAND = "command"
    # The dialler's own changes: it starts a batch, pauses it and completes it.
    DIALLER = "dialler"


class ActorKind(models.TextChoices):
    AGENCY_USER = "agency_user"
    STAFF = "staff"
    OS_USER = "os_user", "Operating system user"


@dataclass(frozen=True)
class Actor:
    """
    The person who changes a batch. ``id`` is unique within ``kind``; ``label`` is for people to read.

    ``client_id`` is the third-party OAuth client that an agency user acts through, and otherwise None.

    Stored in ``call_batch_events.pgh_context`` (models/history.py). The log line has ``kind`` and ``id``.
    """

    kind: ActorKind
    id: str
    label: str
    client_id: str | None = None

    @classmethod
    def staff(cls, user: User) -> Actor:
        """Return the actor for a user who is signed in to the Django admin."""
        return cls(ActorKind.STAFF, str(user.pk), user.get_username())

    @classmethod
    def os_user(cls) -> Actor:
        """Return the actor for the owner of this process. Environment variables such as USER are not trusted."""
        uid = os.getuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = f"uid {uid}"
        return cls(ActorKind.OS_USER, str(uid), name)

    def as_dict(self) -> dict[str, str]:
        """Return ``{"kind", "id", "label"}``, and ``client_id`` if there is one: the form that the history stores."""
        return {key: str(value) for key, value in asdict(self).items() if value is not None}


@contextmanager
def history_context(
    *, source: Source, actor: Actor | None = None, reason: str | None = None, **numbers: int
) -> Iterator[None]:
    """
    Record ``actor``, ``source``, ``reason`` and ``numbers`` with the history rows that are written inside the block.

    ``pghistory.context`` alone would also add them to later changes in the same transaction, or in a context that the
    caller has opened.
    """
    metadata: dict[str, Any] = {"via": str(source), **numbers}
    if actor is not None:
        metadata["actor"] = actor.as_dict()
    if reason is not None:
        metadata["reason"] = reason
    with pghistory.context() as context:
        outer = dict(context.metadata)
        context.metadata.update(metadata)
        try:
            yield
        finally:
            context.metadata.clear()
            context.metadata.update(outer)
    if connection.savepoint_ids:
        # Inside a caller's transaction: clear the setting, which pghistory made for the rest of that transaction.
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('pghistory.context_metadata', '', true)")


class _Subject(Protocol):
    """A batch or an agency."""

    @property
    def log_name(self) -> str: ...


class _Result(Protocol):
    @property
    def status(self) -> str: ...

    @property
    def numbers(self) -> dict[str, int]: ...


P = ParamSpec("P")
S = TypeVar("S", bound=_Subject)
R = TypeVar("R", bound=_Result)


def audited(
    verb: str, *, signal: Signal | None = None
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """
    Log each call of the decorated method, after its commit or when it is refused. After the commit, send ``signal``.

    A refusal, such as "already cancelled", is logged at INFO. A database error is logged at ERROR: what the caller
    asked for did not happen.

    The method takes ``actor`` and ``source`` as keyword arguments. Its ``reason`` is not logged, because it may contain
    a name or a number. If a receiver raises an exception, it is logged and has no other effect.
    """

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @wraps(method)
        def wrapper(subject: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            actor, source = cast(Actor, kwargs["actor"]), cast(Source, kwargs["source"])
            started = time.monotonic()

            def log(level: int, outcome: str, **numbers: int) -> None:
                log_verb(
                    verb, subject, actor=actor, source=source, started=started, outcome=outcome, level=level, **numbers
                )

            def announce() -> None:
                log(logging.INFO, result.status, **result.numbers)
                if signal is not None:
                    signal.send_robust(sender=type(subject), result=result)

            try:
                result = method(subject, *args, **kwargs)
            except CallsError as refusal:
                log(logging.ERROR if isinstance(refusal, DatabaseFailed) else logging.INFO, refusal.code)
                raise
            transaction.on_commit(announce)
            return result

        return wrapper

    return decorate


def log_verb(
    verb: str,
    subject: _Subject,
    *,
    actor: Actor,
    source: Source,
    started: float,
    outcome: str,
    level: int = logging.INFO,
    **numbers: int,
) -> None:
    """Log one line for a verb. ``started`` is the ``time.monotonic()`` at which it began."""
    logger.log(
        level,
        "%s %s source=%s actor=%s:%s outcome=%s%s ms=%.0f",
        *(verb, subject.log_name, source, actor.kind, actor.id, outcome),
        "".join(f" {name}={number}" for name, number in numbers.items()),
        (time.monotonic() - started) * 1000,
    )
