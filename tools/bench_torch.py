"""The PyTorch side of tools/bench.py: a GPT-2, or a Mixtral of transformers, trained in the fastest honest form that PyTorch has on a CPU.

One process, driven over standard input: 'steps N' runs N steps and answers one line of JSON with their seconds and the process's peak memory.
After loading it runs one step by itself and says so ('first'), which is what start-to-first-step times.

Fused scaled-dot-product attention, fused AdamW, gradients set to None, no dropout, no clipping (Trilith's side does clip), loss and head inside
the compiled region, the shapes of GPT-2 with biases and tied embeddings. With --mixtral: transformers'
MixtralForCausalLM as it is, with its load-balance loss, its fused attention (sdpa) and one of its forms of the experts: eager (a loop over them)
or grouped_mm. --bf16: autocast, as PyTorch recommends it.

--ranks N: N processes over gloo on this machine, each with its part of the batch; this one is rank 0, starts the others, and tells them the steps.
--parallel: ddp (DistributedDataParallel, gradients as views of its buckets), zero1 (the same with ZeroRedundancyOptimizer) or fsdp (fully_shard, by block).
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, C, H):
        super().__init__()
        self.H = H
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc, self.out = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (z.view(B, T, self.H, C // self.H).transpose(1, 2) for z in self.qkv(self.ln_1(x)).split(C, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, V, L, H, C, positions):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(positions, C)
        self.blocks = nn.ModuleList(Block(C, H) for _ in range(L))
        self.ln_f = nn.LayerNorm(C)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


class Mixtral(nn.Module):
    def __init__(self, preset, experts):
        super().__init__()
        from bench import MIXTRAL
        from transformers import MixtralConfig, MixtralForCausalLM

        config = MixtralConfig(**MIXTRAL[preset], output_router_logits=True, use_cache=False)
        config._attn_implementation, config._experts_implementation = "sdpa", experts
        self.model = MixtralForCausalLM(config).float().train()
        assert self.model.config._experts_implementation == experts

    def forward(self, ids, targets):
        out = self.model(input_ids=ids)
        loss = F.cross_entropy(out.logits.view(-1, out.logits.shape[-1]), targets.view(-1))
        return loss + self.model.config.router_aux_loss_coef * out.aux_loss


def join_ranks(args):
    """Rank 0 starts the others, with its own arguments; all meet on loopback."""
    if args.rank == 0:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            args.port = s.getsockname()[1]
        for rank in range(1, args.ranks):
            subprocess.Popen([sys.executable, *sys.argv, "--rank", str(rank), "--port", str(args.port)], stdin=subprocess.DEVNULL)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{args.port}", rank=args.rank, world_size=args.ranks)


def share(model, parallel):
    if parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


def orders(args):
    """How many steps to run, until standard input ends: rank 0 reads, the others are told."""
    while True:
        line = sys.stdin.readline() if args.rank == 0 else ""
        steps = torch.tensor([int(line.split()[1]) if line.split() else 0])
        if args.ranks > 1:
            dist.broadcast(steps, 0)
        if steps.item() == 0:
            return
        yield steps.item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", help="V,L,H,C,positions of a GPT-2")
    parser.add_argument("--mixtral", help="a preset of bench.py")
    parser.add_argument("--experts", default="grouped_mm", choices=["eager", "grouped_mm"])
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seq", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--data", required=True, help="text; its bytes are the tokens, as in Trilith's bytes tokenizer")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16; weights and optimizer stay float32")
    parser.add_argument("--ranks", type=int, default=1, help="processes that share the batch")
    parser.add_argument("--parallel", default="ddp", choices=["ddp", "zero1", "fsdp"])
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ranks > 1:
        join_ranks(args)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with open(args.data, "rb") as f:
        data = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8)
    model = Mixtral(args.mixtral, args.experts) if args.mixtral else GPT(*map(int, args.shape.split(",")))
    if args.ranks > 1:
        model = share(model, args.parallel)
        torch.manual_seed(args.rank)  # other windows on each
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    if args.parallel == "zero1":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer = ZeroRedundancyOptimizer(groups, torch.optim.AdamW, lr=1e-4, betas=(0.9, 0.95), fused=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    forward = torch.compile(model) if args.compile else model

    def step():
        begin = time.perf_counter()
        at = torch.randint(len(data) - args.seq - 1, (args.batch // args.ranks,)).tolist()
        windows = torch.stack([data[i : i + args.seq + 1] for i in at]).long()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = forward(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        return time.perf_counter() - begin, value

    def answer(**fields):
        if args.rank:
            return
        print(json.dumps(dict(fields, peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)), flush=True)

    answer(first=step()[0])
    for steps in orders(args):
        answer(seconds=[step()[0] for _ in range(steps)])
    if args.ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
