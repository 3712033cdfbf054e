"""Serving a model over HTTP: a Ray Serve application around vLLM's OpenAI routes."""
