"""The grammar of endpoints: what is read, how it is printed, and what is refused with which advice."""

import re
import subprocess
import sys
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvbridge.address.endpoint import (
    Endpoint,
    EndpointError,
    HypervEndpoint,
    NamedHypervEndpoint,
    SystemdEndpoint,
    TcpEndpoint,
    UnixEndpoint,
    VsockEndpoint,
    parse_endpoint,
)
from hvbridge.hyperv import guid
from hvbridge.hyperv.services import RegistrationError, Service

GUID = UUID("6a0c8e2e-1b1d-4c3e-8d5f-00000000abcd")
SSH = guid.service_id_of_port(22)


@pytest.mark.parametrize(
    ("text", "endpoint", "canonical"),
    [
        ("127.0.0.1:22", TcpEndpoint("127.0.0.1", 22), "tcp://127.0.0.1:22"),
        ("TCP://LocalHost:022", TcpEndpoint("localhost", 22), "tcp://localhost:22"),
        ("tcp://[::1]:0", TcpEndpoint("::1", 0), "tcp://[::1]:0"),
        ("[FE80:0:0::1%eth0]:65535", TcpEndpoint("fe80::1%eth0", 65535), "tcp://[fe80::1%eth0]:65535"),
        ("tcp://my_box.example.:22", TcpEndpoint("my_box.example.", 22), "tcp://my_box.example.:22"),
        ("tcp:22", TcpEndpoint("tcp", 22), "tcp://tcp:22"),
        ("unix:///run/a b.sock", UnixEndpoint("/run/a b.sock"), "unix:///run/a b.sock"),
        ("vsock://any:22", VsockEndpoint(0xFFFFFFFF, 22), "vsock://any:22"),
        ("SYSTEMD://Web of/x", SystemdEndpoint("Web of/x"), "systemd://Web of/x"),
        ("vsock://4294967295:22", VsockEndpoint(0xFFFFFFFF, 22), "vsock://any:22"),
        ("vsock://host:4294967294", VsockEndpoint(2, 4294967294), "vsock://host:4294967294"),
        ("VSOCK://Local:1", VsockEndpoint(1, 1), "vsock://local:1"),
        ("vsock://3:1", VsockEndpoint(3, 1), "vsock://3:1"),
        ("hyperv://parent/ssh", HypervEndpoint(guid.PARENT, SSH), "hyperv://parent/ssh"),
        ("hyperv://Children/22", HypervEndpoint(guid.CHILDREN, SSH), "hyperv://children/ssh"),
        ("hyperv://any/3389", HypervEndpoint(guid.ANY, guid.service_id_of_port(3389)), "hyperv://any/xrdp"),
        (
            "hyperv://loopback/23",
            HypervEndpoint(guid.LOOPBACK, guid.service_id_of_port(23)),
            "hyperv://loopback/23",
        ),
        (f"hyperv://{guid.PARENT}/{SSH}", HypervEndpoint(guid.PARENT, SSH), "hyperv://parent/ssh"),
        (
            f"hyperv://{{{str(GUID).upper()}}}/{{{GUID}}}",
            HypervEndpoint(GUID, GUID),
            f"hyperv://{GUID}/{GUID}",
        ),
    ],
)
def test_an_endpoint_is_read_and_printed(text: str, endpoint: Endpoint, canonical: str) -> None:
    """Case, braces, zeros and numbers with a name are all printed in one form."""
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == canonical


LABELS = st.from_regex(r"[a-z_]([a-z0-9_-]{0,8}[a-z_])?", fullmatch=True)
HOSTS = (
    st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str) | st.lists(LABELS, min_size=1).map(".".join)
)
SERVICES = (
    st.uuids() | st.integers(0, guid.MAX_VSOCK_PORT).map(guid.service_id_of_port) | st.sampled_from([SSH])
)
VMS = st.uuids() | st.sampled_from([vm for name, vm in guid.VM_WILDCARDS.items() if name != "broadcast"])
ENDPOINTS = (
    st.builds(TcpEndpoint, HOSTS.filter(lambda host: len(host) <= 253), st.integers(0, 65535))
    | st.builds(UnixEndpoint, st.from_regex(r"(/[^/]{1,6}){1,4}", fullmatch=True).filter(str.isprintable))
    | st.builds(
        VsockEndpoint,
        st.integers(0, 0xFFFFFFFF) | st.sampled_from([1, 2, 0xFFFFFFFF]),
        st.integers(0, 2**32 - 2),
    )
    | st.builds(HypervEndpoint, VMS, SERVICES)
    | st.builds(SystemdEndpoint, st.from_regex(r"[ -9;-~]{1,255}", fullmatch=True))
)


@given(ENDPOINTS)
def test_every_endpoint_comes_back_from_its_text(endpoint: Endpoint) -> None:
    """Printing and reading loses nothing, and the text is the canonical one."""
    assert parse_endpoint(str(endpoint)) == endpoint


