"""What is answered, as JSON schemas: of a request that went well, and of one that did not."""

from __future__ import annotations

from fettle.serving.openapi_bodies import TEXT, Schema, list_of

_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": required | optional}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_FINISH: Schema = {"index": _COUNT, "finish_reason": _MAYBE_TEXT}
_TOLD: Schema = {"id": TEXT, "created": _COUNT, "model": TEXT, "usage": _ref("Usage")}
_VECTOR: Schema = {"anyOf": [list_of({"type": "number"}), {"type": "string", "contentEncoding": "base64"}]}


def _rows(**each: Schema) -> Schema:
    """An answer to several inputs, in their order."""
    rows = list_of(_object({"index": _COUNT} | each))
    return _object(_TOLD | {"object": {"const": "list"}, "data": rows})


_CANARY = _object(
    {
        "alias": TEXT,
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
                    "message": TEXT,
                    "type": TEXT,
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
            "data": list_of(
                _object(
                    {
                        "id": TEXT,
                        "object": {"const": "model"},
                        "created": _COUNT,
                        "owned_by": TEXT,
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
            "choices": list_of(_object({**_FINISH, "message": _object({"role": TEXT, "content": _MAYBE_TEXT})})),
        },
        system_fingerprint=_MAYBE_TEXT,
    ),
    "Completion": _object(
        _TOLD | {"object": {"const": "text_completion"}, "choices": list_of(_object({**_FINISH, "text": TEXT}))},
        system_fingerprint=_MAYBE_TEXT,
    ),
    "Embeddings": _rows(object={"const": "embedding"}, embedding=_VECTOR),
    "Classes": _rows(label=TEXT, probs=list_of({"type": "number", "minimum": 0, "maximum": 1}), num_classes=_COUNT),
    "Scores": _object(
        {
            "id": TEXT,
            "model": TEXT,
            "scores": list_of({"type": "number"}),
            "rewards": list_of({"type": "number"}),
            "usage": _ref("Usage"),
        }
    ),
    "Pooled": _rows(object={"const": "pooling"}, data=_VECTOR),
    "Registry": _object(
        {
            "object": {"const": "list"},
            "data": list_of(
                _object(
                    {
                        "name": TEXT,
                        "kind": {"enum": ["adapter", "model", None]},
                        "aliases": {"type": "object", "additionalProperties": _COUNT},
                        "versions": list_of(_object({"id": TEXT, "digest": TEXT, "size": _COUNT, "published": TEXT})),
                        "pinned": {"type": "boolean"},
                        "canary": {"anyOf": [_CANARY, {"type": "null"}]},
                    }
                )
            ),
        }
    ),
    "Moved": _object(
        {
            "alias": TEXT,
            "version": TEXT,
            "digest": TEXT,
            "before": _MAYBE_TEXT,
            "canary": {"anyOf": [_CANARY, {"type": "null"}]},
        }
    ),
}
