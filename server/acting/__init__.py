"""What is done for an owner: each thing in a process of its own, within the limits."""
