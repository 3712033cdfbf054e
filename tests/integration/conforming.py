"""Whether an endpoint answers as its own OpenAPI document says, whatever schemathesis asks it: the same each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schemathesis import BaseSchema
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

# Its other checks ask for a 405 where the endpoint has 404, and for the refusal of what vLLM and we pass over.
_CHECKS = (
    *("status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "ignored_auth"),
)


@dataclass
class Trial:
    """What came of it: wrong answers in words, and how many requests there were by route and by status."""

    wrong: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)


def tried(
    load: Callable[[SchemathesisConfig], BaseSchema], headers: dict[str, str], examples: int, model: str = ""
) -> Trial:
    """Asks every route: at each bound of its document, and `examples` times at random, half of them wrongly. Wrong is
    an answer that the document does not have, and any 5xx but a 503, which by the document says when to come again.
    model: the one name that is asked for, but for mistakes, and for a few tokens."""
    checks: dict[str, Any] = {"enabled": False} | {name: {"enabled": True} for name in _CHECKS}
    checks["not_a_server_error"] = {"enabled": True, "expected-statuses": ["2xx", "3xx", "4xx", "503"]}
    told = {
        "seed": 1,
        "headers": headers,
        "checks": checks,
        "generation": {"deterministic": True, "max-examples": examples, "no-shrink": True, "database": "none"},
        "phases": {"stateful": {"enabled": False}},
    }
    trial, schema = Trial(), load(SchemathesisConfig.from_dict(told))

    for path in schema.raw_schema["paths"].values() if model else ():
        body = path.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        fields = body.get("schema", {}).get("properties", {})
        if "model" in fields:
            fields["model"] = {"const": model}
        if "max_tokens" in fields:
            fields["max_tokens"] = {"type": "integer", "minimum": 1, "maximum": 4}
            body["schema"]["required"] = [*body["schema"]["required"], "max_tokens"]
    for event in from_schema(schema).execute():
        if isinstance(event, (events.NonFatalError, events.FatalError)):
            error = event.value if isinstance(event, events.NonFatalError) else event.exception
            trial.wrong.append(f"schemathesis: {error!r}")
        if not isinstance(event, events.ScenarioFinished):
            continue
        found = event.recorder
        for one in found.interactions.values():
            trial.asked[found.label] += 1
            trial.statuses[one.response.status_code if one.response is not None else 0] += 1
        for case, nodes in found.checks.items():
            for node in nodes:
                if node.status is Status.FAILURE and node.failure_info is not None:
                    body, why = str(found.cases[case].value.body)[:400], node.failure_info.failure.message[:400]
                    trial.wrong.append(f"{found.label}, {node.name}: {why} of {body}")
    return trial
