"""Mean Teacher against the moving average written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from reco.config import ConfigError
from reco.method.teacher import MeanTeacher
from reco.models.network import SegmentationOutput
from reco.runs.build_networks import build_teacher


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.classifier = nn.Conv2d(8, 5, 1)

    def forward(self, images):
        logits = self.classifier(self.body(images))
        return SegmentationOutput(logits, None)


def step(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)


def test_five_updates_by_hand_with_buffers():
    torch.manual_seed(0)
    student = Network()
    teacher = MeanTeacher(student, decay=0.7)
    expected = copy.deepcopy(dict(student.named_parameters()))
    norm = copy.deepcopy(student.body[1])
    for t in range(5):
        images = torch.randn(2, 3, 16, 16)
        teacher.pseudo_label(images)
        # The input of the teacher's batch norm comes from its weights before the update.
        conv = teacher.network.body[0]
        norm.train()(conv(images))
        step(student, t)
        student.train()(torch.randn(2, 3, 16, 16))  # moves the student's running statistics
        teacher.update(student)
        decay = min(1 - 1 / (t + 1), 0.7)
        for name, parameter in student.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter
    for name, parameter in teacher.network.named_parameters():
        torch.testing.assert_close(parameter, expected[name], msg=name)
    buffers = dict(teacher.network.body[1].named_buffers())
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, msg=name)
    assert not torch.equal(buffers["running_mean"], student.body[1].running_mean)


def test_first_update_copies():
    student = Network()
    teacher = MeanTeacher(student)
    step(student, 0)
    teacher.update(student)
    for parameter, student_parameter in zip(
        teacher.network.parameters(), student.parameters(), strict=True
    ):
        assert torch.equal(parameter, student_parameter)
        assert parameter is not student_parameter


def test_only_batch_norm_trains():
    teacher = MeanTeacher(Network())
    modes = {name: module.training for name, module in teacher.network.named_modules()}
    assert modes == {name: name == "body.1" for name in modes}
    assert not any(module.training for module in teacher.eval().network.modules())
    assert teacher.train().network.body[1].training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_eval_mode_teacher_follows_the_students_statistics():
    student = Network()
    teacher = MeanTeacher(student, batch_statistics=False)
    student.train()(torch.randn(4, 3, 16, 16) + 3)
    teacher.update(student)
    assert not teacher.network.body[1].training
    assert torch.equal(teacher.network.body[1].running_mean, student.body[1].running_mean)


def test_averaged_buffers_by_hand():
    torch.manual_seed(0)
    student = Network()
    teacher = MeanTeacher(student, decay=0.7, batch_statistics=False, average_buffers=True)
    expected = copy.deepcopy(dict(student.named_buffers()))
    for t in range(5):
        teacher.pseudo_label(torch.randn(2, 3, 16, 16))  # moves nothing
        student.train()(torch.randn(4, 3, 16, 16) + t)
        teacher.update(student)
        decay = min(1 - 1 / (t + 1), 0.7)
        for name, buffer in student.named_buffers():
            if name.endswith("num_batches_tracked"):
                expected[name] = buffer.clone()
            else:
                expected[name] = decay * expected[name] + (1 - decay) * buffer
    for name, buffer in teacher.network.named_buffers():
        torch.testing.assert_close(buffer, expected[name], msg=name)
    running_mean = teacher.network.body[1].running_mean
    assert not torch.allclose(running_mean, student.body[1].running_mean)


def test_averaged_buffers_need_a_teacher_in_eval_mode(tiny):
    with pytest.raises(ValueError, match="average_buffers=True: expected batch_statistics=False"):
        MeanTeacher(Network(), average_buffers=True)
    with pytest.raises(ConfigError, match=r"method\.teacher_buffers = 'averaged': expected copied"):
        tiny("method.teacher_buffers=averaged")
    config = tiny("method.teacher_buffers=averaged", "method.teacher_mode=eval")
    assert build_teacher(config, Network()).average_buffers


def test_pseudo_labels_are_the_most_probable_class():
    torch.manual_seed(1)
    teacher = MeanTeacher(Network())
    images = torch.randn(2, 3, 32, 40)
    labels, confidence = teacher(images)
    logits = nn.functional.interpolate(
        teacher.network(images).logits, (32, 40), mode="bilinear", align_corners=False
    )
    for b, y, x in [(0, 0, 0), (1, 31, 39), (0, 17, 5)]:
        probabilities = torch.softmax(logits[b, :, y, x], 0)
        assert labels[b, y, x] == probabilities.argmax()
        torch.testing.assert_close(confidence[b, y, x], probabilities.max())
    assert not confidence.requires_grad
    assert not confidence.is_inference()  # it enters a loss


def test_state_restores_the_decay():
    student = Network()
    teacher = MeanTeacher(student)
    for _ in range(3):
        teacher.update(student)
    other = MeanTeacher(Network())
    other.load_state_dict(teacher.state_dict())
    assert other.updates == 3


def test_decay_is_checked():
    with pytest.raises(ValueError, match=r"decay = 1\.0"):
        MeanTeacher(Network(), decay=1.0)


def test_what_a_network_of_ones_own_may_return():
    class Heads(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.body, self.wrap = nn.Conv2d(3, 5, 1), wrap

        def forward(self, images):
            return self.wrap(self.body(images))

    images = torch.rand(1, 3, 4, 4)
    for wrap in (lambda logits: logits, lambda logits: SegmentationOutput(logits, None)):
        labels, _ = MeanTeacher(Heads(wrap)).pseudo_label(images)
        assert labels.shape == (1, 4, 4)
    with pytest.raises(TypeError, match=r"returned a tuple: expected logits .* field `logits`"):
        MeanTeacher(Heads(lambda logits: (logits, logits))).pseudo_label(images)
