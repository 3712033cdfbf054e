"""What requests may hold, as JSON schemas: fettle's own fields, and those of vLLM's that its documentation names."""

from __future__ import annotations

from typing import Any

from fettle.serving.limits import LARGEST, MOST, MOST_STOP_CHARS, REFUSED
from fettle.serving.tasks import CHAT, CLASSIFY, COMPLETE, EMBED, POOL, SCORE

Schema = dict[str, Any]

_INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}
TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_ANY: Schema = {}
_OBJECT: Schema = {"type": "object"}
_TOKEN: Schema = {"type": "integer", "minimum": 0, "description": "an id of the model's vocabulary"}
_TOKENS: Schema = {"type": "array", "items": _TOKEN}
_MESSAGES: Schema = {"type": "array", "items": {"$ref": "#/components/schemas/Message"}, "minItems": 1}


def _number(**bounds: Any) -> Schema:
    return {"type": "number", **bounds}


def _whole(**bounds: Any) -> Schema:
    return {"type": "integer", **bounds}


def list_of(items: Schema, **bounds: Any) -> Schema:
    return {"type": "array", "items": items, **bounds}


_INPUT: Schema = {
    "description": "a text, texts, token ids, or lists of token ids",
    "anyOf": [TEXT, list_of(TEXT, minItems=1), _TOKENS | {"minItems": 1}, list_of(_TOKENS, minItems=1)],
}
_STOP: Schema = {
    "anyOf": [
        {"type": "string", "maxLength": MOST_STOP_CHARS},
        list_of({"type": "string", "maxLength": MOST_STOP_CHARS}, maxItems=MOST["stop"]),
    ]
}
MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "description": "a text, or parts of text, which are joined by line ends",
            "anyOf": [
                TEXT,
                list_of(
                    {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": TEXT},
                    }
                ),
                {"type": "null"},
            ],
        },
        "name": TEXT,
        "tool_call_id": TEXT,
        "tool_calls": list_of(_OBJECT),
    },
}
_SHARED: dict[str, Schema] = {
    "model": {"type": "string", "description": "one of /v1/models; left out, the base model"},
    "frequency_penalty": _number(minimum=-2, maximum=2),
    "presence_penalty": _number(minimum=-2, maximum=2),
    "repetition_penalty": _number(exclusiveMinimum=0),
    "logit_bias": {"type": "object", "additionalProperties": _number(), "description": "by token id"},
    "max_tokens": _whole(minimum=1, description="of the answer; with the prompt's at most the model's positions"),
    "min_tokens": _whole(minimum=0),
    "n": _whole(minimum=1, description="answers to each prompt"),
    "seed": _whole(**_INT64),
    "stop": _STOP,
    "stop_token_ids": _TOKENS,
    "include_stop_str_in_output": _FLAG,
    "ignore_eos": _FLAG,
    "skip_special_tokens": _FLAG,
    "stream": {"type": "boolean", "description": "the answer as server-sent events"},
    "stream_options": {"type": "object", "properties": {"include_usage": _FLAG}, "description": "of a stream"},
    "temperature": _number(minimum=0),
    "top_p": _number(exclusiveMinimum=0, maximum=1),
    "top_k": _whole(minimum=-1),
    "min_p": _number(minimum=0, maximum=1),
    "prompt_logprobs": _whole(minimum=0),
    "allowed_token_ids": _TOKENS | {"minItems": 1},
    "bad_words": list_of(TEXT),
    "response_format": {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema", "structural_tag"]},
            "json_schema": {"type": "object", "required": ["name", "schema"], "properties": {"name": TEXT}},
        },
    },
    "structured_outputs": {
        "type": "object",
        "description": "one of them",
        "properties": {"json": _ANY, "regex": TEXT, "choice": list_of(TEXT, minItems=1), "grammar": TEXT},
    },
    "return_token_ids": _FLAG,
    "return_tokens_as_token_ids": _FLAG,
    "user": {"type": "string", "description": "the same one gets the same version while a canary runs"},
}
_OF_CHATS: dict[str, Schema] = {
    "messages": _MESSAGES,
    "logprobs": _FLAG,
    "top_logprobs": _whole(minimum=0),
    "max_completion_tokens": _whole(minimum=1),
    "tools": list_of(
        {
            "type": "object",
            "required": ["type", "function"],
            "properties": {
                "type": {"const": "function"},
                "function": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": TEXT, "description": TEXT, "parameters": _OBJECT},
                },
            },
        },
        minItems=1,
    ),
    "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object", "required": ["function"]}]},
    "parallel_tool_calls": _FLAG,
    "add_generation_prompt": _FLAG,
    "continue_final_message": _FLAG,
    "chat_template_kwargs": {"type": "object", "properties": {"chat_template": {"not": {}}}},
    "documents": list_of({"type": "object", "additionalProperties": TEXT}),
}
_OF_PROMPTS: dict[str, Schema] = {"prompt": _INPUT, "echo": _FLAG, "logprobs": _whole(minimum=0), "suffix": TEXT}
_WRITES = "Fields that are not named here are vLLM's own, or passed over; a null is as good as a field left out."
_READS = "Fields that are not named here are passed over; a null is as good as a field left out."
_VECTORS: dict[str, Schema] = {
    "encoding_format": {"enum": ["float", "base64"]},
    "dimensions": _whole(minimum=1, description="the model's own number"),
}
_SAID: Schema = {"anyOf": [TEXT, _MESSAGES]}


def bodies() -> dict[str, Schema]:
    """By route, the schema of what it takes."""
    model = {"model": _SHARED["model"]}
    reads = model | {"input": _INPUT, "messages": _MESSAGES}
    either = [{"required": ["input"]}, {"required": ["messages"]}]
    pairs = [{"required": ["query"]}, {"required": ["prompts", "completions"]}]
    scores = model | {"query": _INPUT, "prompts": list_of(_SAID), "completions": list_of(_SAID)}
    embeds = model | {"input": _INPUT} | _VECTORS
    return {
        CHAT: _body(_SHARED | _OF_CHATS, _WRITES, required=["messages"]),
        COMPLETE: _body(_SHARED | _OF_PROMPTS, _WRITES, required=["prompt"]),
        EMBED: _body(embeds, _READS, required=["input"]),
        CLASSIFY: _body(reads, _READS, oneOf=either),
        POOL: _body(reads | _VECTORS, _READS, oneOf=either),
        SCORE: _body(scores, _READS, anyOf=pairs),
    }


def _body(fields: dict[str, Schema], description: str, **more: Any) -> Schema:
    """fields: without the limits, which are put to them."""
    told = {name: _limited(name, schema) for name, schema in fields.items() if name not in REFUSED}
    refused = {name: {"not": {}, "description": why} for name, why in REFUSED.items()}
    return {"type": "object", "description": description, "properties": told | refused, **more}


def _limited(field: str, schema: Schema) -> Schema:
    """With what `limits` takes of it at most."""
    if field in LARGEST and schema.get("type") == "integer":
        return schema | {"maximum": LARGEST[field]}
    if field not in MOST or field == "stop":
        return schema
    if "anyOf" in schema:  # one list of token ids is one entry, however long
        told = [one | {"maxItems": MOST[field]} if _is_many(one) else one for one in schema["anyOf"]]
        return schema | {"anyOf": told}
    return schema | {"maxProperties" if schema["type"] == "object" else "maxItems": MOST[field]}


def _is_many(schema: Schema) -> bool:
    return schema["type"] == "array" and schema["items"].get("type") != "integer"
