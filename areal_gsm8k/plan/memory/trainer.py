"""Memory of one trainer rank at each moment of AReaL's FSDP training step; the peak is the largest moment, not the sum.

Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054, section 3) count weights, gradients and optimiser states; here their
sizes are those of AReaL's engine (areal/engine/fsdp_engine.py): weights stored in actor.optimizer_dtype, gathered layer
by layer in actor.dtype by FSDP2, gradients reduced in float32. The rest are the activations (activations.py) and
the logits, of packs a part at a time (packs.py), else all of them and everything AReaL makes of them (whole_logits.py).
`moments` lists the bytes alive at each moment; tests/plan/test_memory_training.py compares it with measured steps.
"""

from dataclasses import dataclass

from areal_gsm8k.plan.memory.activations import Activations
from areal_gsm8k.plan.memory.model_shape import ModelShape
from areal_gsm8k.plan.memory.packs import Pack
from areal_gsm8k.plan.memory.whole_logits import WholeLogits

BYTES = {"float32": 4, "fp32": 4, "bfloat16": 2, "bf16": 2, "float16": 2, "fp16": 2, "half": 2}
REDUCED = 4  # bytes of a gradient on its way: actor.grad_reduce_dtype, float32

Parts = dict[str, int]  # name of a part: its bytes, in the order in which the parts are shown


