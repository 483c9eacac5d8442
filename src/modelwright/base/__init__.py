"""The ground floor: nouns, seams, configuration, artifacts. Imports nothing of ours but itself."""
