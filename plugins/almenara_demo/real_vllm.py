"""A real vLLM server with a tiny model of random weights, and the requests to it."""

import asyncio
import contextlib
import os
import random
from asyncio.subprocess import Process
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


ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip


@contextlib.asynccontextmanager
async def run_real_vllm(
    python: Path, folder: Path, seed: int
) -> AsyncIterator[tuple[dict[str, Any], Process]]:
    """Run vLLM with a tiny model, by the Python that it is installed for; yields its settings for
    the vLLM plugin, and the process.

    The server takes a minute to load, during which it is shown as unreachable.
    """
    (port,) = find_free_ports(1)
    command = make_command(python, locate(folder, "vllm-model"), port)
    url = f"http://127.0.0.1:{port}"
    async with run_process("vllm", folder, command, {**os.environ, **ENVIRONMENT}) as process:
        tasks = [
            asyncio.create_task(send_requests(url, seed + number), name=f"requests {number}")
            for number in range(CONCURRENCY)
        ]
        try:
            yield {"name": "chat", "url": url}, process
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def make_command(python: Path, model: Path, port: int) -> list[str]:
    """The command that makes the model in its folder unless it exists, and serves it.

    Not the program `vllm`: it looks for a distribution of this name, and that for CPUs has another.
    """
    python = python.absolute()
    script = (
        f'test -e "{model}/config.json" || "{python}" -c "$0" "{model}" || exit 1;'
        f' exec "{python}" -m vllm.entrypoints.openai.api_server --model "{model}"'
        f" --served-model-name {NAME} --host 127.0.0.1 --port {port} --max-model-len 1024"
        " --max-num-seqs 4 --enable-server-load-tracking --enforce-eager"
    )
    return ["sh", "-c", script, MAKE_MODEL]


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
