"""Which addresses a model's endpoint may have.

The setting is the operator's, and models often run on this machine or its network, so loopback and private addresses
are fine. What is never a model is refused: the addresses on which clouds hand out credentials, and those of no single
host. It is looked at twice: the text when it is configured, and the peer of every connection, because a name may
resolve to something else each time.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from agent_runtime.llm.client import LLMError

REFUSED = tuple(
    (ip_network(network), what)
    for network, what in (
        ("169.254.0.0/16", "a link-local address"),
        ("fe80::/10", "a link-local address"),
        ("168.63.129.16/32", "a metadata address"),  # Azure
        ("100.100.100.200/32", "a metadata address"),  # Alibaba
        ("192.0.0.192/32", "a metadata address"),  # Oracle
        ("fd00:ec2::/32", "a metadata address"),  # AWS
        ("fd20:ce::254/128", "a metadata address"),  # Google
        ("0.0.0.0/8", "no host's address"),
        ("::/128", "no host's address"),
        ("224.0.0.0/3", "a multicast or reserved address"),
        ("ff00::/8", "a multicast address"),
    )
)
METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_NAT64 = ip_network("64:ff9b::/96")


class EndpointRefused(ValueError):
    """The endpoint can't be used. The message says why, and shows nothing of the URL but its host."""


def check_endpoint(url: str) -> str:
    """``url`` without its last slash, if a model may be called there.

    Raises:
        EndpointRefused: it is no plain http or https URL, or its host is refused.
    """
    if not url.isprintable() or " " in url or "\\" in url:
        raise EndpointRefused("the model endpoint has a blank, a backslash or a control character")
    try:
        parts = urlsplit(url)
        host, _port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise EndpointRefused("the model endpoint is not a URL") from None
    if parts.scheme not in ("http", "https"):
        raise EndpointRefused("the model endpoint must begin with http:// or https://")
    if "@" in parts.netloc:
        raise EndpointRefused("the model endpoint must not hold credentials; the key is a setting of its own")
    if not host:
        raise EndpointRefused("the model endpoint has no host")
    if "?" in url or "#" in url:
        raise EndpointRefused("the model endpoint must not have a query or a fragment")
    what = "a metadata service" if host in METADATA_NAMES else problem_with_address(host)
    if what is not None:
        raise EndpointRefused(f"the model endpoint's host {host} is {what}")
    return url.rstrip("/")


def problem_with_address(host: str) -> str | None:
    """Why an address, in any of the spellings that the system takes, is refused; None for other ones and for names."""
    address = _parsed(host)
    if address is None:
        return None
    for candidate in _meant(address):
        for network, what in REFUSED:
            if candidate.version == network.version and candidate in network:
                return what
    return None


def _parsed(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        # 169.254.43518, 0xa9fea9fe and 2852039166 are addresses to the system as well.
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _meant(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
    """The address, and the IPv4 address that it carries, if it carries one."""
    yield address
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            yield address.ipv4_mapped
        if address.sixtofour is not None:
            yield address.sixtofour
        if address in _NAT64:
            yield IPv4Address(int(address) & 0xFFFFFFFF)


async def check_peer(event: str, info: dict[str, Any]) -> None:
    """A ``trace`` extension of httpcore: breaks a new connection off before anything is sent, if its peer is refused.

    Raises:
        LLMError: connection.
    """
    if not event.endswith(".connect_tcp.complete"):
        return
    stream = info["return_value"]
    peer = stream.get_extra_info("server_addr")
    what = problem_with_address(str(peer[0])) if peer else None
    if what is not None:
        await stream.aclose()
        raise LLMError("connection", f"the model endpoint's host has {what}, which is refused")
