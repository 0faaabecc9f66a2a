"""The offline renderer: what words are read as, and what the pictures look like."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blossom_async.gateway.providers.scenery import describe, paint

PROMPTS = {
    "mountain landscape": "mountains",
    "sunset over ocean": "sea",
    "forest in autumn": "forest",
    "city skyline at night": "city",
    "flower garden": "meadow",
    "camels crossing the dunes": "desert",
    "a nebula with two planets": "space",
    "bicycle race": "abstract",
}


def picture(prompt: str, seed: int = 1, size: int = 96, **options: object) -> NDArray[np.uint8]:
    return paint(prompt, width=size, height=size, seed=seed, **options)  # type: ignore[arg-type]


def hue_share(image: NDArray[np.uint8], warm: bool) -> float:
    """The share of pixels in which red exceeds blue (warm) or blue exceeds red."""
    red, blue = image[..., 0].astype(int), image[..., 2].astype(int)
    return float(np.mean(red > blue + 15 if warm else blue > red + 15))


def small(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The picture in 16 by 16 patches, grey."""
    side = image.shape[0] // 16
    return image[..., :3].mean(axis=2)[: side * 16, : side * 16].reshape(16, side, 16, side).mean(axis=(1, 3))


@pytest.mark.parametrize(("prompt", "kind"), PROMPTS.items())
def test_named_scenes_are_read_as_themselves(prompt: str, kind: str) -> None:
    """Each kind of scene is recognised from ordinary words for it."""
    assert describe(prompt)["scene"] == kind


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("a season of change", "abstract"),
        ("start of the party", "abstract"),
        ("chocolate dessert", "abstract"),
        ("Waves crashing", "sea"),
        ("TOKYO", "city"),
        ("the mountain's shadow", "mountains"),
        ("a cat under a tree", "abstract"),
        ("a cat on the beach", "sea"),
        ("海", "sea"),
        ("🏔", "mountains"),
        ("ein Wald im Herbst", "forest"),
        ("", "abstract"),
    ],
)
def test_words_are_matched_whole(prompt: str, kind: str) -> None:
    """Whole words and plain inflections count, parts of words do not."""
    assert describe(prompt)["scene"] == kind


@pytest.mark.parametrize(
    ("prompt", "part", "name"),
    [
        ("mountains at golden hour", "light", "golden hour"),
        ("a moonlit lake", "light", "moonlight"),
        ("northern lights over a fjord", "light", "aurora"),
        ("snowy mountains", "season", "winter"),
        ("cherry blossoms by a lake", "season", "spring"),
        ("fall foliage", "season", "autumn"),
        ("foggy forest", "weather", "fog"),
        ("thunderstorm at sea", "weather", "storm"),
        ("a teal and pink abstract", "palette", "teal, pink"),
    ],
)
def test_light_season_weather_and_colours_are_read(prompt: str, part: str, name: str) -> None:
    """Light, season, weather and named colours come from the words, in any combination."""
    assert describe(prompt)[part] == name


@pytest.mark.parametrize(
    ("prompt", "negative", "part", "name"),
    [
        ("a city at night", "night", "light", "night"),
        ("mountains in winter", "winter", "season", "winter"),
        ("foggy forest", "fog", "weather", "fog"),
        ("a beach by a forest", "beach, sea", "scene", "sea"),
        ("red and blue shapes", "blue", "palette", "red, blue"),
    ],
)
def test_the_negative_prompt_takes_words_back(prompt: str, negative: str, part: str, name: str) -> None:
    """What the negative prompt names is not read out of the prompt."""
    assert describe(prompt)[part] == name
    assert describe(prompt, negative)[part] != name


def test_no_and_without_refuse_what_follows() -> None:
    """In the prompt itself, "no" and "without" refuse the word after them."""
    assert describe("a city street without fog")["weather"] == "clear"
    assert describe("a lake, no snow")["season"] != "winter"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_same_request_gives_the_same_bytes(prompt: str) -> None:
    """Equal arguments give equal bytes, also when several threads draw at once."""
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda _: picture(prompt, size=64).tobytes(), range(4)))
    assert len(set(pictures)) == 1


