"""Checkpoints of a run: save, list, verify, restore. Only `arrays` imports Orbax and JAX, when it is used."""
