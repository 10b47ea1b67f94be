"""A tiny random Qwen2 with a tokenizer, the server under test, and Hugging Face itself as the reference.

The contract (test_generation, test_controls) speaks HTTP only. ``launch`` is the one place that knows which server it
speaks to, so another server of the same interface can take the embedded one's place.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("aiohttp")

TEXT = ["Tom has 3 apples and buys 14 more. How many apples has he now?", "total <<3+14=17>>17\n#### 17", "ok stop now"]
EOS = 1


def save_model(folder: Path, seed: int, **config) -> str:
    """A random Qwen2 (2 layers, hidden 32) whose greedy answers do not loop at once; its eos id is EOS."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "pad_token_id": 0,
        "eos_token_id": EOS,
    }
    Qwen2ForCausalLM(Qwen2Config(**(settings | config))).save_pretrained(folder)
    return str(folder)


def save_tokenizer(folder: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>"}
    Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    """The model the server starts with."""
    path = save_model(tmp_path_factory.mktemp("model") / "first", seed=0)
    save_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory) -> str:
    """Other weights for the same model."""
    path = save_model(tmp_path_factory.mktemp("model") / "second", seed=1)
    save_tokenizer(path)
    return path


class Reference:
    """Hugging Face itself, one sequence at a time."""

    def __init__(self, path: str):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @torch.no_grad()
    def greedy(self, prompt: list[int], count: int, eos: bool = False) -> list[int]:
        out = self.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=EOS if eos else None,
        )
        return out[0, len(prompt) :].tolist()

    @torch.no_grad()
    def logprobs(self, prompt: list[int], answer: list[int], temperature: float = 1.0) -> list[float]:
        """Of each answer token, teacher-forced."""
        logits = self.model(torch.tensor([prompt + answer])).logits[0].float()
        table = torch.log_softmax(logits / temperature, -1)
        return [table[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer)]


@pytest.fixture(scope="session")
def reference(folder) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="session")
def other_reference(other_folder) -> Reference:
    return Reference(other_folder)


class Client:
    """SGLang's HTTP interface with the standard library."""

    def __init__(self, url: str):
        self.url = url
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.pool = ThreadPoolExecutor(80)

    def call(self, path: str, body: object = None, method: str | None = None, raw: bytes | None = None):
        """(status, JSON or text). A body means POST."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with self.opener.open(request, timeout=120) as response:
                status, content = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read().decode()
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content

    def generate(self, ids, **options):
        """The answer to a prompt; sampling parameters are told apart from the payload's own keys."""
        payload = {"input_ids": ids, "return_logprob": True}
        for key in ("text", "rid", "logprob_start_len", "top_logprobs_num", "return_logprob"):
            if key in options:
                payload[key] = options.pop(key)
        if "text" in payload:
            del payload["input_ids"]
        status, answer = self.call("/generate", payload | {"sampling_params": options})
        assert status == 200, answer
        return answer

    def later(self, ids, **options):
        return self.pool.submit(self.generate, ids, **options)


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """launch(folder) -> url of a server under test, ended with the session."""
    from areal_gsm8k.serve.process import ServerProcess

    running = []

    def start(path: str) -> str:
        log = tmp_path_factory.mktemp("server") / "server.log"
        running.append(ServerProcess.start(path, str(log), context_length=1024, max_running_requests=64))
        running[-1].wait_healthy(timeout=120)
        return running[-1].url

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def client(launch, folder) -> Client:
    return Client(launch(folder))


@pytest.fixture
def swappable(client, folder):
    """The client, for a test that changes weights or pauses: afterwards it generates with the first weights again."""
    yield client
    client.call("/abort_request", {"abort_all": True})
    client.call("/continue_generation", {})
    status, answer = client.call("/update_weights_from_disk", {"model_path": folder, "abort_all_requests": True})
    assert status == 200, answer


def output_ids(answer: dict) -> list[int]:
    return [token for _, token, _ in answer["meta_info"]["output_token_logprobs"]]


def output_logprobs(answer: dict) -> list[float]:
    return [logprob for logprob, _, _ in answer["meta_info"]["output_token_logprobs"]]
