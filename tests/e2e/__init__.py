"""End to end: hvbridge as its users run it, in processes of its own, between real programs and real sockets."""