SCHEMES = ["tcp://", "hyperv://", "vsock://", "unix://", "systemd://", "http://", "tcp:"]
MARKS = ["/", ":", "[", "]", "{", "}", "%", "*", ".", "-", "\0"]
WORDS = [
    "any",
    "parent",
    "host",
    "rdp",
    "22",
    "70000",
    "1" * 5000,
    "²",
    "127.0.0.1",
    "::1",
    "0x7f",
    "é",
    str(GUID),
]
PIECES = st.sampled_from(SCHEMES + MARKS + WORDS)


@given(
    st.text(st.characters())
    | st.lists(PIECES).map("".join)
    | st.lists(PIECES | st.text(max_size=3)).map("".join)
)
def test_any_text_is_an_endpoint_or_an_endpoint_error(text: str) -> None:
    """No text gets another exception; what is an endpoint reads back, what is none is told with advice."""
    try:
        endpoint = parse_endpoint(text)
    except EndpointError as error:
        message = str(error)
        assert "; " in message
        assert message.isprintable()
    else:
        assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an endpoint cannot be empty; write HOST:PORT, "),
        ("/run/a.sock", '"/run/a.sock" has no scheme; write "unix:///run/a.sock"'),
        ("parent/22", '"parent/22" has no scheme; write "hyperv://parent/22"'),
        ("vsock:2:22", '"vsock:2:22" is missing // after vsock:; write '),
        ("22", '"22" is a port without a host; write "127.0.0.1:22"'),
        ("[::1]", '"[::1]" has no port; write HOST:PORT, as in 127.0.0.1:22'),
        ("host:-1", '"-1" is not a TCP port; write a number from 0 to 65535'),
        ("host:٢٢", '"٢٢" is not a TCP port; '),
        ("host:22/x", '"22/x" is not a TCP port; '),
        ("host:" + "0" * 5000, '"' + "0" * 79 + '…" is not a TCP port; '),
        ("tcp://user@host:22", '"user@host" is not a host; '),
        ("tcp://bücher.example:22", '"bücher.example" is not a host; '),
        ("tcp://-a:22", '"-a" is not a host; '),
        ("tcp://" + "a" * 64 + ":22", '"' + "a" * 64 + '" is not a host; '),
        ("tcp://0x7f000001:22", '"0x7f000001" is not an IPv4 address; '),
        ("tcp://2130706433:22", '"2130706433" is not an IPv4 address; '),
        ("tcp://127.0.0.256:22", '"127.0.0.256" is not an IPv4 address; '),
        ("tcp://[::1%a/b]:22", '"[::1%a/b]" is not an IPv6 address in brackets; '),
        ("tcp://[127.0.0.1]:22", '"[127.0.0.1]" is not an IPv6 address in brackets; '),
        ("unix://", "the path is missing; "),
        ("unix:///", '"/" is a directory; '),
        ("unix:///a\0b", '"/a\\x00b" contains an unprintable character; remove it'),
        ("unix:///a\nb", '"/a\\nb" contains an unprintable character; remove it'),
        ("unix:///" + "é" * 60, "the path is 121 bytes long, but a socket address holds 107; "),
        ("systemd://", "the name is missing; write the FileDescriptorName= of a .socket unit"),
        ("systemd://a:b", '"a:b" is not the name of a socket; write the FileDescriptorName='),
        ("systemd://" + "a" * 256, '"' + "a" * 79 + '…" is not the name of a socket; '),
        ("vsock://22", '"22" is not a CID and a port; write CID:PORT, as in vsock://any:22'),
        ("vsock://-1:22", '"-1" is not a CID; did you mean any?'),
        ("vsock://4294967318:22", '"4294967318" is not a CID; write a number from 0 to 4294967295'),
        ("vsock://guest:22", '"guest" is not a CID; write any, host, local or a number from 0 to 4294967295'),
        ("vsock://any:4294967295", '"4294967295" is not a vsock port; write a number from 0 to 4294967294'),
        ("hyperv://", '"" is not a VM and a service; write hyperv://VM/SERVICE, as in hyperv://parent/ssh'),
        ("hyperv:///ssh", "the VM is missing; write its name or GUID, or any, children, parent or loopback"),
        ("hyperv://parent/", "the service is missing; write a GUID, a vsock port, ssh or xrdp"),
        ("hyperv://parent/ssh/", '"ssh/" is not a service; did you mean ssh?'),
        (
            "hyperv://parent/http",
            '"http" is not a service; write a GUID, a vsock port, ssh or xrdp; other names exist only on a ',
        ),
        (f"hyperv://{guid.BROADCAST}/22", "broadcast cannot carry a stream; "),
        (f"hyperv://{{{GUID}/22", f'"{{{GUID}" is not a complete GUID; write 8-4-4-4-12 hexadecimal digits'),
        (
            "hyperv://parent/powershell-direct-broker",
            '"powershell-direct-broker" is the broker of PowerShell',
        ),
        (
            "hyperv:// dev/ssh",
            '" dev" is not a VM name; write the name that Get-VM shows, or the VM\'s GUID',
        ),
        ("hyperv://dev\tbox/ssh", '"dev\\tbox" is not a VM name'),
    ],
)
def test_what_is_no_endpoint_is_told_with_advice(text: str, message: str) -> None:
    """The message says what is wrong with which part, and what to write."""
    with pytest.raises(EndpointError, match="^" + re.escape(message)):
        parse_endpoint(text)


