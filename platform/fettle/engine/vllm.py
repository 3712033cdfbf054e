"""vLLM in this process, answering one call at a time: generate, score, close."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt

from fettle.engine.adapters import Adapters, Version, finished
from fettle.engine.env import EngineOptions, default_threads, device, engine_arguments
from fettle.engine.sampling import Completion, Read, Sampling
from fettle.errors import FettleError, UserError

Prompt = str | Sequence[int]


class Engine:
    """A model that generates and scores in this process; made by `fettle.engine.start_engine`. dtype: of what it
    computes, `float32` or `bfloat16`."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        if device() == "cpu" and os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
            raise FettleError("this process was not prepared for vLLM: make engines with fettle.engine.start_engine")
        if device() == "cpu":  # torch may have been loaded, with its own number of threads, before prepare_process
            torch.set_num_threads(options.threads or default_threads())
        if options.takes_weights:
            import fettle.engine.weights  # noqa: F401  # its backends are known to vLLM from then on
        self._llm = LLM(**engine_arguments(model, options))
        self._has_lora = options.max_loras > 0
        self._sleeps = options.sleeps and device() == "gpu"
        self._meeting: dict[str, Any] | None = None
        self.dtype = str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")
        self.adapters = Adapters(self._llm.llm_engine)

    @property
    def max_model_len(self) -> int:
        """Tokens that prompt and completion may have together."""
        return int(self._llm.llm_engine.model_config.max_model_len)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling],
        adapter: str | Sequence[str | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """`sampling.num_samples` completions for each prompt (text, or token ids), in the prompts' order.

        sampling: of all prompts, or one entry a prompt. adapter: a loaded name for all prompts, or one entry a prompt;
        None is the base. seeds: of each prompt's own generator, in place of `sampling.seed`.
        Raises UserError for an unknown adapter or a prompt that leaves no room for a completion.
        """
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else sampling
        drawn: Sequence[int | None] = seeds if seeds is not None else [one.seed for one in each]
        params = [_params(one, seed) for one, seed in zip(each, drawn, strict=True)]
        return [[_completion(one) for one in answer.outputs] for answer in self._run(prompts, params, adapter)]

    def score(
        self, prompts: Sequence[Prompt], adapter: str | Sequence[str | None] | None = None
    ) -> list[tuple[float, ...]]:
        """For each prompt the log-probability in nats of every token but the first, given those before it."""
        return [one.logprobs for one in self.read(prompts, adapter)]

    def read(self, prompts: Sequence[Prompt], adapter: str | Sequence[str | None] | None = None) -> list[Read]:
        """As `score`, and whether each token is the likeliest one. Raises UserError for a prompt of as many tokens as
        the engine can hold: there has to be room for one more."""
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)  # vLLM has to generate one
        names = [adapter] * len(prompts) if adapter is None or isinstance(adapter, str) else list(adapter)
        if self._has_lora:
            # vLLM (0.32) gives the head's LoRA layer one adapter for each row that is sampled from, and a prompt's rows
            # are as many as its tokens: with several prompts in a batch the engine dies, with one that one is meant.
            one_by_one = zip(prompts, names, strict=True)
            answers = [answer for prompt, name in one_by_one for answer in self._run([prompt], params, [name])]
        else:
            answers = self._run(prompts, params, names)
        read = []
        for answer in answers:
            told = zip(answer.prompt_token_ids[1:], answer.prompt_logprobs[1:], strict=True)
            found = [given[token] for token, given in told]
            read.append(Read(tuple(one.logprob for one in found), tuple(one.rank == 1 for one in found)))
        return read

    def add_adapter(self, name: str, folder: str | Path) -> Version | None:
        """Loads a new version of the adapter `name`; gives the version it replaces, for `drop_version`."""
        return finished(self.adapters.put(name, folder))

    def drop_version(self, version: Version) -> None:
        """Frees a replaced version."""
        finished(self.adapters.drop(version))

    def remove_adapter(self, name: str) -> None:
        """Frees the adapter `name`."""
        finished(self.adapters.remove(name))

    def take_weights(self, file: Path) -> None:
        """Puts all weights in a safetensors file, named as in a model's `state_dict`, tied ones too, in place of the
        engine's; requests after it see nothing of the earlier ones.

        Raises FettleError, with vLLM's own reason, where they cannot be loaded. Some may have been replaced by then:
        nothing is to be asked before other weights were taken.
        """
        self._take({"path": str(file)})

    def receive_weights(self, meeting: dict[str, Any], incoming: dict[str, Any]) -> None:
        """As `take_weights`, of what the other end of a `Channel` sends meanwhile; both arguments are its."""
        self._take(incoming, meeting)

    def _take(self, update: dict[str, Any], meeting: dict[str, Any] | None = None) -> None:
        try:
            if meeting != self._meeting:
                self._llm.collective_rpc("init_weight_transfer_engine", args=(meeting,))
                self._meeting = meeting
            self._llm.collective_rpc("start_weight_update")
            self._llm.collective_rpc("update_weights", args=(update,))
            self._llm.collective_rpc("finish_weight_update")
        except Exception as error:  # vLLM lets through whatever a worker raised
            raise FettleError(f"the engine did not take the weights: {error}") from error
        self._llm.reset_prefix_cache()  # its keys and values are those of the weights before

    def sleep(self) -> None:
        """Gives back the GPU's memory, the weights to the host's; on a CPU nothing. Not to be asked before `wake`."""
        if self._sleeps:
            self._llm.sleep(level=1)

    def wake(self) -> None:
        """Takes it again."""
        if self._sleeps:
            self._llm.wake_up()

    def close(self) -> None:
        """Gives back memory and sockets; another engine may then be started in this process."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()
        gc.collect()

    def _run(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | list[SamplingParams],
        adapter: str | Sequence[str | None] | None,
    ) -> list[Any]:
        inputs = [one if isinstance(one, str) else TokensPrompt(prompt_token_ids=list(one)) for one in prompts]
        names = [adapter] * len(inputs) if adapter is None or isinstance(adapter, str) else list(adapter)
        versions = [self.adapters.version(name) for name in names]
        try:
            return self._llm.generate(inputs, params, use_tqdm=False, lora_request=versions if any(versions) else None)  # type: ignore[arg-type]
        except (VLLMClientError, ValueError) as error:
            raise UserError(str(error).splitlines()[0]) from error


def _params(sampling: Sampling, seed: int | None) -> SamplingParams:
    return SamplingParams(
        n=sampling.num_samples,
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or -1,
        seed=seed,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=sampling.ignore_eos,
        stop=list(sampling.stop),
        logprobs=0,
    )


def _completion(one: Any) -> Completion:
    logprobs = tuple(given[token].logprob for token, given in zip(one.token_ids, one.logprobs, strict=True))
    return Completion(tuple(one.token_ids), logprobs, one.text, str(one.finish_reason))
