#!/usr/bin/env python3
"""Writes a checkpoint in every form that is needed elsewhere.

    export.py --checkpoint run/last.pt --tokenizer tokenizer.json --out out/ [--shipped ../demo.gguf]

OUT/hf/              safetensors (BF16) with the official V3 names, config.json, tokenizer files
OUT/demo-f32.gguf    every tensor F32
OUT/demo-bf16.gguf   matrices BF16
--shipped PATH       routed experts Q4_K, other matrices Q8_0; norms, router and selection bias F32
"""
import argparse
import json
import os

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

from evaluate import load_model
from tokenizer import BOS, CHAT_TEMPLATE, EOS, PAD


def official_tensors(model):
    """{official V3 name: tensor}. The MTP block is the layer after the last main one."""
    c, out = model.cfg, {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight,
                         "lm_head.weight": model.head.weight}
    for n, block in enumerate([*model.blocks, model.mtp.block]):
        at = f"model.layers.{n}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{at}{name}.weight"] = getattr(block, name).weight
        for name, p in block.self_attn.named_parameters():
            out[f"{at}self_attn.{name}"] = p
        mlp = block.mlp
        if n < c.n_dense_layers:
            for name, p in mlp.named_parameters():
                out[f"{at}mlp.{name}"] = p
            continue
        out[f"{at}mlp.gate.weight"] = mlp.router
        out[f"{at}mlp.gate.e_score_correction_bias"] = mlp.router_bias
        for name, p in mlp.shared.named_parameters():
            out[f"{at}mlp.shared_experts.{name}"] = p
        for e in range(c.n_routed_experts):
            for name in ("gate", "up", "down"):
                out[f"{at}mlp.experts.{e}.{name}_proj.weight"] = getattr(mlp, name)[e]
    at = f"model.layers.{c.n_layers}."
    out |= {at + "enorm.weight": model.mtp.enorm.weight, at + "hnorm.weight": model.mtp.hnorm.weight,
            at + "eh_proj.weight": model.mtp.eh_proj.weight, at + "shared_head.norm.weight": model.mtp.head_norm.weight}
    return {name: t.detach().float().contiguous() for name, t in out.items()}


def write_hf(folder, cfg, tensors, tokenizer_path):
    os.makedirs(folder, exist_ok=True)
    f32 = ("mlp.gate.weight", "e_score_correction_bias")
    save_file({name: t if name.endswith(f32) else t.bfloat16() for name, t in tensors.items()},
              os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    tok = json.load(open(tokenizer_path, encoding="utf-8"))
    ids = {t["content"]: t["id"] for t in tok["added_tokens"]}
    config = dict(
        architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", torch_dtype="bfloat16", hidden_act="silu",
        vocab_size=cfg.vocab_size, hidden_size=cfg.hidden_size, intermediate_size=cfg.intermediate_size,
        moe_intermediate_size=cfg.moe_intermediate_size, num_hidden_layers=cfg.n_layers, num_nextn_predict_layers=1,
        num_attention_heads=cfg.n_heads, num_key_value_heads=cfg.n_heads, n_shared_experts=1, n_routed_experts=cfg.n_routed_experts,
        num_experts_per_tok=cfg.n_experts_used, n_group=cfg.n_groups, topk_group=cfg.n_groups_used, norm_topk_prob=True,
        routed_scaling_factor=cfg.routed_scaling_factor, scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1,
        first_k_dense_replace=cfg.n_dense_layers, kv_lora_rank=cfg.kv_lora_rank, q_lora_rank=cfg.q_lora_rank,
        qk_nope_head_dim=cfg.qk_nope_dim, qk_rope_head_dim=cfg.qk_rope_dim, v_head_dim=cfg.v_head_dim,
        max_position_embeddings=cfg.context_length, rms_norm_eps=cfg.rms_eps, rope_theta=cfg.rope_base, rope_scaling=None,
        attention_bias=False, attention_dropout=0.0, tie_word_embeddings=False, initializer_range=0.02, use_cache=True,
        bos_token_id=ids[BOS], eos_token_id=ids[EOS], pad_token_id=ids[PAD])
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=BOS, eos_token=EOS, pad_token=PAD, add_bos_token=True,
                    add_eos_token=False, clean_up_tokenization_spaces=False, model_max_length=cfg.context_length,
                    chat_template=CHAT_TEMPLATE)
    for name, value in (("config.json", config), ("tokenizer.json", tok), ("tokenizer_config.json", settings)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False, indent=None if name == "tokenizer.json" else 1)


# ------------------------------------------------------------------------------------------------ GGUF

