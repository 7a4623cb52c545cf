"""Which addresses are public: the list of fault notes 4.4, and the default for all others."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.network.addresses import EgressAllow, is_host_name, is_public
from tests.support.bad_urls import words

REFUSED = words("""
0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 127.0.0.1
127.255.255.255 168.63.129.16 169.254.0.1 169.254.169.254 172.16.0.0 172.31.255.255 192.0.0.8 192.0.0.9
192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.1
203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:127.0.0.1
::ffff:169.254.169.254 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1
2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:20::1 2001:db8::1 2002:a9fe:a9fe:: 2002:808:808::1
3ffe::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 febf::1 fec0::1 ff02::1 ff0e::1 4000::1
2606:4700::5efe:8.8.8.8 2606:4700::200:5efe:10.0.0.1 2606:4700::1%1
""")

PUBLIC = words("""
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
168.63.129.15 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0
192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 2001:4860:4860::8888
2606:4700:4700::1111 2a00:1450::1
""")


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert is_public(ip_address(text))


@given(st.integers(0, 2**32 - 1))
def test_what_the_standard_library_calls_private_is_not_public(number: int) -> None:
    address = IPv4Address(number)
    if address.is_private or address.is_multicast or address.is_reserved or not address.is_global:
        assert not is_public(address)


@given(st.integers(0, 2**32 - 1))
def test_no_form_that_embeds_an_ipv4_address_is_public(number: int) -> None:
    forms = (number, 0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80)
    isatap = int(IPv6Address("2a00::5efe:0:0")) | number
    assert not any(is_public(IPv6Address(form)) for form in (*forms, isatap))


def test_a_network_opens_its_addresses_and_their_mapped_form_only() -> None:
    allow = EgressAllow.parse(" 127.0.0.0/8, fd00::/8 ,")
    assert all(allow.permits(ip_address(a)) for a in ("127.1.2.3", "::ffff:127.0.0.1", "fd00::1", "8.8.8.8"))
    assert not any(allow.permits(ip_address(a)) for a in ("::1", "10.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1"))


def test_a_host_name_opens_what_it_resolves_to_and_nothing_else() -> None:
    allow = EgressAllow.parse("My.Host")
    assert allow.permits(ip_address("10.0.0.1"), "my.host")
    assert not allow.permits(ip_address("10.0.0.1"), "other.host")
    assert not allow.permits(ip_address("10.0.0.1"))


def test_an_empty_list_allows_nothing() -> None:
    assert EgressAllow.parse("") == EgressAllow.parse(" , ") == EgressAllow()


def test_the_allowed_list_survives_its_text_form() -> None:
    allow = EgressAllow.parse("127.0.0.0/8,fd00::/8,my.host,a.b")
    assert EgressAllow.parse(str(allow)) == allow
    assert EgressAllow.parse(str(EgressAllow())) == EgressAllow()


@pytest.mark.parametrize("part", ["127.1", "10.0.0.1/8", "*.host", "http://x", "a b", "0x7f000001", "fe80::/200"])
def test_parse_names_the_bad_part(part: str) -> None:
    with pytest.raises(ValueError, match="not a network or host name") as refusal:
        EgressAllow.parse(f"127.0.0.0/8,{part}")
    assert repr(part) in str(refusal.value)


@pytest.mark.parametrize("name", ["a", "my_service", "xn--bcher-kva.example", "1.example", "0x7f.example", "a" * 63])
def test_host_names(name: str) -> None:
    assert is_host_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", "-a", "a-", "a..b", "A", "é", "a" * 64, "a." * 127 + "a", "127.1", "0x7f.1", "0", "a.0x"],
)
def test_no_host_names(name: str) -> None:
    assert not is_host_name(name)
