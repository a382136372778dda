"""What GPUs and the machine are doing. Imports no JAX: the server uses it too."""
