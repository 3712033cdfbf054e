"""The page of benchmarks, which is written from their results."""

from __future__ import annotations

import tables


def test_the_page_is_that_of_the_newest_results(root):
    told = (root / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert told == tables.page(), "python benchmarks/tables.py > docs/benchmarks.md"


def test_a_limit_is_told_from_a_peer():
    row = {"what": "tokens", "unit": "a second", "fettle": 1500.0, "peer": "TRL", "peer_value": 1000.0, "ratio": 1.5}
    result = {"date": "2026-11-30", "machine": "here", "rows": [row | {"limit": False}, row | {"limit": True}]}
    text = tables.section(tables.TABLES[0], [result])
    assert "| tokens | 1,500 a second | TRL: 1,000 a second | 1.50 |" in text and "| *tokens* |" in text
