"""The problems, from the hub, from files or generated, and the prompts made of them."""
