"""Forwards TCP ports into Hyper-V virtual machines over Hyper-V sockets.

hvbridge is an application, not a library: the command line, the config, the logs, the metrics and the admin API are its
interfaces; no Python module is.

Importing the package loads nothing else: `hvbridge connect` pays only for what it uses.
"""

__version__ = "0.2.0"
