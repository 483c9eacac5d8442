"""What the command line shows: conversations, next-token bars, runs, manifests, lineage."""
