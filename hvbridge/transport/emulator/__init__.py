"""Emulated Hyper-V sockets: processes on one machine act as partitions and meet in a directory."""
