"""Access tokens: both of Supabase's signing schemes, and a list of attacks."""

import base64
import hashlib
import hmac
import json
import time
import uuid

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from calls.api import authentication
from calls.api.jwks import KeySet
from calls.roles import Role
from calls.tests.support.factories import URL
from calls.tests.support.supabase import SigningKey, claims, supabase_project

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]


@pytest.fixture(scope="module")
def keys():
    """The project's published keys by algorithm, and a key that is not published."""
    return {"ES256": SigningKey("ES256"), "RS256": SigningKey("RS256"), "unpublished": SigningKey("RS256")}


@pytest.fixture
def supabase(settings, keys):
    """A project that publishes an ES256 and an RS256 key and still has its legacy secret."""
    with supabase_project() as served:
        served.publish(keys["ES256"], keys["RS256"])
        settings.SUPABASE_URL = served.url
        yield served


@pytest.fixture
def secret(settings):
    return settings.SUPABASE_JWT_SECRET


def b64(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def response_status(client, authorization):
    """Return the status of the answer. An accepted token gets 400, because the body has no batch id."""
    response = client.generic("POST", URL, b"", HTTP_AUTHORIZATION=authorization)
    if response.status_code == 401:
        assert response.json() == {"error": "Missing or invalid authorization header", "code": "unauthorized"}
        assert response["WWW-Authenticate"] == "Bearer"
    return response.status_code


def test_a_token_signed_with_the_legacy_secret_is_accepted(client, harbour, supabase, secret):
    assert response_status(client, f"Bearer {jwt.encode(claims(harbour.owner.pk), secret, 'HS256')}") == 400


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_token_signed_with_a_published_key_is_accepted(client, harbour, supabase, keys, algorithm):
    assert response_status(client, f"Bearer {keys[algorithm].sign(claims(harbour.owner.pk))}") == 400


def test_both_signing_schemes_are_accepted_at_the_same_time(client, harbour, supabase, keys, secret):
    tokens = [
        jwt.encode(claims(harbour.owner.pk), secret, "HS256"),
        *(keys[algorithm].sign(claims(harbour.owner.pk)) for algorithm in ("ES256", "RS256")),
    ]

    assert [response_status(client, f"Bearer {token}") for token in tokens] == [400] * 3


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "bEaReR     "])
def test_bearer_may_have_any_case_and_one_or_more_spaces(client, harbour, secret, scheme):
    assert response_status(client, scheme + jwt.encode(claims(harbour.owner.pk), secret, "HS256")) == 400


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic {}",
        "Token {}",
        "{}",
        "Bearer{}",
        "Bearer {} {}",
        "Bearer\t{}",
        "Bearer {},Bearer {}",
    ],
)
def test_a_header_that_is_not_bearer_and_one_token_is_refused(client, harbour, secret, authorization):
    token = jwt.encode(claims(harbour.owner.pk), secret, "HS256")

    assert response_status(client, authorization.replace("{}", token)) == 401


@pytest.mark.parametrize("changes", [{"exp": -6}, {"nbf": 9}, {"iat": 9}])
def test_clocks_may_differ_by_ten_seconds(client, harbour, secret, changes):
    moved = {name: int(time.time()) + seconds for name, seconds in changes.items()}

    assert response_status(client, f"Bearer {jwt.encode(claims(harbour.owner.pk, **moved), secret, 'HS256')}") == 400


@pytest.mark.parametrize("claim", ["user_metadata", "app_metadata"])
def test_role_and_agency_in_the_token_are_ignored(client, harbour, bluebell, secret, claim):
    metadata = {"role": "agency_owner", "agency_id": str(bluebell.agency.pk)}
    member = jwt.encode(claims(harbour.users[Role.AGENCY_MEMBER].pk, role="agency_owner", **{claim: metadata}), secret)
    unknown = jwt.encode(claims(uuid.uuid4(), role="agency_owner", **{claim: metadata}), secret)

    codes = [client.post(URL, HTTP_AUTHORIZATION=f"Bearer {token}").json()["code"] for token in (member, unknown)]

    assert codes == ["insufficient_role", "no_agency"]


@pytest.mark.parametrize(
    "client_id", ["7c1d9b54", "partner-app ", "PARTNER-APP", "", None, 0, True, ["partner-app"], {"partner-app": 1}]
)
def test_a_token_of_an_oauth_client_that_is_not_listed_is_refused(client, harbour, secret, settings, client_id):
    settings.SUPABASE_OAUTH_CLIENTS = ["partner-app"]
    token = jwt.encode(claims(harbour.owner.pk) | {"client_id": client_id}, secret, "HS256")

    assert response_status(client, f"Bearer {token}") == 401


