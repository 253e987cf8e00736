"""What Hyper-V itself knows: GUIDs, VMs by name, registered services. Opens no socket."""
