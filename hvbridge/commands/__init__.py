"""The command line. `app` declares every command; each other module does the work of one.

Each command imports what it needs when it runs: `hvbridge connect` starts once for every ssh session.
"""
