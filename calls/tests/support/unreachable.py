"""Databases that cannot be reached."""

import socket
import threading
from contextlib import contextmanager


@contextmanager
def server_that_refuses(sqlstate, message):
    """
    Answer every connection as PostgreSQL does when it refuses one. Yields the port and a list that grows with each
    connection.
    """
    error = f"SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0".encode()
    answer, accepted = b"E" + (len(error) + 4).to_bytes(4, "big") + error, []

    def serve():
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                # The startup message has the protocol's version 3. Requests for encryption come before it.
                while client.recv(int.from_bytes(client.recv(4), "big") - 4)[:2] != b"\0\3":
                    client.sendall(b"N")
                accepted.append(client)
                client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1], accepted
        finally:
            # Closing alone does not wake up a thread that waits in accept().
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def server_that_does_not_answer():
    """Accept connections and send nothing. Yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
