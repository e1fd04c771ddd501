"""Other people's weights: how their tensors are called, as tables, and what reads and matches them."""
