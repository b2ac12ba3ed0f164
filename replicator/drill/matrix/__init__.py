"""The matrix of a drill: phases of an epoch, faults, cells, and how a cell is judged. Pure."""
