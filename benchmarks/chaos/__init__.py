"""A run that is killed, stopped, delayed and damaged, beside one that is left alone."""
