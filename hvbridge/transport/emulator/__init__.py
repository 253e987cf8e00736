"""Hyper-V sockets without Hyper-V: partitions of one machine that meet in a directory."""
