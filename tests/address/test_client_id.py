"""Who may connect: how sources are written, and whom they admit."""

import uuid

import pytest

from hvbridge.address.client_id import ClientId, parse_source, source_text
from hvbridge.address.endpoint import parse_endpoint
from hvbridge.address.placement import source_fault
from hvbridge.hyperv import guid
from hvbridge.proxy.access_list import AccessList

VM = uuid.UUID("6a0c8e2e-0000-4000-8000-0000000000e2")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("{6A0C8E2E-0000-4000-8000-0000000000E2}", str(VM)),
        ("host", "host"),
        ("3", "3"),
        ("4294967295", "4294967295"),
    ],
)
def test_what_is_printed_reads_back(text: str, canonical: str) -> None:
    """Every source has one canonical form, which means the same."""
    source = parse_source(text)
    assert source_text(source) == canonical
    assert parse_source(canonical) == source


@pytest.mark.parametrize("text", ["", "nobody", "192.0.2.1/24", "192.0.2.0/33", "-1", "6a0c8e2e", "1.2.3"])
def test_what_is_no_source_is_said_in_a_sentence(text: str) -> None:
    """The message quotes what was written and says what to write."""
    with pytest.raises(ValueError, match=r"; write "):
        parse_source(text)


@pytest.mark.parametrize(
    ("allow", "client_id", "admitted"),
    [
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("192.0.2.0/24", "::ffff:192.0.2.1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "192.0.2.1", False),
        (str(VM), VM, True),
        (str(VM), guid.HOST, False),
        ("host", guid.HOST, True),
        ("host", 2, True),
        ("3", 3, True),
        ("3", 2, False),
        ("192.0.2.0/24", None, False),
        ("192.0.2.0/24", VM, False),
        (str(VM), "192.0.2.1", False),
    ],
)
def test_a_client_is_admitted_by_where_it_comes_from(allow: str, client_id: ClientId, admitted: bool) -> None:
    """Networks admit addresses, in either form of IPv4; ids admit VMs; CIDs admit CIDs; nothing else does."""
    assert AccessList([parse_source(allow)]).allows(client_id) is admitted


@pytest.mark.parametrize(
    ("listen", "fitting"),
    [
        ("tcp://127.0.0.1:1", "192.0.2.0/24"),
        ("vsock://any:1", "3"),
        ("hyperv://any/ssh", "host"),
        ("hyperv://dev-box/ssh", str(VM)),
        ("unix:///run/it", None),
    ],
)
def test_a_source_must_fit_its_listener(listen: str, fitting: str | None) -> None:
    """A source from which no client of the listener can come is a fault."""
    endpoint = parse_endpoint(listen)
    for text in ("192.0.2.0/24", "3", "host"):
        fault = source_fault(endpoint, parse_source(text))
        kind = type(parse_source(text))
        fits = fitting is not None and isinstance(parse_source(fitting), kind)
        assert (fault is None) is fits, text


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_mapped_networks_are_ipv4(text: str, network: str) -> None:
    """Clients are compared by their IPv4 addresses, so a network of mapped ones must be one of those."""
    assert str(parse_source(text)) == network


def test_a_mapped_network_admits_its_clients() -> None:
    """However the network was written, and however the client's address arrives."""
    allowed = AccessList([parse_source("::ffff:127.0.0.0/104")])
    assert allowed.allows("127.0.0.1")
    assert allowed.allows("::ffff:127.0.0.1")
    assert not allowed.allows("192.0.2.1")
