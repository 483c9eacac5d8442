"""An OpenAI-compatible server over the engine: `guards` first, then `app`, `protocol` and `worker`."""
