"""How long a frame takes: the paper's way, its steps towards the engine's, and the base network alone, in one run."""

from stmem_ros.openmp import wait_without_spinning

# A package is imported before its modules, and these import PyTorch.
wait_without_spinning()
