"""How many kinds are in there: a pool where some items are labelled and the rest hold known and unknown classes."""
