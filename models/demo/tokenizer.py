#!/usr/bin/env python3
"""Byte-level BPE with the pre-tokenizer of DeepSeek-V3, and the chat format of V3.1.

    tokenizer.py --out tokenizer.json      trains it on the generator's text
"""
import argparse
import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT, THINK, END_THINK = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"
SPECIAL = [BOS, EOS, PAD, USER, ASSISTANT, THINK, END_THINK]

V3_PATTERNS = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
]

# Thinking is on unless the caller sets `thinking` to false.
CHAT_TEMPLATE = (
    "{% if thinking is not defined %}{% set thinking = true %}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜></think>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{% endif %}"
)


def v3_pre_tokenizer(first_pattern):
    patterns = [first_pattern, *V3_PATTERNS[1:]]
    return pre_tokenizers.Sequence([*(pre_tokenizers.Split(Regex(p), "isolated") for p in patterns),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train(texts, vocab_size):
    """Digits are split one by one while merges are learned, so no merge joins digits."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = v3_pre_tokenizer(r"\p{N}")
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator(texts, trainer)
    tok.pre_tokenizer = v3_pre_tokenizer(V3_PATTERNS[0])
    tok.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tok.token_to_id(BOS))])
    return tok


def save(tok, path):
    """As in V3, <think> and </think> are added tokens that are not "special": a reader may print them."""
    data = json.loads(tok.to_str())
    for t in data["added_tokens"]:
        t["special"] = t["content"] not in (THINK, END_THINK)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=False)


class Chat:
    """Turns dialogues into token ids and per-token loss weights."""

    def __init__(self, path):
        self.tok = Tokenizer.from_file(path)
        self.bos, self.eos, self.pad, self.user, self.assistant, self.think, self.end_think = map(self.tok.token_to_id, SPECIAL)
        self.single = {c: self.tok.token_to_id(c) for c in map(chr, range(33, 127))}

    def ids(self, text):
        return self.tok.encode(text, add_special_tokens=False).ids if text else []

    def prompt(self, messages, think=True):
        out = [self.bos]
        for m in messages:
            if m["role"] == "system":
                out += self.ids(m["content"])
            elif m["role"] == "user":
                out += [self.user, *self.ids(m["content"])]
            else:
                out += [self.assistant, self.end_think, *self.ids(m["content"]), self.eos]
        return out + [self.assistant, self.think if think else self.end_think]

    def encode(self, d):
        """A generate.Dialogue -> (ids, weights). The weight of a token is that of predicting it."""
        if d.text:
            ids = [self.bos, *self.ids(d.text), self.eos]
            return ids, [0.0] + [1.0] * (len(ids) - 1)
        ids = [self.bos, *self.ids(d.system)]
        weights = [0.0] * len(ids)
        for i, turn in enumerate(d.turns):
            think = d.think and i == len(d.turns) - 1
            prompt = [self.user, *self.ids(turn.user), self.assistant, self.think if think else self.end_think]
            work = [*self.ids(turn.work), self.end_think] if think else []
            # a spelled answer is taught letter by letter: the text is the same, the merges need not be known
            answer = [self.single[c] for c in turn.answer] if turn.spelled else self.ids(turn.answer)
            blind = turn.hard_direct and not work[:-1]        # an answer that had no working
            ids += prompt + work + answer + [self.eos]
            weights += [0.0] * len(prompt) + [1.0] * len(work) + [0.1 if blind else 1.0] * len(answer) + [1.0]
        return ids, weights


def main():
    import generate
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--vocab", type=int, default=2048)
    p.add_argument("--dialogues", type=int, default=60000)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    rng = random.Random(a.seed)
    texts = []
    for _ in range(a.dialogues):
        d = generate.sample(rng)
        texts += [d.text, d.system] + [t for turn in d.turns for t in (turn.user, turn.work, "" if turn.spelled else turn.answer)]
    tok = train((t for t in texts if t), a.vocab)
    save(tok, a.out)
    vocab = tok.get_vocab()
    assert not [t for t in vocab if len(t) > 1 and t.isdigit()], "a merge joins digits"
    missing = [c for c in "abcdefghijklmnopqrstuvwxyz" if "Ġ" + c not in vocab]
    print(f"{len(vocab)} tokens; letters without a spaced token: {missing}")


if __name__ == "__main__":
    main()
