"""A simulated Supabase project: real keys, and an HTTP server that publishes them."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm


class SigningKey:
    """A private key of the project, and the JWK that the project publishes for it."""

    def __init__(self, algorithm: str, kid: str | None = None) -> None:
        self.algorithm, self.kid = algorithm, kid or str(uuid.uuid4())
        if algorithm == "ES256":
            self.private: Any = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        else:
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        self.jwk = public | {"kid": self.kid, "alg": algorithm, "use": "sig", "key_ops": ["verify"]}

    def sign(self, claims: dict[str, Any], **headers: Any) -> str:
        return jwt.encode(claims, self.private, algorithm=self.algorithm, headers={"kid": self.kid, **headers})


def claims(sub: object, **changes: Any) -> dict[str, Any]:
    """Return the claims of an access token. A change to None removes the claim."""
    now = int(time.time())
    complete = {
        "iss": "https://project.supabase.co/auth/v1",
        "sub": str(sub),
        "aud": "authenticated",
        "iat": now,
        "exp": now + 3600,
        "role": "authenticated",
        "user_metadata": {"role": "agency_owner"},
    }
    return {name: value for name, value in (complete | changes).items() if value is not None}


class Project:
    """The endpoint where a project publishes its keys. The answer can be changed while the server runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[float] = []
        self.delay = 0.0
        self.drip = False
        self.publish()

    def publish(self, *keys: SigningKey) -> None:
        self.answer(200, json.dumps({"keys": [key.jwk for key in keys]}))

    def answer(self, status: int, body: str) -> None:
        self.status, self.body = status, body.encode()


@contextmanager
def supabase_project() -> Iterator[Project]:
    """Run a project on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            project.requests.append(time.monotonic())
            time.sleep(project.delay)
            assert self.path == "/auth/v1/.well-known/jwks.json"
            self.send_response(project.status)
            self.send_header("Content-Length", str(len(project.body)))
            self.end_headers()
            try:
                for byte in project.body if project.drip else ():
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
                if not project.drip:
                    self.wfile.write(project.body)
            except OSError:
                return

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore errors: clients are expected to disconnect."""

    server = Server(("127.0.0.1", 0), Handler)
    project = Project(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield project
    finally:
        server.shutdown()
        server.server_close()
