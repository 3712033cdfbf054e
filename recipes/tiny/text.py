"""The text the tiny base model is pretrained on: document number `seed` of an endless, seeded stream.

Run as a script it prints documents as JSON lines: python recipes/tiny/text.py --seed 0 --num 5
"""

from __future__ import annotations

import argparse
import json
import random
import sys

from chat import chat, chat_text
from grammar import Writer
from pages import page
from stories import story

CHAT_SHARE, STORY_SHARE = 0.25, 0.30  # of documents; chats are short: about 18 % of tokens (2026-11)


def document(seed: int, with_chat: bool = True) -> str:
    """One document; the same text for the same seed. Chats come in ChatML unless `with_chat` is False."""
    rng = random.Random(seed)
    w = Writer(rng)
    kind = rng.random()
    if kind < CHAT_SHARE and with_chat:
        return chat_text(chat(w))
    if kind < CHAT_SHARE + STORY_SHARE:
        return story(w)
    return page(w)


def main() -> None:
    """Print `--num` documents from `--seed` on, one {"text"} object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="number of the first document")
    parser.add_argument("--num", type=int, default=5)
    parser.add_argument("--no-chat", action="store_true", help="prose only")
    args = parser.parse_args()
    for seed in range(args.seed, args.seed + args.num):
        sys.stdout.write(json.dumps({"text": document(seed, not args.no_chat)}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
