"""Loads a config for a command, with or without checking what this machine supports."""

import os
from pathlib import Path

from hvbridge.app.admin import check_admin
from hvbridge.app.build import build_network
from hvbridge.config import Config, EmulatorSettings, Machine, load_config


def load(path: Path) -> Config:
    """Load and check a config for this machine.

    Raises `ConfigError`; ValueError for an invalid partition in the environment, or if the admin endpoint lacks a
    package.
    """
    config = load_config(path, environ=os.environ, machine_of=_machine_of)
    check_admin(config.admin)
    return config


def load_for_any_machine(path: Path) -> Config:
    """Load a config without checking whether this machine supports its endpoints. Raises as `load`."""
    return load_config(
        path, environ=os.environ, machine_of=lambda table: Machine(_machine_of(table).services)
    )


def _machine_of(emulator: EmulatorSettings | None) -> Machine:
    network = build_network(emulator, os.environ)
    return Machine(network.services, network.fault)
