"""`services` and `vms` as their users type them, on this machine's registry or an emulated one."""

import json
import sys
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hvbridge.cli.app import app
from hvbridge.hyperv.services import NotElevatedError, Service

VM = "6a0c8e2e-0000-4000-8000-0000000000e2"
SSH = "00000016-facb-11e6-bd58-64006a7986d3"
WEB = "00000050-facb-11e6-bd58-64006a7986d3"
RDP = "b1d00d3d-3c6e-4f2b-9a54-d5f3a0c7e81b"


class Host:
    """A host with a registry, and what hvbridge says on it."""

    def __init__(self, emulator: Path | None = None) -> None:
        directory = None if emulator is None else str(emulator)
        self._environment = {"HVBRIDGE_EMULATOR": directory, "HVBRIDGE_PARTITION": None, "COLUMNS": "100"}

    def __call__(self, *arguments: object) -> str:
        """Run a command that must go well, and return what it prints."""
        code, printed, complaint = self._run(*arguments)
        assert (code, complaint) == (0, "")
        return printed

    def fails(self, *arguments: object) -> tuple[int, str]:
        """Run a command that must fail, and return its exit code and its complaint on one line."""
        code, printed, complaint = self._run(*arguments)
        assert printed == ""
        return code, " ".join(complaint.replace("│", " ").split())

    def services(self) -> dict[str, str]:
        """Return the names of the registered services by their ids."""
        return {service["id"]: service["name"] for service in json.loads(self("services", "list", "--json"))}

    def _run(self, *arguments: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*map(str, arguments)], prog_name="hvbridge", env=self._environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr


def write_config(path: Path, *forwards: tuple[str, str, str], head: str = "") -> Path:
    """Write a config of forwards, each a name, where it listens and what it connects to."""
    tables = [
        f'[[forward]]\nname = "{name}"\nlisten = "{listen}"\nconnect = "{connect}"\n'
        for name, listen, connect in forwards
    ]
    path.write_text("\n".join([head, *tables]), encoding="utf-8")
    return path