PARTS = {
    "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight", "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight", "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight", "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight", "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight", "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight", "enorm.weight": "nextn.enorm.weight",
    "hnorm.weight": "nextn.hnorm.weight", "eh_proj.weight": "nextn.eh_proj.weight",
    "shared_head.norm.weight": "nextn.shared_head_norm.weight",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def gguf_tensors(cfg, tensors):
    """{GGUF name: F32 array}: kv_b split into k_b (transposed) and v_b, experts stacked."""
    out = {}
    for name, t in tensors.items():
        a = t.numpy()
        if name in TOP:
            out[TOP[name]] = a
            continue
        n, part = name.removeprefix("model.layers.").split(".", 1)
        if part == "self_attn.kv_b_proj.weight":
            kv_b = a.reshape(cfg.n_heads, cfg.qk_nope_dim + cfg.v_head_dim, cfg.kv_lora_rank)
            out[f"blk.{n}.attn_k_b.weight"] = np.ascontiguousarray(kv_b[:, :cfg.qk_nope_dim].transpose(0, 2, 1))
            out[f"blk.{n}.attn_v_b.weight"] = np.ascontiguousarray(kv_b[:, cfg.qk_nope_dim:])
        elif part.startswith("mlp.experts."):
            e, kind = int(part.split(".")[2]), part.split(".")[3].removesuffix("_proj")
            stack = out.setdefault(f"blk.{n}.ffn_{kind}_exps.weight", np.empty((cfg.n_routed_experts, *a.shape), np.float32))
            stack[e] = a
        else:
            out[f"blk.{n}.{PARTS[part]}"] = a
    return out


def quantize_q4_k(a):
    """256 values -> d, dmin (F16), eight 6-bit scales and minima, 256 nibbles; value = d*sc*q - dmin*m.

    Each 32 values get the (scale, min) of least squared error among 21 trial steps, weights |x| + rms as usual."""
    x = a.reshape(-1, 8, 32).astype(np.float32)
    w = np.sqrt((x * x).mean(-1, keepdims=True)) + np.abs(x)
    low, high = np.minimum(x.min(-1), 0), x.max(-1)
    best, scale, minimum = np.full(low.shape, np.inf), np.zeros_like(low), np.zeros_like(low)
    span = np.maximum(high - low, 1e-12)
    sw, sx = w.sum(-1), (w * x).sum(-1)
    for trial in range(21):
        step = span / (14 + 0.1 * trial)                       # from 15 levels and a bit of clipping to none
        q = np.clip(np.rint((x - low[..., None]) / step[..., None]), 0, 15)
        sq, sqq, sxq = (w * q).sum(-1), (w * q * q).sum(-1), (w * q * x).sum(-1)
        det = sw * sqq - sq * sq
        ok = det > 0
        s = np.where(ok, (sw * sxq - sx * sq) / np.where(ok, det, 1), 0)
        m = np.where(ok, (sqq * sx - sq * sxq) / np.where(ok, det, 1), 0)
        s = np.where(m > 0, sxq / np.maximum(sqq, 1e-20), s)   # the minimum may not be positive
        m = np.minimum(m, 0)
        error = (w * (s[..., None] * q + m[..., None] - x) ** 2).sum(-1)
        better = error < best
        best, scale, minimum = np.where(better, error, best), np.where(better, s, scale), np.where(better, -m, minimum)
    scale = np.maximum(scale, 0)
    d = (scale.max(-1) / 63).astype(np.float16)
    dmin = (minimum.max(-1) / 63).astype(np.float16)
    safe = lambda v: np.where(v > 0, v, 1).astype(np.float32)[:, None]
    sc = np.clip(np.rint(scale / safe(d)), 0, 63).astype(np.uint8) * (d > 0)[:, None]
    mn = np.clip(np.rint(minimum / safe(dmin)), 0, 63).astype(np.uint8) * (dmin > 0)[:, None]
    real_s, real_m = sc * d.astype(np.float32)[:, None], mn * dmin.astype(np.float32)[:, None]
    q = np.where(real_s[..., None] > 0, (x + real_m[..., None]) / np.where(real_s > 0, real_s, 1)[..., None], 0)
    q = np.clip(np.rint(q), 0, 15).astype(np.uint8)
    packed = np.empty((len(x), 12), np.uint8)
    packed[:, 0:4] = sc[:, :4] | (sc[:, 4:] >> 4) << 6
    packed[:, 4:8] = mn[:, :4] | (mn[:, 4:] >> 4) << 6
    packed[:, 8:12] = (sc[:, 4:] & 15) | (mn[:, 4:] & 15) << 4
    nibbles = (q[:, 0::2] | q[:, 1::2] << 4).reshape(len(x), 128)
    blocks = np.concatenate([d.view(np.uint8).reshape(-1, 2), dmin.view(np.uint8).reshape(-1, 2), packed, nibbles], 1)
    return blocks.reshape(*a.shape[:-1], a.shape[-1] // 256 * 144)


def tensor_type(name, a, kind):
    if a.ndim == 1 or "ffn_gate_inp" in name or kind == "f32":
        return Type.F32
    if kind == "bf16":
        return Type.BF16
    return Type.Q4_K if "_exps" in name and a.shape[-1] % 256 == 0 else Type.Q8_0


def write_gguf(path, cfg, arrays, tokenizer_path, kind):
    w = gguf.GGUFWriter(path + ".tmp", "deepseek2")
    w.add_type("model")
    w.add_name("Tandem demo")
    w.add_size_label("8x1M")
    w.add_file_type({"f32": 0, "bf16": 32, "shipped": 15}[kind])
    w.add_quantization_version(2)
    w.add_vocab_size(cfg.vocab_size)
    w.add_context_length(cfg.context_length)
    w.add_embedding_length(cfg.hidden_size)
    w.add_block_count(cfg.n_layers + 1)
    w.add_nextn_predict_layers(1)
    w.add_leading_dense_block_count(cfg.n_dense_layers)
    w.add_feed_forward_length(cfg.intermediate_size)
    w.add_head_count(cfg.n_heads)
    w.add_head_count_kv(1)
    w.add_layer_norm_rms_eps(cfg.rms_eps)
    w.add_q_lora_rank(cfg.q_lora_rank)
    w.add_kv_lora_rank(cfg.kv_lora_rank)
    w.add_key_length(cfg.kv_lora_rank + cfg.qk_rope_dim)
    w.add_value_length(cfg.kv_lora_rank)
    w.add_key_length_mla(cfg.qk_nope_dim + cfg.qk_rope_dim)
    w.add_value_length_mla(cfg.v_head_dim)
    w.add_rope_dimension_count(cfg.qk_rope_dim)
    w.add_rope_freq_base(cfg.rope_base)
    w.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    w.add_expert_count(cfg.n_routed_experts)
    w.add_expert_used_count(cfg.n_experts_used)
    w.add_expert_shared_count(1)
    w.add_expert_feed_forward_length(cfg.moe_intermediate_size)
    w.add_expert_group_count(cfg.n_groups)
    w.add_expert_group_used_count(cfg.n_groups_used)
    w.add_expert_weights_scale(cfg.routed_scaling_factor)
    w.add_expert_weights_norm(True)
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)

    tok = json.load(open(tokenizer_path, encoding="utf-8"))
    texts = [""] * cfg.vocab_size
    kinds = [gguf.TokenType.NORMAL] * cfg.vocab_size
    for text, i in tok["model"]["vocab"].items():
        texts[i] = text
    for t in tok["added_tokens"]:
        texts[t["id"]] = t["content"]
        kinds[t["id"]] = gguf.TokenType.CONTROL if t["special"] else gguf.TokenType.USER_DEFINED
    ids = {t["content"]: t["id"] for t in tok["added_tokens"]}
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("deepseek-v3")
    w.add_token_list(texts)
    w.add_token_types([int(k) for k in kinds])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]])
    w.add_bos_token_id(ids[BOS])
    w.add_eos_token_id(ids[EOS])
    w.add_pad_token_id(ids[PAD])
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)
    w.add_bool("tandem.think_default", True)

    for name, a in arrays.items():
        t = tensor_type(name, a, kind)
        data = quantize_q4_k(a) if t == Type.Q4_K else gguf.quants.quantize(a, t)
        w.add_tensor(name, data, raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.replace(path + ".tmp", path)
    print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--shipped", help="path of the quantized file")
    a = p.parse_args()
    model, _ = load_model(a.checkpoint)
    with torch.no_grad():
        tensors = official_tensors(model)
    write_hf(os.path.join(a.out, "hf"), model.cfg, tensors, a.tokenizer)
    arrays = gguf_tensors(model.cfg, tensors)
    for kind in ("f32", "bf16"):
        write_gguf(os.path.join(a.out, f"demo-{kind}.gguf"), model.cfg, arrays, a.tokenizer, kind)
    if a.shipped:
        write_gguf(a.shipped, model.cfg, arrays, a.tokenizer, "shipped")


if __name__ == "__main__":
    main()
