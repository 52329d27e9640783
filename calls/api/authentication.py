"""Who the caller is: a Supabase access token, and the ``users`` row it names."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt
from django.conf import settings
from rest_framework.request import Request
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import AuthenticationFailed, TokenBackendError, TokenError
from rest_framework_simplejwt.tokens import Token

from calls.api.jwks import key_set
from calls.database.transactions import transaction_with_timeouts
from calls.models import AgencyUser
from calls.parsing import parse_uuid

_BEARER = re.compile(rb"bearer +([^\s]+)", re.IGNORECASE)

# Supabase sends none of these. They have the verifier fetch or trust a key that the token brings along, or (crit)
# understand what it does not.
_REFUSED_HEADERS = frozenset({"crit", "jku", "jwk", "x5c", "x5u"})


class SupabaseTokenBackend(TokenBackend):
    """
    Verifies access tokens of both of Supabase's signing schemes, live at once while a project rotates its keys.

    HS256 goes with the project's legacy secret, ES256 and RS256 with the published key that ``kid`` names. The
    algorithm that is accepted is the key's, whatever else the token claims.
    """

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        """
        The claims of a valid token.

        :raises TokenBackendError: it is malformed, forged, expired, not yet valid, or meant for somebody else.
        """
        try:
            header = jwt.get_unverified_header(token)
            if _REFUSED_HEADERS & header.keys():
                raise jwt.InvalidTokenError("refused header parameter")
            key, algorithm = self._key_for(header)
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self.audience,
                issuer=self.issuer,
                leeway=self.get_leeway(),
                options={"require": ["exp", "sub", "aud"]},
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenBackendError("Token is invalid") from error

    def _key_for(self, header: dict[str, Any]) -> tuple[Any, str]:
        if header.get("alg") == "HS256" and self.signing_key:
            return self.signing_key, "HS256"
        if header.get("alg") in ("ES256", "RS256"):
            key = key_set().find(header.get("kid"))
            if key is not None:
                return key.key, key.algorithm_name
        raise jwt.InvalidKeyError("no key for this token")


class SupabaseAccessToken(Token):
    """A verified access token. ``sub`` is the UUID of a user; every other claim is Supabase's own business."""

    token_type = "access"  # noqa: S105 - a kind, not a secret
    lifetime = timedelta(hours=1)

    def get_token_backend(self) -> SupabaseTokenBackend:
        configured = settings.SIMPLE_JWT
        return SupabaseTokenBackend(
            algorithm="HS256",
            signing_key=configured["SIGNING_KEY"],
            audience=configured["AUDIENCE"],
            issuer=configured["ISSUER"],
            leeway=configured["LEEWAY"],
        )

    def verify(self) -> None:
        """:raises TokenError: ``sub`` is not the UUID of a user. The backend has checked the rest."""
        try:
            parse_uuid(self.payload["sub"])
        except ValueError as error:
            raise TokenError("Token has no user") from error


class SupabaseJWTAuthentication(JWTAuthentication):
    """
    ``Authorization: Bearer <Supabase access token>`` makes ``request.user`` an :class:`AgencyUser`.

    Agency and role come from the ``users`` row on every request, so a demotion works at once. A valid token without
    such a row is somebody without an agency, not nobody: the permissions say so.
    """

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"

    def get_raw_token(self, header: bytes) -> bytes | None:
        """The one token after ``Bearer`` (in any case) and one or more spaces."""
        match = _BEARER.fullmatch(header)
        if match is None:
            raise AuthenticationFailed
        return match[1]

    def get_user(self, validated_token: Token) -> AgencyUser:  # type: ignore[override]
        sub = parse_uuid(validated_token["sub"])
        with transaction_with_timeouts():
            return AgencyUser.objects.filter(pk=sub).first() or AgencyUser(pk=sub)


def issue_token(user: AgencyUser, lifetime: timedelta = SupabaseAccessToken.lifetime) -> str:
    """An access token for ``user`` as Supabase shapes it, signed with ``SUPABASE_JWT_SECRET``. For local work."""
    configured, now = settings.SIMPLE_JWT, datetime.now(UTC)
    claims = {
        "iss": configured["ISSUER"] or "http://127.0.0.1:54321/auth/v1",
        "sub": str(user.pk),
        "aud": configured["AUDIENCE"],
        "iat": now,
        "exp": now + lifetime,
        "email": user.email,
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {},
        "role": "authenticated",
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": int(now.timestamp())}],
        "session_id": str(uuid4()),
        "is_anonymous": False,
    }
    return jwt.encode(claims, configured["SIGNING_KEY"], algorithm="HS256")
