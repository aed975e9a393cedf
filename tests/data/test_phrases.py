"""Prompts read as English: the names of all of COCO's categories, and captions within a sentence."""

import pytest

from maxbench.data.phrases import clause, noun_phrase

COCO = """
a person, a bicycle, a car, a motorcycle, an airplane, a bus, a train, a truck, a boat, a traffic light, a fire hydrant,
a stop sign, a parking meter, a bench, a bird, a cat, a dog, a horse, a sheep, a cow, an elephant, a bear, a zebra,
a giraffe, a backpack, an umbrella, a handbag, a tie, a suitcase, a frisbee, a pair of skis, a snowboard, a sports ball,
a kite, a baseball bat, a baseball glove, a skateboard, a surfboard, a tennis racket, a bottle, a wine glass, a cup,
a fork, a knife, a spoon, a bowl, a banana, an apple, a sandwich, an orange, broccoli, a carrot, a hot dog, a pizza,
a donut, a cake, a chair, a couch, a potted plant, a bed, a dining table, a toilet, a tv, a laptop, a mouse, a remote,
a keyboard, a cell phone, a microwave, an oven, a toaster, a sink, a refrigerator, a book, a clock, a vase,
a pair of scissors, a teddy bear, a hair drier, a toothbrush
"""
PHRASES = COCO.replace("\n", " ").strip().split(", ")


def name(phrase):
    """The category that a phrase is of."""
    for opening in ("a pair of ", "an ", "a "):
        if phrase.startswith(opening):
            return phrase.removeprefix(opening)
    return phrase


def test_all_eighty_categories_of_coco_are_said_as_english_says_them():
    assert len({name(phrase) for phrase in PHRASES}) == 80
    assert [noun_phrase(name(phrase)) for phrase in PHRASES] == PHRASES


@pytest.mark.parametrize(
    "phrase",
    ["a cylinder", "an Airbus", "a unicycle", "a uniform", "a unicorn", "a utensil", "a ukulele",
     "a urinal", "an urn", "an uninflated balloon", "a ewer", "an eel", "an egg", "a European robin", "a one-way sign",
     "an onion", "an hourglass", "a house", "an heirloom", "a used car", "an usher"],
)  # fmt: skip
def test_the_article_goes_by_the_sound(phrase):
    assert noun_phrase(name(phrase)) == phrase


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("A man riding a wave on top of a surfboard.", "a man riding a wave on top of a surfboard"),
        ("An elephant. It drinks. ", "an elephant. It drinks"),
        ("Two dogs", "two dogs"),
        ("on sand, two red boxes under a clear sky", "two red boxes under a clear sky, on sand"),
        ("on grass, a picture of a red cone with hills", "a red cone with hills, on grass"),
        ("a picture of a red cone", "a red cone"),
        ("a scene with two blue boxes on a beach", "two blue boxes on a beach"),
        ("we see a red cone on sand", "a red cone on sand"),
        ("There are two dogs, and a cat", "two dogs, and a cat"),
        ("A black-and-white photo of an old man.", "an old man"),
        ("This is a picture of Anna", "Anna"),
        ("In the kitchen, a man cooks, and a dog looks on.", "a man cooks, and a dog looks on, in the kitchen"),
        ("a picture hanging on a wall", "a picture hanging on a wall"),
        ("There is", "there is"),
        ("Next to a lake, there is a bench.", "a bench, next to a lake"),
        ("In a kitchen with a stove, oven, and fridge.", "in a kitchen with a stove, oven, and fridge"),
        ("In a field, a cow. The cow eats grass.", "in a field, a cow. The cow eats grass"),
        ("A wine shot of red", "a wine shot of red"),
        ("A black and white photo of a train.", "a train"),
        ("London at night.", "London at night"),
        ("Anna on a horse", "Anna on a horse"),  # no article
        ("Inside", "inside"),
        ("...", "..."),
    ],
)
def test_a_caption_becomes_a_part_of_a_sentence(caption, said):
    assert clause(caption) == said
