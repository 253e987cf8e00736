"""`hvbridge rdp`: writes a file that opens a forward in the Remote Desktop client.

Never replaces a file, which may contain the user's own settings.
"""

from pathlib import Path

from hvbridge.address.endpoint import TcpEndpoint
from hvbridge.cli.errors import EXIT_FAILURE, EXIT_OK, exit_code, print_error
from hvbridge.cli.loading import load_for_any_machine
from hvbridge.config import Config
from hvbridge.text import nearest, quote

_TO_CONNECT = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""How to reach a listener on all addresses from this machine."""

# Source: Microsoft, "Supported RDP properties"; other settings are left to the client.
_SETTINGS = """\
full address:s:{address}
prompt for credentials:i:1
authentication level:i:2
gatewayprofileusagemethod:i:1
gatewayusagemethod:i:0
autoreconnection enabled:i:1
"""


@exit_code()
def rdp(name: str, config: Path, *, output: Path | None) -> int:
    """Write the file for the forward ``name``; return the exit code."""
    path = output or Path(f"{name}.rdp")
    try:
        listener = _listener(load_for_any_machine(config), name)
        with path.open("x", encoding="utf-16-le", newline="\r\n") as file:
            file.write(f"\ufeff{rdp_file(listener)}")
    except FileExistsError:
        print_error(
            f"{path} already exists, perhaps with your own settings; remove it, or choose another file with -o FILE"
        )
        return EXIT_FAILURE
    except OSError as error:
        print_error(f"cannot write {path}: {error.strerror}")
        return EXIT_FAILURE
    return EXIT_OK


def rdp_file(listener: TcpEndpoint) -> str:
    """Return the text of the file, as mstsc reads it."""
    host = _TO_CONNECT.get(listener.host, listener.host)
    address = str(TcpEndpoint(host, listener.port)).removeprefix("tcp://")
    return _SETTINGS.format(address=address)


def _listener(config: Config, name: str) -> TcpEndpoint:
    """The address on which the forward ``name`` listens. Raises ValueError."""
    listeners = {forward.name: forward.listen for forward in config.forwards}
    if name not in listeners:
        near = nearest(name, listeners)
        advice = f"did you mean {near}?" if near else f"the forwards are {', '.join(listeners)}"
        raise ValueError(f"there is no forward named {quote(name)}; {advice}")
    listener = listeners[name]
    if not isinstance(listener, TcpEndpoint):
        raise ValueError(
            f"the Remote Desktop client needs TCP, but {name} listens on {listener}; "
            "choose a forward that listens on tcp://127.0.0.1:PORT"
        )
    if listener.port == 0:
        raise ValueError(
            f"the port of {name} changes at each start; set a fixed one in its listen, such as 3390"
        )
    return listener
