#!/usr/bin/env python3
"""Trains the demo model. The length of a run is a number of minutes; the learning rate follows the clock,
so a run always ends on a finished decay. Stopped runs go on with --resume.

    train.py --tokenizer tokenizer.json --out run/ --minutes 90
"""
import argparse
import json
import os
import random
import signal
import time

import torch
import torch.nn.functional as F

import generate
from model import Config, Model
from tokenizer import Chat


class Rows:
    """Packs dialogues into rows of n_tokens + 1 tokens. Each row begins with a dialogue; the last one is cut."""

    def __init__(self, chat, mix, seed):
        self.chat, self.mix, self.seed = chat, mix, seed

    def batch(self, step, n_rows, n_tokens, device):
        rng = random.Random(self.seed * 1_000_003 + step)
        rows, weights = [], []
        for _ in range(n_rows):
            ids, w = [], []
            while len(ids) < n_tokens + 1:
                more_ids, more_w = self.chat.encode(generate.sample(rng, self.mix))
                ids += more_ids
                w += more_w
            rows.append(ids[:n_tokens + 1])
            weights.append(w[:n_tokens + 1])
        return torch.tensor(rows, device=device), torch.tensor(weights, device=device)


def orthogonalize(g, steps=5):
    """Newton-Schulz iteration towards the nearest orthogonal matrix; g [n, rows, cols] in bf16."""
    flip = g.shape[-2] > g.shape[-1]
    if flip:
        g = g.mT
    x = (g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(steps):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return x.mT if flip else x


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for the hidden matrices. A 3-D tensor is a stack of matrices."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.05):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                buf = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - group["momentum"])
                by_shape.setdefault(p.shape[-2:], []).append((p, p.grad.lerp(buf, group["momentum"])))
            for shape, items in by_shape.items():
                update = orthogonalize(torch.cat([u.reshape(-1, *shape) for _, u in items])).float()
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                parts = update.split([u.numel() // (shape[0] * shape[1]) for _, u in items])
                for (p, _), u in zip(items, parts):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u.view_as(p), alpha=-scale)


def make_optimizers(model, muon_lr, adam_lr):
    matrices, others = [], []
    for name, p in model.named_parameters():
        hidden_matrix = p.ndim >= 2 and not name.startswith(("embed", "head")) and "router" not in name
        (matrices if hidden_matrix else others).append(p)
    return [Muon(matrices, lr=muon_lr), torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0)]


def head_loss(head, hidden, targets, w):
    return (F.cross_entropy(F.linear(hidden, head).float(), targets, reduction="none") * w).sum() / w.sum()


def losses(model, ids, weights, mtp_rows):
    """Weighted cross entropy of the next token, and of the one after it (MTP) on the first mtp_rows rows."""
    def loss(hidden, targets, w):
        pick = w.flatten().nonzero().squeeze(1)
        return head_loss(model.head.weight, hidden.flatten(0, 1).index_select(0, pick), targets.flatten()[pick], w.flatten()[pick])

    hidden = model.hidden(ids[:, :-1])
    main = loss(hidden, ids[:, 1:], weights[:, 1:])
    ahead = model.mtp_hidden(hidden[:mtp_rows, :-1], ids[:mtp_rows, 1:-1])
    return main, loss(ahead, ids[:mtp_rows, 2:], weights[:mtp_rows, 2:])


def lr_factor(done, step, warmup, decay):
    """Warm-up by steps, constant, then linear to zero over the last `decay` share of the time."""
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.0, (1.0 - done) / decay))


def compile_parts():
    """Fuses the element-wise work; the routing in between stays eager because its shapes change with every batch."""
    import model
    torch._dynamo.config.recompile_limit = 16
    for part, dynamic in ((model.RMSNorm, False), (model.Attention, False), (model.FFN, True)):
        part.forward = torch.compile(part.forward, dynamic=dynamic)
    model.expert = torch.compile(model.expert, dynamic=True)


