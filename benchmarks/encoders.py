"""Try a member of each of timm's families: build, train one step, export, read again.

    python benchmarks/encoders.py
    python benchmarks/encoders.py --families swin_transformer eva --output /tmp/encoders.csv

Weights are random, images odd in size. Families that :data:`reco.models.encoders.TIMM_FAMILIES`
lacks are tried as each kind, so that a new one that works is noticed. The table goes to
docs/encoders.csv, where rows of other families stay; exit code 1 where it does not agree with that
list.
"""

from __future__ import annotations

import argparse
import csv
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, get_args

import timm
import torch
import torch.nn.functional as F
from tqdm import tqdm

from reco.inference.export import Deployable, trace
from reco.models import encoders
from reco.models.network import SegmentationNetwork
from reco.writing import write_table

# The smallest of each family, where the first in the alphabet is not.
_MEMBERS = {
    "beit": "beit_base_patch16_224",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_lite_tiny",
    "convit": "convit_tiny",
    "convnext": "test_convnext",
    "cpubone": "cpubone_t0",
    "crossvit": "crossvit_tiny_240",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "dla": "dla46_c",
    "edgenext": "edgenext_xx_small",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "mambaout": "test_mambaout",
    "maxxvit": "test_maxvit",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "mixer_s32_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repvit": "repvit_m0_9",
    "resnet": "test_resnet",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "sknet": "skresnet18",
    "starnet": "starnet_s1",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tnt": "tnt_s_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vitamin": "vitamin_small_224",
    "vovnet": "ese_vovnet19b_slim",
    "xcit": "xcit_nano_12_p16_224",
}
_MOST_SECONDS = 60  # processor time for training, and again for the export
_STEP_SIZE = (97, 131)
_EXPORTED_AT = ((97, 131), (160, 224))  # the second differs from the traced size


class Trial(NamedTuple):
    """The result for a member of a family."""

    family: str
    member: str
    kind: str
    strides: str  # of the maps that the decoder gets
    million_parameters: str  # of the encoder
    trains: str  # "yes", or the error
    exports: str  # likewise, to a .pt2 for all sizes
    agreement: str  # share of pixels with one label before and after export, at two sizes
    timm: str = timm.__version__


def try_family(family: str) -> Trial:
    """One row of the table; a family that is not listed is tried as each kind."""
    member = _MEMBERS.get(family) or timm.list_models(module=family)[0]
    listed = encoders.TIMM_FAMILIES.get(family)
    for kind in [listed] if listed else get_args(encoders.Kind):
        encoders.TIMM_FAMILIES[family] = kind
        trial = _try_member(Trial(family, member, kind, "", "", "", "", ""))
        if trial.trains == "yes":
            break
    if listed is None:
        del encoders.TIMM_FAMILIES[family]
    return trial


def _try_member(trial: Trial) -> Trial:
    torch.manual_seed(0)
    try:
        with _limited():
            network = _train(trial.member)
    except Exception as error:  # any error goes to the table
        return trial._replace(trains=_reason(error))
    trial = trial._replace(
        strides=" ".join(map(str, network.encoder.strides)),
        million_parameters=f"{sum(p.numel() for p in network.encoder.parameters()) / 1e6:.1f}",
        trains="yes",
    )
    try:
        with _limited():
            agreement = _export(network)
    except Exception as error:
        return trial._replace(exports=_reason(error))
    same = "yes" if agreement > 0.999 else "the exported network differs"
    return trial._replace(exports=same, agreement=f"{agreement:.4f}")


def _train(member: str) -> SegmentationNetwork:
    network = SegmentationNetwork(
        3, backbone=f"timm/{member}", weights="none", representation_dim=8, channels=16
    )
    if network.encoder.kind == "transformer" and len(set(network.encoder.strides)) > 1:
        raise ValueError(f"its strides are {network.encoder.strides}, no transformer's")
    batch = torch.rand(2, 3, *_STEP_SIZE)
    padded = network.encoder.pad(batch)
    for found, stride in zip(network.encoder(padded), network.encoder.strides, strict=True):
        if any(
            abs(n - e / stride) >= 1 for n, e in zip(found.shape[2:], padded.shape[2:], strict=True)
        ):
            raise ValueError(f"a map of stride {stride} has {tuple(found.shape[2:])} cells")
    logits, representations = network.train()(batch)
    assert representations is not None
    (logits.square().mean() + representations.square().mean()).backward()
    if not all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters()):
        raise ValueError("some parameters get no finite gradient")
    torch.optim.SGD(network.parameters(), lr=1e-3).step()
    return network


def _export(network: SegmentationNetwork) -> float:
    """Share of pixels with one label before and after."""
    network.eval()
    images = [torch.rand(1, 3, *size) for size in _EXPORTED_AT]
    with torch.no_grad():
        expected = [network(batch).logits for batch in images]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt2"
        torch.export.save(trace(Deployable(network, input="float")), path)
        run = torch.export.load(path).module()
    same = pixels = 0
    for batch, before in zip(images, expected, strict=True):
        before = F.interpolate(before, batch.shape[2:], mode="bilinear", align_corners=False)
        with torch.no_grad():
            equal = run(batch).argmax(1) == before.argmax(1)
        same, pixels = same + int(equal.sum()), pixels + equal.numel()
    return same / pixels


@contextmanager
def _limited() -> Iterator[None]:
    """Raise ``TimeoutError`` after too much processor time."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"not done within {_MOST_SECONDS} seconds of processor time")

    before = signal.signal(signal.SIGPROF, give_up)
    # Again each second: where Python cannot raise, such as in a callback, an error is dropped.
    signal.setitimer(signal.ITIMER_PROF, _MOST_SECONDS, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _reason(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return re.sub(r"[\[\]|<>]", "", text)[:80].rstrip()  # no link and no column in Markdown


def _read(path: Path) -> dict[str, Trial]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["family"]: Trial(**row) for row in csv.DictReader(file)}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=timm.models.list_modules())
    parser.add_argument("--output", type=Path, default=Path("docs/encoders.csv"))
    arguments = parser.parse_args(words)
    trials = _read(arguments.output)
    for family in tqdm(arguments.families, unit="family"):
        trials[family] = try_family(family)
        tqdm.write(" | ".join(trials[family]))
        write_table(arguments.output, Trial._fields, [trials[f] for f in sorted(trials)])
    trains = {family for family, trial in trials.items() if trial.trains == "yes"}
    listed = set(encoders.TIMM_FAMILIES) & set(trials)
    for family in sorted(trains - listed):
        print(f"{family}: trains, but TIMM_FAMILIES lacks it")
    for family in sorted(listed - trains):
        print(f"{family}: is in TIMM_FAMILIES, but does not train")
    return int(trains != listed)


if __name__ == "__main__":
    sys.exit(main())
