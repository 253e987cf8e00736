"""How an endpoint becomes a stream or a listener; `network` knows which transport serves which endpoint."""
