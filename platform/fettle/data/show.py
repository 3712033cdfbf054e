"""Examples as a person can read them: every token, and which of them bear loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from rich.text import Text
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from fettle.data.encode import Example

LEARNED, SPECIAL, GIVEN = "bold green", "reverse", "dim"
OPEN, CLOSE = "⟦", "⟧"


@dataclass(frozen=True)
class Piece:
    """The fewest tokens that make whole characters: their text, and whether they bear loss."""

    text: str
    num_tokens: int
    bears_loss: bool
    is_special: bool


def pieces(example: Example, tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
    """The example's tokens in order, none left out, special ones by their names."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    specials = set(tokenizer.all_special_ids)
    stream = DecodeStream(skip_special_tokens=False)
    waiting: list[int] = []
    learned = False
    for token, bears_loss in zip(example.input_ids.tolist(), example.loss_mask.tolist(), strict=True):
        if waiting and bears_loss != learned:  # half a character, and the rest never comes
            yield Piece(backend.decode(waiting, skip_special_tokens=False), len(waiting), learned, False)
            stream, waiting = DecodeStream(skip_special_tokens=False), []
        learned = bears_loss
        waiting.append(token)
        text = stream.step(backend, token)
        if text is not None:
            yield Piece(text, len(waiting), bears_loss, token in specials and len(waiting) == 1)
            waiting = []
    if waiting:
        yield Piece(backend.decode(waiting, skip_special_tokens=False), len(waiting), learned, False)


def in_colour(example: Example, tokenizer: PreTrainedTokenizerBase) -> Text:
    """Tokens that bear loss green, others dim, special ones reversed, line ends marked."""
    shown = Text()
    for (bears_loss, is_special), alike in groupby(pieces(example, tokenizer), lambda p: (p.bears_loss, p.is_special)):
        style = LEARNED if bears_loss else GIVEN
        text = "".join(piece.text for piece in alike).replace("\n", "↵\n")
        shown.append(text, f"{style} {SPECIAL}" if is_special else style)
    return shown


def in_brackets(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """The example's text with ⟦ and ⟧ around what bears loss; without them it is exactly what the model sees."""
    shown, inside = [], False
    for piece in pieces(example, tokenizer):
        if piece.bears_loss != inside:
            shown.append(OPEN if piece.bears_loss else CLOSE)
            inside = piece.bears_loss
        shown.append(piece.text)
    return "".join(shown) + (CLOSE if inside else "")


def legend(in_colour: bool) -> Text:
    """What the marks of `in_colour`, or of `in_brackets`, mean."""
    if not in_colour:
        return Text(f"{OPEN}learned{CLOSE}, given")
    return Text.assemble(("learned", LEARNED), ", ", ("given", GIVEN), ", ", ("<special>", SPECIAL), ", ↵ line end")


def caption(example: Example) -> str:
    """`file:line`, which answer of several it is, the number of tokens and of those that bear loss, and whether the
    record was cut or split."""
    tokens, learned = len(example.input_ids), int(example.loss_mask.sum())
    which = f", {example.name}" if example.name else ""
    which += f", part {example.part + 1}" if example.part else ""
    cut = ", cut" if example.was_cut else ""
    return f"{example.file}:{example.line}{which}: {tokens} tokens, {learned} bear loss ({learned / tokens:.0%}){cut}"
