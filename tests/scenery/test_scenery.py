"""The offline renderer: what prompts are understood as, and what the pictures look like."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blossom_async.scenery import describe, paint
from tests.thorough import examples

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

LANDMARKS = (
    "volcano at night",
    "waterfall in a jungle",
    "stone bridge over a frozen lake",
    "oasis",
    "golden wheat field",
    "lavender field under a crescent moon",
    "rainbow over green hills",
    "lighthouse in a storm, towering waves",
    "paris with balloons",
)


def picture(prompt: str, seed: int = 1, size: int = 96, **options: object) -> NDArray[np.uint8]:
    return paint(prompt, width=size, height=size, seed=seed, **options)  # type: ignore[arg-type]


def hue_share(image: NDArray[np.uint8], warm: bool) -> float:
    """The share of pixels in which red exceeds blue (warm) or blue exceeds red."""
    red, blue = image[..., 0].astype(int), image[..., 2].astype(int)
    return float(np.mean(red > blue + 15 if warm else blue > red + 15))


def small(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The picture in 16 by 16 patches, grey."""
    side = image.shape[0] // 16
    grey: NDArray[np.float64] = image[..., :3].mean(axis=2)[: side * 16, : side * 16]
    patches: NDArray[np.float64] = grey.reshape(16, side, 16, side).mean(axis=(1, 3))
    return patches


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
        ("rolling hills", "meadow"),
        ("stone bridge over a river", "mountains"),
        ("bridges of Paris", "city"),
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
        ("old trees in the evening sun", "light", "golden hour"),
        ("a valley under a rainbow", "light", "day"),
        ("a rainbow after the storm", "weather", "cloudy"),
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
    """What the negative prompt names is ignored in the prompt."""
    assert describe(prompt)[part] == name
    assert describe(prompt, negative)[part] != name


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("a sailboat on the sea", "boat"),
        ("meadow of flowers", "flowers"),
        ("a desert", "cactus"),
        ("alps", "lake"),
    ],
)
def test_refusing_a_thing_leaves_the_scene_it_stands_in(prompt: str, negative: str) -> None:
    """Refusing what a scene may contain does not refuse the scene."""
    assert describe(prompt, negative)["scene"] == describe(prompt)["scene"]


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
        "from blossom_async.scenery import paint\n"
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
    "prompt",
    [
        "northern lights over a frozen lake with pine trees",
        "a forest by a lake",
        "aurora over the forest",
        "waterfall in a jungle",
        "a japanese garden with a bridge",
    ],
)
def test_woods_and_gardens_with_sky_or_water_are_landscapes(prompt: str) -> None:
    """A forest is drawn from the inside; with a lake, a waterfall or an aurora it is on a shore."""
    assert describe(prompt)["scene"] == "mountains"


@pytest.mark.parametrize(
    ("prompt", "unasked"),
    [
        ("mountains in the rain", "blossom, petals"),
        ("volcano at night", "blossom, petals"),
        ("mountain lake in autumn", "blossom, petals"),
        ("mountain lake", "blossom, petals"),
        ("stormy sea at night", "stars"),
        ("mountains in a snowfall at night", "stars"),
        ("the sea at noon", "boat"),
        ("desert dunes", "cactus"),
        ("golden wheat field", "flowers"),
        ("rainbow over green hills", "flowers"),
    ],
)
def test_nothing_is_added_that_does_not_fit(prompt: str, unasked: str) -> None:
    """What the words neither name nor imply is not drawn, so that refusing it changes nothing."""
    for seed in range(3):
        plain = picture(prompt, seed=seed)
        assert np.array_equal(plain, picture(prompt, seed=seed, negative_prompt=unasked))


def test_spring_and_blossom_words_bring_the_branch() -> None:
    """A branch in blossom hangs over a lake in spring, or where it is named."""
    for prompt in ("mountain lake in spring", "cherry blossom over a lake"):
        assert not np.array_equal(picture(prompt), picture(prompt, negative_prompt="blossom"))


@pytest.mark.parametrize("place", ["mountains", "sea", "city", "meadow", "desert"])
def test_northern_lights_are_green_in_every_sky(place: str) -> None:
    """Wherever there is sky, an aurora makes it green."""
    for seed in range(3):
        sky = picture(f"northern lights, {place}", seed=seed)[:28].astype(int)
        assert np.mean(sky[..., 1] > sky[..., 0] + 40) > 0.3


def test_a_frozen_lake_is_paler_than_water() -> None:
    """Ice and the snow on it are brighter than open water."""
    for seed in range(3):
        ice = picture("northern lights over a frozen lake with pine trees", seed=seed)[76:]
        assert ice.mean() > picture("northern lights over a lake with pine trees", seed=seed)[76:].mean() + 5


