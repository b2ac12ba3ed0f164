"""Pure machines: they take events and return effects, and know no clock, socket or thread."""
