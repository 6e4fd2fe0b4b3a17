"""A server that speaks as much XRootD as it takes to send a client elsewhere.

    python redirecting_server.py TARGET [HOST …]

opens a file of it by `XrootdFile`, held to these hosts if there are any, and prints what came of it.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading

from mlaas_condor.confinement import Confinement
from mlaas_condor.errors import StageError
from mlaas_condor.grid.xrootd import XrootdFile

PROTOCOL, LOGIN, OPEN, REDIRECT = 3006, 3007, 3010, 4004


def serve(listening, target):
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=speak, args=(connection, target), daemon=True).start()


def speak(connection, target):
    stream = connection.makefile("rb")
    stream.read(20)
    connection.sendall(struct.pack(">HHIII", 0, 0, 8, 0x520, 1))
    while header := stream.read(24):
        number, kind, length = (
            header[:2],
            *struct.unpack(">H", header[2:4]),
            *struct.unpack(">i", header[20:]),
        )
        stream.read(length)
        status, body = 0, {PROTOCOL: struct.pack(">II", 0x520, 1), LOGIN: bytes(16)}.get(kind, b"")
        if kind == OPEN:
            status, body = REDIRECT, struct.pack(">i", -1) + target
        connection.sendall(number + struct.pack(">HI", status, len(body)) + body)


def main(target, *hosts):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening, target.encode()), daemon=True).start()
        if hosts:
            Confinement((), hosts).hold()
        try:
            file = XrootdFile(f"root://127.0.0.1:{listening.getsockname()[1]}//a.csv")
            print(file.read([(0, file.size)])[0].decode())
        except StageError as error:
            print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
