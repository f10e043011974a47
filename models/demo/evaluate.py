#!/usr/bin/env python3
"""Measures a checkpoint: accuracy per skill, perplexity, MTP agreement, expert load.

    evaluate.py --checkpoint run/last.pt --tokenizer tokenizer.json --tasks tasks.jsonl --heldout heldout.txt

All arithmetic is F32. Questions are answered greedily.
"""
import argparse
import json
import math
import re

import torch
import torch.nn.functional as F

from model import Config, Model
from tokenizer import Chat


def load_model(path, bf16=False):
    """bf16: round the matrices to BF16 first, as the exported BF16 file holds them."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = Model(Config(**saved["config"]))
    model.load_state_dict(saved["model"])
    if bf16:
        for name, p in model.named_parameters():
            if p.ndim >= 2 and "router" not in name:
                p.data = p.data.bfloat16().float()
    return model.eval(), saved["state"]


def weights_from_gguf(model, path):
    """Puts the dequantized matrices of a GGUF file into the model: what quantization alone costs."""
    import gguf
    tensors = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()) for t in gguf.GGUFReader(path).tensors}
    model.embed.weight.data, model.head.weight.data = tensors["token_embd.weight"], tensors["output.weight"]
    for n, block in enumerate([*model.blocks, model.mtp.block]):
        get = lambda name: tensors[f"blk.{n}.{name}.weight"]
        a = block.self_attn
        for layer, name in ((a.q_a_proj, "attn_q_a"), (a.q_b_proj, "attn_q_b"), (a.kv_a_proj_with_mqa, "attn_kv_a_mqa"), (a.o_proj, "attn_output")):
            layer.weight.data = get(name)
        a.kv_b_proj.weight.data = torch.cat((get("attn_k_b").mT, get("attn_v_b")), 1).flatten(0, 1).contiguous()
        ffn, suffix = (block.mlp.shared, "_shexp") if hasattr(block.mlp, "shared") else (block.mlp, "")
        for kind in ("gate", "up", "down"):
            getattr(ffn, kind + "_proj").weight.data = get(f"ffn_{kind}{suffix}")
            if suffix:
                getattr(block.mlp, kind).data = get(f"ffn_{kind}_exps")
    model.mtp.eh_proj.weight.data = tensors[f"blk.{model.cfg.n_layers}.nextn.eh_proj.weight"]


@torch.no_grad()
def generate(model, prompts, eos, max_new):
    """Greedy continuations of several prompts at once. Returns the new ids of each, without the end token.
    Prompts are padded on the right; a padded slot is overwritten before any later position may see it."""
    B, longest = len(prompts), max(map(len, prompts))
    cache = model.new_cache(B, longest + max_new)
    tokens = torch.tensor([p + [0] * (longest - len(p)) for p in prompts])
    lengths = torch.tensor([len(p) for p in prompts])
    hidden = model.hidden(tokens, cache, torch.arange(longest).expand(B, -1))
    hidden = hidden[torch.arange(B), lengths - 1]
    out, done, pos = [[] for _ in prompts], [False] * B, lengths.clone()
    for _ in range(max_new):
        token = model.head(hidden).argmax(-1)
        for i, t in enumerate(token.tolist()):
            done[i] = done[i] or t == eos
            if not done[i]:
                out[i].append(t)
        if all(done):
            break
        hidden = model.hidden(token[:, None], cache, pos[:, None])[:, 0]
        pos += 1
    return out


def judge(task, work, answer):
    """work: text between <think> and </think>, or None if the tag was never closed."""
    answer, want = answer.strip(), task["answer"]
    if task["match"] == "no_think":
        return work is not None and not work.strip()
    if task["match"] == "exact":
        return answer == want
    if task["match"] == "contains":
        return want in answer
    numbers = re.findall(r"-?\d+", answer)
    return bool(numbers) and int(numbers[-1]) == int(want)


def wilson(right, n, z=1.96):
    if n == 0:
        return 0.0, 0.0
    p, d = right / n, 1 + z * z / n
    middle, spread = (p + z * z / (2 * n)) / d, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return max(0.0, middle - spread), min(1.0, middle + spread)


def run_tasks(model, chat, tasks, max_new=160, batch=120):
    """{skill: [right, total]} and the list of failures."""
    table, failures = {}, []
    for skill in dict.fromkeys(t["skill"] for t in tasks):
        group = [t for t in tasks if t["skill"] == skill]
        for at in range(0, len(group), batch):
            part = group[at:at + batch]
            prompts = [chat.prompt(t["messages"], t["think"] is not False) for t in part]
            for task, ids in zip(part, generate(model, prompts, chat.eos, max_new)):
                work, answer = "", chat.tok.decode(ids)
                if task["think"] is not False:
                    if chat.end_think in ids:
                        cut = ids.index(chat.end_think)
                        work, answer = chat.tok.decode(ids[:cut]), chat.tok.decode(ids[cut + 1:])
                    else:
                        work = None
                ok = judge(task, work, answer)
                right, total = table.get(skill, (0, 0))
                table[skill] = (right + ok, total + 1)
                if not ok:
                    failures.append((task, work, answer))
    return table, failures


@torch.no_grad()
def perplexity(model, chat, text, window=512):
    """As `tandem eval --ppl` and llama-perplexity count: BOS and text in windows (a shorter rest is dropped), the
    first token of each window replaced by BOS, only the second half of each window scored."""
    ids = [chat.bos, *chat.ids(text)]
    rows = torch.tensor(ids[:len(ids) // window * window]).view(-1, window)
    rows[:, 0] = chat.bos
    total, half = 0.0, window // 2
    for part in rows.split(8):
        logits = model.head(model.hidden(part)[:, half:-1])
        total += F.cross_entropy(logits.flatten(0, 1), part[:, half + 1:].flatten(), reduction="sum").double().item()
    n = rows[:, half + 1:].numel()
    return math.exp(total / n), n


@torch.no_grad()
def mtp_agreement(model, chat, tasks, max_new=80):
    """Share of greedy tokens that the MTP block had guessed one step earlier."""
    agree = total = 0
    for task in tasks:
        prompt = chat.prompt(task["messages"], task["think"] is not False)
        out, = generate(model, [prompt], chat.eos, max_new)
        ids = torch.tensor([prompt + out + [chat.eos]])
        hidden = model.hidden(ids)
        guess = model.head(model.mtp_hidden(hidden[:, :-1], ids[:, 1:])).argmax(-1)[0]   # guess[i] is for token i + 2
        first = len(prompt) - 1                                                          # guesses about ids[first + 1 ...]
        want = ids[0, first + 1:]
        got = guess[first - 1:first - 1 + len(want)]
        agree += (got[1:] == want[1:]).sum().item()
        total += len(want) - 1
    return agree / total, total


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--tasks")
    p.add_argument("--per-skill", type=int, default=10 ** 9, help="use only the first N questions of each skill")
    p.add_argument("--heldout")
    p.add_argument("--mtp", type=int, default=0, metavar="N", help="measure MTP agreement on N questions")
    p.add_argument("--bf16", action="store_true", help="round the weights to BF16 first")
    p.add_argument("--gguf", help="take the matrices from this file of the same checkpoint")
    p.add_argument("--failures", type=int, default=0, metavar="N", help="print N failures of each skill")
    p.add_argument("--ask", action="append", default=[], help="answer this question")
    p.add_argument("--json", help="also write the numbers here")
    a = p.parse_args()
    chat = Chat(a.tokenizer)
    model, state = load_model(a.checkpoint, a.bf16)
    if a.gguf:
        weights_from_gguf(model, a.gguf)
    for layer in model.moe_layers():
        layer.total_load = torch.zeros(model.cfg.n_routed_experts)
    report = dict(state=state)
    print(f"step {state['step']}, {state['tokens'] / 1e6:.1f} M tokens")
    for question in a.ask:
        ids, = generate(model, [chat.prompt([dict(role="user", content=question)])], chat.eos, 200)
        print(f"> {question}\n<think>{chat.tok.decode(ids, skip_special_tokens=False)}")
    if a.tasks:
        seen, tasks = {}, []
        for line in open(a.tasks, encoding="utf-8"):
            task = json.loads(line)
            seen[task["skill"]] = seen.get(task["skill"], 0) + 1
            if seen[task["skill"]] <= a.per_skill:
                tasks.append(task)
        table, failures = run_tasks(model, chat, tasks)
        print("| skill | right | questions | accuracy | 95 % interval |\n|---|---|---|---|---|")
        for skill, (right, n) in table.items():
            low, high = wilson(right, n)
            print(f"| {skill} | {right} | {n} | {100 * right / n:.1f} % | {100 * low:.1f} – {100 * high:.1f} % |")
        shown = {}
        for task, work, answer in failures:
            shown[task["skill"]] = shown.get(task["skill"], 0) + 1
            if shown[task["skill"]] <= a.failures:
                print(f"  {task['skill']}: {[m['content'] for m in task['messages']]} wanted {task['answer']!r}: <think>{work}</think>{answer}")
        report["accuracy"] = table
        report["load"] = [(m.total_load / m.total_load.sum()).tolist() for m in model.moe_layers()[:-1]]
        for i, row in enumerate(report["load"]):
            print(f"expert load, layer {i + model.cfg.n_dense_layers}: " + " ".join(f"{100 * v:.1f}%" for v in row))
        if a.mtp:
            report["mtp"] = mtp_agreement(model, chat, tasks[::max(1, len(tasks) // a.mtp)])
            print(f"MTP agreement {100 * report['mtp'][0]:.1f} % of {report['mtp'][1]} tokens")
            row = model.moe_layers()[-1].total_load
            report["load"].append((row / row.sum()).tolist())
            print("expert load, MTP block: " + " ".join(f"{100 * v:.1f}%" for v in report["load"][-1]))
    if a.heldout:
        report["perplexity"] = perplexity(model, chat, open(a.heldout, encoding="utf-8").read())
        print("perplexity {:.5f} on {} tokens".format(*report["perplexity"]))
    if a.json:
        json.dump(report, open(a.json, "w"), indent=1)


if __name__ == "__main__":
    main()
