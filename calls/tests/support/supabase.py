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
        if algorithm == "RS256":
            self.private: Any = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            to_jwk = RSAAlgorithm.to_jwk
        else:
            self.private = ec.generate_private_key({"ES256": ec.SECP256R1, "ES384": ec.SECP384R1}[algorithm]())
            to_jwk = ECAlgorithm.to_jwk
        names = {"kid": self.kid, "alg": algorithm, "use": "sig"}
        self.jwk = to_jwk(self.private.public_key(), as_dict=True) | names | {"key_ops": ["verify"]}
        self.private_jwk = to_jwk(self.private, as_dict=True) | names

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


def key_set_of(*keys: Any) -> str:
    """Return the key set of these keys, which may also be entries of any other form."""
    return json.dumps({"keys": [key.jwk if isinstance(key, SigningKey) else key for key in keys]})


class Project:
    """The endpoint where a project publishes its keys. The answer can be changed while the server runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[float] = []
        self.delay = 0.0
        self.drip = False
        # Set when a client has closed its connection during an answer without end.
        self.disconnected = threading.Event()
        self.publish()

    def publish(self, *keys: Any) -> None:
        """Publish these keys, or entries of any other form."""
        self.answer(200, key_set_of(*keys))

    def answer(self, status: int, body: str | bytes, **headers: str) -> None:
        self.status, self.body = status, body.encode() if isinstance(body, str) else body
        self.headers = {"Content-Length": str(len(self.body)), **headers}
        self.endless = (b"", b"", 0.0)

    def answer_without_end(self, start: bytes, repeated: bytes, pause: float) -> None:
        """After the status line send ``start``, and then ``repeated`` with pauses of so many seconds."""
        self.endless = (start, repeated, pause)


@contextmanager
def supabase_project() -> Iterator[Project]:
    """Run a project on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            project.requests.append(time.monotonic())
            time.sleep(project.delay)
            assert self.path == "/auth/v1/.well-known/jwks.json"
            if project.endless[1]:
                self.send_without_end(*project.endless)
                return
            self.send_response(project.status)
            for name, value in project.headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for byte in project.body if project.drip else ():
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
                if not project.drip:
                    self.wfile.write(project.body)
            except OSError:
                return

        def send_without_end(self, start: bytes, repeated: bytes, pause: float) -> None:
            try:
                self.wfile.write(b"HTTP/1.0 200 OK\r\n" + start)
                while True:
                    self.wfile.write(repeated)
                    time.sleep(pause)
            except OSError:
                project.disconnected.set()

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
