"""What must be true of the journals of a pair and the logs of its clients, and the check of it."""
