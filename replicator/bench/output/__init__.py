"""Results on the terminal and as files: JSON, CSV, plots and one HTML page."""
