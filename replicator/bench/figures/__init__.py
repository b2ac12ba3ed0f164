"""What was measured: values, their spread, and whether two runs differ. Pure."""
