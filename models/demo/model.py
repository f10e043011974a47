"""DeepSeek-V3 in PyTorch, small and complete: MLA, routed and shared experts, one MTP block.

Shapes: B sequences, T tokens each, N = B*T. Matrices are [out, in]. The same code trains (no cache) and
decodes (`cache` holds per block the latent and k_rope of every position, as the papers describe).
"""
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    vocab_size: int = 2048
    hidden_size: int = 256
    n_layers: int = 4                 # main layers; the MTP block is one more
    n_dense_layers: int = 1
    intermediate_size: int = 768      # dense FFN
    n_heads: int = 4
    qk_nope_dim: int = 64
    qk_rope_dim: int = 32
    v_head_dim: int = 64
    q_lora_rank: int = 256
    kv_lora_rank: int = 256
    n_routed_experts: int = 8
    n_experts_used: int = 2
    n_groups: int = 4
    n_groups_used: int = 2
    moe_intermediate_size: int = 256  # each routed expert, and the one shared expert
    routed_scaling_factor: float = 1.5
    rms_eps: float = 1e-6
    rope_base: float = 10000.0
    context_length: int = 2048

    as_dict = asdict


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


def linear(n_in, n_out):
    layer = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(layer.weight, std=0.5 * n_in ** -0.5)
    return layer


