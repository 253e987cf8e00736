"""hvbridge measured beside its peers, in the same run, on loopback: `python -m bench --help`.

Owns: starting the peers, making load, counting, comparing. Refuses: to install anything, to touch the network
beyond loopback, and to judge: floors are marked met or missed, the exit code says only whether it could run.
Linux only. How to read the figures: README.md beside this file.
"""
