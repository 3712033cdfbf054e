"""What is answered, as JSON schemas: of a request that went well, and of one that did not."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": required | optional}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_FINISH: Schema = {"index": _COUNT, "finish_reason": _MAYBE_TEXT}
_TOLD: Schema = {"id": _TEXT, "created": _COUNT, "model": _TEXT, "usage": _ref("Usage")}
_VECTOR: Schema = {"anyOf": [_list({"type": "number"}), {"type": "string", "contentEncoding": "base64"}]}
_CANARY = _object(
    {
        "alias": _TEXT,
        "percent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        "is_shadow": {"type": "boolean"},
        "most_errors": {"type": "number"},
        "most_slowdown": {"type": "number"},
        "least": {"type": "number"},
        "stopped": _MAYBE_TEXT,
    }
)
SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": _MAYBE_TEXT | {"description": "the field that is wrong, where it is one"},
                    "code": {"type": "integer", "description": "the status"},
                }
            )
        }
    ),
    "Usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}, completion_tokens=_COUNT),
    "Models": _object(
        {
            "object": {"const": "list"},
            "data": _list(
                _object(
                    {
                        "id": _TEXT,
                        "object": {"const": "model"},
                        "created": _COUNT,
                        "owned_by": _TEXT,
                        "parent": _MAYBE_TEXT,
                        "max_model_len": _COUNT,
                    },
                    version={"type": "string", "description": "of a published name, what it means now"},
                    task={"type": "string", "description": "of a model that vLLM does not serve"},
                )
            ),
        }
    ),
    "Chat": _object(
        _TOLD
        | {
            "object": {"const": "chat.completion"},
            "choices": _list(_object({**_FINISH, "message": _object({"role": _TEXT, "content": _MAYBE_TEXT})})),
        },
        system_fingerprint=_MAYBE_TEXT,
    ),
    "Completion": _object(
        _TOLD | {"object": {"const": "text_completion"}, "choices": _list(_object({**_FINISH, "text": _TEXT}))},
        system_fingerprint=_MAYBE_TEXT,
    ),
    "Embeddings": _object(
        _TOLD
        | {
            "object": {"const": "list"},
            "data": _list(_object({"index": _COUNT, "object": {"const": "embedding"}, "embedding": _VECTOR})),
        }
    ),
    "Classes": _object(
        _TOLD
        | {
            "object": {"const": "list"},
            "data": _list(
                _object(
                    {
                        "index": _COUNT,
                        "label": _TEXT,
                        "probs": _list({"type": "number", "minimum": 0, "maximum": 1}),
                        "num_classes": _COUNT,
                    }
                )
            ),
        }
    ),
    "Scores": _object(
        {
            "id": _TEXT,
            "model": _TEXT,
            "scores": _list({"type": "number"}),
            "rewards": _list({"type": "number"}),
            "usage": _ref("Usage"),
        }
    ),
    "Pooled": _object(
        _TOLD
        | {
            "object": {"const": "list"},
            "data": _list(_object({"index": _COUNT, "object": {"const": "pooling"}, "data": _VECTOR})),
        }
    ),
    "Registry": _object(
        {
            "object": {"const": "list"},
            "data": _list(
                _object(
                    {
                        "name": _TEXT,
                        "aliases": {"type": "object", "additionalProperties": _COUNT},
                        "versions": _list(_object({"id": _TEXT, "digest": _TEXT, "size": _COUNT, "published": _TEXT})),
                        "pinned": {"type": "boolean"},
                        "canary": {"anyOf": [_CANARY, {"type": "null"}]},
                    }
                )
            ),
        }
    ),
    "Moved": _object(
        {
            "alias": _TEXT,
            "version": _TEXT,
            "digest": _TEXT,
            "before": _MAYBE_TEXT,
            "canary": {"anyOf": [_CANARY, {"type": "null"}]},
        }
    ),
}
