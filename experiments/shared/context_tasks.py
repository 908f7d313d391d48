"""Prompts in chat form, and the worked examples that the teacher sees before them and the learner does not.

720 prompts are 120 things in 6 frames. Task `haiku`: six haiku, the same before every prompt, so that prompts differ
little in what is to be learned. Task `mix`: each frame has its own style, so that prompts differ much.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

FRAMES = (
    "Tell me about {}.",
    "What is {}?",
    "Describe {} to a friend.",
    "Write one sentence about {}.",
    "Why do people like {}?",
    "What comes to mind when you think of {}?",
)

THINGS = tuple(
    thing.strip()
    for thing in """
    the sea, a river, a mountain, a forest, the moon, the sun, a star, the wind, rain, snow, a
    storm, a desert, a lake, an island, a volcano, a waterfall, a cave, a valley, the sky, a cloud,
    fog, ice, fire, sand, a stone, a flower, a rose, a tree, an oak, grass, a garden, a farm, a
    field, wheat, rice, bread, cheese, honey, an apple, a lemon, an orange, a grape, tea, coffee,
    milk, chocolate, soup, salt, pepper, sugar, a cat, a dog, a horse, a cow, a sheep, a goat, a
    fox, a wolf, a bear, a lion, an owl, an eagle, a crow, a swan, a frog, a snake, a spider, a bee,
    a butterfly, an ant, a fish, a whale, a dolphin, a crab, a city, a village, a street, a bridge,
    a tower, a castle, a house, a door, a window, a kitchen, a library, a school, a museum, a
    market, a harbour, a lighthouse, a train, a bicycle, a boat, a ship, an airplane, a clock, a
    mirror, a candle, a lamp, a book, a letter, a pencil, a map, a coin, a key, a violin, a piano, a
    drum, a song, a dance, a painting, a poem, chess, football, a kite, a doll, spring, summer,
    autumn, winter
    """.replace("\n", " ").split(",")
)

_HAIKU = (
    ("Tell me about a pond.", "Old pond in stillness,\na frog leaps into the dark,\nrings of silver sound."),
    ("What is dawn?", "Pale light on rooftops,\none bird tries the morning air,\nnight folds up its coat."),
    (
        "Describe a road to a friend.",
        "Dust and long shadows,\nthe road forgets who has walked,\nits stones stay up late.",
    ),
    (
        "Write one sentence about smoke.",
        "Smoke leans on the wind,\na grey thread from the chimney\nsews the hill to sky.",
    ),
    (
        "Why do people like silence?",
        "No word in the room,\nthe kettle learns how to breathe,\nwe hear our own hearts.",
    ),
    (
        "What comes to mind when you think of a shell?",
        "Small house of the tide,\nempty room that keeps the sea,\npressed against my ear.",
    ),
)

_MIX = (
    (
        ("Tell me about a pond.", "quiet, green, shallow, full of frogs"),
        ("Tell me about smoke.", "grey, bitter, slow, gone with the wind"),
        ("Tell me about a road.", "long, dusty, straight, older than the town"),
    ),
    (
        ("What is dawn?", "Dawn: noun. The first light of a day, before the sun is seen."),
        ("What is a shell?", "Shell: noun. A hard case that an animal builds around itself."),
        ("What is a road?", "Road: noun. A strip of ground that is kept clear for travel."),
    ),
    (
        ("Describe a pond to a friend.", "Arr, matey, a pond be a wee sea for cowards and ducks!"),
        ("Describe smoke to a friend.", "Arr, matey, smoke be the ghost of a good fire, it be!"),
        ("Describe a road to a friend.", "Arr, matey, a road be a river for them that cannot swim!"),
    ),
    (
        ("Write one sentence about silence.", "Who would have thought that silence could be so loud?"),
        ("Write one sentence about a shell.", "Where does the sea go when it leaves a shell?"),
        ("Write one sentence about dawn.", "Have you ever been awake when dawn was still deciding?"),
    ),
    (
        ("Why do people like silence?", "1. It rests the ears. 2. It costs nothing. 3. It lets us think."),
        ("Why do people like a pond?", "1. It is calm. 2. It has ducks. 3. It mirrors the sky."),
        ("Why do people like dawn?", "1. It is cool. 2. It is new. 3. Nobody else is awake."),
    ),
    (
        ("What comes to mind when you think of smoke?", _HAIKU[3][1]),
        ("What comes to mind when you think of a road?", _HAIKU[2][1]),
        ("What comes to mind when you think of a shell?", _HAIKU[5][1]),
    ),
)

TASKS = {"haiku": (_HAIKU,) * len(FRAMES), "mix": _MIX}

_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
END = "<|im_end|>"


class Prompt(NamedTuple):
    """One prompt as the learner and as the teacher reads it."""

    learner: str
    teacher: str


def prompts(task: str) -> list[Prompt]:
    """All prompts of a task, frame by frame."""
    return [
        Prompt(_chat((), frame.format(thing)), _chat(examples, frame.format(thing)))
        for (frame, examples), thing in product(zip(FRAMES, TASKS[task], strict=True), THINGS)
    ]


def _chat(examples: tuple[tuple[str, str], ...], question: str) -> str:
    """The model's chat template, up to where its answer begins."""
    turns = [("system", _SYSTEM)]
    for asked, answered in examples:
        turns += [("user", asked), ("assistant", answered)]
    turns.append(("user", question))
    return "".join(f"<|im_start|>{role}\n{text}{END}\n" for role, text in turns) + "<|im_start|>assistant\n"
