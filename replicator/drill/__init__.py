"""Drills: faults on real parts, and proof that a pair kept its promises.

matrix      what can go wrong, in which phase of an epoch, what must follow, and the verdict of a cell; pure
history     what the journals of both sides must say, and the check that they do; pure but for reading them
actors      processes of their own at the stand: a daemon that stands still, a relay that does harm, a client
stand       the lab, its arbiter, its guest and the actors in it: started, listened to, mended and ended
harm        each way of doing harm to a stand
run         the cells of the matrix, one after the other, on a stand
report      a drill's result on the terminal, as JSON and as HTML
on_copy     the drill on a copy of a running pair's replica; of the rooms above it uses the report alone
for_real    the drill that kills this host's guest; likewise

Imports go one way (tests/test_layers.py): matrix and history know no other room; actors know the matrix, a stand its
actors, harm the stand; report knows matrix and history; run knows all of these and is known by none.
"""
