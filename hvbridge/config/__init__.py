"""The config file: its models, its loader, and what is wrong with a file, by line and column.

Owns: everything between a TOML file and a checked `Config`. Refuses: sockets, and the platform; what a
machine can do is judged by a function that the caller gives.
"""

from hvbridge.config.faults import ConfigError, Fault
from hvbridge.config.load import EndpointFault, load_config
from hvbridge.config.models import Config, EmulatorSettings, Forward, Settings
from hvbridge.config.reference import config_reference, schema

__all__ = [
    "Config",
    "ConfigError",
    "EmulatorSettings",
    "EndpointFault",
    "Fault",
    "Forward",
    "Settings",
    "config_reference",
    "load_config",
    "schema",
]
