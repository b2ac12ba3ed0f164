"""The demonstration: namespaces, a checkable client, the timeline and its verdict."""
