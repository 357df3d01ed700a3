import pytest

from vla_jax.core.errors import UserError
from vla_jax.tokens.prompts import PromptsConfig


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("rt2", "Q: what action should the robot take to pick up the cube? A:"),
        ("openvla", "In: What action should the robot take to pick up the cube?\nOut:"),
        ("plain", "pick up the cube"),
    ],
)
def test_robot_prompts_are_the_published_ones(form, expected):
    assert PromptsConfig(robot=form).for_robot("pick up the cube") == expected


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("rt2", "Q: what colour is it? A:"),
        ("paligemma", "answer en what colour is it"),
        ("plain", "what colour is it"),
    ],
)
def test_web_prompts_are_the_published_ones(form, expected):
    assert PromptsConfig(web=form).for_web("what colour is it?") == expected


def test_spaces_and_final_punctuation_make_no_other_prompt():
    config = PromptsConfig(robot="plain")
    for text in ("  pick  up\nthe cube. ", "pick up the cube?", "pick up the cube"):
        assert config.for_robot(text) == "pick up the cube"


@pytest.mark.parametrize("form", ["rt2", "paligemma", "plain"])
def test_a_whole_prompt_stays_as_it_is(form):
    for prompt in ("caption en", "answer en What is  it?", "detect {car} ; bus\n"):
        assert PromptsConfig(web=form).as_it_is(prompt) == prompt


def test_braces_are_text():
    assert PromptsConfig(web="plain").for_web("what is {this}") == "what is {this}"


@pytest.mark.parametrize("text", ["", " \n\t", "?", "..."])
def test_empty_text_is_refused(text):
    config = PromptsConfig()
    with pytest.raises(UserError, match=r"instruction .*at least one word"):
        config.for_robot(text)
    with pytest.raises(UserError, match=r"question .*at least one word"):
        config.for_web(text)


@pytest.mark.parametrize("prompt", ["", " \n\t"])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(UserError, match=r"prompt .*at least one word"):
        PromptsConfig().as_it_is(prompt)
