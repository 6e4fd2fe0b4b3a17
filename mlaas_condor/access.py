"""With which proxy or token a run reads remote storage: found and judged beforehand, then handed on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mlaas_condor.data import storage
from mlaas_condor.errors import CredentialFault, Problem
from mlaas_condor.grid import proxy as proxies
from mlaas_condor.grid import tokens, xrootd
from mlaas_condor.grid.credentials import Credentials
from mlaas_condor.grid.times import in_words
from mlaas_condor.lists import is_here
from mlaas_condor.planning import Plan
from mlaas_condor.request import Request
from mlaas_condor.run import TOKEN, RunFolder

READERS = ("specs", "preprocess")
"""The stages that read input files; the others have no use for a credential, and get none."""
_VARIABLES = (proxies.VARIABLE, tokens.FILE, xrootd.AUTHORITIES)
_MEANINGFUL = re.compile(r"[\s,;\"'$()\\]")  # in a submit file, or in what it hands to a job
_DELEGATED = "the proxy that its owner delegated"
_MARGIN = 2.0  # a run that waits for machines takes longer than its jobs
_LEAST_SECONDS = 300.0
_SOON_SECONDS = 3600.0
DELEGATE = "mlaas-condor proxy delegate"
"""Command that gives a service a proxy to read with."""


@dataclass(frozen=True)
class Access:
    """What a run may show to storage.

    Parameters
    ----------
    proxy, token
        None where there is none: much storage lets everybody read.
    stages
        Stages that read remote files, and get them.
    reads, writes
        Files that are read, as the user wrote them, and folders that are written to.
    """

    proxy: proxies.Proxy | None = None
    token: tokens.Token | None = None
    stages: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return as whom storage is read, in one line; empty where nobody is asked."""
        named = []
        if self.stages and self.proxy:
            left = in_words(self.proxy.seconds_left)
            named.append(f"{self.proxy.identity} (proxy {self.proxy.path}, {left} left)")
        if self.stages and self.token:
            named.append(f"the bearer of the token of {self.token.origin}")
        return f"storage is read as {' or '.join(named)}" if named else ""

    def credentials(self, folder: RunFolder | None) -> Credentials:
        """Return what the run directory keeps of it, where a token that was in no file gets one."""
        if not self.stages:
            return Credentials()
        return Credentials(
            proxy=str(self.proxy.path) if self.proxy else "",
            identity=self.proxy.identity if self.proxy else "",
            token=self._token_file(folder) if self.token else "",
            stages=list(self.stages),
            certificates=os.environ.get(xrootd.AUTHORITIES, ""),
        )

    def _token_file(self, folder: RunFolder | None) -> str:
        assert self.token is not None
        if Path(self.token.origin).is_file():  # whoever renews it there renews it for jobs to come
            return str(Path(self.token.origin).absolute())
        if folder is None:
            return TOKEN
        descriptor = os.open(folder.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.token.text + "\n")
        return TOKEN


def find(request: Request, lines: Sequence[str]) -> Access:
    """Find the credentials for what a request reads and writes; its problems get what is wrong with them.

    A proxy that is named has to do. Otherwise a proxy or a token that does is enough, and of the other one
    is only warned.

    Parameters
    ----------
    request
        The request.
    lines
        Its list of files, as the user wrote it.
    """
    job = request.job
    reads = tuple(line for line in lines if _asks(request, line))
    writes = (job.chunk_store,) if job.chunk_store else ()
    if not reads and not writes and not job.x509_proxy:
        return Access()
    proxy, of_proxy = _find_proxy(request)
    token, of_token = _find_token() if (reads or writes) and not job.oauth_services else (None, [])
    stages = (*(READERS if reads or writes else ()), *(("train",) if writes else ()))
    found = Access(proxy, token, stages, reads, writes)
    _judge(request, found, of_proxy, of_token)
    if proxy:
        os.environ[proxies.VARIABLE] = str(proxy.path)  # for the libraries that read
    return found


def _asks(request: Request, line: str) -> bool:
    """Tell whether a file is on storage that may ask who we are: a plain web server does not."""
    if not storage.is_url(line):
        return bool(request.params.redirector) and not is_here(request, line)
    return any(storage.scheme(place) in (*xrootd.SCHEMES, "davs") for place in storage.places(line))


def _find_proxy(request: Request) -> tuple[proxies.Proxy | None, list[Problem]]:
    named = request.job.x509_proxy
    try:
        path = proxies.find(str(request.path(named)) if named else "", request.proxy_named_by)
        return (proxies.read(path) if path else None), []
    except CredentialFault as error:
        if request.within:
            return None, [_of("proxy", Problem("", "cannot be used"), request)]
        return None, [Problem("proxy", str(error))]


def _find_token() -> tuple[tokens.Token | None, list[Problem]]:
    try:
        return tokens.find(), []
    except CredentialFault as error:
        return None, [Problem("token", str(error))]


