"""Calls to a service: who we are, what is tried again, and what its refusals mean here."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from mlaas_condor import errors, jsonfile
from mlaas_condor.errors import (
    CredentialFault,
    InputChanged,
    MlaasError,
    PoolUnreachable,
    Problem,
    RequestError,
    ServiceRefused,
    WrongState,
)
from mlaas_condor.grid import addresses

API = "/api/v1"
ANSWER_SECONDS = 60.0
CONNECT_SECONDS = 10.0
WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each repetition, where the service does not say."""
_LONGEST_WAIT = 30.0
_AGAIN = 503
_UNAUTHORIZED = 401
_TOO_LATE = 504
_AWAY = (502, 503, _TOO_LATE)
_SAID = 500  # letters of what a service says
_HOW = "--token-file, MLAAS_CONDOR_TOKEN, or token_file in its profile"


def _code_of(kind: type[MlaasError]) -> str:
    """Return what a service calls an error: ``run_not_found`` for ``RunNotFound``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).lstrip("_")


_KINDS = {
    _code_of(kind): kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MlaasError)
}


class AnswerLost(PoolUnreachable):
    """A call was taken, as far as is known, and its answer did not come: it may have been done."""


class Body:
    """What is sent in pieces, as they are made.

    Parameters
    ----------
    pieces
        The pieces.
    length
        Of all together: a service must know what it is to get, to tell whether it got all of it.

    Raises
    ------
    InputChanged
        When it turns out that they are not that many bytes.
    """

    def __init__(self, pieces: Iterator[bytes], length: int) -> None:
        self._pieces = pieces
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        left = self._length
        for piece in self._pieces:
            left -= len(piece)
            if left < 0:
                break
            yield piece
        if left:
            raise InputChanged("a file was changed while it was sent; submit again")


class Calls:
    """Calls to one service.

    Parameters
    ----------
    url
        Its address; https, except on this machine.
    token
        Returns the token for it, empty for none; asked again when the service does not take it any more.
    say
        Gets a sentence for whoever waits, when something is tried again.

    Raises
    ------
    WrongSetting
        The address is none, or not safe.
    """

    def __init__(
        self, url: str, token: Callable[[], str], say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.url = url.rstrip("/")
        self._say = say
        local = addresses.check(self.url)
        self._bearer = _Bearer(token)
        self._session = requests.Session()
        self._session.auth = self._bearer
        # What is on this machine is not reached through a proxy of the network.
        self._session.trust_env = not local
        self._session.headers.update({"Accept": "application/json", "User-Agent": addresses.SERVICE})
        self._session.mount("https://", _Encrypted())

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON that the service answers with; options as for `send`.

        Raises
        ------
        MlaasError
            What the service refused it for; `PoolUnreachable` if it does not answer.
        """
        for wait in (*WAITS, None):
            answer = self.send(method, path, **options)
            try:
                return answer.json()
            except requests.RequestException as error:
                # Headers that were cut off look whole to the library; one of them says how much is to come.
                cut_off = {"Content-Length", "Transfer-Encoding"}.isdisjoint(answer.headers)
                if not cut_off or wait is None or not options.get("repeat", True):
                    raise self._not_ours() from error
                time.sleep(wait)
        raise AssertionError

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: Any = None,
        body: Callable[[], Body] | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool = True,
        stream: bool = False,
        seconds: float = ANSWER_SECONDS,
    ) -> requests.Response:
        """Make a call and return its answer, which is a good one.

        Parameters
        ----------
        method, path, params
            What is called, below ``/api/v1``.
        content
            Sent as JSON.
        body
            Makes what is sent, anew for each try.
        headers
            Beside the usual ones.
        repeat
            Whether it does no harm if the service gets it twice. Otherwise it is tried again only where it
            was not taken for certain.
        stream
            Leave the content of the answer to the caller.
        seconds
            How long the service may be silent.
        """
        data = jsonfile.dumps(content, indent=None).encode() if content is not None else None
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        waits = iter(WAITS)
        said = False
        while True:
            wait = next(waits, None)
            try:
                answer = self._session.request(
                    method, f"{self.url}{API}{path}", params=params, data=body() if body else data,
                    headers=sent, allow_redirects=False, timeout=(CONNECT_SECONDS, seconds), stream=stream,
                )  # fmt: skip
            except requests.RequestException as error:
                unreached = self.unreached(error, seconds)
                if wait is None or not _may_pass(error, repeat):
                    raise unreached from error
                said = self._pause(str(unreached), wait, said)
                continue
            if answer.ok and answer.status_code < 300:
                return answer
            if answer.status_code == _AGAIN and wait is not None:
                said = self._pause(str(self.refusal(answer)), _wanted_wait(answer, wait), said)
            elif answer.status_code != _UNAUTHORIZED or not self._bearer.is_renewed():
                raise self.refusal(answer)
            answer.close()

    def _pause(self, reason: str, seconds: float, said: bool) -> bool:
        if not said:
            self._say(f"{reason}; trying again")
        time.sleep(seconds)
        return True

    def unreached(self, error: requests.RequestException, seconds: float = ANSWER_SECONDS) -> PoolUnreachable:
        """Return the error for a service that was not reached, or has been lost."""
        limit = CONNECT_SECONDS if isinstance(error, requests.ConnectTimeout) else seconds
        kind = PoolUnreachable if _was_not_taken(error) else AnswerLost
        return kind(f"{self.url} {addresses.why(_reason(error), limit)}")

    def refusal(self, answer: requests.Response) -> MlaasError:
        """Return what the service refused something for, as the error that it would be here."""
        try:
            content = answer.json()
        except requests.RequestException:
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("error"), str):
            return self._of_another(answer)
        said, code, status = content["error"][:_SAID], content.get("code"), answer.status_code
        if status == _UNAUTHORIZED:
            return CredentialFault(f"{self.url} does not know who you are: {said}; give its token by {_HOW}")
        kind = _KINDS.get(str(code))
        if kind is RequestError:
            problems = [each for each in content.get("problems", ()) if isinstance(each, dict)]
            found = [
                Problem(*(str(each.get(key, "")) for key in ("where", "what", "hint"))) for each in problems
            ]
            return RequestError(found or [Problem(self.url, said)])
        if kind is not None:
            return kind(said)
        by_status = {409: WrongState, _AGAIN: PoolUnreachable}
        fallback = MlaasError if status >= 500 else ServiceRefused
        return by_status.get(status, fallback)(f"{self.url}: {said}")

    def _of_another(self, answer: requests.Response) -> MlaasError:
        """Return what to say of an answer that none of our services gives: of a proxy in front, say."""
        status = answer.status_code
        if 300 <= status < 400:
            there = urlsplit(answer.headers.get("Location", "")).netloc or "elsewhere"
            return ServiceRefused(
                f"{self.url} sends to {there}, where no token of yours goes: is that where one logs in? "
                f"Then give a token by {_HOW}; else the address that it has now"
            )
        if status in (_UNAUTHORIZED, 403):
            return CredentialFault(
                f"{self.url} does not let you in (HTTP status {status}); give a token by {_HOW}"
            )
        if status in _AWAY:
            kind = AnswerLost if status == _TOO_LATE else PoolUnreachable
            return kind(f"{self.url} does not answer now (HTTP status {status})")
        if status == 413:
            return ServiceRefused(f"{self.url}: what is in front of the service does not let through so much")
        return self._not_ours(f" (HTTP status {status})")

    def _not_ours(self, detail: str = "") -> PoolUnreachable:
        return PoolUnreachable(
            f"{self.url} is no service of {addresses.SERVICE}{detail}: is the address right?"
        )


