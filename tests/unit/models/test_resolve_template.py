"""Chat templates: bundled ones, those in files, and the tokenizer that carries one."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.errors import UserError
from fettle.models.base import BUNDLED, TEMPLATES, load_tokenizer, resolve_template, template_in

WHERE = {"file": "recipe.yaml", "line": 3, "field": "chat_template"}


def test_a_bundled_template_is_known_by_its_name():
    assert "<|im_start|>" in resolve_template("chatml") and set(TEMPLATES) == {
        *("chatml", "llama3", "mistral", "gemma", "qwen")
    }


def test_a_file_is_relative_to_the_recipe(tmp_path):
    (tmp_path / "mine.jinja").write_bytes(b"\xef\xbb\xbf{{ messages }}\n")
    assert resolve_template("mine.jinja", tmp_path) == "{{ messages }}\n"


def test_a_template_that_is_nowhere_is_told_with_those_there_are(tmp_path):
    with pytest.raises(UserError) as caught:
        resolve_template("chatlm", tmp_path, **WHERE)
    told = str(caught.value)
    assert told.startswith("recipe.yaml:3: chat_template: no chat template 'chatlm'") and "chatml, llama3" in told


def test_a_mistake_in_a_template_is_told_with_its_line(tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages }}\n{% for m in messages %}\n{{ m ")
    with pytest.raises(UserError, match=r"mine.jinja:3: not a Jinja template: "):
        resolve_template("mine.jinja", tmp_path, **WHERE)


def test_a_template_that_is_no_text_is_told(tmp_path):
    (tmp_path / "mine.jinja").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match=r"mine.jinja: .*not UTF-8 text"):
        resolve_template("mine.jinja", tmp_path, **WHERE)


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json", None])
def test_the_template_in_a_folder_is_found(tmp_path, where):
    if where:
        (tmp_path / where).write_text("{{ a }}" if where.endswith("jinja") else '{"chat_template": "{{ a }}"}')
    assert template_in(tmp_path) == ("{{ a }}" if where else None)


def test_a_tokenizer_carries_the_template_it_is_given_and_keeps_it_when_saved(tmp_path: Path):
    template = resolve_template("qwen")
    tokenizer = load_tokenizer(BUNDLED["tiny"], template)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.chat_template == template == template_in(tmp_path) == load_tokenizer(tmp_path).chat_template
    assert load_tokenizer(BUNDLED["tiny"]).chat_template == template_in(BUNDLED["tiny"]) != template
