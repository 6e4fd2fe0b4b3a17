"""How the service bears load: many clients on status and logs, uploads and submissions at once; being killed.

    python benchmarks/service.py [--clients 200] [--uploads 20] [--megabytes 100] [--submits 20]
    python benchmarks/service.py --kill 10 --megabytes 20

Starts a personal pool with one CPU and the service of two processes in a folder of its own, and stops both.
Prints requests a second and how long they take, beside a bare Flask view behind the same server in the same
run (the peer), and uploads beside copies of the same file to the same disk. Any error ends it with 1.

With ``--kill N`` the service is killed (SIGKILL) and started again N times meanwhile. Clients do what clients
should: they ask again, a submission with the same Idempotency-Key. In the end every run that was accepted has
to be there exactly once, in the service and in HTCondor, and every upload that was acknowledged complete.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from service_clients import LONGEST_SECONDS, Archive, Clients, Server, connected, first_run, running
from service_killed import killed

# ---- the measurements


async def many(options, server: Server, peer: Server, home: Path) -> list[str]:
    """Measure reading and uploading beside their peers, then all at once; print, and return the errors."""
    payload = os.urandom(options.megabytes * 10**6)
    async with connected(server.url) as clients:
        job, run = await first_run(clients, home / "request", until_done=True)
        rate = await reading(clients, options, run)
        show_rate(f"status and logs, {options.clients} clients", rate, clients.told.line("status", "logs"))
        async with connected(peer.url) as others:
            until = time.monotonic() + options.seconds
            await asyncio.gather(*(others.look("/", until) for _ in range(options.clients)))
            bare = len(others.told.seconds["peer"]) / options.seconds
            show_rate("a bare view, the same", bare, others.told.line("peer"))
        print(f"{'ratio':<32}{rate / bare:8.2f}\n", flush=True)
        took = await uploading(clients, options, payload)
        show_upload(options, took)
        copies = copied(payload, options.uploads, home)
        print(f"{'copies of the same, likewise':<32}{copies:8.1f} s")
        print(f"{'ratio':<32}{copies / took:8.2f}\n", flush=True)
    async with connected(server.url) as together:
        await at_once(together, options, job, run, payload)
    return clients.told.errors + others.told.errors + together.told.errors


async def reading(clients: Clients, options, run: str) -> float:
    """Return how many requests for status and logs are answered a second."""
    until = time.monotonic() + options.seconds
    await asyncio.gather(*(clients.watch(run, until) for _ in range(options.clients)))
    return sum(len(clients.told.seconds[kind]) for kind in ("status", "logs")) / options.seconds


async def uploading(clients: Clients, options, payload: bytes) -> float:
    """Return seconds that all uploads take, all at a time."""
    began = time.monotonic()
    await asyncio.gather(*(clients.upload(f"load{n}", Archive(payload)) for n in range(options.uploads)))
    return time.monotonic() - began


async def at_once(clients: Clients, options, job: dict[str, object], run: str, payload: bytes) -> None:
    """Do everything at a time, and print how it went."""
    began = time.monotonic()
    readers = [asyncio.create_task(clients.watch(run, began + 10**6)) for _ in range(options.clients)]
    submitting = asyncio.gather(*(clients.submit(job) for _ in range(options.submits)))
    took = await uploading(clients, options, payload)
    await submitting
    seconds = time.monotonic() - began
    clients.over = True
    await asyncio.gather(*readers)
    rate = sum(len(clients.told.seconds.get(kind, [])) for kind in ("status", "logs")) / seconds
    print(f"all at once: {options.clients} clients, {options.uploads} uploads, {options.submits} submissions")
    show_rate("status and logs", rate, clients.told.line("status", "logs"))
    print(f"{'submissions':<32}{seconds:8.1f} s    {clients.told.line('submit')}")
    show_upload(options, took)


def show_rate(what: str, rate: float, times: str) -> None:
    """Print requests a second."""
    print(f"{what:<32}{rate:8.0f} /s   {times}", flush=True)


def show_upload(options, seconds: float) -> None:
    """Print how long uploads took."""
    size = options.uploads * options.megabytes
    print(
        f"{f'{options.uploads} uploads, {size} MB':<32}{seconds:8.1f} s    {size / seconds:.0f} MB/s",
        flush=True,
    )


def copied(payload: bytes, number: int, home: Path) -> float:
    """Return seconds that as many copies of a file take, all at a time and onto the disk."""
    source = home / "payload"
    source.write_bytes(payload)
    began = time.monotonic()
    made = [subprocess.Popen(["cp", source, home / f"copy{n}"]) for n in range(number)]
    assert [each.wait() for each in made] == [0] * number
    for n in range(number):
        with (home / f"copy{n}").open("rb") as copy:
            os.fsync(copy.fileno())
    return time.monotonic() - began


# ---- the whole


async def measured(options, server: Server, peer: Server, home: Path) -> list[str]:
    """Do what the command line says, and return the errors."""
    async with asyncio.timeout(LONGEST_SECONDS):
        if options.kill:
            return (await killed(options, server, home)).errors
        return await many(options, server, peer, home)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--uploads", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--submits", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--kill", type=int, default=0, metavar="N")
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    options = parser.parse_args()
    with running(options, with_peer=not options.kill) as (server, peer, home):
        errors = asyncio.run(measured(options, server, peer, home))
    print(f"{'errors':<32}{len(errors):8d}")
    for error in errors[:20]:
        print(f"  {error}")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
