"""What sources that fetch over a network are told: where, with which token, how patiently, or not at all."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from stoker.core.errors import SourceError

HUB = "https://huggingface.co"
"""Where Hugging Face repositories are, unless a mirror is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How to reach other machines.

    Attributes:
        offline: Reach none: whatever would is refused.
        allow_http: Also fetch over unencrypted http from other machines than this one.
        hub: The hub's address, or a mirror's, without a slash at the end.
        hub_token: Sent to the hub, and to no other host, or None.
        timeout_s: Seconds without a byte after which a connection is given up.
        attempts: Tries in a row, without a MiB of progress, after which a download is given up.
        first_wait_s: Seconds before the second try; doubled each time, up to `max_wait_s`.
        max_wait_s: Longest wait, also when the server asks for a longer one.
    """

    offline: bool = False
    allow_http: bool = False
    hub: str = HUB
    hub_token: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0
    attempts: int = 6
    first_wait_s: float = 0.5
    max_wait_s: float = 30.0

    def require_online(self, label: str) -> None:
        """Refuse when offline.

        Raises:
            SourceError: No other machine may be reached.
        """
        if self.offline:
            raise SourceError(
                f"The {label} is not fetched, because `offline` is set (a flag, STOKER_OFFLINE or "
                "HF_HUB_OFFLINE): pull the model while online, or give the path of a model on this machine."
            )

    def require_permitted(self, url: str) -> None:
        """Refuse unencrypted addresses of other machines, unless they are allowed.

        Raises:
            SourceError: The address is not to be fetched from.
        """
        scheme = urlsplit(url).scheme
        if scheme == "https" or (scheme == "http" and (self.allow_http or is_loopback_url(url))):
            return
        raise SourceError(
            f"{shown_url(url)} is not encrypted, so anybody on the way could change what arrives: use an "
            "https address, or set `allow_http` if you trust the network."
        )


def is_loopback_url(url: str) -> bool:
    """Tell whether a URL names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def shown_url(url: str) -> str:
    """Return a URL for people: without its query, which may hold a signature, and without a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:300]
