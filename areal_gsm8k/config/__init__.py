"""From what people write to a checked plan, without importing AReaL."""
