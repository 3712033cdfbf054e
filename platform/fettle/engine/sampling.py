"""How completions are drawn, and what comes of it: what an engine is asked and answers, without vLLM itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. Every value counts: nothing is taken from the model's generation_config.json but its
    end tokens, which end a completion unless `ignore_eos`.

    temperature 0 is greedy. top_k 0 keeps all. seed: of each prompt's own generator; None draws a fresh one. stop:
    texts before which a completion ends.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    num_samples: int = 1
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """token_ids and their logprobs in nats, one each; text without the end token; finish_reason `stop` or `length`."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str


@dataclass(frozen=True)
class Read:
    """Of a text every token but the first, given those before it: its log-probability in nats, and whether no token was
    likelier."""

    logprobs: tuple[float, ...]
    are_likeliest: tuple[bool, ...]
