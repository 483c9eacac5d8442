"""The one training loop and what it needs. Sees an nn.Module and an objective, never the model package."""
