"""Which network addresses a worker may call: public ones, and those that the operator allows.

Default deny: an address is public only if it is in no range below and, for IPv6, in the one block that IANA allocates
for global unicast. `ipaddress.is_global` is not enough: it is true for NAT64, 6to4, multicast and more, each of which
can lead to an internal address (GHSA-mvm9-4fhw-xqf3).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# The union of the lists of Svix and Smokescreen with the IANA special-purpose registry.
_REFUSED_V4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # this network; 0.0.0.0 connects to loopback on Linux
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier NAT; 100.100.100.200 is Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent: a global address, reachable only from inside
        "169.254.0.0/16",  # link-local; 169.254.169.254 is the metadata service of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata service
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",  # holds the broadcast address
    )
)

# All that IANA has allocated for global unicast. Outside it: ::/96 and ::ffff:0:0/96 (embedded IPv4),
# 64:ff9b::/96 and 64:ff9b:1::/48 (NAT64), 100::/64, 5f00::/16, fc00::/7, fe80::/10, fec0::/10, ff00::/8.
_GLOBAL_UNICAST = IPv6Network("2000::/3")

_REFUSED_V6 = tuple(
    IPv6Network(net)
    for net in (
        "2001::/23",  # protocol assignments, with Teredo (2001::/32) and its embedded IPv4
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries an IPv4 address
        "3ffe::/16",  # the 6bone, returned to IANA
        "3fff::/20",
    )
)

# RFC 5214: an interface identifier 0000:5efe or 0200:5efe is followed by an IPv4 address, under any prefix.
_ISATAP = 0x00005EFE
_ISATAP_MASK = 0xFDFFFFFF

# One label of a host name. The underscore is no host name character, but container networks use it.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
# A last label of this form makes inet_aton, and so the resolver, read an IPv4 address: `127.1`, `0x7f.1`.
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


def is_public(address: IPAddress) -> bool:
    """True if `address` is public. Forms that embed an IPv4 address never are."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in net for net in _REFUSED_V4)
    if address.scope_id is not None or address not in _GLOBAL_UNICAST:
        return False
    if (int(address) >> 32) & _ISATAP_MASK == _ISATAP:
        return False
    return address.is_global and not any(address in net for net in _REFUSED_V6)


def unmapped(address: IPAddress) -> IPAddress:
    """The IPv4 address in `::ffff:a.b.c.d`; any other address unchanged."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def is_host_name(name: str) -> bool:
    """True for a lower-case ASCII name that no resolver reads as an IP address."""
    return bool(_HOST_NAME.fullmatch(name)) and not _NUMERIC_END.fullmatch(name)


@dataclass(frozen=True, slots=True)
class HostList:
    """Networks and host names that an operator has listed."""

    networks: tuple[IPNetwork, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `127.0.0.0/8,::1,my.host`. ValueError names the part that is neither a network nor a host name."""
        networks: list[IPNetwork] = []
        hosts: set[str] = set()
        for part in _parts(text):
            network = _network(part)
            if network is not None:
                networks.append(network)
            elif is_host_name(part.lower()):
                hosts.add(part.lower())
            else:
                raise ValueError(f"not a network or host name: {part!r}")
        return cls(tuple(networks), frozenset(hosts))

    def __str__(self) -> str:
        """What `parse` reads back."""
        return ",".join([*map(str, self.networks), *sorted(self.hosts)])

    def covers(self, address: IPAddress) -> bool:
        """True if one of the networks holds `address`, or the IPv4 address that it maps."""
        return within(address, self.networks)


class EgressAllow(HostList):
    """What a worker may call although it is not public.

    A network allows its addresses under any name. A host name allows every address that it resolves to, so the operator
    must trust the DNS of that name.
    """

    __slots__ = ()

    def permits(self, address: IPAddress, host: str = "") -> bool:
        """Whether a worker may connect to `address`, to which the name `host` resolved."""
        return host in self.hosts or self.covers(address) or is_public(address)


def within(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    """True if one of the networks holds `address`, or the IPv4 address that it maps."""
    return any(form in net for net in networks for form in (address, unmapped(address)))


def read_networks(text: str) -> tuple[IPNetwork, ...]:
    """Parse `10.0.0.0/8,::1`. ValueError names the part that is no network."""
    found = {part: _network(part) for part in _parts(text)}
    if wrong := next((part for part, network in found.items() if network is None), None):
        raise ValueError(f"not a network: {wrong!r}")
    return tuple(network for network in found.values() if network is not None)


def read_address(text: str) -> IPAddress | None:
    """The address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`; else None."""
    bare = text[1:].partition("]")[0] if text.startswith("[") else text
    if bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        return ip_address(bare)
    except ValueError:
        return None


def _parts(text: str) -> Iterator[str]:
    return (part.strip() for part in text.split(",") if part.strip())


def _network(part: str) -> IPNetwork | None:
    try:
        return ip_network(part)
    except ValueError:
        return None