class _Bearer(AuthBase):
    """Shows the token to the service; nothing else that is on this machine, such as ``~/.netrc``."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._find = token
        self._token: str | None = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is None:
            self._token = self._checked()
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _checked(self) -> str:
        token = self._find()
        if token and not addresses.is_token(token):
            raise CredentialFault("the token holds what no token has: spaces, line ends, or more than ASCII")
        return token

    def is_renewed(self) -> bool:
        """Look for the token again; tell whether it is another one now."""
        before, self._token = self._token, self._checked()
        return self._token != before


class _Encrypted(HTTPAdapter):
    """Speaks https as the rest of us does: with the authorities of the system and of the grid."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=addresses.encryption(), **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=addresses.encryption(), **options)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        conn.cert_reqs = "CERT_REQUIRED"


def _reason(error: BaseException) -> BaseException:
    """Return the error of the system below those of the libraries."""
    seen: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        each = todo.pop()
        if isinstance(each, BaseException) and each not in seen:
            seen.append(each)
            todo += [each.__context__, each.__cause__, getattr(each, "reason", None), *each.args]
    system = [
        each for each in seen if isinstance(each, OSError) and not isinstance(each, requests.RequestException)
    ]
    if isinstance(error, requests.Timeout):
        return TimeoutError()
    return system[-1] if system else error


def _may_pass(error: requests.RequestException, repeat: bool) -> bool:
    """Tell whether a call that failed may be made again, with some hope."""
    reason = _reason(error)
    # Whoever was silent for long is so again; and some requests cannot even be made.
    if isinstance(error, requests.ReadTimeout | requests.exceptions.InvalidURL):
        return False
    return (
        not isinstance(reason, socket.gaierror)
        and not _no_https(reason)
        and (repeat or _was_not_taken(error))
    )


def _was_not_taken(error: requests.RequestException) -> bool:
    """Tell whether a call cannot have reached the service."""
    reason = _reason(error)
    never = isinstance(reason, socket.gaierror | ConnectionRefusedError) or _no_https(reason)
    return never or isinstance(error, requests.ConnectTimeout)


def _no_https(reason: BaseException) -> bool:
    """Tell whether no connection was made for lack of trust or of a common language; else it was lost."""
    lost = ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError
    return isinstance(reason, ssl.SSLError) and not isinstance(reason, lost)


def _wanted_wait(answer: requests.Response, usual: float) -> float:
    try:
        return min(max(0.0, float(answer.headers.get("Retry-After", usual))), _LONGEST_WAIT)
    except ValueError:  # a date: no clock is needed to wait a little
        return usual
