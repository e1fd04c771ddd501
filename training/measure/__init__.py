"""How good a network is, how steady, and what it costs."""