def rope_table(cfg, n_pos):
    freq = cfg.rope_base ** (-torch.arange(0, cfg.qk_rope_dim, 2, dtype=torch.float64) / cfg.qk_rope_dim)
    angle = torch.arange(n_pos, dtype=torch.float64)[:, None] * freq
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """RoPE on interleaved pairs (2i, 2i+1). x [B, T, H, rope]; cos, sin [B or 1, T, 1, rope/2]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Multi-head latent attention. Naive form: keys and values of every head are expanded from the latent.
    Decoding one token uses the absorbed form, which compares with the latents themselves."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_a_proj = linear(c.hidden_size, c.q_lora_rank)
        self.q_a_layernorm = RMSNorm(c.q_lora_rank, c.rms_eps)
        self.q_b_proj = linear(c.q_lora_rank, c.n_heads * (c.qk_nope_dim + c.qk_rope_dim))
        self.kv_a_proj_with_mqa = linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_dim)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, c.rms_eps)
        self.kv_b_proj = linear(c.kv_lora_rank, c.n_heads * (c.qk_nope_dim + c.v_head_dim))
        self.o_proj = linear(c.n_heads * c.v_head_dim, c.hidden_size)

    def forward(self, x, cos, sin, cache=None, pos=None):
        c, (B, T, _) = self.c, x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(B, T, c.n_heads, -1)
        q_nope, q_rope = q.split((c.qk_nope_dim, c.qk_rope_dim), -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((c.kv_lora_rank, c.qk_rope_dim), -1)
        latent = self.kv_a_layernorm(latent)
        q = torch.cat((q_nope, rotate(q_rope, cos, sin)), -1).transpose(1, 2)
        k_rope = rotate(k_rope.unsqueeze(2), cos, sin)
        mask = None
        if cache is not None:                       # cache [B, n_pos, latent + k_rope]
            rows = torch.arange(B, device=x.device)[:, None]
            cache[rows, pos] = torch.cat((latent, k_rope[:, :, 0]), -1).to(cache.dtype)
            latent, k_rope = cache.split((c.kv_lora_rank, c.qk_rope_dim), -1)
            k_rope = k_rope.unsqueeze(2)
            mask = (torch.arange(cache.shape[1], device=x.device) <= pos[:, :, None]).unsqueeze(1)
            if T == 1:
                return self.o_proj(self.absorbed(q[:, :, 0], latent, k_rope[:, :, 0], mask[:, :, 0]).reshape(B, 1, -1))
        k_nope, v = self.kv_b_proj(latent).view(B, -1, c.n_heads, c.qk_nope_dim + c.v_head_dim).split((c.qk_nope_dim, c.v_head_dim), -1)
        k = torch.cat((k_nope, k_rope.to(k_nope.dtype).expand(-1, -1, c.n_heads, -1)), -1).transpose(1, 2)
        v = F.pad(v, (0, q.shape[-1] - c.v_head_dim)).transpose(1, 2)   # equal widths let the fused kernel run
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(out[..., :c.v_head_dim].transpose(1, 2).reshape(B, T, -1))


    def absorbed(self, q, latent, k_rope, mask):
        """q [B, H, nope + rope]; latent, k_rope [B, n_pos, ...]; mask [B, 1, n_pos] -> [B, H, v]"""
        c = self.c
        kv_b = self.kv_b_proj.weight.view(c.n_heads, -1, c.kv_lora_rank)
        q_nope, q_rope = q.split((c.qk_nope_dim, c.qk_rope_dim), -1)
        q_latent = torch.einsum("bhn,hnr->bhr", q_nope, kv_b[:, :c.qk_nope_dim])
        scores = (q_latent @ latent.mT + q_rope @ k_rope.mT) * q.shape[-1] ** -0.5
        seen = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ latent
        return torch.einsum("bhr,hvr->bhv", seen, kv_b[:, c.qk_nope_dim:])


class FFN(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.gate_proj = linear(hidden, width)
        self.up_proj = linear(hidden, width)
        self.down_proj = linear(width, hidden)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def expert(x, gate, up, down):
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def combine(routed, weights, shared):
    return (routed.float() * weights.unsqueeze(-1)).sum(1) + shared


class Permute(torch.autograd.Function):
    """rows x[source]; every row of x is used `repeat` times, so the gradient is a gather as well."""

    @staticmethod
    def forward(ctx, x, source, back, repeat):
        ctx.save_for_backward(back)
        ctx.repeat = repeat
        return x.index_select(0, source)

    @staticmethod
    def backward(ctx, grad):
        back, = ctx.saved_tensors
        grad = grad.index_select(0, back)
        return (grad.view(-1, ctx.repeat, grad.shape[-1]).sum(1) if ctx.repeat > 1 else grad), None, None, None


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        E, D, W = c.n_routed_experts, c.hidden_size, c.moe_intermediate_size
        self.router = nn.Parameter(torch.randn(E, D) * D ** -0.5)
        self.register_buffer("router_bias", torch.zeros(E))          # selection only; exp_probs_b in GGUF
        self.gate = nn.Parameter(torch.randn(E, W, D) * 0.5 * D ** -0.5)
        self.up = nn.Parameter(torch.randn(E, W, D) * 0.5 * D ** -0.5)
        self.down = nn.Parameter(torch.randn(E, D, W) * 0.5 * W ** -0.5)
        self.shared = FFN(D, W)
        self.load = torch.zeros(E)                                    # tokens per expert in the last call
        self.total_load = None                                        # or a running sum, when someone sets it

    def route(self, x):
        """Top-k experts of each token: sigmoid scores, bias and groups for the choice, unbiased weights."""
        c = self.c
        with torch.autocast(x.device.type, enabled=False):
            scores = torch.sigmoid(x.float() @ self.router.T)
        with torch.no_grad():
            choice = scores + self.router_bias
            groups = choice.view(-1, c.n_groups, c.n_routed_experts // c.n_groups)
            best = groups.topk(2, -1).values.sum(-1).topk(c.n_groups_used, -1).indices
            keep = torch.zeros(groups.shape[:2], dtype=torch.bool, device=x.device).scatter_(1, best, True)
            choice = groups.masked_fill(~keep[..., None], float("-inf")).flatten(1)
            experts = choice.topk(c.n_experts_used, -1).indices
        weights = scores.gather(1, experts)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * c.routed_scaling_factor
        return experts, weights

    def forward(self, x):
        shape, c = x.shape, self.c
        x = x.reshape(-1, shape[-1])
        experts, weights = self.route(x)
        K = c.n_experts_used
        order = experts.flatten().argsort(stable=True)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        counts = torch.bincount(experts.flatten(), minlength=c.n_routed_experts)
        self.load = counts.float()
        if self.total_load is not None:
            self.total_load += self.load.cpu()
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        rows = Permute.apply(x.to(dtype), order // K, back, K)
        out = []
        for e, part in enumerate(rows.split(counts.tolist())):
            out.append(expert(part, self.gate[e], self.up[e], self.down[e]))
        routed = Permute.apply(torch.cat(out), back, order, 1).view(-1, K, shape[-1])
        return combine(routed, weights, self.shared(x)).view(shape)


class Block(nn.Module):
    def __init__(self, c, dense):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_eps)
        self.mlp = FFN(c.hidden_size, c.intermediate_size) if dense else MoE(c)

    def forward(self, hidden, cos, sin, cache=None, pos=None):
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin, cache, pos)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class MTP(nn.Module):
    """Predicts the token after next from the final hidden state and the embedding of the next token."""

    def __init__(self, c):
        super().__init__()
        self.enorm = RMSNorm(c.hidden_size, c.rms_eps)
        self.hnorm = RMSNorm(c.hidden_size, c.rms_eps)
        self.eh_proj = linear(2 * c.hidden_size, c.hidden_size)
        self.block = Block(c, dense=False)
        self.head_norm = RMSNorm(c.hidden_size, c.rms_eps)

    def forward(self, hidden, next_embedding, cos, sin, cache=None, pos=None):
        hidden = self.eh_proj(torch.cat((self.enorm(next_embedding), self.hnorm(hidden)), -1))   # embedding half first
        return self.head_norm(self.block(hidden, cos, sin, cache, pos))


class Model(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.vocab_size, cfg.hidden_size)
        nn.init.normal_(self.embed.weight, std=0.5)
        self.blocks = nn.ModuleList(Block(cfg, i < cfg.n_dense_layers) for i in range(cfg.n_layers))
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_eps)
        self.head = linear(cfg.hidden_size, cfg.vocab_size)
        self.mtp = MTP(cfg)
        for block in [*self.blocks, self.mtp.block]:
            nn.init.zeros_(block.self_attn.o_proj.weight)
        cos, sin = rope_table(cfg, cfg.context_length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def moe_layers(self):
        return [b.mlp for b in [*self.blocks, self.mtp.block] if isinstance(b.mlp, MoE)]

    def angles(self, pos):
        return self.cos[pos].unsqueeze(2), self.sin[pos].unsqueeze(2)

    def new_cache(self, B, n_pos, device="cpu"):
        width = self.cfg.kv_lora_rank + self.cfg.qk_rope_dim
        return [torch.zeros(B, n_pos, width, device=device) for _ in range(self.cfg.n_layers + 1)]

    def hidden(self, tokens, cache=None, pos=None):
        """The state after the final norm, which feeds the head and the MTP block. [B, T, hidden]"""
        if pos is None:
            pos = torch.arange(tokens.shape[1], device=tokens.device)[None]
        cos, sin = self.angles(pos)
        h = self.embed(tokens)
        for i, block in enumerate(self.blocks):
            h = block(h, cos, sin, cache[i] if cache else None, pos)
        return self.norm(h)

    def mtp_hidden(self, hidden, next_tokens, cache=None, pos=None):
        if pos is None:
            pos = torch.arange(next_tokens.shape[1], device=next_tokens.device)[None]
        return self.mtp(hidden, self.embed(next_tokens), *self.angles(pos), cache[-1] if cache else None, pos)
