"""What this machine does: its scaling, and a cluster file of it for the plan."""
