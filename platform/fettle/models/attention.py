"""How a model computes attention: as it needs it, or as a recipe says."""

from __future__ import annotations

from typing import Any, Literal

Attention = Literal["sdpa", "eager", "flash"]
_CALLED = {"flash": "flash_attention_2"}


def attention_of(config: Any) -> Literal["eager"] | None:
    """The attention a model of a transformers configuration needs; None leaves it to transformers, which takes torch's,
    or its own where it has no other (GPT-J, BLOOM).

    torch's attention has no soft-capped logits and transformers does not tell (5.19): Gemma 2 would be trained as
    another model than the one vLLM serves, 1e-3 nats off with two random layers.
    """
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def called(told: Attention | None, config: Any) -> str | None:
    """What transformers calls the attention that a recipe says, or that a model needs where it says none."""
    return attention_of(config) if told is None else _CALLED.get(told, told)


def plain(model: Any) -> Any:
    """The language model itself, where there is an adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def attend(model: Any, told: Attention | None) -> None:
    """Makes a loaded model, an adapter in it or not, compute attention as told; None leaves it as it is. Raises
    ValueError where it cannot, with the reason."""
    if told is None:
        return
    base = plain(model)
    name, wanted = base.config.model_type, called(told, base.config)
    if attention_of(base.config) == "eager" and told != "eager":
        raise ValueError(f"a {name} model has soft-capped logits, which only eager attention computes")
    if base.config._attn_implementation == wanted:
        return
    if not base._can_set_attn_implementation():
        raise ValueError(f"the attention of {name} models cannot be chosen: transformers has it built in")
    try:
        base.set_attn_implementation(wanted)
    except ImportError as error:
        raise ValueError(str(error).splitlines()[0]) from None
