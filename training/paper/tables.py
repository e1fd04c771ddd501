"""Tables 1 to 6 of the paper as data: its figures, and which network of this package each row is."""

from __future__ import annotations

import dataclasses
from typing import Literal

DatasetName = Literal["cityscapes", "camvid"]


@dataclasses.dataclass(frozen=True)
class System:
    """A trained network of this package: a row (`base`, `stf`, `mar`, `both`, `base+segfix`, ...) of `evaluate`.

    `config` is the name of a YAML file below training/configs, without its ending.
    """

    config: str
    dataset: DatasetName
    row: str


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A line of a table: the paper's figure (None: the paper has none), and the system that gives ours.

    `reason` says why there is none.
    """

    name: str
    paper: float | None
    system: System | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table of the paper, all its figures in `unit`."""

    title: str
    unit: str
    rows: tuple[PaperRow, ...]


CITED = "cited, not built here"


def _gains(
    config: str, dataset: DatasetName, name: str, figures: dict[str, float | None], prefix: str = ""
) -> tuple[PaperRow, ...]:
    """Rows of one network: its base, and what STF, MAR or both make of it."""
    names = {"base": name, "stf": f"{name} + STF", "mar": f"{name} + MAR", "both": f"{name} + STF + MAR"}
    return tuple(PaperRow(prefix + names[row], figure, System(config, dataset, row)) for row, figure in figures.items())


def _cited(base: str, figures: dict[str, float]) -> tuple[PaperRow, ...]:
    return tuple(PaperRow(f"{base} + {name}", figure, reason=CITED) for name, figure in figures.items())


def _flow(config: str, dataset: DatasetName, base: str, figure: float | None) -> PaperRow:
    """NetWarp, for which warping by optical flow and averaging stands here."""
    return PaperRow(f"{base} + NetWarp (here: flow_average)", figure, System(config, dataset, "base+flow_average"))


PSP18, PSP50, PSP101 = (f"PSPNet, ResNet-{depth}" for depth in (18, 50, 101))
TABLES = {
    "table1": PaperTable(
        "Table 1: Cityscapes val",
        "mIoU, %",
        (
            *_gains("paper/cityscapes_pspnet_resnet18", "cityscapes", PSP18, {"base": 69.79, "both": 74.58}),
            *_cited(PSP18, {"Liu et al.": 73.06}),
            *_gains("paper/cityscapes_pspnet_resnet50", "cityscapes", PSP50, {"base": 76.24, "both": 79.22}),
            *_cited(PSP50, {"Accel": 70.20, "TDNet": 76.40, "EFC": 78.44}),
            *_gains("paper/cityscapes_pspnet_resnet101", "cityscapes", PSP101, {"base": 79.70, "both": 80.96}),
            _flow("paper/cityscapes_pspnet_resnet101", "cityscapes", PSP101, 80.60),
            *_cited(PSP101, {"TDNet": 79.90, "GRFP": 80.20}),
            *_gains("paper/cityscapes_upernet_swin_b", "cityscapes", "Swin-B", {"base": 81.34, "both": 81.67}),
        ),
    ),
    "table2": PaperTable(
        "Table 2: CamVid test",
        "mIoU, %",
        (
            *_gains("paper/camvid_dilation8_vgg16", "camvid", "Dilation8", {"base": 65.3, "both": 67.9}),
            _flow("paper/camvid_dilation8_vgg16", "camvid", "Dilation8", 67.1),
            *_cited("Dilation8", {"STFCN": 65.9, "GRFP": 66.1, "FSO": 66.1, "VPN": 66.7, "EFC": 67.4}),
            *_gains("paper/camvid_pspnet_resnet101", "camvid", PSP101, {"base": 76.2, "both": 76.6}),
            *_cited(PSP101, {"Accel": 71.5, "TDNet": 76.0}),
            *_gains("paper/camvid_upernet_swin_b", "camvid", "Swin-B", {"base": 77.6, "both": 77.9}),
        ),
    ),
    "table3": PaperTable(
        "Table 3: what STF and MAR gain",
        "mIoU, %",
        (
            *_gains(
                "paper/cityscapes_pspnet_resnet50",
                "cityscapes",
                PSP50,
                {"base": 76.24, "stf": 78.75, "mar": 78.37, "both": 79.22},
                "Cityscapes, ",
            ),
            *_gains(
                "paper/camvid_dilation8_vgg16",
                "camvid",
                "Dilation8",
                {"base": 65.3, "stf": 67.5, "mar": 67.3, "both": 67.9},
                "CamVid, ",
            ),
            *_gains(
                "camvid_lite2",
                "camvid",
                "EfficientNet-Lite2",
                dict.fromkeys(("base", "stf", "mar", "both")),
                "CamVid, ",
            ),
            *_gains(
                "camvid_pspnet_resnet18", "camvid", PSP18, dict.fromkeys(("base", "stf", "mar", "both")), "CamVid, "
            ),
        ),
    ),
    "table4": PaperTable(
        "Table 4: refinement of single images, Cityscapes val",
        "mIoU, %",
        (
            *_gains("paper/cityscapes_deeplabv3_resnet101", "cityscapes", "DeepLabv3", {"base": 79.5}),
            *(
                PaperRow(
                    f"DeepLabv3 + {name}", figure, System("paper/cityscapes_deeplabv3_resnet101", "cityscapes", row)
                )
                for name, figure, row in (
                    ("DenseCRF", 79.7, "base+dense_crf"),
                    ("SegFix (here: untrained offsets)", 80.5, "base+segfix"),
                )
            ),
            *_cited("DeepLabv3", {"GUM": 79.8}),
            *_gains("paper/cityscapes_deeplabv3_resnet101", "cityscapes", "DeepLabv3", {"mar": 81.0}),
        ),
    ),
}

# Table 5: IoU of each class on Cityscapes val, PSPNet on ResNet-50.
TABLE5_SYSTEM = ("paper/cityscapes_pspnet_resnet50", "cityscapes")
TABLE5 = {
    "road": (97.82, 98.13),
    "sidewalk": (83.23, 85.02),
    "building": (91.70, 92.39),
    "wall": (35.86, 51.34),
    "fence": (58.07, 60.81),
    "pole": (63.87, 63.46),
    "traffic light": (70.76, 71.62),
    "traffic sign": (78.93, 80.49),
    "vegetation": (91.95, 92.55),
    "terrain": (62.85, 65.47),
    "sky": (94.16, 94.52),
    "person": (81.86, 82.42),
    "rider": (60.96, 60.88),
    "car": (94.82, 95.34),
    "truck": (76.34, 80.72),
    "bus": (85.83, 88.72),
    "train": (77.67, 78.73),
    "motorcycle": (64.43, 68.28),
    "bicycle": (77.61, 78.21),
    "mean": (76.24, 78.37),
}

# Table 6: GMACs for images of 1024 x 2048.
TABLE6 = {
    "PSPNet-50, 3 frames": 4285.9,
    "PSPNet-101, 3 frames": 6152.9,
    "STF": 563.5,
    "MAR": 31.5,
    "classifier": 0.5,
}

# Section 4.3: the memory's sizes that the paper tried with PSPNet on ResNet-50.
SWEEP_HARD = (10, 50, 100, 300)
SWEEP_CONFIDENT = (1, 5, 10, 50)