def test_without_listed_oauth_clients_every_token_with_a_client_id_is_refused(client, harbour, supabase, keys):
    token = keys["ES256"].sign(claims(harbour.owner.pk, client_id="partner-app"))

    assert response_status(client, f"Bearer {token}") == 401


def test_the_history_names_the_listed_oauth_client_that_cancelled(client, harbour, secret, settings):
    settings.SUPABASE_OAUTH_CLIENTS = ["another-app", "partner-app"]
    token = jwt.encode(claims(harbour.owner.pk, client_id="partner-app"), secret, "HS256")
    batch = harbour.batch(queued=1)

    response = client.post(URL, {"batch_id": str(batch.pk)}, "application/json", HTTP_AUTHORIZATION=f"Bearer {token}")

    assert response.status_code == 200
    assert batch.events.latest("pk").pgh_context["actor"] == {
        "kind": "agency_user",
        "id": str(harbour.owner.pk),
        "label": harbour.owner.email,
        "client_id": "partner-app",
    }


# Functions that make a token that must be refused, from the user's id, the project's keys and its legacy secret.
ATTACKS = {
    "alg none": lambda sub, keys, secret: f"{b64({'alg': 'none', 'typ': 'JWT'})}.{b64(claims(sub))}.",
    "alg None, with a signature": lambda sub, keys, secret: f"{b64({'alg': 'None'})}.{b64(claims(sub))}.{b64(b'x')}",
    "no alg": lambda sub, keys, secret: f"{b64({'typ': 'JWT'})}.{b64(claims(sub))}.{b64(b'x')}",
    "alg is a list": lambda sub, keys, secret: f"{b64({'alg': ['HS256']})}.{b64(claims(sub))}.{b64(b'x')}",
    "HS256 signed with the public key": lambda sub, keys, secret: signed_with_public_key(sub, keys["RS256"]),
    "wrong secret": lambda sub, keys, secret: jwt.encode(claims(sub), secret + "x", "HS256"),
    "an empty secret": lambda sub, keys, secret: hs256({"alg": "HS256"}, claims(sub), b""),
    "HS384": lambda sub, keys, secret: jwt.encode(claims(sub), secret + " of the length it needs", "HS384"),
    "HS512 with the right secret": lambda sub, keys, secret: hs256({"alg": "HS512"}, claims(sub), secret.encode()),
    "expired": lambda sub, keys, secret: jwt.encode(claims(sub, exp=int(time.time()) - 11), secret, "HS256"),
    "not yet valid": lambda sub, keys, secret: jwt.encode(claims(sub, nbf=int(time.time()) + 60), secret, "HS256"),
    "no exp": lambda sub, keys, secret: jwt.encode(claims(sub, exp=None), secret, "HS256"),
    "exp is a string": lambda sub, keys, secret: hs256({"alg": "HS256"}, claims(sub, exp="soon"), secret.encode()),
    "exp is infinite": lambda sub, keys, secret: hs256(
        {"alg": "HS256"}, claims(sub, exp=float("inf")), secret.encode()
    ),
    "sub is null": lambda sub, keys, secret: jwt.encode(claims(None) | {"sub": None}, secret, "HS256"),
    "sub is missing": lambda sub, keys, secret: jwt.encode(
        {name: value for name, value in claims(sub).items() if name != "sub"}, secret, "HS256"
    ),
    "sub is not a UUID": lambda sub, keys, secret: jwt.encode(claims("admin"), secret, "HS256"),
    "sub is a UUID in braces": lambda sub, keys, secret: jwt.encode(claims(f"{{{sub}}}"), secret, "HS256"),
    "sub is a number": lambda sub, keys, secret: hs256({"alg": "HS256"}, claims(sub) | {"sub": 7}, secret.encode()),
    "wrong audience": lambda sub, keys, secret: jwt.encode(claims(sub, aud="anon"), secret, "HS256"),
    "no audience": lambda sub, keys, secret: jwt.encode(claims(sub, aud=None), secret, "HS256"),
    "wrong issuer": lambda sub, keys, secret: jwt.encode(claims(sub, iss="https://evil.example"), secret, "HS256"),
    "no issuer": lambda sub, keys, secret: jwt.encode(claims(sub, iss=None), secret, "HS256"),
    "the anon key": lambda sub, keys, secret: supabase_key("anon", secret),
    "the service_role key": lambda sub, keys, secret: supabase_key("service_role", secret),
    "unknown kid": lambda sub, keys, secret: keys["unpublished"].sign(claims(sub)),
    "no kid": lambda sub, keys, secret: jwt.encode(claims(sub), keys["ES256"].private, "ES256"),
    "kid is a list": lambda sub, keys, secret: f"{b64({'alg': 'ES256', 'kid': ['x']})}.{b64(claims(sub))}.{b64(b'x')}",
    "an unpublished key with a published kid": lambda sub, keys, secret: keys["unpublished"].sign(
        claims(sub), kid=keys["RS256"].kid
    ),
    "ES256 with the kid of an RSA key": lambda sub, keys, secret: keys["ES256"].sign(
        claims(sub), kid=keys["RS256"].kid
    ),
    "RS512 with a published RSA key": lambda sub, keys, secret: jwt.encode(
        claims(sub), keys["RS256"].private, "RS512", headers={"kid": keys["RS256"].kid}
    ),
    "jku": lambda sub, keys, secret: keys["RS256"].sign(claims(sub), jku="https://evil.example/jwks.json"),
    "jwk": lambda sub, keys, secret: keys["RS256"].sign(claims(sub), jwk=keys["unpublished"].jwk),
    "jwk of the unpublished key that signs": lambda sub, keys, secret: keys["unpublished"].sign(
        claims(sub), jwk=keys["unpublished"].jwk
    ),
    "crit": lambda sub, keys, secret: keys["RS256"].sign(claims(sub), crit=["exp"]),
    "truncated": lambda sub, keys, secret: jwt.encode(claims(sub), secret, "HS256")[:-5],
    "two parts": lambda sub, keys, secret: jwt.encode(claims(sub), secret, "HS256").rpartition(".")[0],
    "100 KB": lambda sub, keys, secret: "x" * 100_000,
    "100 KB of nested header": lambda sub, keys, secret: f"{b64(b'[' * 70_000)}.{b64(b'{}')}.{b64(b'x')}",
    "not ASCII": lambda sub, keys, secret: "\xe9.\xe9.\xe9",
    "claims are a list": lambda sub, keys, secret: hs256({"alg": "HS256"}, ["x"], secret.encode()),
}


