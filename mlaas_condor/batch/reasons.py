"""Hold codes and exit codes in words: what happened, and the next command to type."""

from __future__ import annotations

import re
from pathlib import Path

from mlaas_condor import errors
from mlaas_condor.errors import LEAVE, StageError

# HTCondor's manual, job ClassAd attribute HoldReasonCode: those that a run of ours can meet.
_RENEW = "mlaas-condor proxy renew {run}"
_RESUME = "mlaas-condor resume {run}"
_MORE_MEMORY = "{memory}, and submit again"
_MORE_DISK = "make room, or {disk}; then mlaas-condor resume {run}"
# What the user says of memory and disk is for the training; the plan decides for the other stages.
_ASK = {
    True: {
        "memory": "raise 'memory' in job.json",
        "disk": "raise 'disk' in job.json",
        "file": "the model file",
    },
    False: {
        "file": "the file with preprocessing(rec)",
        "memory": "lower chunk_size in params.json, or raise MLAAS_CONDOR_MEMORY_MB",
        "disk": "lower chunk_size in params.json",
    },
}
_HOLDS = {
    1: ("you held it", _RESUME),
    3: ("a policy of the pool put it on hold", f"ask the pool's administrators, then {_RESUME}"),
    4: ("its proxy could not be given to it: has it expired?", _RENEW),
    6: (
        "the machine could not start the program: is the Python of the jobs there, with mlaas-condor in it?",
        "set 'python' in the settings to one that the machines have, and submit again",
    ),
    7: (
        "its input or output folder is not accessible",
        "mlaas-condor logs {run} --stage {stage} --task {task}",
    ),
    12: (
        "its output could not be brought back: is the disk of the access point full?",
        f"make room, then {_RESUME}",
    ),
    13: ("its input could not be sent: was a file deleted or moved?", f"put it back, then {_RESUME}"),
    21: ("the machine failed to run it", _RESUME),
    26: ("it used more of a resource than it asked for", _MORE_MEMORY),
    34: ("it used more memory than it asked for", _MORE_MEMORY),
}
_NOT_STARTED, _NO_OUTPUT = 6, 12
# A stage makes this folder first thing: where it is missing, our package could not even be imported.
_NEVER_BEGUN = re.compile(r"/output/\w*: \(errno 2\)")
_TAIL_BYTES = 8192
OURS = (3, errors.CredentialFault.exit_code)
"""Codes of the hold that our submit files ask for: a job that found its proxy or token not to do."""


def _kinds(of: type[StageError]) -> list[type[StageError]]:
    return [each for kind in of.__subclasses__() for each in (kind, *_kinds(kind))]


_EXITS = {kind.exit_code: kind for kind in reversed(_kinds(StageError))}
_ADVICE = {
    errors.InputUnreadable: (
        "mend the file, then mlaas-condor resume {run}; or leave it, or the branch, out and submit again"
    ),
    errors.InputChanged: "submit the request again: the plan no longer fits the files",
    errors.ModelFault: "correct {file} and submit again; what does not depend on it is reused",
    errors.FrameworkMissing: "install it where the jobs run, then mlaas-condor resume {run}",
    errors.DataFault: (
        "look at the cut flow (mlaas-condor logs {run} --stage merge), labels and weights, and submit again"
    ),
    errors.StorageFull: _MORE_DISK,
    errors.OutOfMemory: _MORE_MEMORY,
    errors.StorageUnavailable: "once the storage answers again: mlaas-condor resume {run}",
    errors.AccessDenied: (
        "ask who runs the storage for permission, or use a proxy that has it; then mlaas-condor resume {run}"
    ),
    # The run has ended, or has no queue: `proxy renew`, which a held job needs, is for those that live.
    errors.CredentialFault: "put a good proxy or token in its place, then mlaas-condor resume {run}",
}


def of_hold(
    code: int, subcode: int, text: str, stderr: Path, run: str, stage: str, task: int
) -> tuple[str, str]:
    """Return (what happened, what to do) for a held job, from HTCondor's codes and what was said."""
    words, advice = _HOLDS.get(code, ("HTCondor holds it", _RESUME))
    if code == _NO_OUTPUT and _NEVER_BEGUN.search(text):
        words, advice = _HOLDS[_NOT_STARTED]
    if (code, subcode) == OURS:
        words, advice = _last_words(stderr, stage) or "it held itself", _RENEW
    detail = " ".join(text.split())
    return f"{words} ({detail})" if detail else words, advice.format(
        run=run, stage=stage, task=task, **_ASK[stage == "train"]
    )


def of_removal(text: str, run: str, stage: str, task: int) -> tuple[str, str]:
    """Return (what happened, what to do) for a job that was removed from the queue."""
    detail = " ".join(text.split())
    return f"was removed from the queue{f' ({detail})' if detail else ''}", _RESUME.format(run=run)


def of_exit(
    code: int | None, signal: int | None, stderr: Path, run: str, stage: str, task: int
) -> tuple[str, str]:
    """Return (what happened, what to do) for a job that ended without its output.

    Parameters
    ----------
    code, signal
        How it ended; one of them is None.
    stderr
        File with its standard error; it may be missing.
    run, stage, task
        Which job.
    """
    see = f"mlaas-condor logs {run} --stage {stage} --task {task}"
    if signal is not None:
        words = f"was killed by signal {signal}" + (", often for lack of memory" if signal == 9 else "")
        return words, f"{see}; mlaas-condor resume {run} goes on"
    if code == 0:
        return "ended as if all were well, but without its output: did the model end the process?", see
    if code == LEAVE:  # on a pool HTCondor starts it again; without one somebody ended it
        return "was told to end, and left a checkpoint to go on from", _RESUME.format(run=run)
    kind = _EXITS.get(code or 0)
    meaning = (kind.__doc__ or "").splitlines()[0] if kind else f"ended with exit code {code}"
    words = _last_words(stderr, stage) or meaning
    advice = (
        _ADVICE[kind].format(run=run, **_ASK[stage == "train"])
        if kind
        else f"{see}, then mlaas-condor resume {run}"
    )
    return words, advice


def _last_words(stderr: Path, stage: str) -> str:
    """Return how a job ended in its own words: what our program said last, else the last line there is."""
    try:
        with stderr.open("rb") as file:
            file.seek(max(0, stderr.stat().st_size - _TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    ours = [line.removeprefix(f"{stage}: ") for line in lines if line.startswith(f"{stage}: ")]
    return (ours or [line for line in lines if line] or [""])[-1]


def table() -> list[tuple[int, str, str]]:
    """Return (exit code, name, meaning) of every error, for the documentation."""
    found = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.MlaasError)
    ]
    rows = {(kind.exit_code, kind.__name__, (kind.__doc__ or "").strip().splitlines()[0]) for kind in found}
    return sorted(row for row in rows if row[1] != "StageError")
