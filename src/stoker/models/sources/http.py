"""One GET over HTTP: bounded redirects, a token for one host only, and refusals that say what to do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

import httpx2

from stoker.core.errors import SourceError
from stoker.models.sources.network import Network, is_loopback_url, shown_url

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_RETRY_AFTER_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What to ask for.

    Attributes:
        url: The address.
        label: What it is, for people.
        token: Sent as a bearer token to the URL's own host only, or None.
        page: Where people accept the licence of a gated model, or None.
    """

    url: str
    label: str
    token: str | None = field(default=None, repr=False)
    page: str | None = None


class TransientSourceError(SourceError):
    """A refusal that may pass: worth another try.

    Args:
        message: For people.
        retry_after_s: Seconds that the server asks to wait, or None.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@contextmanager
def connected(network: Network) -> Iterator[httpx2.Client]:
    """A client that keeps its connections; proxies and certificates are those of the environment."""
    headers = {"User-Agent": "stoker", "Accept-Encoding": "identity"}
    with httpx2.Client(timeout=network.timeout_s, follow_redirects=False, headers=headers) as client:
        yield client


@contextmanager
def get(
    client: httpx2.Client, network: Network, place: Place, headers: Mapping[str, str]
) -> Iterator[httpx2.Response]:
    """The reply to a GET, its body not read yet; errors of the transport are raised in the body too.

    Raises:
        TransientSourceError: The server or the network failed; another try may succeed.
        SourceError: The server refuses, or redirects where Stoker does not go.
    """
    network.require_online(place.label)
    url = place.url
    try:
        for _ in range(MAX_REDIRECTS + 1):
            network.require_permitted(url)
            sent = {**headers, **_authorization(place, url)}
            with client.stream("GET", url, headers=sent) as response:
                if response.status_code not in _REDIRECTS:
                    _require_success(response, place)
                    yield response
                    return
                url = _redirected(response, url, place)
    except httpx2.RequestError as error:
        reason = str(error) or type(error).__name__
        raise TransientSourceError(f"Fetching the {place.label} failed: {reason}.") from error
    except httpx2.InvalidURL as error:
        raise SourceError(f"The {place.label} has no usable address: {error}.") from error
    raise SourceError(f"The {place.label} is redirected more than {MAX_REDIRECTS} times: {shown_url(url)}.")


def _authorization(place: Place, url: str) -> dict[str, str]:
    """Return the token's header for the host that the token is meant for, and only unheard by others."""
    home, here = urlsplit(place.url), urlsplit(url)
    same = (home.scheme, home.netloc) == (here.scheme, here.netloc)
    if place.token is None or not same or not (here.scheme == "https" or is_loopback_url(url)):
        return {}
    return {"Authorization": f"Bearer {place.token}"}


def _redirected(response: httpx2.Response, url: str, place: Place) -> str:
    try:
        target = urljoin(url, response.headers.get("location", ""))
        host = urlsplit(target).hostname
    except ValueError:
        host = None
    if host is None:
        raise SourceError(f"The {place.label} is redirected to no usable address.")
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise SourceError(
            f"The {place.label} is redirected from https to {shown_url(target)}, which is not encrypted: "
            "refused."
        )
    return target


def _require_success(response: httpx2.Response, place: Place) -> None:
    status = response.status_code
    if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}:
        return
    said = f"{shown_url(str(response.url))} answers with status {status}"
    if status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS} or status >= 500:  # noqa: PLR2004 - server errors
        raise TransientSourceError(
            f"The {place.label} cannot be had now: {said}. Try again later.",
            retry_after_s=_retry_after_s(response),
        )
    raise SourceError(f"The {place.label} cannot be had: {said}. {_advice(response, place)}")


def _advice(response: httpx2.Response, place: Place) -> str:
    status, code = response.status_code, response.headers.get("x-error-code", "")
    refused = status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
    if place.page is None:
        if refused:
            return "It asks for credentials, and Stoker sends none there: download it another way."
        return "Check the address."
    if code == "GatedRepo" or status == HTTPStatus.FORBIDDEN:
        return (
            f"The repository is gated: accept its licence at {place.page}, then set HF_TOKEN to a token of "
            "that account."
        )
    if refused and place.token is not None:
        return "The token (HF_TOKEN) is wrong or has no access to it."
    missing = "revision" if code == "RevisionNotFound" else "repository or file"
    return f"There is no such {missing}, or it is private: check the names at {place.page}, or set HF_TOKEN."


def _retry_after_s(response: httpx2.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and len(text) <= _MAX_RETRY_AFTER_DIGITS else None
