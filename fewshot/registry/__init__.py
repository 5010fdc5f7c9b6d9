"""Tables of names: episodic, incremental and discovery methods."""