def hs256(header, payload, secret):
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def signed_with_public_key(sub, key):
    pem = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hs256({"alg": "HS256", "kid": key.kid}, claims(sub), pem)


def supabase_key(role, secret):
    now = int(time.time())
    return jwt.encode({"iss": "supabase", "ref": "x", "role": role, "iat": now, "exp": now + 3600}, secret, "HS256")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_forged_token_is_refused(client, harbour, supabase, keys, secret, attack, caplog):
    token = ATTACKS[attack](str(harbour.owner.pk), keys, secret)

    assert response_status(client, f"Bearer {token}") == 401
    assert token not in caplog.text


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_key_set_with_a_private_key_does_not_verify_its_tokens(client, harbour, supabase, keys, algorithm):
    supabase.publish(keys[algorithm].private_jwk)

    assert response_status(client, f"Bearer {keys[algorithm].sign(claims(harbour.owner.pk))}") == 401


def test_a_token_of_a_withdrawn_key_is_refused_when_the_project_publishes_no_key_any_more(
    client, harbour, supabase, keys, monkeypatch
):
    key_set = KeySet(f"{supabase.url}/auth/v1/.well-known/jwks.json", fetch_interval=0)
    monkeypatch.setattr(authentication, "key_set", lambda: key_set)
    token = keys["ES256"].sign(claims(harbour.owner.pk))
    assert response_status(client, f"Bearer {token}") == 400
    supabase.publish()

    # An unknown key id makes the backend fetch the set.
    assert response_status(client, f"Bearer {keys['unpublished'].sign(claims(harbour.owner.pk))}") == 401
    assert response_status(client, f"Bearer {token}") == 401


def test_without_a_legacy_secret_no_hs256_token_is_accepted(client, harbour, supabase, settings):
    settings.SIMPLE_JWT = settings.SIMPLE_JWT | {"SIGNING_KEY": ""}
    assert (
        response_status(client, f"Bearer {jwt.encode(claims(harbour.owner.pk), settings.SUPABASE_JWT_SECRET)}") == 401
    )

    assert response_status(client, f"Bearer {hs256({'alg': 'HS256'}, claims(harbour.owner.pk), b'')}") == 401


def test_without_a_supabase_url_no_token_of_a_published_key_is_accepted(client, harbour, keys, settings):
    settings.SUPABASE_URL = ""

    assert response_status(client, f"Bearer {keys['ES256'].sign(claims(harbour.owner.pk))}") == 401


def test_without_a_configured_issuer_every_issuer_is_accepted(client, harbour, secret, settings):
    settings.SIMPLE_JWT = settings.SIMPLE_JWT | {"ISSUER": None}
    token = jwt.encode(claims(harbour.owner.pk, iss="https://another.example"), secret, "HS256")

    assert response_status(client, f"Bearer {token}") == 400


def test_a_user_whose_users_row_was_deleted_has_no_agency(client, harbour, secret):
    token = jwt.encode(claims(uuid.uuid4()), secret, "HS256")

    assert response_status(client, f"Bearer {token}") == 403
