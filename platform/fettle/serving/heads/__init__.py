"""Models that vLLM does not serve, answered by transformers: classifiers, reward models, encoders, encoder-decoders."""
