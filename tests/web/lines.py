"""A bad line to a service: a proxy on loopback that loses connections where a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading


def closed(app):
    """Have what an application answers closed, also where werkzeug loses the client and forgets it."""

    def call(environ, start_response):
        answer = app(environ, start_response)

        def pieces():
            with contextlib.closing(answer) if hasattr(answer, "close") else contextlib.nullcontext():
                yield from answer

        return pieces()

    return call


class Line:
    """Passes bytes on to a port of this machine.

    Parameters
    ----------
    port
        Of the service.

    Attributes
    ----------
    cuts
        What is lost next: pairs of how a request begins (``b"POST /api/v1/runs"``), and how many bytes of its
        answer still come; -1 loses the request itself.
    seen
        The first line of every request that was passed on.
    """

    def __init__(self, port: int) -> None:
        self.cuts: list[tuple[bytes, int]] = []
        self.seen: list[str] = []
        self._target = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _start(self, what, *arguments) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self._start(self._connect, client)

    def _connect(self, client) -> None:
        left: list[int] = []  # bytes of answers that may still pass, once there is a limit
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target)) as server,
        ):
            back = threading.Thread(target=self._answer, args=(server, client, left), daemon=True)
            back.start()
            while piece := client.recv(2**16):
                if b" HTTP/1.1\r\n" in piece:
                    self.seen.append(piece.partition(b" HTTP/1.1\r\n")[0].decode("latin-1"))
                    if self.cuts and piece.startswith(self.cuts[0][0]):
                        most = self.cuts.pop(0)[1]
                        if most < 0:
                            break
                        left.append(most)
                server.sendall(piece)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join()

    @staticmethod
    def _answer(server, client, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while piece := server.recv(2**16):
                if left and len(piece) >= left[0]:
                    client.sendall(piece[: left[0]])
                    break
                if left:
                    left[0] -= len(piece)
                client.sendall(piece)
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()