def save(path, model, optimizers, state):
    torch.save(dict(config=model.cfg.as_dict(), model=model.state_dict(), state=state,
                    optimizers=[o.state_dict() for o in optimizers]), path + ".tmp")
    os.replace(path + ".tmp", path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", required=True, help="folder of checkpoints and log.jsonl")
    p.add_argument("--minutes", type=float, default=90, help="training time of the whole run, resumed parts included")
    p.add_argument("--rows", type=int, default=32)
    p.add_argument("--tokens", type=int, default=256, help="row length")
    p.add_argument("--long-every", type=int, default=16, help="every n-th step uses rows four times as long")
    p.add_argument("--muon-lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=3e-3)
    p.add_argument("--decay", type=float, default=0.7)
    p.add_argument("--warmup", type=int, default=40)
    p.add_argument("--bias-speed", type=float, default=1e-3)
    p.add_argument("--mtp-weight", type=float, default=0.3)
    p.add_argument("--mtp-share", type=float, default=0.5, help="share of the rows that train the MTP block")
    p.add_argument("--mix", help="JSON object of skill weights; default: the generator's")
    p.add_argument("--save-minutes", type=float, default=5)
    p.add_argument("--max-steps", type=int, default=10 ** 9)
    p.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    p.add_argument("--fresh-optimizer", action="store_true", help="with --resume: forget optimizer state, warm up again")
    p.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler on a CPU)")
    p.add_argument("--device", default="cpu")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()

    torch.manual_seed(a.seed)
    if a.compile:
        compile_parts()
    os.makedirs(a.out, exist_ok=True)
    chat = Chat(a.tokenizer)
    rows = Rows(chat, json.loads(a.mix) if a.mix else generate.MIX, a.seed)
    model = Model(Config(vocab_size=chat.tok.get_vocab_size())).to(a.device)
    optimizers = make_optimizers(model, a.muon_lr, a.adam_lr)
    state = dict(step=0, seconds=0.0, tokens=0)
    warm_from = 0
    if a.resume:
        saved = torch.load(os.path.join(a.out, "last.pt"), map_location=a.device, weights_only=True)
        model.load_state_dict(saved["model"])
        state = saved["state"]
        if a.fresh_optimizer:
            warm_from = state["step"]
        else:
            for o, s in zip(optimizers, saved["optimizers"]):
                o.load_state_dict(s)
    base = [a.muon_lr, a.adam_lr]
    moe = model.moe_layers()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    log = open(os.path.join(a.out, "log.jsonl"), "a", buffering=1)
    last_save, clock = time.time(), time.time()
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    while state["seconds"] < a.minutes * 60 and state["step"] < a.max_steps and not stopped:
        step = state["step"]
        factor = lr_factor(state["seconds"] / (a.minutes * 60), step - warm_from, a.warmup, a.decay)
        for o, lr in zip(optimizers, base):
            for group in o.param_groups:
                group["lr"] = lr * factor
        long = a.long_every and step % a.long_every == a.long_every - 1
        n_rows, n_tokens = (max(1, a.rows // 4), a.tokens * 4) if long else (a.rows, a.tokens)
        ids, weights = rows.batch(step, n_rows, n_tokens, a.device)
        with torch.autocast(torch.device(a.device).type, dtype=torch.bfloat16):
            main_loss, mtp_loss = losses(model, ids, weights, max(1, int(n_rows * a.mtp_share)))
        for o in optimizers:
            o.zero_grad(set_to_none=True)
        (main_loss + a.mtp_weight * mtp_loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
        speed = a.bias_speed * min(1.0, 3 * factor)
        for layer in moe:                  # auxiliary-loss-free balance: raise the bias of the idle, lower that of the busy
            layer.router_bias += speed * torch.sign(layer.load.mean() - layer.load)
        now = time.time()
        tok_s = ids.numel() / (now - clock)
        state["seconds"] += now - clock
        state["step"] += 1
        state["tokens"] += ids.numel()
        clock = now
        log.write(json.dumps(dict(step=step, loss=round(main_loss.item(), 4), mtp=round(mtp_loss.item(), 4), lr=round(factor, 4),
                                  norm=round(norm.item(), 3), tok_s=round(tok_s), tokens=state["tokens"], seconds=round(state["seconds"], 1),
                                  load=[[round(v, 3) for v in (m.load / m.load.sum()).tolist()] for m in moe])) + "\n")
        if now - last_save > a.save_minutes * 60:
            save(os.path.join(a.out, "last.pt"), model, optimizers, state)
            last_save = time.time()
    save(os.path.join(a.out, "last.pt"), model, optimizers, state)


if __name__ == "__main__":
    main()
