"""Who may ask: this machine's own browser, or whoever has the token."""

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

COOKIE = "twofold-token"


class Refusal(Exception):
    """Why a request is not answered: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Access:
    """The rules of one server. token: None on loopback, where only this machine can ask.

    There, what can still reach it are pages that the user's browser has open: a name of theirs that resolves to
    127.0.0.1 (DNS rebinding) is told by the header Host, a request of theirs by Origin and Sec-Fetch-Site.
    """

    token: str | None

    def refusal(self, *, headers: Mapping[str, str], query: str, cookies: Mapping[str, str], opening: bool
                ) -> Refusal | None:
        """Why not, or None. headers: lower-case names; opening: the page itself is asked for, as by a link to it."""
        host = headers.get("host", "")
        if self.token is None and not is_loopback(_name(host)):
            return Refusal(403, f"this page answers to localhost only, not to {host[:100]!r}")
        origin = headers.get("origin", "")
        if origin and urlsplit(origin).netloc.lower() != host.lower():
            return Refusal(403, f"a page of {origin[:100]!r} asked, and only this server's own page may")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not opening:
            return Refusal(403, "a page of another site asked, and only this server's own page may")
        if self.token is not None and not self._has_token(headers, query, cookies):
            return Refusal(401, "the token is missing or wrong: open the address that `twofold serve` printed, with "
                                "all of its end")
        return None

    def _has_token(self, headers: Mapping[str, str], query: str, cookies: Mapping[str, str]) -> bool:
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        offers = (token_in(query), cookies.get(COOKIE, ""), bearer)
        return any(hmac.compare_digest(offer.encode(), (self.token or "").encode()) for offer in offers)


def access_for(host: str) -> Access:
    """No token on loopback; elsewhere a fresh one of 192 bits."""
    return Access(None if is_loopback(host) else secrets.token_urlsafe(24))


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine that no other machine reaches, or `localhost`; no other name is."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_in(query: str) -> str:
    """The token of a query string, or an empty text."""
    return parse_qs(query).get("token", [""])[0]


def _name(host: str) -> str:
    """The header Host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
