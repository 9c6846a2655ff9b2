"""A training step on fake CUDA tensors, without a GPU: no synchronisation, no other device.

Fake tensors have a shape and a device but no numbers. Reading one on the host, or mixing tensors of
CPU and GPU, raises; and operators can be counted, each of which is a launch or at least a call on
the host.

Autograd asks the CUDA driver for a stream, so that the backward pass is counted on real, small
tensors of the CPU.
"""

from __future__ import annotations

import pytest
import torch
from conftest import needs_new_torch
from operators import Operators
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from reco.config import load_config
from reco.precision import autocast
from reco.runs.build_networks import build_network, build_teacher
from reco.training.build import build_objective, build_views
from reco.training.log_figures import Meter, RelationMeter
from reco.training.optimisation import build_optimizer, optimizer_step

pytestmark = needs_new_torch  # torch 2.6 asks the driver for a stream in the forward pass too

CLASSES = 11
BOUNDS = {"forward": 1380, "update": 30, "backward": 600}


class WaitingCopyError(RuntimeError):
    """A copy to the GPU for which the host waits."""


class FakeGpu(FakeTensorMode):
    """Fake tensors of the CPU can be read, as on the host of a GPU: their numbers are 0.

    A copy to the GPU that waits is refused, unless ``copies_may_wait``, as while a run is built.
    """

    copies_may_wait = True

    def dispatch(self, func, types, args=(), kwargs=None):
        aten, kwargs = torch.ops.aten, kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].fake_device.type == "cpu":
            return args[0].dtype.is_floating_point and 0.0
        if func is aten._to_copy.default and args[0].device.type == "cpu":
            moves = kwargs.get("device", args[0].device) != args[0].device
            if moves and not kwargs.get("non_blocking") and not self.copies_may_wait:
                raise WaitingCopyError
        return super().dispatch(func, types, args, kwargs)

    def __deepcopy__(self, memo):
        return self  # a copied tensor stays in the same mode


class Step:
    """The parts of a step on ``device``, and one batch.

    Args:
        config: as :func:`reco.config.load_config` gives it.
        device: ``cuda`` within :class:`FakeGpu`, or ``cpu``.
    """

    def __init__(self, config, device):
        device = torch.device(device)
        with device:
            self.student = build_network(config, CLASSES, pretrained=False)
        for module in self.student.modules():  # `to` fails with fake tensors
            for name, weights in module.named_parameters(recurse=False):
                if weights.ndim == 4:
                    weights = weights.detach().contiguous(memory_format=torch.channels_last)
                    module.register_parameter(name, torch.nn.Parameter(weights))
        self.teacher = build_teacher(config, self.student)
        self.optimizer = build_optimizer(self.student, config.train)
        self.autocast = autocast("fp32", device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=False)
        self.views, self.objective = build_views(config, self.student), build_objective(config)
        self.meter, self.relations = Meter(device), RelationMeter()
        height, width = config.dataset.crop_size
        labels = torch.arange(width, dtype=torch.uint8, device=device) % CLASSES
        self.labelled, self.unlabelled = (
            (
                torch.zeros(size, 3, height, width, dtype=torch.uint8, device=device),
                labels.expand(size, height, width).contiguous(),
            )
            for size in (config.train.labelled_batch_size, config.train.unlabelled_batch_size)
        )

    def forward(self):
        """Teacher, views, mixing, student and Eq. 5."""
        images, labels = self.unlabelled
        with self.autocast:
            labelled = self.views.labelled(*self.labelled)
            inside = labels == 0
            view = self.views.unlabelled(self.teacher, images, labels, inside, labels)
            return self.objective(self.student, labelled, view)

    def update(self, losses, statistics):
        """Optimiser, teacher and statistics; the gradients may be those of `pretend_gradients`."""
        if optimizer_step(self.optimizer, self.scaler):
            self.teacher.update(self.student)
        self.meter.add([(losses, statistics)])
        self.relations.add(statistics.reco)

    def pretend_gradients(self):
        for weights in self.student.parameters():
            weights.grad = torch.empty_like(weights)


def count(batch: int) -> dict[str, int]:
    """Operators of a step by part; the second update counts, since the first one makes momenta."""
    sizes = [f"train.{which}_batch_size={batch}" for which in ("labelled", "unlabelled")]
    overrides = [*sizes, "dataset.scale_range=[0.5,1.5]"]
    found = {}
    with FakeGpu() as fake_gpu:
        step = Step(load_config("camvid_5shot.yaml", overrides), "cuda")
        fake_gpu.copies_may_wait = False
        with Operators() as operators:
            results = step.forward()
        found["forward"] = operators.calls.total()
        for _ in range(2):
            step.pretend_gradients()
            with Operators() as operators:
                step.update(*results)
            found["update"] = operators.calls.total()
    small = load_config("camvid_5shot.yaml", [*overrides, "dataset.crop_size=[32,32]"])
    losses, _ = Step(small, "cpu").forward()
    with Operators() as operators:
        losses.total.backward()
    return found | {"backward": operators.calls.total()}


@pytest.mark.parametrize("batch", [2, 10])
def test_operators_of_a_step(batch):
    """The bounds are a tenth above what there is: a loop over images or classes breaks them."""
    found = count(batch)
    assert all(found[part] <= bound for part, bound in BOUNDS.items()), found


@pytest.mark.parametrize(
    ("misstep", "error"),
    [
        (lambda tensor: tensor.sum().item(), DataDependentOutputException),
        (lambda tensor: tensor.tolist(), DataDependentOutputException),
        (lambda tensor: bool(tensor.any()), DataDependentOutputException),
        (lambda tensor: tensor[tensor > 0], DynamicOutputShapeException),
        (lambda tensor: tensor + torch.ones(3), RuntimeError),
        (lambda tensor: tensor + torch.tensor([1.0, 2.0, 3.0], device="cuda"), WaitingCopyError),
        (lambda tensor: tensor + torch.ones(3).to("cuda"), WaitingCopyError),
    ],
)
def test_missteps_raise(misstep, error):
    with FakeGpu() as fake_gpu:
        fake_gpu.copies_may_wait = False
        with pytest.raises(error):
            misstep(torch.empty(3, device="cuda"))


def test_the_host_may_read_tensors_of_the_cpu():
    with FakeGpu() as fake_gpu:
        fake_gpu.copies_may_wait = False
        assert torch.rand(3).tolist() == [0, 0, 0]
        assert int(torch.randint(24, ())) == 0
        assert torch.rand(3).to("cuda", non_blocking=True).device.type == "cuda"
