"""How fast remote files are read, and in how many requests: from a real XRootD server on this machine.

``python benchmarks/remote.py`` makes a file of the published shape (22 flat and 52 jagged branches, 100,000
events), serves it, and prints

- events a second of measuring specs over loopback, with its ratio to the same from disk (the limit),
- with 20 ms between question and answer, the seconds until a fifth of the branches are in memory, ours
  against the same client copying the file whole and reading it from disk (the peer),

each with requests, ranges and bytes, and the bytes of the branches that were wanted. Both of a pair run in
the same round, in processes of their own. The delay is that of a relay between client and server, which
hands on every packet 10 ms later: not every kernel can delay its own loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from data import EVENTS, dataset_of, make_published, measured

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "grid"))
ONE_WAY_SECONDS = 0.010
LINES = {"no limit": float("inf"), "1 Gbit/s": 125e6}  # bytes a second each way
VALUES = 250  # of an event, about
SHARE = 5  # one branch in so many is wanted
PIECE = 2**18


class Relay(threading.Thread):
    """Stands between a client and a server, and hands on what each says after a while."""

    def __init__(self, port: int, seconds: float, rate: float) -> None:
        super().__init__(daemon=True)
        self._target, self._seconds, self._rate = port, seconds, rate
        self.port = 0
        self._ready = threading.Event()

    def __enter__(self) -> Relay:
        self.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._target)
        ways = (self._way(reader, there[1]), self._way(there[0], writer))
        with contextlib.suppress(asyncio.CancelledError):  # the relay ends while a client is connected
            await asyncio.gather(*ways, return_exceptions=True)

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on in one direction: what comes later leaves later, however much is on its way."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        delivery = asyncio.create_task(deliver())
        free = 0.0  # when the line has sent all that came before
        while data := await reader.read(PIECE):
            free = max(free, self._loop.time()) + len(data) / self._rate
            waiting.put_nowait((free + self._seconds, data))
        waiting.put_nowait((self._loop.time() + self._seconds, b""))
        await delivery


# ---- in a process of its own: `--measure CASE`


def load() -> None:
    """Import what both need before the clock starts."""
    import awkward
    import uproot
    from XRootD import client

    _ = awkward, uproot, client


def wanted(source: Any) -> list[str]:
    counters = {f"n{name}" for name in source.branches}
    return sorted(name for name in source.branches if name not in counters)[::SHARE]


def case_specs(path: str) -> dict[str, float]:
    dataset = dataset_of([path])
    begin = time.perf_counter()
    found = measured(dataset)
    return {"seconds": time.perf_counter() - begin, "events": found.events}


def case_ours(path: str) -> dict[str, float]:
    from mlaas_condor import planning
    from mlaas_condor.data.dataset import EntryRange
    from mlaas_condor.data.inputs import open_source
    from mlaas_condor.data.measuring import blocks

    load()
    begin = time.perf_counter()
    source: Any = open_source(path, "events")
    names = wanted(source)
    whole = EntryRange(file=0, start=0, stop=source.entries)
    # As a job does that measures such a file.
    pieces = list(blocks(whole, source.boundaries(names), planning.block_entries(VALUES)))
    for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
        source.ahead(names, *piece)
        if following:
            source.ahead(names, *following)
        source.read(names, *piece)
    cost = source._remote.cost
    seconds = time.perf_counter() - begin
    useful = sum(int(source._tree[name].compressed_bytes) for name in names)
    source.close()
    return {"seconds": seconds, "requests": cost.requests, "ranges": cost.ranges, "bytes": cost.bytes,
            "wanted": useful}  # fmt: skip


def case_whole(path: str) -> dict[str, float]:
    from XRootD import client

    from mlaas_condor.data.inputs import open_source

    load()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = client.CopyProcess()
        copy.add_job(path, f"{folder}/a.root")
        copy.prepare()
        status, _ = copy.run()
        assert status.ok, status.message
        source = open_source(f"{folder}/a.root", "events")
        source.read(wanted(source), 0, source.entries)
        size = Path(f"{folder}/a.root").stat().st_size
    return {"seconds": time.perf_counter() - begin, "requests": 0, "ranges": 0, "bytes": size, "wanted": 0}


CASES = {"specs": case_specs, "ours": case_ours, "whole": case_whole}


def in_process(case: str, path: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", case, "--path", path]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ, timeout=600)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    from servers import PlainServer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=CASES)
    parser.add_argument("--path")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(CASES[options.measure](options.path)))
        return
    with tempfile.TemporaryDirectory() as folder, PlainServer() as server:
        path = Path(folder, "published.root")
        make_published(path)
        url = server.put("/data/published.root", path)
        print(f"{path.stat().st_size / 1e6:.0f} MB, {EVENTS} events, {options.rounds} rounds, medians")
        loopback(str(path), url, options.rounds)
        for line, rate in LINES.items():
            with Relay(server.port, ONE_WAY_SECONDS, rate) as relay:
                print(f"20 ms away, {line}:")
                delayed(url.replace(f":{server.port}/", f":{relay.port}/"), options.rounds)


def loopback(path: str, url: str, rounds: int) -> None:
    rates: dict[str, list[float]] = {"disk": [], "loopback": []}
    for _ in range(rounds):
        for name, place in (("disk", path), ("loopback", url)):
            found = in_process("specs", place)
            rates[name].append(found["events"] / found["seconds"])
    ratios = [there / here for here, there in zip(rates["disk"], rates["loopback"], strict=True)]
    here, there = (statistics.median(rates[name]) for name in rates)
    print(f"specs: disk {here:,.0f} events/s, loopback {there:,.0f} events/s, "
          f"ratio {statistics.median(ratios):.2f} (the limit is 1)")  # fmt: skip


def delayed(url: str, rounds: int) -> None:
    found = {name: [] for name in ("ours", "whole")}
    for _ in range(rounds):
        for name in found:
            found[name].append(in_process(name, url))
    ratios = [w["seconds"] / o["seconds"] for o, w in zip(found["ours"], found["whole"], strict=True)]
    ours = found["ours"][-1]
    for name in found:
        seconds = statistics.median(each["seconds"] for each in found[name])
        print(f"  a branch in {SHARE}: {name} {seconds:.2f} s, {found[name][-1]['bytes'] / 1e6:.1f} MB")
    print(f"  whole files take {statistics.median(ratios):.1f} times as long; "
          f"{ours['requests']:.0f} requests, {ours['ranges']:.0f} ranges, "
          f"{ours['bytes'] / ours['wanted']:.2f} bytes a wanted byte")  # fmt: skip


if __name__ == "__main__":
    main()
