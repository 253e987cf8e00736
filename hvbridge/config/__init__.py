"""The config file: its models, its loader, and what is wrong with a file, by line and column.

Owns: everything between a TOML file and a checked `Config`. Refuses: sockets, and the platform; what must be
known of a machine, the caller tells.
"""

from hvbridge.config.errors import ConfigError, Fault
from hvbridge.config.loader import Machine, load_config
from hvbridge.config.models import AdminSettings, Config, EmulatorSettings, Forward, Settings
from hvbridge.config.reference import config_reference, schema

__all__ = [
    "AdminSettings",
    "Config",
    "ConfigError",
    "EmulatorSettings",
    "Fault",
    "Forward",
    "Machine",
    "Settings",
    "config_reference",
    "load_config",
    "schema",
]
