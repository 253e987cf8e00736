"""The way of a connection: accept → admit → dial → splice → account (`forward`). Knows no config."""