def _judge(
    request: Request,
    access: Access,
    of_proxy: Sequence[Problem] = (),
    of_token: Sequence[Problem] = (),
    needed: float = 0.0,
) -> None:
    """Make problems of the faults of the credentials, or warnings of one where the other has none."""
    proxy, token = access.proxy, access.token
    bad_proxy, bad_token = list(of_proxy), list(of_token)
    if proxy:
        bad_proxy += [_of("proxy", each, request) for each in proxies.faults(proxy, needed)]
        bad_proxy += _not_for_condor(str(proxy.path))
    if token:
        of_reading = tokens.faults(token, access.reads, needed, "storage.read")
        of_writing = tokens.faults(token, access.writes, needed, "storage.modify")
        bad_token += [_of("token", each, request) for each in (*of_reading, *of_writing)]
        bad_token += _not_for_condor(token.origin)
    bad_authorities = _not_for_condor(os.environ.get(xrootd.AUTHORITIES, ""))
    good_token = token is not None and not bad_token
    if request.job.x509_proxy or (proxy and not bad_proxy):
        faults, warnings = bad_proxy, bad_token
    elif good_token:
        faults, warnings = [], bad_proxy
    else:
        faults, warnings = [*bad_proxy, *bad_token], []
    request.problems += dict.fromkeys([*faults, *bad_authorities])
    request.warnings += [text for text in dict.fromkeys(map(str, warnings)) if text not in request.warnings]


def _of(kind: str, problem: Problem, request: Request) -> Problem:
    if request.within:  # its user never saw the file, and cannot do anything with it
        return Problem(f"your delegated {kind}", problem.what, f"delegate a new one: {DELEGATE}")
    return replace(problem, where=f"{kind} {problem.where}")


def _not_for_condor(path: str) -> list[Problem]:
    """Return what keeps a path from being written into a submit file as it stands."""
    odd = sorted(set(_MEANINGFUL.findall(path)))
    if not odd:
        return []
    what = f"has {' '.join(map(repr, odd))} in its path, which HTCondor cannot pass on"
    return [Problem(path, what, "put it at another place")]


def needed_seconds(plan: Plan, stages: Iterable[str]) -> float:
    """Return for how long a run needs its credentials: as long as these stages take, with a margin."""
    return max(_LEAST_SECONDS, _MARGIN * sum(plan.stage(stage).seconds for stage in stages))


def check_lifetime(request: Request, access: Access, plan: Plan) -> None:
    """Make sure that the credentials outlive what is planned; otherwise it is a problem of the request."""
    if access.stages:
        _judge(request, access, needed=needed_seconds(plan, access.stages))


@contextmanager
def kept() -> Iterator[None]:
    """Give the variables that name credentials back as they were: the next request has its own."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def used(folder: RunFolder) -> Iterator[None]:
    """Have what this process reads and writes, and the jobs that it starts, use the credentials of a run.

    The XRootD client keeps to the proxy that a process used first: other users need other processes.
    """
    credentials = Credentials.of(folder.credentials)
    named = {
        proxies.VARIABLE: credentials.proxy,
        tokens.FILE: str(folder.path / credentials.token) if credentials.token else "",
        xrootd.AUTHORITIES: credentials.certificates,
    }
    with kept():
        os.environ.update({name: value for name, value in named.items() if value and Path(value).exists()})
        yield


def check_again(folder: RunFolder, missing: Mapping[str, int]) -> None:
    """Make sure, before a run is gone on with, that its proxy would be taken.

    Raises
    ------
    CredentialFault
        It is missing, or would not be.
    """
    given = Credentials.of(folder.credentials)
    if given.proxy and any(missing.get(stage) for stage in given.stages):
        then = f"then: mlaas-condor resume {folder.name}"
        delegated = folder.belongs.exists()
        try:
            faults = proxies.faults(proxies.read(Path(given.proxy)))
        except CredentialFault as error:
            what = f"{_DELEGATED} cannot be used: {DELEGATE}" if delegated else error
            raise CredentialFault(f"{what}; {then}") from error
        if faults:
            what = f"{_DELEGATED} {faults[0].what}: {DELEGATE}" if delegated else f"proxy {faults[0]}"
            raise CredentialFault(f"{what}; {then}")


def note(folder: RunFolder, missing: Mapping[str, int]) -> str:
    """Return what to say of the proxy of a run that is not over; empty where it does.

    Parameters
    ----------
    folder
        The run.
    missing
        Stage to its jobs that are not done.
    """
    given = Credentials.of(folder.credentials)
    jobs = sum(missing.get(stage, 0) for stage in given.stages)
    if not given.proxy or not jobs:
        return ""
    return _of_proxy(
        given.proxy, folder, f"{jobs} job{'s' * (jobs > 1)} that read{'s' * (jobs == 1)} with it"
    )


def _of_proxy(named: str, folder: RunFolder, jobs: str) -> str:
    delegated = folder.belongs.exists()
    proxy = _DELEGATED if delegated else f"the proxy {named}"
    renew = f"`{DELEGATE}`" if delegated else f"`mlaas-condor proxy renew {folder.name}`"
    try:
        left = proxies.read(Path(named)).seconds_left
    except CredentialFault as error:
        return f"{f'{proxy} cannot be used' if delegated else error}; {jobs} cannot go on: {renew}"
    if left <= 0:
        return f"{proxy} has expired; {jobs} will be held: {renew}"
    if left < _SOON_SECONDS:
        return f"{proxy} expires in {in_words(left)}; after that {jobs} will be held: {renew}"
    return ""
