"""What an encoder's tokenizer puts around each text: BERT's [CLS] and [SEP], RoBERTa's <s> and </s>."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from fettle.data.halves import cut, longer
from fettle.errors import UserError


@dataclass(frozen=True)
class Frame:
    """Token ids that come before and after each text; none of them is ever learned.

    overlap: tokens at its beginning that are not learned either, for want of what would predict them: where a text is
    split, they are those the part before ended with. is_halved: prompt and answer are texts by themselves, each with
    the tokens around it already.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    overlap: int = 0
    is_halved: bool = False

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids, int32, and loss mask, bool, of a text, [tokens] each, with the frame around them."""
        mask[: self.overlap] = False
        if not len(self):
            return ids, mask
        edges = np.zeros(len(self.before), bool), np.zeros(len(self.after), bool)
        framed = np.concatenate([self.before, ids, self.after]).astype(np.int32)
        return framed, np.concatenate([edges[0], mask, edges[1]])

    def length(self, ids: np.ndarray, mask: np.ndarray) -> int:
        """Tokens of a text with its frame; of two halves those of the longer one."""
        return longer(ids, mask) if self.is_halved else len(ids) + len(self)

    def cut(self, ids: np.ndarray, mask: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and loss mask of the beginning of a text with its frame, `max_length` tokens; of both halves if any."""
        if self.is_halved:
            return cut(ids, mask, max_length)
        room = max_length - len(self)
        return self.around(ids[:room].copy(), mask[:room].copy())


BARE = Frame(overlap=1)
"""Of causal models: a text's first token is predicted by nothing."""
HALVED = Frame(is_halved=True)
"""Of encoder-decoder models."""


def frame_of(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """The frame that an encoder's tokenizer gives a text, by its own post-processor; of any other tokenizer BARE.

    An encoder's has a mask token, and tokens to classify and to separate. Raises UserError where its frame cannot be
    told.
    """
    if None in (tokenizer.mask_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id):
        return BARE
    bare, framed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    for start in range(len(framed) - len(bare) + 1):
        if bare and framed[start : start + len(bare)] == bare:
            return Frame(tuple(framed[:start]), tuple(framed[start + len(bare) :]))
    raise UserError(
        "this tokenizer makes other tokens of a text with its special tokens around it than without",
        file=str(tokenizer.name_or_path),
        expected="a tokenizer whose special tokens stand before and after the text",
    )
