"""A run of the matrix on a stand: a cell, what it must lead to, and all of them in a row."""
