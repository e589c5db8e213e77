"""Lines of JSON between the processes of a run, over a connection that the system ends with its process."""

import contextlib
import json
import secrets
import socket
from typing import Any

_LONGEST = 1 << 22  # bytes of a line; a recipe has some thousand
_SILENT_SECONDS, _PROBE_SECONDS, _PROBES = 10, 5, 3  # a machine that is gone is noticed after 25 s


class Line:
    """A connection to another process of the run.

    The system closes it as soon as that process ends, however that happens. Where a whole machine or its network is
    gone, probes of the system find out within half a minute; none of this depends on what the process is doing.

    Args:
        connection: connected.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._received = b""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        probes = (("TCP_KEEPIDLE", _SILENT_SECONDS), ("TCP_KEEPINTVL", _PROBE_SECONDS), ("TCP_KEEPCNT", _PROBES))
        for name, value in probes:
            if hasattr(socket, name):  # each system has some of them
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, **message: Any) -> bool:
        """Send a message.

        Returns:
            whether the other process still listens.
        """
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self) -> list[dict[str, Any]] | None:
        """Wait for messages, as long as the socket's timeout allows.

        Returns:
            those that are complete; None: the other process has ended.

        Raises:
            TimeoutError: nothing came in time.
        """
        try:
            received = self.socket.recv(1 << 16)
        except TimeoutError:
            raise
        except OSError:
            return None
        self._received += received
        if not received or len(self._received) > _LONGEST:
            return None
        *lines, self._received = self._received.split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:  # not one of ours
            return None
        return messages if all(isinstance(message, dict) for message in messages) else None

    def receive_one(self, seconds: float) -> dict[str, Any] | None:
        """Wait for one message; None: the other process has ended.

        Raises:
            TimeoutError: nothing came in time.
        """
        self.socket.settimeout(max(0.1, seconds))
        messages: list[dict[str, Any]] | None = []
        while messages == []:
            messages = self.receive()
        return None if messages is None else messages[0]

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.socket.close()


def open_server(backlog: int) -> tuple[socket.socket, str]:
    """Listen on a free port of every address of this machine.

    Returns:
        the socket, and a password for those who may connect.
    """
    options: dict[str, Any] = {"backlog": backlog}
    if socket.has_dualstack_ipv6():
        options |= {"family": socket.AF_INET6, "dualstack_ipv6": True}
    return socket.create_server(("", 0), **options), secrets.token_hex(16)
