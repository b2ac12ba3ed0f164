"""The stand of a drill: a pair of actors in a lab, what they stand on, and all that is heard from them."""
