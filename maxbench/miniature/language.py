"""The parts that read: the generator's text encoder and the judge of text and picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from maxbench.miniature.context import TrainingContext
from maxbench.miniature.training import History, Recipe, pick


def make_tokenizer(texts: list[str], folder: Path, tokens: int) -> None:
    """A CLIP tokenizer whose merges are learned from `texts`; vocabulary in CLIP's own order.

    tokens: the longest prompt; CLIP's own is 77.
    """
    raw = RawTokenizer(models.BPE(end_of_word_suffix="</w>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=1024, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    )
    merges = [tuple(merge) for merge in json.loads(raw.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    pieces = list(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    tokenizer = CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges, model_max_length=tokens
    )
    tokenizer.save_pretrained(folder)


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token numbers (B, L) int64, cut at the tokenizer's longest prompt knowingly, as CLIP cuts at 77."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def tokens_of(shop: TrainingContext) -> Tensor:
    """Every wording of every training scene, (N, captions, L)."""
    tokenizer = CLIPTokenizer.from_pretrained(shop.weights / "tokenizer")

    def read() -> Any:
        texts = [text for captions in shop.corpus.captions for text in captions]
        return tokenise(tokenizer, texts).unflatten(0, (len(shop.corpus), -1)).short().numpy()

    vocabulary = hashlib.sha256((shop.weights / "tokenizer" / "tokenizer.json").read_bytes()).hexdigest()[:8]
    return torch.from_numpy(shop.once(f"tokens-{vocabulary}-{tokenizer.model_max_length}", "", read)).long()


@dataclass(frozen=True)
class Contrastive:
    """A CLIP model trained on pictures and their captions (Radford et al., ICML 2021).

    text, vision: sizes, as transformers' CLIP configurations name them.
    """

    recipe: Recipe
    seed: int
    subfolder: str
    text: Mapping[str, int]
    vision: Mapping[str, int]
    projection: int

    def fit(self, shop: TrainingContext) -> tuple[CLIPModel, History]:
        tokenizer = CLIPTokenizer.from_pretrained(shop.weights / "tokenizer")
        words = {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        model = CLIPModel(
            CLIPConfig(
                text_config={**words, **self.text},
                vision_config={"image_size": shop.corpus.size, **self.vision},
                projection_dim=self.projection,
            )
        ).to(shop.device)
        tokens = tokens_of(shop)
        shop.quick(model)

        def loss_of(generator: torch.Generator, batch: int) -> Tensor:
            index = pick(generator, batch, len(shop.corpus))
            text = tokens[index, pick(generator, batch, tokens.shape[1])].to(shop.device)
            return model(input_ids=text, pixel_values=shop.images(index), return_loss=True).loss

        return model, shop.fit(self, [{"params": model.parameters()}], loss_of)


@dataclass(frozen=True)
class TextEncoder(Contrastive):
    """The generator's text encoder: the text half of a contrastive model whose picture half is thrown away.

    tokens: the longest prompt that it reads.
    """

    tokens: int

    needs = ()

    def train(self, shop: TrainingContext) -> tuple[CLIPTextModel, History]:
        make_tokenizer(
            [text for captions in shop.corpus.captions for text in captions], shop.weights / "tokenizer", self.tokens
        )
        model, history = self.fit(shop)
        text_encoder = CLIPTextModel(model.config.text_config)
        text_encoder.load_state_dict(model.text_model.state_dict())
        return text_encoder, history


class Judge(Contrastive):
    """The scorer of text and picture: another contrastive model, from another seed and of another shape."""

    needs = ("text_encoder",)  # for its tokenizer alone

    def train(self, shop: TrainingContext) -> tuple[CLIPModel, History]:
        CLIPTokenizer.from_pretrained(shop.weights / "tokenizer").save_pretrained(shop.weights / self.subfolder)
        return self.fit(shop)
