"""The offline half: data, the training stages, evaluation, and conversion of the authors' weights."""

from stmem_ros.program import guard_imports

guard_imports()
