"""The config file: models, loader, and faults with line and column.

Opens no sockets and does not examine the platform; the caller supplies what must be known about the machine.
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
