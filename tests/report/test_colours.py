"""Colours of the page: told apart with red-green blindness, and in enough contrast to be read."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2lab

import nnunetv2_cfnet.report

CSS = (Path(nnunetv2_cfnet.report.__file__).parent / "report.css").read_text()
# Severity 1, on linear RGB: Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", 2009 (doi:10.1109/TVCG.2009.113)
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
LEAST_CONTRAST = 4.5  # WCAG 2.1, AA, of text
LEAST_DISTANCE = 20  # in CIELAB; about 2 can just be seen


def themes() -> dict[str, dict[str, str]]:
    """Light, dark and print: name -> colour."""
    light, dark, outlines, printed = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    )
    return {"light": light, "dark": dark, "print": printed, "outlines": outlines}


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    darker, brighter = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other))
    return (brighter + 0.05) / (darker + 0.05)


def distance(one: str, other: str, vision: str) -> float:
    """In CIELAB, as seen so."""

    def seen(colour: str) -> np.ndarray:
        values = np.clip(VISION[vision] @ linear(colour), 0, 1)
        return rgb2lab(np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055))

    return float(np.linalg.norm(seen(one) - seen(other)))


def test_red_and_green_of_one_brightness_would_be_found_out():
    assert distance("#d62728", "#2ca02c", "usual") > 100
    assert distance("#b37400", "#5e8c00", "deuteranopia") < LEAST_DISTANCE
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_texts_have_enough_contrast_on_all_that_they_stand_on(theme):
    colours = themes()[theme]
    for text in ("text", "faint", "link", "better", "worse", "open"):
        for ground in ("page", "stripe", "interest"):
            assert contrast(colours[text], colours[ground]) >= LEAST_CONTRAST, (text, ground)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_verdicts_are_told_apart(theme, vision):
    colours = themes()[theme]
    for one, other in combinations(("better", "worse", "open"), 2):
        assert distance(colours[one], colours[other], vision) >= LEAST_DISTANCE, (one, other)


def test_outlines_are_seen_on_black():
    outlines = themes()["outlines"]
    ground = outlines.pop("image")
    assert len(outlines) == 7
    assert all(contrast(colour, ground) >= LEAST_CONTRAST for colour in outlines.values())


@pytest.mark.parametrize("vision", VISION)
def test_the_reference_s_and_three_models_outlines_are_told_apart(vision):
    """Further ones also by their dashes, as all are."""
    outlines = list(themes()["outlines"].values())[1:5]
    for one, other in combinations(outlines, 2):
        assert distance(one, other, vision) >= LEAST_DISTANCE, (one, other)
