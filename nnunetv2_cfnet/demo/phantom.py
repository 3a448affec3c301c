"""Phantom brain-tumour MRI: small, seeded, four-channel volumes in nnU-Net's raw dataset format.

A case is a map of tissues (`make_tissues`) that shines in each sequence as `SIGNALS` says (`make_case`).
No sequence alone shows a tumour region; each region has a look-alike that only a second sequence tells apart:

- enhancing tumour is bright on T1ce and not on T1; old blood is bright on both;
- oedema is bright on FLAIR and T2; CSF is bright on T2 only, gliosis on FLAIR only;
- the non-enhancing core is darker on T1ce than on T1; CSF is dark on both.

A toy for demonstrations and tests: it has the channels, labels and regions of BraTS, and none of its difficulty.
"""

from enum import IntEnum
from pathlib import Path

import numpy as np
import SimpleITK
from scipy.ndimage import gaussian_filter

from nnunetv2_cfnet.files.volumes import write_image
from nnunetv2_cfnet.files.whole import check_new_folder, whole_folder

CHANNEL_NAMES = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
# Labels in the order of nnU-Net's BraTS converters: 1 = ED (oedema), 2 = NCR/NET (non-enhancing core), 3 = ET.
REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (2, 3), "enhancing_tumor": (3,)}
REGIONS_CLASS_ORDER = (1, 2, 3)
FILE_ENDING = ".nii.gz"
MARGIN_VOXELS = 4  # of background around the brain, as if the skull had been stripped


class Tissue(IntEnum):
    """What a voxel is made of; the rows of `SIGNALS`."""

    BACKGROUND = 0
    CSF = 1
    GREY_MATTER = 2
    WHITE_MATTER = 3
    BLOOD = 4
    GLIOSIS = 5
    OEDEMA = 6
    CORE = 7
    ENHANCING = 8


# Mean signal of each tissue, relative to a bright one, in T1, T1ce, T2, FLAIR.
SIGNALS = np.array(
    [
        [0.00, 0.00, 0.00, 0.00],  # background
        [0.22, 0.22, 1.00, 0.20],  # CSF
        [0.55, 0.58, 0.52, 0.55],  # grey matter
        [0.75, 0.77, 0.38, 0.42],  # white matter
        [0.98, 1.00, 0.60, 0.60],  # old blood
        [0.65, 0.67, 0.42, 0.92],  # gliosis
        [0.48, 0.50, 0.85, 0.92],  # oedema
        [0.46, 0.26, 0.78, 0.62],  # non-enhancing core
        [0.52, 1.00, 0.70, 0.74],  # enhancing tumour
    ]
)
LABELS = np.zeros(len(Tissue), dtype=np.uint8)
LABELS[[Tissue.OEDEMA, Tissue.CORE, Tissue.ENHANCING]] = 1, 2, 3


def make_tissues(rng: np.random.Generator, shape: tuple[int, int, int], with_enhancing: bool) -> np.ndarray:
    """Draw the anatomy of one case.

    The brain's bounding box is the same for every case of a shape: nnU-Net crops to it and plans its patch from it.

    Args:
        rng: Its state alone decides the drawing.
        shape: Voxels along z (feet to head), y (front to back) and x (right to left), at least 16 each.
        with_enhancing: False draws the whole tumour core without enhancement.

    Shape:
        Output: `shape`, uint8, values of `Tissue`.
    """
    if len(shape) != 3 or min(shape) < 16:
        raise ValueError(f"shape must be three numbers of at least 16 voxels, got {shape}")
    half = (np.array(shape) - 2 * MARGIN_VOXELS) / 2
    centre = (np.array(shape) - 1) / 2 + rng.integers(1 - MARGIN_VOXELS, MARGIN_VOXELS, size=3)
    # Coordinates in which the brain reaches from -1 to 1 along each axis: (3, *shape).
    position = (np.indices(shape) - centre[:, None, None, None]) / half[:, None, None, None]

    def blob(where: list[float], size: list[float], roughness: float) -> np.ndarray:
        """Distance from a blob's centre, 1 at its rough surface; `size` and `where` are in brain coordinates."""
        offset = (position - np.reshape(where, (3, 1, 1, 1))) / np.reshape(size, (3, 1, 1, 1))
        return np.linalg.norm(offset, axis=0) + roughness * _smooth_noise(rng, shape, sigma=half.mean() / 8)

    power = rng.uniform(2.0, 2.5)
    radius = (np.abs(position) ** power).sum(axis=0) ** (1 / power)
    folds = _smooth_noise(rng, shape, sigma=half.mean() / 10)

    tissues = np.full(shape, Tissue.BACKGROUND, dtype=np.uint8)
    tissues[radius < 1] = Tissue.CSF
    parenchyma = radius < 0.92
    tissues[parenchyma & (radius + 0.04 * folds < 0.93)] = Tissue.GREY_MATTER
    tissues[parenchyma & (radius + 0.12 * folds < 0.70)] = Tissue.WHITE_MATTER

    for side in (-1, 1):
        ventricle_size = np.array([0.24, 0.42, 0.13]) * rng.uniform(0.8, 1.2)
        ventricle = blob([0.1, 0.0, 0.2 * side], list(ventricle_size), roughness=0.1)
        tissues[ventricle < 1] = Tissue.CSF
        for tissue in (Tissue.BLOOD, Tissue.GLIOSIS):
            where = [rng.uniform(-0.5, 0.5), rng.uniform(-0.6, 0.6), side * rng.uniform(0.3, 0.65)]
            lookalike = blob(where, [rng.uniform(0.16, 0.26)] * 3, roughness=0.15)
            tissues[(lookalike < 1) & parenchyma] = tissue

    tumour_centre = [rng.uniform(-0.3, 0.3), rng.uniform(-0.4, 0.4), rng.choice([-1, 1]) * rng.uniform(0.3, 0.45)]
    tumour_size = rng.uniform(0.5, 0.68)
    oedema = blob(tumour_centre, [tumour_size] * 3, roughness=0.15)
    core_centre = [c + rng.uniform(-0.08, 0.08) for c in tumour_centre]
    core = blob(core_centre, [0.68 * tumour_size] * 3, roughness=0.1)
    tissues[(oedema < 1) & parenchyma] = Tissue.OEDEMA
    tissues[(core < 1) & parenchyma] = Tissue.ENHANCING if with_enhancing else Tissue.CORE
    tissues[(core < 0.65) & parenchyma] = Tissue.CORE
    return tissues


