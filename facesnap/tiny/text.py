"""The text encoder: CLIP's layout with a vocabulary of the captions' words, each one token."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from facesnap.errors import SettingsError

WIDTH, LAYERS, HEADS = 128, 3, 4
LENGTH = 48  # tokens, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"
LAST = "</w>"  # CLIP's mark of a word's last piece


def byte_alphabet() -> list[str]:
    """One printable character a byte, as CLIP's byte-pair encoding has it: printable bytes stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def words_of(caption: str) -> list[str]:
    """The words and signs of a caption, as CLIP splits them."""
    return re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", caption.lower())


def merges(vocabulary: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, in order, after which every word of the vocabulary is one token.

    The most frequent pair is merged until nothing is left to merge, as byte-pair encodings are learned; since words
    are encoded by the same merges in the same order, each ends as one token.
    """
    split = [[*word[:-1], word[-1] + LAST] for word in vocabulary]
    done: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for pieces in split for pair in pairwise(pieces))
        if not pairs:
            return done
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        done.append(best)
        split = [_merged(pieces, best) for pieces in split]


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def tokenizer_of(pairs: Iterable[tuple[str, str]], folder: Path, length: int) -> Any:
    """A CLIPTokenizer of `length` tokens with these merges; vocab.json and merges.txt are written into a folder."""
    from transformers import CLIPTokenizer

    pairs, symbols = list(pairs), byte_alphabet()
    vocabulary = [*symbols, *(s + LAST for s in symbols), *(a + b for a, b in pairs), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    numbered = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in pairs), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CLIPTokenizer(
            str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length, pad_token=END
        )


def make_tokenizer(captions: Iterable[str], folder: Path) -> Any:
    """A CLIPTokenizer of the captions' words, written into a folder; other words fall into letters.

    Raises:
        SettingsError: a caption has more than 46 words.
    """
    captions = list(captions)
    found = merges(sorted({word for caption in captions for word in words_of(caption)}))
    tokenizer = tokenizer_of(found, folder, LENGTH)
    longest = max(captions, key=lambda caption: len(caption.split()))
    needed = len(tokenizer(longest).input_ids)
    if needed > LENGTH:
        raise SettingsError(
            f"The caption {longest!r} takes {needed} tokens.",
            expected=f"at most {LENGTH}.",
            remedy="shorten the captions or raise LENGTH.",
        )
    return tokenizer


def make_encoder(tokenizer: Any) -> Any:
    """An untrained CLIPTextModel for a tokenizer of `make_tokenizer`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, max_position_embeddings=LENGTH, projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


def tokenise(tokenizer: Any, captions: list[str]) -> Any:
    """Token ids (N, 48) int64, padded as the pipeline pads them."""
    return tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
