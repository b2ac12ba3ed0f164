"""Ways of doing harm to a stand, and of mending it."""