@pytest.fixture(params=["emulator", "windows"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """A host on which nothing is registered."""
    if request.param == "emulator":
        return Host(tmp_path / "vm")
    request.getfixturevalue("windows_registry")
    return Host()


def test_registered_listed_unregistered(host: Host) -> None:
    """A service comes and goes by its name, and each step can be repeated."""
    assert host("services", "register", "ssh") == f'registered "ssh" as {SSH}\n'
    assert host("services", "register", "ssh") == f'"ssh" is already registered as {SSH}\n'
    assert host("services", "register", "web", "--port", "80") == f'registered "web" as {WEB}\n'
    assert (
        host("services", "register", "my rdp", "--id", f"{{{RDP.upper()}}}")
        == f'registered "my rdp" as {RDP}\n'
    )
    shown = [line.split("  ") for line in host("services", "list").splitlines()]
    assert [[cell.strip() for cell in line if cell.strip()] for line in shown] == [
        ["service", "id", "vsock port"],
        ["my rdp", RDP],
        ["ssh", SSH, "22"],
        ["web", WEB, "80"],
    ]
    assert json.loads(host("services", "list", "--json")) == [
        {"name": "my rdp", "id": RDP, "port": None},
        {"name": "ssh", "id": SSH, "port": 22},
        {"name": "web", "id": WEB, "port": 80},
    ]
    assert host("services", "register", "www", "--port", "80") == f'registered "www" as {WEB}\n'
    assert host("services", "unregister", "MY RDP") == f"unregistered {RDP}\n"
    assert host("services", "unregister", RDP) == f"{RDP} is not registered\n"
    assert host("services", "unregister", "ssh") == f"unregistered {SSH}\n"
    assert host("services", "unregister", "ssh") == f"{SSH} is not registered\n"
    assert host.services() == {WEB: "www"}


def test_a_name_alone_gets_a_fresh_id_once(host: Host) -> None:
    """A name that has no id gets one, and keeps it."""
    host("services", "register", "mine")
    before = host.services()
    ((service_id, name),) = before.items()
    assert (uuid.UUID(service_id).version, name) == (4, "mine")
    assert f"already registered as {service_id}" in host("services", "register", "mine")
    assert host.services() == before


def test_a_dry_run_changes_nothing(host: Host, tmp_path: Path) -> None:
    """--dry-run tells what would be done, and does not."""
    config = write_config(tmp_path / "config.toml", ("a", "127.0.0.1:0", f"hyperv://{VM}/80"))
    assert host("services", "register", "ssh", "--dry-run") == f'would register "ssh" as {SSH}\n'
    told = host("services", "register", "--from", config, "--dry-run")
    assert told == f'would register "hvbridge a" as {WEB}\n'
    assert host.services() == {}
    host("services", "register", "ssh")
    assert host("services", "unregister", "ssh", "--dry-run") == f"would unregister {SSH}\n"
    assert host.services() == {SSH: "ssh"}


def test_a_config_registers_what_it_needs(host: Host, tmp_path: Path) -> None:
    """--from registers each service of the config once, leaves what is registered alone, and can be repeated."""
    config = write_config(
        tmp_path / "config.toml",
        ("a-ssh", "127.0.0.1:2201", f"hyperv://{VM}/ssh"),
        ("b-ssh", "127.0.0.1:2202", "hyperv://parent/ssh"),
        ("web", "hyperv://children/80", "127.0.0.1:8080"),
        ("plain", "127.0.0.1:2203", "127.0.0.1:22"),
        ("rdp", "127.0.0.1:2204", f"hyperv://{VM}/{RDP}"),
    )
    host("services", "register", "mine", "--port", "80")
    assert host("services", "register", "--from", config).splitlines() == [
        f'registered "hvbridge a-ssh" as {SSH}',
        f'registered "hvbridge rdp" as {RDP}',
    ]
    assert host.services() == {SSH: "hvbridge a-ssh", WEB: "mine", RDP: "hvbridge rdp"}
    told = host("services", "register", "--from", config)
    assert told == "every service that the config needs is already registered\n"
    plain = write_config(tmp_path / "config.toml", ("a", "127.0.0.1:0", "127.0.0.1:1"))
    told = host("services", "register", "--from", plain)
    assert told == "no forward has a hyperv endpoint, so no services are needed\n"


def test_a_config_calls_services_by_name(host: Host, tmp_path: Path) -> None:
    """A config may call a service as it is registered; nothing is left to register then, and the name is its own."""
    config = write_config(tmp_path / "config.toml", ("a", "127.0.0.1:0", f"hyperv://{VM}/Web"))
    code, told = host.fails("check", config)
    assert code == 2
    assert '"Web" is not a service; write a GUID, a vsock port, ssh or xrdp, or register it first' in told
    assert host.fails("services", "register", "--from", config) == (code, told)
    host("services", "register", "web", "--id", RDP)
    told = host("services", "register", "--from", config)
    assert told == "every service that the config needs is already registered\n"
    (plan,) = json.loads(host("check", config, "--json"))["forwards"]
    assert plan["connect"] == f"hyperv://{VM}/web"
    assert '"ElementName"="web"' in host("services", "register", "--from", config, "--export", "reg")
    assert host("guid", "web") == f"{RDP}\n"


MISTAKES = [
    (["register"], 2, "write either NAME"),
    (["register", "a", "--from", "x.toml"], 2, "write either NAME"),
    (["register", "--from", "no-such.toml"], 2, "no-such.toml: no such file"),
    (["register", "a", "--id", "1234"], 2, '"1234" is not a GUID; write 8-4-4-4-12 hexadecimal digits'),
    (["register", "a", "--port", "4294967295"], 2, "vsock port 4294967295 is out of range"),
    (["register", "a", "--id", RDP, "--port", "22"], 2, "--id and --port both set the service id"),
    (["register", "ssh", "--port", "23"], 2, f'"ssh" is the well-known name of {SSH}'),
    (["register", "taken", "--port", "23"], 2, f'"taken" is registered as {WEB}; write another name'),
    (["register", "22"], 2, '"22" is an id, not a name'),
    (["register", RDP], 2, "is an id, not a name"),
    (["register", "a/b"], 2, '"a/b" cannot be used in an endpoint'),
    (["register", " a"], 2, '" a" cannot be used in an endpoint'),
    (["register", ""], 2, '"" cannot be used in an endpoint'),
    (["register", "{a}"], 2, '"{a}" cannot be used in an endpoint'),
    (["register", "a\nb"], 2, '"a\\nb" cannot be used in an endpoint'),
    (["register", "a", "--export", "txt"], 2, "'txt' is not one of 'reg', 'powershell'"),
    (["unregister", "taken!"], 2, 'there is no service named "taken!"; did you mean "taken"?'),
    (["unregister", "zzz"], 2, "write a name or an id from `hvbridge services list`"),
    (["unregister", "twins"], 2, '2 services are named "twins"; write the id of one'),
]


@pytest.mark.parametrize(("arguments", "code", "told"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes(arguments: list[str], code: int, told: str, tmp_path: Path) -> None:
    """A mistake gives a message and its exit code, and changes nothing."""
    registered = tmp_path / "vm" / "registered"
    registered.mkdir(parents=True)
    names = {WEB: "taken", str(uuid.UUID(int=1)): "twins", str(uuid.UUID(int=2)): "twins"}
    for service_id, name in names.items():
        (registered / service_id).write_text(name)
    host = Host(tmp_path / "vm")
    failed, complaint = host.fails("services", *arguments)
    assert failed == code
    assert told in complaint
    assert {file.name: file.read_text() for file in registered.iterdir()} == names


@pytest.mark.parametrize("command", ["register ssh", "register --from config.toml", "unregister ssh"])
def test_whoever_may_not_is_told_what_to_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the rights of an administrator, one sentence gives the command for any directory, and --export."""

    class Refusing:
        def services(self) -> list[Service]:
            return [Service(uuid.UUID(SSH), "mine")]

        def register(self, service: Service) -> None:
            raise NotElevatedError("only an administrator may do that")

        def unregister(self, service_id: uuid.UUID) -> None:
            raise NotElevatedError("only an administrator may do that")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hvbridge.cli.services._registry", lambda _: Refusing())
    monkeypatch.setattr("hvbridge.cli.program.program", lambda: ["hvbridge"])
    config = write_config(Path("config.toml"), ("a", "127.0.0.1:0", f"hyperv://{VM}/80"))
    code, told = Host().fails("services", *command.split())
    full = {
        "register ssh": f"services register ssh --id {SSH}",
        "register --from config.toml": f"services register --from {config.absolute()}",
        "unregister ssh": f"services unregister {SSH}",
    }[command]
    assert code == 1
    assert f"run this in a command prompt opened as administrator: hvbridge {full} (if" in told
    assert "--export reg" in told


@pytest.mark.parametrize("form", ["reg", "powershell"])
def test_exported_on_any_machine(form: str, tmp_path: Path) -> None:
    """What is to be registered can be written down where there is no Hyper-V, for a config or a service."""
    anywhere = Host()
    config = write_config(tmp_path / "config.toml", ("a", "127.0.0.1:0", "hyperv://dev-box/80"))
    for arguments, name in ((["--from", config], "hvbridge a"), (["büro", "--port", 80], None)):
        text = anywhere("services", "register", *arguments, "--export", form)
        assert WEB in text
        assert text.isascii()
        assert name is None or name in text
    removal = anywhere("services", "unregister", "ssh", "--export", form)
    assert "[-HKEY_LOCAL_MACHINE\\SOFTWARE" in removal or "Remove-Item" in removal
    assert SSH in removal


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a registry of its own")
@pytest.mark.parametrize("arguments", [["list"], ["register", "ssh"], ["unregister", "ssh"]], ids=" ".join)
def test_without_a_host_it_is_told_where_to_go(arguments: list[str]) -> None:
    """On a machine that is no host the message says where services are registered, and what works here."""
    code, told = Host().fails("services", *arguments)
    assert code == 1
    assert "registered on a Hyper-V host, and this machine is not one; run this on the host, or write" in told


def test_a_vm_has_no_registry(tmp_path: Path) -> None:
    """In a VM of the emulator the message says where services are registered."""
    config = write_config(
        tmp_path / "config.toml",
        ("a", "hyperv://parent/80", "127.0.0.1:80"),
        head=f'[emulator]\ndir = "vm"\npartition = "{VM}"',
    )
    code, told = Host().fails("services", "register", "--from", config)
    assert (code, told) == (
        1,
        (
            "hvbridge: services are registered on a Hyper-V host, and this machine is not one; run this on the host, "
            "or write a file for it with --export reg or --export powershell"
        ),
    )


def test_vms(tmp_path: Path) -> None:
    """`vms` lists name, id and state, whole and as they are; --json has the same."""
    directory = tmp_path / "vm"
    vms = {
        "11111111-1111-1111-1111-111111111111": ("dev-box", "running"),
        "22222222-2222-2222-2222-222222222222": ("[bold]Büro[/] :smile:", "saved"),
        VM: (None, None),
    }
    for vm, (name, state) in vms.items():
        (directory / vm).mkdir(parents=True)
        if name is not None and state is not None:
            (directory / vm / "name").write_text(name, encoding="utf-8")
            (directory / vm / "state").write_text(state)
    host = Host(directory)
    assert json.loads(host("vms", "--json")) == [
        {"name": VM, "id": VM, "state": "running"},
        {"name": "[bold]Büro[/] :smile:", "id": "22222222-2222-2222-2222-222222222222", "state": "saved"},
        {"name": "dev-box", "id": "11111111-1111-1111-1111-111111111111", "state": "running"},
    ]
    header, *rows = host("vms").splitlines()
    assert header.split() == ["name", "id", "state"]
    assert rows[1].startswith("[bold]Büro[/] :smile:  ")
    assert rows[2].split() == ["dev-box", "11111111-1111-1111-1111-111111111111", "running"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows may be a host")
def test_vms_without_a_host() -> None:
    """On a machine that is no host there are no VMs to list, and the message says so."""
    code, told = Host().fails("vms")
    assert code == 1
    assert "only a Hyper-V host can list VMs" in told
