"""Work on saved and arriving streams: convert, write, and feed them to a receiver."""
