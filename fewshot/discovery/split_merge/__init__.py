"""Search for the number of classes by split and merge.

`search` is the search itself, over `partition` (rows in components, hard EM), `splits` (proposals to split components),
`evidence` (the log ratio that accepts a split or a merge) and `trace` (rounds and proposals). `evidence_power` chooses
the weight of an item on held-out classes, `evidence_check` tests a class model on the labels, `subspaces` searches
several principal subspaces, `target_count` adjusts a partition to a requested number of components.
"""