class Registered:
    """What a host has registered: services, or why they cannot be told."""

    def __init__(self, *services: Service, error: str = "") -> None:
        self._services, self._error = list(services), error
        self.asked = False

    def services(self) -> list[Service]:
        self.asked = True
        if self._error:
            raise RegistrationError(self._error)
        return self._services


def on_host() -> Registered:
    """A host with services of every kind of name."""
    names = ["web", "my app", "Twin", "twin", "twins", "TWINS", "a/b", "22", str(GUID), "ssh", ""]
    return Registered(*(Service(UUID(int=number), name) for number, name in enumerate(names, start=1)))


@pytest.mark.parametrize(
    ("text", "service", "canonical"),
    [
        ("web", 1, "web"),
        ("WEB", 1, "web"),
        ("my app", 2, "my app"),
        ("Twin", 3, "Twin"),
        ("twin", 4, "twin"),
    ],
)
def test_a_service_is_called_as_it_is_registered(text: str, service: int, canonical: str) -> None:
    """A name is read as it is registered, or else in any case, and is printed; the service is its id."""
    endpoint = parse_endpoint(f"hyperv://parent/{text}", on_host())
    assert endpoint == HypervEndpoint(guid.PARENT, UUID(int=service))
    assert str(endpoint) == f"hyperv://parent/{canonical}"
    assert parse_endpoint(str(endpoint), on_host()) == endpoint
    named = parse_endpoint(f"hyperv://dev-box/{text}", on_host())
    assert isinstance(named, NamedHypervEndpoint)
    assert named == NamedHypervEndpoint("dev-box", UUID(int=service))
    assert str(named) == f"hyperv://dev-box/{canonical}"
    assert str(named.at(GUID)) == f"hyperv://{GUID}/{canonical}"


@pytest.mark.parametrize("service", ["ssh", "XRDP", "22", str(GUID), f"{{{GUID}}}"])
def test_the_registry_is_asked_only_for_what_the_grammar_does_not_know(service: str) -> None:
    """Ids, ports and well-known names mean what they mean everywhere, whatever a host has registered."""
    registered = on_host()
    text = f"hyperv://parent/{service}"
    assert str(parse_endpoint(text, registered)) == str(parse_endpoint(text))
    parse_endpoint("tcp://web:80", registered)
    assert not registered.asked


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("wbe", '"wbe" is not a service; did you mean web?'),
        ("shs", '"shs" is not a service; did you mean ssh?'),
        (
            "http",
            (
                '"http" is not a service; write a GUID, a vsock port, ssh or xrdp, '
                "or register it first: hvbridge services register NAME"
            ),
        ),
        (
            "Twins",
            f'2 services are named "Twins"; write the id of one: {UUID(int=5)}, {UUID(int=6)}',
        ),
        ("a/b", '"a/b" is not a service; write a GUID, a vsock port, ssh or xrdp'),
        ("", "the service is missing; "),
        ("rdp", "Windows has no Hyper-V service for RDP; "),
    ],
)
def test_what_no_service_is_called_is_told_with_advice(service: str, message: str) -> None:
    """A name that is unknown, near another or not one alone says so, with what to write or to run."""
    with pytest.raises(EndpointError) as caught:
        parse_endpoint(f"hyperv://parent/{service}", on_host())
    assert str(caught.value) == message or (message.endswith("; ") and str(caught.value).startswith(message))


def test_rdp_may_be_registered() -> None:
    """What is explained where nobody has it is a name as any other where somebody has registered it."""
    rdp = Service(GUID, "rdp")
    assert parse_endpoint("hyperv://parent/rdp", Registered(rdp)) == HypervEndpoint(guid.PARENT, GUID)


def test_a_registry_that_cannot_be_read_is_told() -> None:
    """Why a name cannot be looked up is an error of the endpoint that has it, and of no other."""
    locked = Registered(error="the Windows registry reported: no")
    told = (
        'the service "web" cannot be looked up: the Windows registry reported: no; fix that, or write a GUID'
    )
    with pytest.raises(EndpointError, match="^" + re.escape(told)):
        parse_endpoint("hyperv://parent/web", locked)
    assert parse_endpoint("hyperv://parent/ssh", locked) == HypervEndpoint(guid.PARENT, SSH)


def test_importing_endpoints_loads_nothing_heavy() -> None:
    """`hvbridge connect` waits for this module, so that it must not pull in the config or the console."""
    heavy = ("pydantic", "typer", "rich", "structlog", "tree_sitter", "tomli", "difflib", "trio")
    program = f"import sys, hvbridge.address.endpoint, hvbridge.units; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
