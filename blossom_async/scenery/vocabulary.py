"""The words the renderer knows, and what each of them stands for."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = [
    "LIGHTS", "MEANINGS", "REMOVED_WITH", "SEASONS", "SIGNS", "SKY_WORDS", "SUGGESTED", "Concept",
]  # fmt: skip


class Concept(NamedTuple):
    """One thing a word can stand for: a part of a scene, its name, and how strongly it is meant."""

    part: str
    name: str
    weight: float


_KINDS: Final = {
    ("mountains", 3): """
        mountain mountainous mountainside alps alpine himalaya himalayan everest fuji matterhorn peak summit
        volcano fjord highlands andes yosemite rockies sierra patagonia dolomites montagne montaña montagna
        berge gebirge montanha гора горы""",
    ("mountains", 2.5): """
        lake river waterfall canyon cliff ridge pond glacier landscape stream creek lakeside riverside
        riverbank wilderness lac lago see озеро река""",
    ("mountains", 2): "valley nature scenery scenic reflection vista panorama hiking hiker",
    ("mountains", 1): "aurora lava eruption erupting",
    ("mountains", 0.6): "snow winter skiing skier cabin sky cloud fog mist dawn eagle",
    ("sea", 3): """
        sea ocean oceanic beach coast coastal coastline seaside shore shoreline seashore wave surf surfer
        surfing bay lagoon harbour harbor island isle lighthouse sailboat sailing yacht tide pier marina
        cruise seascape maldives hawaii caribbean atlantic pacific mediterranean tropical sailor mer mar océan
        océano oceano meer playa plage praia ozean море океан пляж""",
    ("sea", 2): "ship boat vessel whale dolphin coral seagull shell sand palm surfboard kayak canoe raft",
    ("sea", 0.6): "sunset sunrise water sundown horizon",
    ("forest", 3): """
        forest forested woods woodland jungle rainforest grove redwood pinewood taiga thicket bosque forêt
        wald floresta foresta лес""",
    ("forest", 2): """
        pine spruce fir birch oak maple tree fern moss mushroom deer fox bear squirrel foliage undergrowth
        sequoia willow enchanted treehouse""",
    ("forest", 0.6): "autumn leaf camping campfire trail path owl",
    ("city", 3): """
        city cityscape skyline skyscraper downtown metropolis metropolitan urban town village megacity
        cyberpunk manhattan tokyo york london paris chicago shanghai dubai seoul hong kong singapore sydney
        berlin venice rome istanbul toronto kyoto barcelona amsterdam francisco angeles osaka beijing moscow
        rio vegas kremlin colosseum acropolis pagoda neighborhood neighbourhood suburb
        ciudad ville stadt cidade città город""",
    ("city", 2.5): """
        street building tower rooftop alley avenue boulevard architecture plaza traffic apartment
        highway intersection castle cathedral temple church mosque cottage house taxi tram subway crosswalk
        storefront cafe restaurant bar hotel market""",
    ("city", 2): "bridge",
    ("city", 0.6): "neon bus window shop station road",
    ("meadow", 3): """
        meadow garden flower wildflower floral field prairie grassland pasture farm farmland countryside
        vineyard tulip rose daisy poppy lavender sunflower lily orchid peony daffodil dandelion bouquet
        wheat barley cornfield hydrangea lotus iris marigold park orchard jardin jardín garten fleur flor
        blume blumen giardino fiore цветок цветы сад поле""",
    ("meadow", 2): """
        hill hillside hillock knoll grass petal bloom blooming bee butterfly barn picnic cow sheep pony lawn
        plant""",
    ("meadow", 0.6): "spring summer rainbow horse scarecrow windmill",
    ("desert", 3): """
        desert dune sahara cactus camel oasis mesa badlands gobi arid pyramid sphinx egypt saguaro mojave
        namib martian mars desierto désert wüste deserto пустыня""",
    ("desert", 2): "nomad caravan sandstorm bedouin egyptian",
    ("space", 3): """
        space galaxy nebula cosmos cosmic universe planet planetary astronaut spaceship spacecraft starship
        asteroid comet interstellar supernova constellation saturn jupiter neptune uranus venus pluto galactic
        orbit milkyway satellite astronomy rocket spacewalk cosmonaut ufo espacio espace weltraum galaxia
        космос""",
    ("space", 1.4): "star starry alien meteor stargazing",
    ("space", 0.6): "moon night lunar midnight eclipse",
    ("abstract", 3): """
        abstract abstraction pattern geometric fractal logo icon portrait headshot diagram typography text
        wallpaper texture mandala kaleidoscope bokeh gradient emblem infographic calligraphy psychedelic
        minimalist cubist""",
    ("abstract", 2): "selfie sign poster closeup screenshot chart graph menu letter word writing",
}  # fmt: skip

# Things a renderer of views cannot draw. They outweigh a view that is barely mentioned ("a cat by a tree"),
# and give way to one that is named ("a cat at the beach").
_SUBJECTS: Final = """
    person man woman girl boy child kid baby people lady guy cat kitten dog puppy horse lion tiger
    elephant panda rabbit hamster monkey frog dragon robot car motorcycle bicycle bike racing race sneaker
    shoe watch bottle product cup mug coffee tea cake pizza burger sandwich sushi food meal fruit apple
    banana avocado orange chair table sofa lamp laptop computer phone keyboard guitar piano violin book
    dress jacket hat king queen knight wizard ninja warrior doctor chef teacher student dancer musician
    president athlete soccer basketball tennis wombat kangaroo raccoon corgi teddy toy statue sculpture
    skeleton vase cartoon anime character mascot clock train airplane truck soup dessert donut pancake
    cookie chocolate bird parrot owl penguin giraffe zebra cow pig chicken duck shark fish turtle snake
    spider face eye hand mirror television blackboard painting kitchen room bedroom bathroom office
