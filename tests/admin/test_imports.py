"""What has no admin endpoint neither needs its packages nor loads them."""

import subprocess
import sys

import pytest

_PACKAGES = ("starlette", "h11", "prometheus_client")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "hvbridge.admin",
        "hvbridge.proxy.control",
        "hvbridge.admin.stats",
        "hvbridge.admin.schemas",
        "hvbridge.cli.connect",
        "hvbridge.cli.run",
    ],
)
def test_the_packages_are_not_loaded(module: str) -> None:
    """A plain run, a connect, and the parts that others may import load none of the packages of the extra."""
    loaded = run(f"import sys, {module}; print(*sys.modules)").split()
    assert [package for package in _PACKAGES if package in loaded] == []


@pytest.mark.parametrize("package", _PACKAGES)
def test_a_missing_package_is_told_in_a_sentence(package: str) -> None:
    """Where the extra is not installed, the message says how to install it."""
    said = run(
        f"import sys; sys.modules[{package!r}] = None\n"
        "from hvbridge import admin\n"
        "try: admin.require()\n"
        "except admin.ExtraMissingError as error: print(error)"
    )
    assert said == f"the admin endpoint needs {package}; install it: pip install 'hvbridge[admin]'\n"


def test_nothing_is_said_where_all_is_installed() -> None:
    """With the extra, the server can be imported."""
    run("from hvbridge import admin; admin.require(); import hvbridge.admin.server")
