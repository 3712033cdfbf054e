"""What a published adapter may be called, and by which words one version of it is meant."""

from __future__ import annotations

import pytest

from fettle.errors import UserError
from fettle.registry.reference import Reference, check_alias, check_name, parsed, reference


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("support", Reference("support", "production")),
        ("support@candidate", Reference("support", "candidate")),
        ("support@production", Reference("support", "production")),
        ("support:7", Reference("support", None, 7)),
        ("Support.v2_x-1", Reference("Support.v2_x-1", "production")),
    ],
)
def test_a_name_means_production_unless_it_says_otherwise(told: str, meant: Reference) -> None:
    assert parsed(told) == meant


@pytest.mark.parametrize(
    "told",
    [
        "",
        "../etc",
        "a/b",
        ".hidden",
        "support:",
        "support:0",
        "support:07",
        "support:-1",
        "support:7@x",
        "support@",
        "support@Candidate",
        "support@a:1",
        "support:9999999999",
        "a" * 65,
        "support\n",
        "ſupport",
        "support:٣",
    ],
)
def test_everything_else_means_nothing(told: str) -> None:
    assert parsed(told) is None
    with pytest.raises(UserError, match="names nothing that is published"):
        reference(told)


@pytest.mark.parametrize("told", ["support", "support@candidate", "support:7"])
def test_a_reference_is_written_as_it_is_read(told: str) -> None:
    assert str(reference(told)) == told


def test_a_name_that_is_published_has_no_alias_in_it() -> None:
    assert check_name("support") == "support"
    assert check_alias("candidate") == "candidate"
    for bad in ("support@x", "support:1", "..", "a b"):
        with pytest.raises(UserError, match="is no name for what is published"):
            check_name(bad)
    with pytest.raises(UserError, match="is no alias"):
        check_alias("7")