@dataclass(frozen=True)
class Trainer:
    """One rank. Sizes in bytes where not said otherwise."""

    shape: ModelShape
    tokens: int  # of the largest micro-batch
    several: bool  # more than one micro-batch an update
    element: int  # compute dtype
    stored: int  # dtype of the stored weights and gradients
    optimizer: str = "adam"  # adam, adam_bf16 or sgd
    checkpointing: bool = True
    attention: str = "sdpa"
    data: int = 1  # data-parallel ranks, over which FSDP shards
    tensor: int = 1
    reference: int = 0  # dtype of the stored reference policy; 0: there is none
    adapter: int = 0  # rank of LoRA; 0: all weights are trained
    compiled: bool = True  # torch.compile of AReaL's logprobs: everywhere but on CPU
    offload: bool = False  # actor.fsdp.offload_params: weights, gradients and states in the host's memory
    step_by_layer: bool = False  # actor.fsdp.per_layer_optim_step: the states there, a layer's at a time on the GPU
    load_sharded: bool = False  # actor.fsdp.memory_efficient_load
    pack: Pack | None = None  # the largest; none: AReaL's sequences, each whole, and their logits
    passes_before: bool = True  # forward passes before the update: pi_prox, reference policy

    @property
    def activations(self) -> Activations:
        return Activations(self.shape, self.tokens, self.element, self.attention, self.tensor, self.adapter, self.pack)

    @property
    def state_bytes(self) -> int:
        """Bytes of optimiser state a parameter: two moments, and for adam_bf16 a compensation (AnyPrecisionAdamW)."""
        return {"adam": 2 * self.stored, "adam_bf16": 6, "sgd": 0}[self.optimizer]

    @property
    def shards(self) -> int:
        return self.data * self.tensor

    @property
    def second_table(self) -> int:
        """AReaL's tensor parallelism makes two parameters of a tied embedding (parallel.py, apply_non_moe_tp)."""
        return self.shape.embedding_parameters if self.shape.tied and self.tensor > 1 else 0

    @property
    def parameters(self) -> int:
        adapters = self.shape.layers * self.shape.adapter_parameters(self.adapter)
        return self.shape.parameters + self.second_table + adapters

    @property
    def trained(self) -> int:
        return self.shape.layers * self.trained_layer if self.adapter else self.parameters

    @property
    def trained_layer(self) -> int:
        """Parameters of one decoder layer that get a gradient, before any sharding."""
        return self.shape.adapter_parameters(self.adapter) if self.adapter else self.shape.layer_parameters

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer on this tensor-parallel rank."""
        return (self.shape.layer_parameters + self.shape.adapter_parameters(self.adapter)) // self.tensor

    @property
    def root(self) -> int:
        """Parameters of FSDP's root group: embedding or output layer, and the last norm."""
        return (self.shape.root_parameters + self.second_table) // self.tensor

    @property
    def logits(self) -> WholeLogits:
        return WholeLogits(self.tokens, self.shape.vocab // self.tensor, self.element, self.compiled, self.tensor > 1)

    @property
    def resident(self) -> Parts:
        """Memory in use all the time from the second step on."""
        here = 0 if self.offload else 1
        return {
            "weights": self.parameters // self.shards * self.stored * here + self.shape.buffers,
            "optimizer": self.trained // self.shards * self.state_bytes * (0 if self.step_by_layer else here),
            "reference": self.shape.parameters // self.shards * self.reference,
        }

    @property
    def gradients(self) -> int:
        return 0 if self.offload else self.trained // self.shards * self.stored

    @property
    def host(self) -> int:
        """Bytes in the machine's memory instead of the GPU's."""
        states = self.trained * self.state_bytes if self.offload or self.step_by_layer else 0
        return (states + ((self.parameters + self.trained) * self.stored if self.offload else 0)) // self.shards

    @property
    def accumulates(self) -> bool:
        """On one data-parallel rank gradients of packs are reduced after the last micro-batch (training/actor.py)."""
        return bool(self.pack) and self.several and self.data == 1

    @property
    def before(self) -> int:
        """Gradients of earlier micro-batches: reduced, or as FSDP accumulates them, whole and in float32."""
        if self.accumulates:
            return self.trained // self.tensor * REDUCED
        return self.gradients if self.several else 0

    @property
    def head(self) -> int:
        """The gradient of the output layer before it is reduced."""
        return 0 if self.adapter else self.shape.embedding_parameters // self.tensor * self.element

    def moments(self) -> dict[str, Parts]:
        """Everything alive at each moment that can be the peak."""
        resident, activations = self.resident, self.activations
        moments = {"loading": self._loading()} | (self._of_pack() if self.pack else self._of_logits())
        forward = resident | {"gathered": self.root * self.element + self._layers_gathered + self._fetched_ahead}
        if self.passes_before:
            moments["forward pass without gradients"] = forward | {
                "gradients": self.gradients,
                "activations": activations.forward_only,
            }
        if self.checkpointing:
            moments["forward pass"] = forward | {
                "gradients": self.before,
                "activations": activations.forward_only + self.shape.layers * activations.hidden // self.tensor,
            }
        moments["optimizer step"] = resident | {"gradients": self.gradients, "working": self._step_working}
        for done in sorted({0, 1, self.shape.layers - 1}):  # linear in between
            if done < self.shape.layers:
                moments[f"gradient of layer {self.shape.layers - done}"] = self._layer_moment(done)
        return moments | self._end_of_backward()

    def _of_pack(self) -> dict[str, Parts]:
        """Moments at which logprobs of a pack are computed, and their gradient: logits a part at a time."""
        activations, gathered = self.activations, self.root * self.element
        kept, vocabulary = activations.kept(self.checkpointing), self.shape.vocab
        predicting = self.pack.predicted * self.shape.hidden * self.element
        forward, backward = (self.pack.logits(vocabulary, self.element, way) for way in (False, True))
        moments = {
            "output layer": self.resident
            | {"gradients": self.before, "gathered": gathered, "activations": kept, "logits": forward},
            "gradient of the output layer": self.resident
            | {"gradients": self.before + self.head, "gathered": gathered + self._fetched_ahead}
            | {"activations": kept + 2 * predicting, "logits": backward},
        }
        if self.passes_before:
            moments["logprobs before the update"] = (
                self.resident
                | {"gradients": self.gradients, "gathered": gathered}
                | {"activations": activations.shared + activations.hidden + predicting, "logits": forward}
            )
        return moments

    def _of_logits(self) -> dict[str, Parts]:
        """Moments at which all logits of AReaL's sequences are there."""
        resident, before, logits = self.resident, self.before, self.logits
        kept, gathered = self.activations.kept(self.checkpointing), self.root * self.element
        moments = {
            "output layer": resident
            | {"gradients": before, "gathered": gathered, "activations": kept}
            | {"logits": logits.size * (2 if self.several else 1)},
            "loss": resident | {"gradients": before, "activations": kept, "logits": logits.size + logits.loss},
            "gradient of the loss": resident
            | {"gradients": before, "activations": kept, "logits": logits.size + logits.loss_backward},
            "gradient of the output layer": resident
            | {"gradients": before + self.head, "gathered": gathered + self._fetched_ahead}
            | {"activations": kept + self.activations.hidden, "logits": 2 * logits.size},
        }
        if self.passes_before:
            moments["logprobs before the update"] = resident | {
                "gradients": self.gradients,
                "activations": self.activations.shared,
                "logits": logits.size + logits.logprobs_only,
            }
        return moments

    def peak(self) -> tuple[str, Parts]:
        """The moment at which most is alive, and the parts alive then."""
        moments = self.moments()
        name = max(moments, key=lambda moment: sum(moments[moment].values()))
        return name, moments[name]

    @property
    def _fetched_ahead(self) -> int:
        """With several ranks FSDP gathers the next layer while one is at work; in the forward pass the last one's
        buffer is still there as well.
        """
        return self.layer * self.element if self.data > 1 else 0

    @property
    def _layers_gathered(self) -> int:
        return self.layer * self.element + self._fetched_ahead

    def _loading(self) -> Parts:
        """AReaL loads the whole model on every rank before it shards, the reference policy after the actor."""
        own = 0 if self.offload else self.resident["weights"]
        if self.load_sharded:
            return {"weights": own, "reference": self.resident["reference"]}
        actor = self.shape.parameters * self.stored + self.shape.buffers
        reference = self.shape.parameters * self.reference
        return {"weights": actor} if actor >= own + reference else {"weights": own, "reference": reference}

    def _layer_moment(self, done: int) -> Parts:
        """Backward pass of one layer, after `done` others: the last one's gradients are still being reduced."""
        trained = self.trained_layer // self.tensor
        reduced = done * trained * self.stored // self.data * (not self.offload)
        own = self.before - done * trained * REDUCED + reduced if self.accumulates else self.before or reduced
        reducing = trained * REDUCED if done else 0
        down = 0 if self.adapter else self.shape.hidden * self.shape.intermediate // self.tensor * self.element
        return self.resident | {
            "gradients": own + self.head,
            "gathered": self.root * self.element + self._layers_gathered,
            "activations": self.activations.layer_backward(self.checkpointing, self.shape.layers - done),
            "logits": 0 if self.pack else self.logits.size,
            "working": reducing + down,
        }

    def _end_of_backward(self) -> dict[str, Parts]:
        """The embedding's gradient beside the output layer's; untied it is reduced by itself; then the root group."""
        trained, head = self.trained_layer // self.tensor, self.head
        layers = self.shape.layers * trained
        accumulated = self.before - layers * REDUCED if self.accumulates else 0  # the root group's and the embedding's
        common = self.resident | {
            "activations": self.activations.shared,
            "logits": 0 if self.pack else self.logits.size,
        }
        kept = self.gradients if self.several and not self.accumulates else layers * self.stored // self.data
        own = 0 if self.offload else kept
        reduced = 0 if self.adapter else self.root * REDUCED
        last = trained * REDUCED  # the input of the first layer's reduction
        own_group = 0 if self.adapter or self.shape.tied else self.shape.embedding_parameters // self.tensor * REDUCED
        gathered = self.root * self.element
        return {
            "gradient of the embedding": common
            | {"gradients": own + accumulated + 2 * head, "gathered": gathered}
            | {"working": last + own_group + self.activations.hidden},
            "reduction of the gradients": common
            | {"gradients": own, "working": max(head + reduced, reduced + reduced // self.data)},
        }

    @property
    def _step_working(self) -> int:
        """Clipping multiplies one gradient out of place; adam_bf16 needs three copies of one parameter; a step by layer
        holds two layers' weights, gradients and states at a time.
        """
        largest = (self.trained_layer if self.adapter else self.shape.embedding_parameters) // self.shards
        copies = max(self.stored, 2 * 2 + self.stored if self.optimizer == "adam_bf16" else 0)
        if self.step_by_layer:
            return max(largest * copies, 2 * max(self.layer // self.data, largest) * self.state_bytes)
        return 0 if self.offload else largest * copies
