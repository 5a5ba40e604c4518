"""Networks of clients: the part of an address that one client can hardly change."""

from __future__ import annotations

import ipaddress

_IPV6_PREFIX = 64  # a household or a rented machine has all addresses below one such prefix


def network_of(address: str) -> str:
    """Return the part of an address that one client can hardly change: of IPv6 the first 64 bits, else all of it."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address

    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, _IPV6_PREFIX), strict=False))