"""

_LIGHTS: Final = {
    ("dawn", 3): "dawn sunrise daybreak amanecer aurore morgenrot рассвет",
    ("morning", 3): "morning mañana matin утро",
    ("day", 3): "day daytime daylight noon midday afternoon",
    ("day", 1): "sunny bright sunshine sunlit sunlight",
    ("golden hour", 3): "golden-hour",
    ("golden hour", 1): "warm",
    ("sunset", 3): "sunset sundown atardecer sonnenuntergang tramonto закат",
    ("dusk", 3): "dusk twilight nightfall evening gloaming crépuscule abend вечер",
    ("night", 3): "night nighttime midnight nocturnal noche nuit nacht notte noite ночь",
    ("night", 1): "star starry dark neon firefly cyberpunk firework",
    ("moonlight", 3): "moonlight moonlit moonrise",
    ("moonlight", 1.5): "moon lunar",
    ("aurora", 4): "aurora borealis",
}  # fmt: skip

_SEASONS: Final = {
    ("spring", 3): "spring springtime vernal primavera printemps frühling весна",
    ("summer", 3): "summer summertime verano été sommer estate лето",
    ("autumn", 3): "autumn autumnal otoño automne herbst autunno outono october november осень",
    ("winter", 3): "winter wintry wintertime invierno hiver inverno зима",
    ("winter", 2): "snow snowy snowing snowfall blizzard snowstorm snowflake frost frosty frozen icy ice "
                   "nieve neige schnee neve christmas снег glacier arctic antarctica snowman ski",
}  # fmt: skip

_WEATHERS: Final = {
    ("clear", 2): "sunny clear cloudless sunshine",
    ("cloudy", 2): "cloudy overcast gloomy moody",
    ("fog", 2): "fog foggy mist misty haze hazy smoky brouillard niebla nebel туман",
    ("rain", 2): "rain rainy raining rainfall drizzle drizzling downpour monsoon pluie lluvia regen дождь",
    ("snow", 2): "snowing snowfall blizzard snowstorm snowflake flurries",
    ("storm", 3): "storm stormy thunderstorm thunder lightning tempest hurricane tornado typhoon",
}  # fmt: skip

_FEATURES: Final = {
    "blossom": "blossom sakura cherryblossom magnolia plum-blossom",
    "petals": "petal",
    "moon": "moon moonlight moonlit lunar moonrise crescent",
    "crescent": "crescent",
    "sun": "sun sunset sunrise sunny sunshine",
    "stars": "star starry stargazing",
    "clouds": "cloud cloudy",
    "birds": "bird seagull gull crow geese swallow flock eagle",
    "poppy": "poppy anemone",
    "daisy": "daisy chamomile",
    "tulip": "tulip",
    "lavender bells": "lavender lupin lupine hyacinth",
    "sunflower": "sunflower",
    "boat": "boat sailboat ship yacht sailing vessel canoe kayak raft",
    "lake": "lake river pond reflection water lakeside riverside stream creek",
    "trees": "tree pine spruce fir forest woods",
    "flowers": """
        flower wildflower floral bloom blooming meadow garden tulip rose daisy poppy lavender sunflower lily
        orchid peony daffodil dandelion bouquet hydrangea lotus iris marigold anemone chamomile cosmos
        hyacinth lupin lupine jardin jardín garten fleur flor blume blumen giardino fiore цветок цветы сад""",
    "lighthouse": "lighthouse",
    "palm": "palm tropical hawaii maldives caribbean coconut",
    "island": "island isle",
    "beach": "beach sand shore seashore",
    "cactus": "cactus cacti saguaro",
    "pyramid": "pyramid egypt giza",
    "planet": "planet saturn jupiter neptune planetary",
    "galaxy": "galaxy galactic",
    "balloon": "balloon",
    "cabin": "cabin cottage hut",
    "fireflies": "firefly fireflies",
    "rays": "sunbeam ray sunray godray sunlight",
    "leaves": "leaf foliage leaves",
    "bridge": "bridge",
    "village": "village cottage house town",
    "lights": "lights lamp lantern neon",
    "mountains": "mountain peak hill hillside",
    "snow": "snow snowy snowing snowfall",
    "rain": "rain raining",
    "fog": "fog mist foggy misty haze",
    "rainbow": "rainbow arcobaleno regenbogen arcoíris радуга",
    "volcano": "volcano volcanic lava eruption erupting",
    "frozen": "frozen ice icy",
    "wheat": "wheat barley rye cornfield",
    "rows": "lavender",
    "jungle": "jungle rainforest",
    "stone": "stone",
    "oasis": "oasis",
    "waterfall": "waterfall cascade",
    "fireworks": "firework fireworks",
    "camel": "camel caravan",
    "waves": "wave surf breaker swell",
    "buildings": "building skyscraper tower",
    "grass": "grass",
    "circles": "circle orb bubble",
    "comet": "comet meteor",
    "lightning": "lightning thunder",
}  # fmt: skip

# Phrases; the words of a phrase do not count on their own.
_PHRASES: Final = {
    "cherry blossom": "feature:blossom season:spring kind:mountains:1.5",
    "cherry blossoms": "feature:blossom season:spring kind:mountains:1.5",
    "cherry tree": "feature:blossom season:spring kind:mountains:1.5",
    "cherry trees": "feature:blossom season:spring kind:mountains:1.5",
    "plum blossom": "feature:blossom season:spring kind:mountains:1.5",
    "golden hour": "light:golden hour:4",
    "golden light": "light:golden hour:3",
    "golden gate": "kind:city:3 feature:bridge",
    "blue hour": "light:dusk:4",
    "northern lights": "light:aurora:5 kind:mountains:1",
    "southern lights": "light:aurora:5 kind:mountains:1",
    "crescent moon": "light:moonlight:2 feature:moon feature:crescent kind:mountains:0.6",
    "new moon": "light:moonlight:2 feature:moon feature:crescent kind:mountains:0.6",
    "half moon": "light:moonlight:2 feature:moon feature:half moon kind:mountains:0.6",
    "quarter moon": "light:moonlight:2 feature:moon feature:half moon kind:mountains:0.6",
    "evening sun": "light:golden hour:4", "evening light": "light:golden hour:4",
    "setting sun": "light:sunset:4 feature:sun", "rising sun": "light:dawn:4 feature:sun",
    "full moon": "light:moonlight:2 feature:moon kind:mountains:0.6",
    "night sky": "light:night:3 kind:space:2 feature:stars",
    "starry sky": "light:night:3 kind:space:2 feature:stars",
    "starry night": "light:night:3 kind:mountains:1 kind:space:0.9 feature:stars",
    "milky way": "light:night:3 kind:space:2.5 feature:stars feature:galaxy",
    "outer space": "kind:space:4",
    "solar system": "kind:space:4 feature:planet",
    "black hole": "kind:space:3",
    "space station": "kind:space:3",
    "shooting star": "kind:space:1.5 light:night:2 feature:comet",
    "palm tree": "kind:sea:2 feature:palm",
    "palm trees": "kind:sea:2 feature:palm",
    "hot air balloon": "feature:balloon kind:mountains:1.5",
    "air balloon": "feature:balloon kind:mountains:1.5",
    "snow capped": "feature:mountains feature:snow kind:mountains:1",
    "rice field": "kind:meadow:3", "corn field": "kind:meadow:3 feature:wheat",
    "soccer field": "kind:abstract:2",
    "soccer ball": "kind:abstract:2", "football field": "kind:abstract:2",
    "central park": "kind:city:2", "times square": "kind:city:3 light:night:1",
    "eiffel tower": "kind:city:3", "opera house": "kind:city:3", "white house": "kind:city:2",
    "street art": "kind:abstract:2", "living room": "kind:abstract:2", "house plant": "kind:abstract:2",
    "in fall": "season:autumn:3", "fall landscape": "season:autumn:3 kind:mountains:2.5",
    "fall day": "season:autumn:3", "fall forest": "season:autumn:3 kind:forest:3",
    "fall scene": "season:autumn:3 kind:forest:1", "statue of liberty": "kind:city:2",
    "taj mahal": "kind:city:3",    "big ben": "kind:city:3",
    "polar lights": "light:aurora:5 kind:mountains:1",
    "the fall": "season:autumn:2", "fall colors": "season:autumn:3",
    "fall colours": "season:autumn:3", "fall foliage": "season:autumn:3 kind:forest:1.5",
    "fall leaves": "season:autumn:3 kind:forest:1.5", "autumn leaves": "season:autumn:3 kind:forest:1.5",
    "falling snow": "weather:snow:3 season:winter:3 feature:snow",
    "light blue": "colour:azure", "dark blue": "colour:navy", "light green": "colour:mint",
    "dark green": "colour:jade", "dark red": "colour:maroon", "hot pink": "colour:fuchsia",
    "ice cream": "kind:abstract:2", "outdoor": "kind:mountains:0.6", "sea lion": "kind:sea:2",
    "wine glass": "kind:abstract:2", "tennis court": "kind:abstract:2", "star wars": "kind:space:2",
    "rock star": "kind:abstract:2", "pop star": "kind:abstract:2", "movie star": "kind:abstract:2",
    "house cat": "kind:abstract:2", "guinea pig": "kind:abstract:2", "polar bear": "kind:abstract:1.5",
    "teddy bear": "kind:abstract:2", "hot dog": "kind:abstract:2", "sun dial": "kind:abstract:1",
    "bow tie": "kind:abstract:1", "flower pot": "kind:meadow:1.5", "compact disc": "kind:abstract:1",
    "personal space": "kind:abstract:1", "parking space": "kind:city:2", "parking lot": "kind:city:2",
    "wind mill": "kind:meadow:1", "see through": "kind:abstract:1", "microwave": "kind:abstract:1",
}  # fmt: skip

_COLOUR_SYNONYMS: Final = {
    "golden": "gold", "gray": "grey", "violet": "violet", "rosy": "rose", "pinkish": "pink",
    "reddish": "red", "bluish": "blue", "greenish": "green", "azul": "blue", "bleu": "blue", "blau": "blue",
    "rojo": "red", "rouge": "red", "rot": "red", "verde": "green", "vert": "green", "grün": "green",
    "lavender": "lavender", "turquesa": "turquoise", "noir": "black", "schwarz": "black", "rosa": "pink",
    "amarillo": "yellow", "jaune": "yellow", "gelb": "yellow", "aquamarine": "aqua", "monochrome": "grey",
}  # fmt: skip

COLOURS: Final = """
    red crimson scarlet maroon ruby orange amber peach coral apricot yellow gold cream beige ivory brown rust
    copper bronze tan green emerald olive lime mint jade sage teal turquoise cyan aqua blue azure cobalt navy
    indigo sapphire cerulean purple violet lavender lilac plum mauve magenta fuchsia pink rose white silver
    grey black charcoal