@pytest.mark.parametrize(("words", "most"), [("crescent moon", 0.45), ("half moon", 0.85)])
def test_the_moon_has_the_phase_it_is_given(words: str, most: float) -> None:
    """A crescent is a small part of the full moon's light, a half moon about half."""
    lit = [
        np.count_nonzero(
            picture(f"{name} over the sea", size=320, negative_prompt="stars, clouds")[:140] > 232
        )
        for name in (words, "full moon")
    ]
    assert 0 < lit[0] < lit[1] * most


def test_a_rainbow_brings_red_into_a_blue_sky() -> None:
    """A rainbow is seen as a band of warm hues in the sky by day."""
    for seed in range(3):
        bow = picture("rainbow over green hills", seed=seed, size=192)[:70]
        bare = picture("green hills by day", seed=seed, size=192)[:70]
        assert hue_share(bow, warm=True) > hue_share(bare, warm=True) + 0.015


def test_a_volcano_glows() -> None:
    """Lava is red and yellow in the night."""
    for seed in range(3):
        image = picture("volcano at night", seed=seed, size=192).astype(int)
        assert np.mean((image[..., 0] > 180) & (image[..., 2] < 110)) > 0.004


def test_a_wheat_field_is_gold_without_flowers() -> None:
    """The lower half of a wheat field is golden, and holds nothing white."""
    for seed in range(3):
        field = picture("golden wheat field", seed=seed, size=192)[100:].astype(int)
        red, green, blue = field[..., 0], field[..., 1], field[..., 2]
        assert np.mean((red > green + 8) & (green > blue + 20)) > 0.85
        assert np.mean(field.min(axis=2) > 190) < 0.005


def test_a_lavender_field_is_violet() -> None:
    """Rows of violet fill a lavender field."""
    for seed in range(3):
        field = picture("a lavender field in Provence at golden hour", seed=seed, size=192)[110:].astype(int)
        assert np.mean((field[..., 2] > field[..., 1] + 15) & (field[..., 0] > field[..., 1])) > 0.35


def test_larches_are_golden_in_the_mist() -> None:
    """In autumn the trees on a misty shore are gold, not grey."""
    for seed in range(3):
        image = picture("a misty mountain lake in autumn, golden larches along the shore", seed=seed)
        assert max(hue_share(image[row : row + 6], warm=True) for row in range(48, 72)) > 0.15


def test_an_evening_forest_is_not_purple() -> None:
    """Under leaves the evening is warm: green exceeds blue."""
    for prompt in ("forest at dusk", "forest at sunset", "old trees in the evening sun, forest"):
        image = picture(prompt)
        assert image[..., 1].mean() > image[..., 2].mean() + 5


def test_lightning_ends_at_the_horizon() -> None:
    """A bolt over the sea reaches the horizon and is not repeated dot by dot in the water."""
    for seed in range(4):
        bolt = picture("stormy sea", seed=seed, size=192, negative_prompt="rain, fog, waves")
        bare = picture("stormy sea", seed=seed, size=192, negative_prompt="rain, fog, waves, lightning")
        struck = np.abs(bolt.astype(int) - bare).max(axis=(1, 2))
        lowest = np.flatnonzero(struck > 70).max() / 192
        assert 0.42 < lowest < 0.62


def test_every_shipped_example_is_a_scene_the_renderer_knows() -> None:
    """Of the example prompts only the abstract one is read as an abstract composition."""
    text = (Path(__file__).parents[2] / "examples" / "prompts.txt").read_text("utf-8")
    prompts = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [prompt for prompt in prompts if describe(prompt)["scene"] == "abstract"] == [prompts[-1]]


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
        ("rainbow over green hills", "rainbow"),
        ("volcano at night", "volcano"),
        ("waterfall in a jungle", "waterfall"),
        ("japanese garden with a bridge", "bridge"),
        ("paris with a hot air balloon", "balloon"),
        ("oasis in the desert", "oasis"),
        ("mountains with a frozen lake", "ice"),
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
    """Colour on the edges is that of the subject: straight alpha, not darkened by the background."""
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


@pytest.mark.parametrize("prompt", [*PROMPTS, *LANDMARKS])
@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 31), (16, 700), (700, 16), (333, 41)])
def test_any_size_and_shape_can_be_drawn(prompt: str, width: int, height: int) -> None:
    """Every size from 16 pixels and any proportion gives a picture of exactly that size."""
    image = paint(prompt, width=width, height=height, seed=3)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert image.std() > 1


@settings(max_examples=examples(40), deadline=None)
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
