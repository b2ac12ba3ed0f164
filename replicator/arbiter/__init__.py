"""Who may run a guest: one record and one lease a guest, behind one interface."""
