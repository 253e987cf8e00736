"""How endpoints become streams: one module a transport, and `network`, which chooses among them."""
