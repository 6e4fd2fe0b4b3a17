"""The service is killed again and again while everybody uses it: nothing accepted may be lost or doubled."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import random
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

from service_clients import Archive, Clients, Server, Told, connected, first_run


async def killed(options, server: Server, home: Path) -> Told:
    """Load the service while it is killed again and again."""
    async with connected(server.url, True) as clients:
        job, run = await first_run(clients, home / "request", until_done=False)
        payload = os.urandom(options.megabytes * 10**6)
        began = time.monotonic()
        watchers = [asyncio.create_task(clients.watch(run, began + 10**6)) for _ in range(options.clients)]

        async def uploading(name: str) -> None:
            while True:
                await clients.upload(name, Archive(payload))
                if clients.over:
                    return

        async def submitting(pause: float) -> None:
            await asyncio.sleep(pause)
            await clients.submit(job)

        uploads = [asyncio.create_task(uploading(f"load{n}")) for n in range(options.uploads)]
        submits = [
            asyncio.create_task(submitting(random.uniform(0, 5 * options.kill)))
            for _ in range(options.submits)
        ]
        for number in range(options.kill):
            await asyncio.sleep(random.uniform(1, 6))
            server.kill(whole=number % 2 == 0)
            await asyncio.to_thread(server.start)
            print(f"killed and started again, {number + 1} of {options.kill}", flush=True)
        await asyncio.gather(*submits)
        clients.over = True
        await asyncio.gather(*uploads, *watchers)
        print(f"asked again: {dict(clients.told.again)}")
        print(f"{len(clients.told.seconds['upload'])} uploads, {len(clients.told.runs)} runs", flush=True)
        await check_runs(clients)
        check_uploads(clients.told, home, payload)
    return clients.told


async def check_runs(clients: Clients) -> None:
    """Make sure that every accepted run exists exactly once."""
    _, content = await clients.ask("check", "GET", "/api/v1/runs?limit=500")
    listed = Counter(each["name"] for each in json.loads(content)["runs"])
    accepted = Counter(clients.told.runs.values())
    if listed != accepted or set(accepted.values()) != {1}:
        clients.told.errors.append(f"runs: accepted {accepted - listed}, listed {listed - accepted}")
    dags = dags_by_run()
    if dags != accepted:
        clients.told.errors.append(f"in HTCondor: missing {accepted - dags}, too many {dags - accepted}")
    print(f"runs listed {listed.total()}, DAGs {dags.total()}, accepted {accepted.total()}")


def dags_by_run() -> Counter[str]:
    """Count the DAGMan jobs that HTCondor has ever had, by the name of their run."""
    import htcondor2

    schedd = htcondor2.Schedd()
    constraint, wanted = "JobUniverse == 7", ["Iwd", "ClusterId"]
    jobs = {
        int(job["ClusterId"]): Path(job["Iwd"]).name
        for jobs in (schedd.query(constraint, wanted), schedd.history(constraint, wanted))
        for job in jobs
    }
    return Counter(jobs.values())


def check_uploads(told: Told, home: Path, payload: bytes) -> None:
    """Make sure that every folder is what was acknowledged last, to the last byte."""
    from mlaas_condor.server.configuration import Configuration
    from mlaas_condor.server.storage.folders import Folders

    configuration = Configuration.read(home / "service.toml")
    folders = Folders(configuration.settings(), configuration.limits)
    expected = sha256(payload).digest()
    for name, (version, mark) in told.versions.items():
        folder = folders.open(getpass.getuser(), name)
        found = {path.name: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
        same = sha256(found.get("payload", b"")).digest() == expected and found.get("mark") == mark
        if folder.version != version or not same:
            told.errors.append(
                f"folder {name}: {version} was acknowledged, {folder.version} is there, {same}"
            )
    print(f"folders as acknowledged {len(told.versions)}")
