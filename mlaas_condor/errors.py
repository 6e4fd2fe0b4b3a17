"""Every error of mlaas-condor, in one tree.

MlaasError                   1  500   the base: also what nobody foresaw
├── RequestError             2  400   job.json or anything it names is wrong; holds all problems
├── PoolUnreachable          3  503   no HTCondor pool answers, or no service
├── PoolLost                 4  503   the pool, or service, stopped answering while we watched
├── RunNotFound              5  404   no run of that name
├── WrongState               6  409   the run is not in a state that allows this
├── RunFailed                7  500   the run ended without a model
├── InstallError             8  500   a private HTCondor could not be installed or started
├── CannotWrite              9  507   no space, or no permission, where runs are kept
├── SubmitRefused           10  502   the schedd answers, but does not take the run
├── ServiceRefused          11  502   a service answers, but does not do it: not allowed, or over a limit
└── StageError                        a job cannot go on; its exit code tells DAGMan and the user why
    ├── InputUnreadable     20        an input file cannot be opened or read
    │   ├── StorageUnavailable 27  503   the storage does not answer, or the connection was lost
    │   └── AccessDenied    28  403   the storage does not let this identity read or write
    ├── InputChanged        21        an input file is not the one that was planned
    ├── ModelFault          22        the user's model.py fails, or its model does not fit the data
    ├── FrameworkMissing    23        the framework is not installed where the job runs
    ├── DataFault           24        the data cannot be trained on (one class only, nothing left, …)
    ├── StorageFull         25        no space left where the job writes
    ├── OutOfMemory         26        the job needs more memory than it asked for
    └── CredentialFault     29  403   the proxy or token is missing, has expired, or is not accepted

The first number is the exit code of the command (or of the job), the second the HTTP status.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAVE = 85
"""Exit code of a training that has left a checkpoint and is to be started again: HTCondor's custom."""


class MlaasError(Exception):
    """Base of all errors that are ours: the message says what happened, the value seen, what to do."""

    exit_code = 1
    http_status = 500


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a request.

    Parameters
    ----------
    where
        The place the user can go to: ``job.json: memory``, ``params.json:3``, ``data/ttH.root``.
    what
        What is wrong, with the value seen.
    hint
        What to do about it; empty where that is plain.
    """

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        return f"{text} ({self.hint})" if self.hint else text


class RequestError(MlaasError):
    """The request cannot be run; ``problems`` lists everything found, nothing was queued."""

    exit_code = 2
    http_status = 400

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PoolUnreachable(MlaasError):
    """No HTCondor pool answers, or no service."""

    exit_code = 3
    http_status = 503


class PoolLost(PoolUnreachable):
    """The pool or service stopped answering while we watched a run; the run itself is not touched."""

    exit_code = 4


class RunNotFound(MlaasError):
    """There is no run of that name."""

    exit_code = 5
    http_status = 404


class WrongState(MlaasError):
    """The run is in a state that does not allow what was asked."""

    exit_code = 6
    http_status = 409


class RunFailed(MlaasError):
    """The run ended without a model."""

    exit_code = 7


class InstallError(MlaasError):
    """A private HTCondor could not be installed, or a personal pool not started."""

    exit_code = 8


class SubmitRefused(MlaasError):
    """The schedd answers, but does not take the run."""

    exit_code = 10
    http_status = 502


class ServiceRefused(MlaasError):
    """A service answers, but does not do what was asked: it is not allowed, or over a limit."""

    exit_code = 11
    http_status = 502


class CannotWrite(MlaasError):
    """There is no space, or no permission, where runs are kept."""

    exit_code = 9
    http_status = 507


class StageError(MlaasError):
    """A job cannot go on. Subclasses give the job's exit code."""

    exit_code = 1


class InputUnreadable(StageError):
    """An input file cannot be opened or read."""

    exit_code = 20


class InputChanged(StageError):
    """An input file is not the one that was there when the run was planned."""

    exit_code = 21


class ModelFault(StageError):
    """The user's model file fails, or its model does not fit the data."""

    exit_code = 22


class FrameworkMissing(StageError):
    """The framework that the model needs is not installed where the job runs."""

    exit_code = 23


class DataFault(StageError):
    """The data cannot be trained on."""

    exit_code = 24


class StorageFull(StageError):
    """No space is left where the job writes."""

    exit_code = 25


class OutOfMemory(StageError):
    """The job needs more memory than there is."""

    exit_code = 26


class StorageUnavailable(InputUnreadable):
    """The storage does not answer, or the connection to it was lost."""

    exit_code = 27
    http_status = 503


class AccessDenied(InputUnreadable):
    """The storage does not let this identity read or write there."""

    exit_code = 28
    http_status = 403


class CredentialFault(StageError):
    """The proxy or token is missing, has expired, or is not accepted."""

    exit_code = 29
    http_status = 403
