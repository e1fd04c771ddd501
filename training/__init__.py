"""The offline half: data, the training stages, evaluation, and conversion of the authors' weights."""