def make_case(
    seed: int | list[int] | np.random.Generator, shape: tuple[int, int, int], with_enhancing: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Make the images and the label map of one case.

    Args:
        seed: Anything `numpy.random.default_rng` takes; equal seeds give equal cases. The tissues are drawn first, so
            `make_tissues(numpy.random.default_rng(seed), ..)` gives the case's map.
        shape: As in `make_tissues`.
        with_enhancing: As in `make_tissues`.

    Shape:
        Images: (4, *shape), float32, T1, T1ce, T2, FLAIR, above 0 in the brain and exactly 0 outside.
        Labels: shape, uint8, 0 = background, 1 = ED, 2 = NCR/NET, 3 = ET.
    """
    rng = np.random.default_rng(seed)
    tissues = make_tissues(rng, shape, with_enhancing)
    brain = tissues != Tissue.BACKGROUND
    texture = 0.06 * _smooth_noise(rng, shape, sigma=1.0)  # the same structure in every sequence
    images = np.zeros((len(CHANNEL_NAMES), *shape), dtype=np.float32)
    for channel, image in enumerate(images):
        signals = SIGNALS[:, channel] * rng.normal(1, 0.04, size=len(Tissue))  # no two patients shine alike
        signal = gaussian_filter(signals[tissues], sigma=0.5)  # partial volumes
        bias_field = np.exp(0.1 * _smooth_noise(rng, shape, sigma=max(shape) / 3))
        noise = rng.normal(0, 0.04, size=shape)
        scanner_scale = rng.uniform(200, 1200)
        signal = signal * (1 + texture) * bias_field + noise
        image[brain] = scanner_scale * np.maximum(signal[brain], 0.01)
    return images, LABELS[tissues]


def write_dataset(folder: Path, num_training: int, num_test: int, seed: int, shape: tuple[int, int, int]) -> None:
    """Write a raw nnU-Net dataset with training cases (imagesTr, labelsTr) and held-out ones (imagesTs, labelsTs).

    Every third case is without enhancing tumour. A case depends on the seed, its set and its index only, so a larger
    dataset of the same seed starts with the smaller one's cases. Voxels are of 1 mm.

    Args:
        folder: The dataset's own folder, such as nnUNet_raw/Dataset001_Phantom; new or empty. It is there complete or
            not at all.

    Raises:
        UserError: There is something in the folder.
    """
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    check_new_folder(folder)
    with whole_folder(folder) as unfinished:  # with a leading dot, which keeps it out of nnU-Net's search
        for split_index, (split, num_cases) in enumerate([("Tr", num_training), ("Ts", num_test)]):
            images_folder, labels_folder = unfinished / f"images{split}", unfinished / f"labels{split}"
            images_folder.mkdir(parents=True)
            labels_folder.mkdir()
            for index in range(num_cases):
                images, labels = make_case([seed, split_index, index], shape, with_enhancing=index % 3 != 2)
                case = f"phantom_{split.lower()}_{index:03d}"
                for channel, image in enumerate(images):
                    write_image(
                        SimpleITK.GetImageFromArray(image), images_folder / f"{case}_{channel:04d}{FILE_ENDING}"
                    )
                write_image(SimpleITK.GetImageFromArray(labels), labels_folder / f"{case}{FILE_ENDING}")
        generate_dataset_json(
            str(unfinished),
            channel_names=dict(CHANNEL_NAMES),
            labels={"background": 0, **REGIONS},
            num_training_cases=num_training,
            file_ending=FILE_ENDING,
            regions_class_order=REGIONS_CLASS_ORDER,
            dataset_name=folder.name,
            description=f"Synthetic multi-modal brain tumours, seed {seed}; labels 1 = ED, 2 = NCR/NET, 3 = ET",
            license="CC0-1.0",
            converted_by="nnunetv2_cfnet.demo.phantom",
        )


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], sigma: float) -> np.ndarray:
    """Gaussian noise smoothed with `sigma` voxels, of mean 0 and standard deviation 1."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma)
    return (noise - noise.mean()) / noise.std()
