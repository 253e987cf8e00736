"""hvbridge under a service manager: systemd's notifications, and the Windows service."""
