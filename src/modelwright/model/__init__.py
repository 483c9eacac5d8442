"""The network: configuration, layers, initialisation. Sees kernels and base only."""
