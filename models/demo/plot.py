#!/usr/bin/env python3
"""Draws the training curve and the expert load.

    plot.py --log run/log.jsonl --report report.json --out ..     writes curve.png and load.png
"""
import argparse
import json
import os

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt


def smooth(values, keep=0.95):
    out, mean = [], values[0]
    for v in values:
        mean = keep * mean + (1 - keep) * v
        out.append(mean)
    return out


def curve(log, path):
    rows = {}
    for line in open(log, encoding="utf-8"):
        row = json.loads(line)
        rows[row["step"]] = row                  # a resumed run repeats a few steps: the last one counts
    rows = [rows[s] for s in sorted(rows)]
    tokens = [r["tokens"] / 1e6 for r in rows]
    fig, ax = plt.subplots(figsize=(7, 3.2))
    for name, label in (("loss", "next token"), ("mtp", "token after next (MTP)")):
        ax.plot(tokens, smooth([r[name] for r in rows]), lw=1.2, label=label)
    ax.set(yscale="log", xlabel="million training tokens", ylabel="loss (nats per answer token)")
    lr = ax.twinx()
    lr.plot(tokens, [r["lr"] for r in rows], lw=0.8, color="grey", ls=":", label="learning rate (relative)")
    lr.set(ylim=(0, 1.05), ylabel="learning rate (relative)")
    ax.legend(loc="upper center")
    ax.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(path, dpi=110)


def load(report, path):
    rows = json.load(open(report, encoding="utf-8"))["load"]
    fig, ax = plt.subplots(figsize=(7, 2.2))
    image = ax.imshow([[100 * v for v in row] for row in rows], cmap="viridis", vmin=0, aspect="auto")
    for y, row in enumerate(rows):
        for x, v in enumerate(row):
            ax.text(x, y, f"{100 * v:.1f}", ha="center", va="center", color="white", fontsize=8)
    ax.set(xticks=range(len(rows[0])), yticks=range(len(rows)), xlabel="routed expert",
           yticklabels=[f"layer {i + 1}" if i < len(rows) - 1 else f"MTP (layer {i + 1})" for i in range(len(rows))])
    fig.colorbar(image, label="% of the load")
    fig.tight_layout()
    fig.savefig(path, dpi=110)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--log", required=True)
    p.add_argument("--report", required=True, help="written by evaluate.py --json")
    p.add_argument("--out", required=True)
    a = p.parse_args()
    curve(a.log, os.path.join(a.out, "curve.png"))
    load(a.report, os.path.join(a.out, "load.png"))


if __name__ == "__main__":
    main()
