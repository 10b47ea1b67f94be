"""From a checked plan to running processes and back."""
