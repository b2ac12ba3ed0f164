"""The secondary's replica files."""
