"""A program at the other end, in a process of its own: plain sockets of the standard library, no hvbridge.

- ``peer.py echo VM SERVICE`` accepts, and sends back what comes until the end of data.
- ``peer.py dial VM SERVICE`` connects, sends "hello", and prints what comes back until the end of data.

Each says "ready" first.
"""

import socket
import sys
import threading

assert sys.platform == "win32"


def open_socket() -> socket.socket:
    """Make a Hyper-V socket."""
    return socket.socket(socket.AF_HYPERV, socket.SOCK_STREAM, socket.HV_PROTOCOL_RAW)


def say(text: str) -> None:
    """Write one line, whole and at once."""
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()


def echo(connection: socket.socket) -> None:
    """Send back what comes, and close after the end of data."""
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def serve(address: tuple[str, str]) -> None:
    """Echo on every connection, for ever."""
    with open_socket() as listener:
        listener.bind(address)
        listener.listen(128)
        say("ready")
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=echo, args=[connection], daemon=True).start()


def dial(address: tuple[str, str]) -> None:
    """Say hello, and print the answer."""
    say("ready")
    with open_socket() as connection:
        connection.connect(address)
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    say(answer.decode())


if __name__ == "__main__":
    _, command, vm, service = sys.argv
    {"echo": serve, "dial": dial}[command]((vm, service))
