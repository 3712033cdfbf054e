"""lm-evaluation-harness's language model, asked of our engine: what a text's tokens are worth, and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedTokenizerBase

from fettle.engine.sampling import Sampling
from fettle.engine.vllm import Engine
from fettle.errors import UserError

_MOST_NEW_TOKENS = 256  # lm-evaluation-harness's own, where a task does not say


class EngineModel(TemplateLM):
    """requests_cut: how many were longer than the engine can hold; their beginning was left out, as elsewhere in
    lm-evaluation-harness. One token less is held than by its other models, since vLLM always makes one more."""

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase, adapter: str | None, seed: int = 0) -> None:
        super().__init__()
        self.tokenizer: Any = tokenizer
        self.requests_cut = 0
        self._engine, self._adapter, self._seed = engine, adapter, seed

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Before a text that has none."""
        begins = self.tokenizer.bos_token_id
        return int(begins) if begins is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
        """As lm-evaluation-harness's `hf` does: with the tokens the tokenizer adds, unless the first is there."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        keys = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **keys))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text: Any = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **unused: Any
    ) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether it is the greedy one) of each continuation after its context."""
        room = self._engine.max_model_len - 1
        for _, _, continuation in requests:
            if len(continuation) >= room:
                got = (
                    f"an answer of {len(continuation):,} tokens, and the model reads {room:,} with what comes before it"
                )
                raise UserError(got)
        texts = [[*context, *continuation] for _, context, continuation in requests]
        self.requests_cut += sum(len(text) > room for text in texts)
        read = self._engine.read([text[-room:] for text in texts], self._adapter)
        found = []
        for (_, _, continuation), one in zip(requests, read, strict=True):
            own = slice(len(one.logprobs) - len(continuation), None)
            found.append((sum(one.logprobs[own]), all(one.are_likeliest[own])))
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability in nats of each whole text, one that is too long window by window."""
        # One token comes before the window, and one is made after it.
        size = self._engine.max_model_len - 2
        windows, counts = [], []
        for (text,) in (one.args for one in requests):
            ids = self.tok_encode(text)
            parts = get_rolling_token_windows(ids, prefix_token=self.prefix_token_id, max_seq_len=size, context_len=1)
            own = [(None, *make_disjoint_window(part)) for part in parts]
            windows += own
            counts.append(len(own))
        each = iter(self._loglikelihood_tokens(windows))
        return [sum(next(each)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answer to each prompt, up to the first of the texts that end it."""
        prompts, sampling, stops = [], [], []
        for text, told in (one.args for one in requests):
            keys = normalize_gen_kwargs(dict(told), default_max_gen_toks=_MOST_NEW_TOKENS)
            stop = handle_stop_sequences(keys.get("until"), eos=self.tokenizer.decode(self.eot_token_id))
            most = int(keys["max_gen_toks"])
            room = self._engine.max_model_len - most
            if room < 1:
                raise UserError(f"max_gen_toks {most:,} leaves no room for a prompt in {self._engine.max_model_len:,}")
            ids = self.tok_encode(text)
            self.requests_cut += len(ids) > room
            prompts.append(ids[-room:])
            stops.append(stop)
            sampling.append(
                Sampling(
                    max_new_tokens=most,
                    temperature=float(keys.get("temperature", 0.0)),
                    top_p=float(keys.get("top_p", 1.0)),
                    top_k=int(keys.get("top_k", 0)),
                    stop=tuple(one for one in stop if one),
                )
            )
        seeds = [self._seed + place for place in range(len(requests))]
        made = self._engine.generate(prompts, sampling, self._adapter, seeds=seeds)
        texts = zip(made, stops, strict=True)
        return [postprocess_generated_text(said[0].text, stop, think_end_token=None) for said, stop in texts]
