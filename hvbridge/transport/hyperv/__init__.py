"""Hyper-V sockets: AF_HYPERV on Windows, AF_VSOCK in a Linux guest, and VMs by name."""
