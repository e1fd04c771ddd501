"""How long a frame takes: the paper's way, its steps towards the engine's, and the base network alone, in one run."""
