"""GUIDs: their arithmetic and their texts."""

import socket
import sys
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvbridge.hyperv import guid

PORTS = st.integers(0, guid.MAX_VSOCK_PORT)


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (0, "00000000-facb-11e6-bd58-64006a7986d3"),
        (22, "00000016-facb-11e6-bd58-64006a7986d3"),
        (3389, "00000d3d-facb-11e6-bd58-64006a7986d3"),
        (0x7FFFFFFF, "7fffffff-facb-11e6-bd58-64006a7986d3"),
    ],
)
def test_a_vsock_port_has_the_documented_guid(port: int, text: str) -> None:
    """The template of hyperv_transport.c holds the port in its first 32 bits."""
    assert str(guid.service_id_of_port(port)) == text
    assert guid.port_of_service_id(UUID(text)) == port


@given(PORTS)
def test_every_port_comes_back_from_its_guid(port: int) -> None:
    """Port to GUID to port loses nothing."""
    assert guid.port_of_service_id(guid.service_id_of_port(port)) == port


@pytest.mark.parametrize("port", [-1, 0x80000000])
def test_a_port_that_hyper_v_cannot_carry_is_refused(port: int) -> None:
    """Hyper-V has 31 bits for a port."""
    with pytest.raises(ValueError, match="out of range"):
        guid.service_id_of_port(port)


@pytest.mark.parametrize(
    "text",
    [
        "80000000-facb-11e6-bd58-64006a7986d3",
        "00000016-facb-11e6-bd58-64006a7986d4",
        "00000016-facc-11e6-bd58-64006a7986d3",
        "999e53d4-3d5c-4c3e-8779-bed06ec056e1",
    ],
)
def test_a_guid_outside_the_template_has_no_port(text: str) -> None:
    """A GUID that differs from the template anywhere but in the port is a service of its own."""
    assert guid.port_of_service_id(UUID(text)) is None


@given(st.uuids())
def test_a_guid_is_read_in_any_case_and_with_braces(value: UUID) -> None:
    """GUIDs are read as Windows tools print them."""
    for text in (str(value), str(value).upper(), f"{{{value}}}"):
        assert guid.parse_guid(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh",
        "{6a0c8e2e-1b1d-4c3e-8d5f-000000000001",
        "6a0c8e2e-1b1d-4c3e-8d5f-000000000001}",
        "6a0c8e2e1b1d4c3e8d5f000000000001",
        "urn:uuid:6a0c8e2e-1b1d-4c3e-8d5f-000000000001",
        "6a0c8e2e-1b1d-4c3e-8d5f-00000000000g",
        " 6a0c8e2e-1b1d-4c3e-8d5f-000000000001",
    ],
)
def test_other_texts_are_no_guid(text: str) -> None:
    """Only the form with hyphens counts, with both braces or none."""
    assert guid.parse_guid(text) is None


def test_services_print_by_name_then_port_then_guid() -> None:
    """The shortest text that says it is the one that people read."""
    unknown = UUID("b1d00d3d-0000-4000-8000-000000000000")
    broker = guid.WELL_KNOWN_SERVICES["powershell-direct-broker"]
    assert guid.service_text(guid.service_id_of_port(22)) == "ssh"
    assert guid.service_text(guid.service_id_of_port(23)) == "23"
    assert guid.service_text(unknown) == str(unknown)
    assert not broker.forwardable
    assert guid.service_text(broker.id) == str(broker.id)


@given(st.uuids() | st.just(guid.HOST))
def test_a_partition_comes_back_from_its_text(partition: UUID) -> None:
    """The host and every VM of the emulator can be written and read."""
    assert guid.parse_partition(guid.partition_text(partition)) == partition


@pytest.mark.parametrize("name", sorted(guid.VM_WILDCARDS))
def test_a_wildcard_is_no_partition(name: str) -> None:
    """A process is inside one partition, which no wildcard names."""
    for text in (name, str(guid.VM_WILDCARDS[name])):
        with pytest.raises(ValueError, match="; write host or"):
            guid.parse_partition(text)


@pytest.mark.skipif(
    sys.platform != "win32" or not hasattr(socket, "AF_HYPERV"),
    reason="only CPython 3.12 or later on Windows has these constants to compare with",
)
def test_wildcards_are_those_of_windows() -> None:
    """CPython takes its constants from the headers of Windows."""
    if sys.platform != "win32":
        raise NotImplementedError
    for name in ("CHILDREN", "PARENT", "LOOPBACK", "BROADCAST"):
        assert guid.VM_WILDCARDS[name.lower()] == UUID(getattr(socket, f"HV_GUID_{name}"))
    assert UUID(socket.HV_GUID_WILDCARD) == guid.ANY
