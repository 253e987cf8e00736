"""The programs that are compared: where each is found, and how it is told to forward one port.

Each is set up as its manual says for this one job, with one thread, and limits lifted so that 10,000 connections
fit. To add a peer, add a Peer.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.addresses import Address
from bench.figures import BEFORE

OWN_DESCRIPTORS = 200  # what a peer needs apart from connections, generously
SPLICE_PIPES = 32  # of haproxy: more than there are streams
PIPE_BYTES = 1 << 20
NGINX_STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"  # in some packages a module apart


def _connections(descriptors: int = 2) -> int:
    """What the limit of descriptors allows: peers are told to stop there, some refuse to start otherwise."""
    return (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_DESCRIPTORS) // descriptors


@dataclass(frozen=True)
class Setting:
    """What a peer is started with: listen on `port` of 127.0.0.1, forward to `upstream`, keep files in `directory`."""

    program: str
    port: int
    upstream: Address
    directory: Path

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True)
class Peer:
    """One program, or none (`direct`: the client talks to the server itself, to show the generator's own limit)."""

    name: str
    programs: tuple[str, ...] = ()
    command: Callable[[Setting], list[str]] | None = None
    upstreams: frozenset[str] = frozenset({"tcp", "unix"})
    descriptors: int = 2  # an idle connection takes, in one process
    most_idle: int = 10_000
    inherits_listener: bool = False

    def idle_that_fit(self) -> int:
        """How many idle connections it can hold under the limit of descriptors, or is asked to hold."""
        return min(self.most_idle, _connections(self.descriptors))

    def find(self) -> str | None:
        """The program's path, or None where it is not installed; for `direct` the empty string."""
        if self.command is None:
            return ""
        found = (
            shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
            for program in self.programs
        )
        return next(filter(None, found), None)


ANY = frozenset({"tcp", "unix", "vsock"})


def hvbridge(s: Setting) -> list[str]:
    """As it ships; the limit of connections lifted."""
    config = s.write(
        "hvbridge.toml",
        f'[[forward]]\nname = "bench"\nlisten = "tcp://127.0.0.1:{s.port}"\nconnect = "{s.upstream.url}"\n'
        f"max_connections = {_connections()}\n",
    )
    return [s.program, "-m", "hvbridge", "run", config, "--log-level", "warning"]


def hvbridge_installed(s: Setting) -> list[str]:
    """The hvbridge that the interpreter has installed, not the one beside this bench."""
    python, *rest = hvbridge(s)
    return [python, "-P", *rest]


def plain_trio(s: Setting) -> list[str]:
    """The baseline beside this file."""
    return [s.program, str(Path(__file__).with_name("plain_trio.py")), str(s.port), str(s.upstream)]


def socat(s: Setting) -> list[str]:
    """A process a connection, 8 KiB buffers: its defaults."""
    where = s.upstream.where
    to = {
        "tcp": f"TCP:127.0.0.1:{where}",
        "unix": f"UNIX-CONNECT:{where}",
        "vsock": f"VSOCK-CONNECT:1:{where}",
    }
    return [s.program, f"TCP-LISTEN:{s.port},bind=127.0.0.1,fork,reuseaddr,backlog=4096", to[s.upstream.kind]]


def haproxy(s: Setting, options: Iterable[str] = ()) -> list[str]:
    """One thread, bytes copied through its own buffers."""
    server = f"unix@{s.upstream.where}" if s.upstream.kind == "unix" else f"127.0.0.1:{s.upstream.where}"
    config = s.write(
        "haproxy.cfg",
        f"global\n  nbthread 1\n  maxconn {_connections()}\n  maxpipes {SPLICE_PIPES}\n  tune.pipesize {PIPE_BYTES}\n"
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
        + "".join(f"  option {option}\n" for option in options)
        + f"listen bench\n  bind 127.0.0.1:{s.port} backlog 4096\n  server s {server}\n",
    )
    return [s.program, "-db", "-f", config]


def haproxy_splice(s: Setting) -> list[str]:
    """splice(2) forced in both directions, through pipes of 1 MiB."""
    return haproxy(s, ("splice-request", "splice-response"))


def nginx(s: Setting) -> list[str]:
    """The stream module, in one process."""
    server = f"unix:{s.upstream.where}" if s.upstream.kind == "unix" else f"127.0.0.1:{s.upstream.where}"
    config = s.write(
        "nginx.conf",
        (f"load_module {NGINX_STREAM_MODULE};\n" if Path(NGINX_STREAM_MODULE).exists() else "")
        # A worker apart would do the same; but root's becomes nobody, who may not enter our directory.
        + f"daemon off;\nmaster_process off;\n"
        f"pid {s.directory}/nginx.pid;\nerror_log stderr error;\n"
        f"events {{ worker_connections {2 * _connections() + OWN_DESCRIPTORS // 2}; }}\n"
        f"stream {{ server {{ listen 127.0.0.1:{s.port} backlog=4096; proxy_timeout 1h; proxy_pass {server}; }} }}\n",
    )
    return [s.program, "-p", str(s.directory), "-c", config, "-e", "stderr"]


def socket_proxyd(s: Setting) -> list[str]:
    """As a service manager would start it, with a listening socket as descriptor 3."""
    where = s.upstream.where if s.upstream.kind == "unix" else f"127.0.0.1:{s.upstream.where}"
    # The listener comes as stdin and has to be descriptor 3; LISTEN_PID has to be the program's own.
    script = 'exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
    return ["/bin/sh", "-c", script, "sh", s.program, f"--connections-max={_connections()}", where]


def before(python: str) -> Peer:
    """Another hvbridge, an older one as a rule, with the interpreter that has it installed."""
    return Peer(BEFORE, (python,), hvbridge_installed, ANY)


PEERS = (
    Peer("hvbridge", (sys.executable,), hvbridge, ANY),
    Peer("haproxy-copy", ("haproxy",), haproxy),
    Peer("haproxy-splice", ("haproxy",), haproxy_splice),
    Peer("nginx", ("nginx",), nginx),
    Peer(
        "socket-proxyd",
        ("/lib/systemd/systemd-socket-proxyd", "/usr/lib/systemd/systemd-socket-proxyd"),
        socket_proxyd,
        descriptors=6,  # two pipes, open as long as the connection
        inherits_listener=True,
    ),
    Peer("socat", ("socat",), socat, ANY, most_idle=1_000),  # a process a connection
    Peer("plain-trio", (sys.executable,), plain_trio, ANY),
    Peer("direct", upstreams=ANY),
)
