"""Many bags as one command: in this process, in several, or on a Ray cluster."""
