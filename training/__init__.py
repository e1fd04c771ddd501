"""The offline half: data, the training stages, evaluation, and conversion of the authors' weights."""

from stmem_ros.openmp import wait_without_spinning
from stmem_ros.program import guard_imports

guard_imports()
# A package is imported before its modules, and these import PyTorch.
wait_without_spinning()
