"""What is measured: pairs of daemons around real and synthetic guests, in namespaces of their own, and how to read them."""
