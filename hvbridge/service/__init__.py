"""Service managers: notifications to systemd, and the Windows service."""
