"""Which version of the weights made each token of a completion.

AReaL marks the tokens of an answer with the version that counts when the answer is read (`agenerate` of
areal/infra/remote_inf_engine.py). An answer that a weight update cut short may be read after the trainer counted the
new version; its tokens would then pass for the new policy's, with a wrong staleness and a `logprob_gap` that no engine
made. Here the server's word counts: updates tell SGLang and the embedded server the version, and every answer names it
(`meta_info.weight_version`). An answer that names none of this run's (vLLM; a server that was just started) has the
version at which the request was made.
"""

from contextvars import ContextVar
from typing import Any

from areal.api import ModelRequest, ModelResponse, WeightUpdateMeta
from areal.engine.sglang_remote import HttpGenerationResult, HttpRequest, SGLangBackend, WeightUpdateRequests
from areal.engine.vllm_remote import VLLMBackend
from areal.infra.remote_inf_engine import RemoteInfEngine
from typing_extensions import override

_asked: ContextVar[int] = ContextVar("version at which the request under way was made")
_versions: ContextVar[list[int]] = ContextVar("versions of the completion's tokens so far")


class VersionedAnswers:
    """Mixin over AReaL's backends. `run` tells this run's versions from those of another on the same server."""

    def __init__(self, run: str):
        self.run = run

    def build_generation_request(self, req: ModelRequest, with_lora: bool, version: int) -> HttpRequest:
        _asked.set(version)
        areal: Any = super()
        return areal.build_generation_request(req, with_lora, version)

    def parse_generation_response(self, response: dict[str, Any]) -> HttpGenerationResult:
        areal: Any = super()
        result = areal.parse_generation_response(response)
        run, _, told = str(response.get("meta_info", {}).get("weight_version")).rpartition(":")
        version = int(told) if run == self.run else _asked.get()
        _versions.get().extend([version] * len(result.output_tokens))
        return result


class SGLangAnswers(VersionedAnswers, SGLangBackend):
    @override
    def build_disk_weight_update_requests(self, meta: WeightUpdateMeta) -> WeightUpdateRequests:
        updates = super().build_disk_weight_update_requests(meta)
        for request in updates.requests if meta.version is not None else ():
            request.payload["weight_version"] = f"{self.run}:{meta.version}"
        return updates


class VLLMAnswers(VersionedAnswers, VLLMBackend):
    pass


class VersionedClient(RemoteInfEngine):
    """AReaL's client over one of the backends above."""

    @override
    async def agenerate(self, req: ModelRequest) -> ModelResponse:
        _versions.set([])
        response = await super().agenerate(req)
        response.output_versions = _versions.get()
        return response
