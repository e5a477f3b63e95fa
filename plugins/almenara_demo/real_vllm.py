"""A real vLLM server with a tiny model of random weights, and the requests to it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx

from almenara_demo.processes import find_free_ports, locate, run_process

NAME: Final = "tiny"
CONCURRENCY: Final = 6
PAUSE: Final = 1.0
LOAD_LIMIT: Final = 120.0
MAKE_MODEL: Final = """
import sys
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = sys.argv[1]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=400, special_tokens=["<s>", "</s>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
)
tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 50, trainer)
PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
).save_pretrained(folder)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, head_dim=64,
    bos_token_id=0, eos_token_id=1,
)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
"""
"""Runs in the environment of vLLM: a model of 2 layers whose answers have no meaning."""


@contextlib.asynccontextmanager
async def run_real_vllm(program: Path, folder: Path, seed: int) -> AsyncIterator[dict[str, Any]]:
    """Run `vllm serve` with a tiny model; yields its settings for the vLLM plugin.

    The server takes a minute to load, during which it is shown as unreachable.
    """
    (port,) = find_free_ports(1)
    model = locate(folder, "vllm-model")
    python = program.with_name("python")
    script = (
        f'test -e "{model}/config.json" || "{python}" -c "$0" "{model}" || exit 1;'
        f' exec "{program}" serve "{model}" --served-model-name {NAME} --host 127.0.0.1'
        f" --port {port} --max-model-len 1024 --max-num-seqs 4"
    )
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    url = f"http://127.0.0.1:{port}"
    command = ["env", *(f"{name}={value}" for name, value in environment.items())]
    async with run_process("vllm", folder, [*command, "sh", "-c", script, MAKE_MODEL]):
        tasks = [
            asyncio.create_task(send_requests(url, seed + number), name=f"requests {number}")
            for number in range(CONCURRENCY)
        ]
        try:
            yield {"name": "chat", "url": url}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def send_requests(url: str, seed: int) -> None:
    """Send requests one after another; errors, as before the server is up, are retried."""
    chosen = random.Random(seed)  # nosec B311 # simulates load
    async with httpx.AsyncClient(timeout=LOAD_LIMIT) as client:
        while True:
            body = {
                "model": NAME, "max_tokens": chosen.randint(20, 200), "ignore_eos": True,
                "prompt": "the quick brown fox jumps over the lazy dog " * chosen.randint(1, 30),
            }  # fmt: skip
            with contextlib.suppress(httpx.HTTPError):
                await client.post(f"{url}/v1/completions", json=body)
            await asyncio.sleep(PAUSE * chosen.random())
