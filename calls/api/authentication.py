"""Authentication with Supabase access tokens. The token names a row of ``users``, which has the agency and role."""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt
from django.conf import settings
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenError
from rest_framework_simplejwt.tokens import Token

from calls.api.jwks import key_set
from calls.database.transactions import transaction_with_timeouts
from calls.models import AgencyUser
from calls.parsing import parse_uuid

logger = logging.getLogger(__name__)

# Seconds between two warnings of a process about tokens of another issuer.
ISSUER_WARNING_INTERVAL = 3600.0

_BEARER = re.compile(rb"bearer +([^\s]+)", re.IGNORECASE)

# Supabase does not use these header parameters. They tell a verifier to fetch or trust a key that the token itself
# names, or require extensions (crit) that this backend does not implement.
_REFUSED_HEADERS = frozenset({"crit", "jku", "jwk", "x5c", "x5u"})

# Why a token was refused, for the log. The texts of PyJWT's exceptions are not used: some quote the token.
_REASONS: dict[type[BaseException], str] = {
    jwt.ExpiredSignatureError: "token expired",
    jwt.ImmatureSignatureError: "token not valid yet",
    jwt.InvalidSignatureError: "wrong signature",
    jwt.InvalidKeyError: "unknown key",
    jwt.InvalidAudienceError: "wrong audience",
    jwt.InvalidIssuerError: "wrong issuer",
    jwt.MissingRequiredClaimError: "missing claim",
}


# When this process last warned of an issuer, by the monotonic clock.
_last_warning: float | None = None


def _warn_of_issuer(issuer: object, expected: str) -> None:
    """Log both issuers, at most once an hour."""
    global _last_warning
    if _last_warning is not None and time.monotonic() - _last_warning < ISSUER_WARNING_INTERVAL:
        return
    _last_warning = time.monotonic()
    logger.warning(
        "valid tokens are refused because their issuer is %.200r and not %r. If the project has a custom domain, set "
        "SUPABASE_JWT_ISSUER to the issuer of its tokens.",
        *(issuer, expected),
    )


class SupabaseTokenBackend(TokenBackend):
    """
    Verifies access tokens of both of Supabase's signing schemes. A project uses both while it rotates its keys.

    HS256 tokens are verified with the project's legacy secret, ES256 and RS256 tokens with the published key that
    ``kid`` names. The key, not the token, determines the accepted algorithm.
    """

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        """
        Return the claims of a valid token.

        :raises TokenBackendError: the token is malformed, forged, expired, not yet valid, or for another audience. Its
            text is the reason.
        """
        try:
            header = jwt.get_unverified_header(token)
            if _REFUSED_HEADERS & header.keys():
                raise jwt.InvalidTokenError("refused header parameter")
            key, algorithm = self._key_for(header)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self.audience,
                leeway=self.get_leeway(),
                options={"require": ["exp", "sub", "aud"]},
            )
            self._check_issuer(claims)
            return claims
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenBackendError(_REASONS.get(type(error), "malformed token")) from error

    def _check_issuer(self, claims: dict[str, Any]) -> None:
        if self.issuer and claims.get("iss") != self.issuer:
            # Nothing else is wrong with the token, so all tokens of the project may be refused.
            _warn_of_issuer(claims.get("iss"), self.issuer)
            raise jwt.InvalidIssuerError

    def _key_for(self, header: dict[str, Any]) -> tuple[Any, str]:
        if header.get("alg") == "HS256" and self.signing_key:
            return self.signing_key, "HS256"
        if header.get("alg") in ("ES256", "RS256"):
            key = key_set().find(header.get("kid"))
            if key is not None:
                return key.key, key.algorithm_name
        raise jwt.InvalidKeyError("no key for this token")


class SupabaseAccessToken(Token):
    """
    A verified access token. ``sub`` is the id of a user.

    ``client_id`` is the third-party OAuth client that the token was issued to. The tokens of the user's own sessions
    do not have this claim. No other claim is used.
    """

    token_type = "access"  # noqa: S105 - not a secret
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
        """:raises TokenError: ``sub`` is not a UUID, or ``client_id`` is not in ``SUPABASE_OAUTH_CLIENTS``."""
        try:
            parse_uuid(self.payload["sub"])
        except ValueError as error:
            raise TokenError("Token has no user") from error
        if "client_id" in self.payload and self.payload["client_id"] not in settings.SUPABASE_OAUTH_CLIENTS:
            raise TokenError("Token was issued to an OAuth client that is not listed")


class SupabaseJWTAuthentication(JWTAuthentication):
    """
    Authenticates ``Authorization: Bearer <Supabase access token>``. ``request.user`` is an :class:`AgencyUser`.

    Agency and role are read from the ``users`` row on every request, so a demotion takes effect at once. If a valid
    token has no such row, its user has no agency, and the permissions refuse the request.
    """

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"

    def get_raw_token(self, header: bytes) -> bytes | None:
        """Return the single token after ``Bearer`` (in upper or lower case) and one or more spaces."""
        match = _BEARER.fullmatch(header)
        if match is None:
            raise AuthenticationFailed("malformed header")
        return match[1]

    def get_validated_token(self, raw_token: bytes) -> Token:
        """:raises AuthenticationFailed: the token is refused. Its text is the reason, for the log."""
        try:
            return SupabaseAccessToken(raw_token)  # type: ignore[arg-type]
        except TokenError as error:
            # The backend's text is the reason. The library replaces it with "Token is invalid".
            reason = error.__cause__ if isinstance(error.__cause__, TokenBackendError) else error
            raise AuthenticationFailed(str(reason)) from error

    def get_user(self, validated_token: Token) -> AgencyUser:  # type: ignore[override]
        sub = parse_uuid(validated_token["sub"])
        with transaction_with_timeouts():
            user = AgencyUser.objects.filter(pk=sub).first() or AgencyUser(pk=sub)
        user.oauth_client_id = validated_token.get("client_id")
        return user


def issue_token(user: AgencyUser, lifetime: timedelta = SupabaseAccessToken.lifetime) -> str:
    """
    Return an access token for ``user`` with the claims that Supabase sets, signed with ``SUPABASE_JWT_SECRET``.

    For local development and tests.
    """
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