"""

# The colours of things that are not drawn, for the compositions that stand in for them.
SUGGESTED: Final = {
    "cat": ("peach", "charcoal", "cream"),
    "kitten": ("peach", "cream", "rose"),
    "dog": ("tan", "cream", "teal"),
    "puppy": ("tan", "cream", "coral"),
    "fox": ("orange", "cream", "charcoal"),
    "tiger": ("orange", "black", "cream"),
    "lion": ("gold", "brown", "cream"),
    "panda": ("black", "white", "jade"),
    "frog": ("green", "lime", "teal"),
    "elephant": ("grey", "silver", "lavender"),
    "horse": ("brown", "tan", "sage"),
    "dragon": ("crimson", "emerald", "gold"),
    "robot": ("silver", "cyan", "charcoal"),
    "fire": ("red", "orange", "yellow"),
    "flame": ("red", "orange", "yellow"),
    "lava": ("red", "orange", "black"),
    "water": ("azure", "teal", "white"),
    "ice": ("aqua", "white", "azure"),
    "wind": ("mint", "azure", "white"),
    "coffee": ("brown", "cream", "copper"),
    "tea": ("sage", "amber", "cream"),
    "wine": ("maroon", "rose", "plum"),
    "chocolate": ("brown", "copper", "cream"),
    "honey": ("amber", "gold", "cream"),
    "cake": ("pink", "cream", "rose"),
    "candy": ("pink", "turquoise", "yellow"),
    "love": ("red", "pink", "peach"),
    "heart": ("crimson", "pink", "cream"),
    "music": ("violet", "magenta", "indigo"),
    "jazz": ("indigo", "amber", "maroon"),
    "dream": ("lavender", "pink", "azure"),
    "magic": ("violet", "turquoise", "gold"),
    "money": ("emerald", "gold", "cream"),
    "king": ("purple", "gold", "crimson"),
    "queen": ("purple", "gold", "rose"),
    "bicycle": ("red", "turquoise", "cream"),
    "race": ("red", "yellow", "charcoal"),
    "car": ("red", "silver", "charcoal"),
    "woman": ("peach", "rose", "teal"),
    "man": ("navy", "tan", "teal"),
    "girl": ("coral", "lilac", "cream"),
    "boy": ("azure", "amber", "cream"),
    "baby": ("pink", "azure", "cream"),
    "portrait": ("peach", "teal", "maroon"),
    "banana": ("yellow", "cream", "olive"),
    "apple": ("red", "lime", "cream"),
    "avocado": ("olive", "lime", "brown"),
    "pizza": ("red", "gold", "olive"),
    "lemon": ("yellow", "lime", "white"),
    "cherry": ("crimson", "pink", "green"),
    "strawberry": ("red", "pink", "mint"),
    "blood": ("crimson", "maroon", "black"),
    "steampunk": ("copper", "bronze", "teal"),
    "vintage": ("rust", "cream", "teal"),
    "retro": ("orange", "turquoise", "cream"),
    "pastel": ("pink", "mint", "lavender"),
    "happy": ("yellow", "coral", "turquoise"),
    "sad": ("navy", "grey", "azure"),
    "angry": ("red", "black", "orange"),
    "peace": ("azure", "white", "sage"),
    "calm": ("teal", "mint", "cream"),
    "penguin": ("black", "white", "amber"),
    "parrot": ("red", "green", "azure"),
    "fish": ("teal", "orange", "aqua"),
    "rainbow": ("red", "yellow", "green", "blue", "violet"),
    "business": ("navy", "silver", "teal"),
}

SKY_WORDS: Final = frozenset(
    ("sky", "skies", "sunset", "sunrise", "dawn", "dusk", "clouds", "twilight", "light", "haze", "mist")
)

# What is left out along with something refused.
REMOVED_WITH: Final = {
    "blossom": ("petals",),
    "flowers": ("blossom", "petals"),
    "trees": ("leaves",),
    "night": ("stars",),
    "city": ("buildings",),
    "cloudy": ("clouds",),
    "clouds": ("cloudy",),
    "forest": ("trees",),
    "mountains": (),
    "moon": ("moonlight", "crescent"),
    "snow": ("winter",),
}

# Choices where the prompt leaves it open, best first.
LIGHTS: Final = {
    "mountains": ("sunset", "dawn", "morning", "dusk", "golden hour"),
    "sea": ("day", "sunset", "morning", "golden hour", "dawn"),
    "forest": ("morning", "golden hour", "day"),
    "city": ("dusk", "sunset", "night", "morning"),
    "meadow": ("day", "morning", "golden hour"),
    "desert": ("golden hour", "sunset", "day", "dusk"),
    "space": ("night",),
    "abstract": ("day", "golden hour", "dusk", "night"),
}
SEASONS: Final = {
    "mountains": ("summer",),
    "sea": ("summer",),
    "forest": ("summer", "spring"),
    "city": ("summer",),
    "meadow": ("spring", "summer"),
    "desert": ("summer",),
    "space": ("summer",),
    "abstract": ("summer",),
}


def _parsed(meaning: str) -> Concept:
    """`part:name` or `part:name:weight`; the name may hold spaces."""
    part, name, *weight = meaning.split(":")
    return Concept(part, name, float(weight[0]) if weight else 2.0)


def _phrase(meanings: str) -> tuple[Concept, ...]:
    parts: list[str] = []
    for token in meanings.split(" "):
        if ":" in token and token.split(":")[0] in (
            "kind",
            "light",
            "season",
            "weather",
            "feature",
            "colour",
        ):
            parts.append(token)
        else:
            parts[-1] += f" {token}"
    return tuple(_parsed(part) for part in parts)


def _meanings() -> dict[str, tuple[Concept, ...]]:
    found: dict[str, list[Concept]] = {}

    def put(words: str, concept: Concept) -> None:
        for word in words.split():
            found.setdefault(word.replace("-", " "), []).append(concept)

    for part, table in (("kind", _KINDS), ("light", _LIGHTS), ("season", _SEASONS), ("weather", _WEATHERS)):
        for (name, weight), words in table.items():
            put(words, Concept(part, name, float(weight)))
    put(_SUBJECTS, Concept("kind", "abstract", 2.05))
    for name, words in _FEATURES.items():
        put(words, Concept("feature", name, 1.0))
    for name in COLOURS.split():
        put(name, Concept("colour", name, 1.0))
    for word, name in _COLOUR_SYNONYMS.items():
        if word != name:
            put(word, Concept("colour", name, 1.0))
    for word in SUGGESTED:
        put(word, Concept("hint", word, 1.0))
    meanings = {word: tuple(concepts) for word, concepts in found.items()}
    return meanings | {phrase: _phrase(text) for phrase, text in _PHRASES.items()}


MEANINGS: Final = _meanings()

SIGNS: Final = {
    sign: _phrase(text)
    for signs, text in {
        "山 🏔 ⛰ 🗻 산 湖": "kind:mountains:3",
        "海 🌊 🏖 🏝 ⛵ 바다": "kind:sea:3",
        "森 林 🌲 🌳 숲": "kind:forest:3",
        "🍁 🍂 秋": "season:autumn:3 kind:forest:0.6",
        "街 城市 都市 東京 🏙 🌆 도시": "kind:city:3",
        "🌃 🌉": "kind:city:3 light:night:3",
        "花 🌷 🌻 🌺 🌼 🌹 💐 꽃": "kind:meadow:2.5 feature:flowers",
        "🌈 虹 彩虹 무지개": "feature:rainbow kind:meadow:0.6",
        "🌋 火山": "feature:volcano kind:mountains:3",
        "桜 樱 櫻 🌸 벚꽃": "feature:blossom season:spring kind:mountains:2.4",
        "沙漠 砂漠 🏜 🐪 🌵": "kind:desert:3",
        "宇宙 太空 🚀 🌌 🪐 🌠": "kind:space:3",
        "夜 🌙 밤": "light:night:3",
        "🌅 🌇 夕": "light:sunset:3 kind:sea:0.6",
        "雪 ❄ ⛄ 눈": "season:winter:2 feature:snow",
        "雨 🌧 ☔": "weather:rain:2",
    }.items()
    for sign in signs.split()
}
