"""The application: from a checked config to a running server, and to that of the next config.

The only room that sees both the config and the proxy.
"""