def test_another_process_gives_the_same_bytes() -> None:
    """The bytes do not depend on the process or on its hash seed."""
    here = [hashlib.sha256(picture(prompt, size=48).tobytes()).hexdigest() for prompt in PROMPTS]
    script = (
        "import hashlib, sys\n"
        "from blossom_async.gateway.providers.scenery import paint\n"
        "for prompt in sys.argv[1:]:\n"
        "    image = paint(prompt, width=48, height=48, seed=1)\n"
        "    print(hashlib.sha256(image.tobytes()).hexdigest())\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4242"}
    there = subprocess.run(
        [sys.executable, "-c", script, *PROMPTS], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.split() == here


@pytest.mark.parametrize("prompt", PROMPTS)
def test_another_seed_is_another_composition(prompt: str) -> None:
    """Seeds of one prompt differ visibly, not only in their grain."""
    first, second = small(picture(prompt, seed=1)), small(picture(prompt, seed=2))
    assert np.abs(first - second).mean() > 3


def test_sunset_over_the_ocean_is_warm_above_and_darker_below() -> None:
    """A sunset sea has a warm sky over darker water."""
    for seed in range(3):
        image = picture("sunset over ocean", seed=seed)
        sky, water = image[24:44], image[64:]
        assert hue_share(sky, warm=True) > 0.6
        assert sky.mean() > water.mean() + 15


def test_an_autumn_forest_is_orange() -> None:
    """Orange and brown rule an autumn forest."""
    for seed in range(3):
        assert hue_share(picture("forest in autumn", seed=seed), warm=True) > 0.55


def test_a_summer_forest_is_green() -> None:
    """Green rules a summer forest."""
    image = picture("forest in summer by day").astype(int)
    assert np.mean((image[..., 1] > image[..., 0]) & (image[..., 1] > image[..., 2])) > 0.6


def test_a_city_at_night_is_dark_with_many_lights() -> None:
    """A city by night is dark, with many small bright windows."""
    for seed in range(3):
        image = picture("city skyline at night", seed=seed, size=256).max(axis=2)
        assert np.median(image) < 90
        assert 0.004 < np.mean(image > 190) < 0.2


def test_a_city_by_day_is_bright() -> None:
    """The same city by day is far brighter than by night."""
    assert picture("city skyline at noon").mean() > picture("city skyline at night").mean() + 60


def test_a_garden_has_many_hues() -> None:
    """A meadow of red flowers is green and red."""
    image = picture("meadow of red poppies at noon", size=192)[96:].astype(int)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    assert np.mean((red > green + 50) & (red > blue + 40)) > 0.03
    assert np.mean((green > red) & (green > blue)) > 0.3


def test_snow_whitens_the_ground() -> None:
    """A winter forest is bright and almost without colour."""
    ground = picture("snowy forest in winter at noon")[72:].astype(int)
    assert ground.mean() > picture("forest in summer at noon")[72:].mean() + 40
    assert np.abs(ground[..., 0] - ground[..., 1]).mean() < 20


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("cherry blossom over a lake at night", "blossom"),
        ("full moon over the mountains", "moon"),
        ("mountain lake", "water"),
        ("stormy sea with lightning", "rain, lightning"),
        ("a lighthouse by the sea", "lighthouse"),
        ("desert with a cactus", "cactus"),
        ("meadow of flowers", "flowers"),
        ("city at night", "lights"),
        ("forest in autumn", "leaves"),
        ("galaxy full of stars", "stars"),
    ],
)
def test_the_negative_prompt_is_visible(prompt: str, negative: str) -> None:
    """What the negative prompt names is missing from the picture."""
    plain, without = picture(prompt, size=128), picture(prompt, size=128, negative_prompt=negative)
    assert np.mean(np.abs(plain.astype(int) - without).max(axis=2) > 24) > 0.003


def test_refusing_what_is_not_there_changes_nothing() -> None:
    """A negative prompt that names nothing in the picture leaves every byte."""
    plain = picture("a desert with a cactus")
    assert np.array_equal(plain, picture("a desert with a cactus", negative_prompt="text, watermark, blurry"))


@pytest.mark.parametrize("prompt", ["cherry blossom", "autumn leaves", "mountain emblem", "a cat", "a rose"])
def test_transparent_pictures_show_a_subject_on_nothing(prompt: str) -> None:
    """With transparency the corners are empty, the subject is solid and its edges lie between."""
    image = picture(prompt, transparency=True, size=160)
    alpha = image[..., 3]
    assert image.shape == (160, 160, 4)
    assert not any(alpha[y, x] for y in (0, -1) for x in (0, -1))
    assert np.mean(alpha == 255) > 0.02
    assert np.any((alpha > 0) & (alpha < 255))


def test_transparent_edges_have_no_fringe() -> None:
    """Colour on the edges is that of the subject: straight alpha, not darkened by the ground."""
    image = picture("a cat", transparency=True, size=200)
    alpha, light = image[..., 3], image[..., :3].mean(axis=2)
    rim = (alpha > 40) & (alpha < 200)
    solid = alpha == 255
    near = np.zeros_like(solid)
    near[1:-1, 1:-1] = rim[:-2, 1:-1] | rim[2:, 1:-1] | rim[1:-1, :-2] | rim[1:-1, 2:]
    assert abs(light[rim].mean() - light[near & solid].mean()) < 30


@pytest.mark.parametrize("prompt", PROMPTS)
def test_quality_adds_detail_to_one_composition(prompt: str) -> None:
    """Better quality changes the bytes and keeps the composition."""
    pictures = [picture(prompt, size=128, quality=quality) for quality in ("standard", "hd", "ultra")]
    assert len({image.tobytes() for image in pictures}) == 3
    for image in pictures[1:]:
        assert np.corrcoef(small(pictures[0]).ravel(), small(image).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("prompt", PROMPTS)
def test_size_keeps_the_composition(prompt: str) -> None:
    """A larger picture shows the same composition."""
    first, second = small(picture(prompt, size=96)), small(picture(prompt, size=224))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.85


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 31), (16, 700), (700, 16), (333, 41)])
def test_any_size_and_shape_can_be_drawn(prompt: str, width: int, height: int) -> None:
    """Every size from 16 pixels and any proportion gives a picture of exactly that size."""
    image = paint(prompt, width=width, height=height, seed=3)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert image.std() > 1


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=80), st.integers(0, 2**64), st.booleans())
def test_any_prompt_can_be_drawn(prompt: str, seed: int, transparency: bool) -> None:
    """Any text at all, lone surrogates and control characters included, gives a picture."""
    image = paint(prompt, width=32, height=24, seed=seed, transparency=transparency)
    assert image.shape == (24, 32, 4 if transparency else 3)


def test_a_very_long_prompt_can_be_drawn() -> None:
    """A prompt of 32,000 characters is read to its end."""
    prompt = "really " * 4500 + "snowy mountain"
    assert describe(prompt)["scene"] == "mountains"
    assert paint(prompt[:32000], width=16, height=16, seed=0).shape == (16, 16, 3)


def test_an_unknown_quality_is_refused() -> None:
    """A quality that does not exist is named in the error, with those that do."""
    with pytest.raises(ValueError, match=r"'best'.*'hd', 'standard', 'ultra'"):
        picture("a lake", quality="best")
