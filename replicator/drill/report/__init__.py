"""The results of a drill, for people and as files."""
