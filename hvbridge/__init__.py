"""Forwards TCP ports into Hyper-V virtual machines over Hyper-V sockets.

Importing the package loads nothing else: `hvbridge connect` pays only for what it uses.
"""

__version__ = "0.1.0"
