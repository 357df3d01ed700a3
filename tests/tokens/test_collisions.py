from collections import Counter

import pytest

from vla_jax.core.errors import UserError
from vla_jax.tokens import collisions
from vla_jax.tokens.action_tokens import ActionTokensConfig, choose_ids
from vla_jax.tokens.fast import FastConfig

WEB = {"what colour is the cube", "where is the green moon", "<loc0003><loc0012>"}
ROBOT = {"pick up the red cube"}


@pytest.fixture(scope="module")
def used(tokenizer):
    return {
        "arm": collisions.usage(tokenizer, ROBOT),
        "web": collisions.usage(tokenizer, WEB, places=True),
    }


def test_a_collision_has_a_name_a_dataset_a_count_and_an_example(tokenizer, used):
    (cube,) = tokenizer.encode("cube")
    (the,) = tokenizer.encode("the")
    found = collisions.find([cube, the], tokenizer, used)
    assert [c.count for c in found] == [2, 1, 1, 1]
    assert (found[0].token, found[0].dataset) == (tokenizer.token(the), "web")
    by = {(c.token, c.dataset): c for c in found}
    assert by[tokenizer.token(the), "web"].count == 2
    assert by[tokenizer.token(cube), "arm"].example == "pick up the red cube"
    assert str(by[tokenizer.token(cube), "web"]) == (
        f"{tokenizer.token(cube)!r} (web, once, such as 'what colour is the cube')"
    )


def test_least_used_takes_the_last_ids_that_no_text_uses_then_the_rarest(tokenizer, used):
    taken = Counter(used["arm"].count) + Counter(used["web"].count)
    _, ids = choose_ids(ActionTokensConfig(rows="least_used"), tokenizer, 40, taken)
    free = sorted(set(range(tokenizer.size)) - set(taken) - tokenizer.special.ids)
    assert list(ids) == free[-40:]
    assert tokenizer.id("<loc0012>") not in ids
    assert tokenizer.id("<loc0013>") in ids
    assert collisions.find(ids, tokenizer, used) == []
    _, ids = choose_ids(ActionTokensConfig(rows="least_used"), tokenizer, len(free) + 3, taken)
    rare = set(ids) - set(free)
    assert {taken[i] for i in rare} == {1}
    assert min(rare) > max(i for i, n in taken.items() if n == 1 and i not in ids)
    most = tokenizer.size - len(tokenizer.special.ids)
    with pytest.raises(UserError, match=rf"at most {most} \(config.*rows=least"):
        choose_ids(ActionTokensConfig(rows="least_used"), tokenizer, most + 1, taken)


def test_overwritten_text_is_a_warning_or_an_error(tokenizer, used):
    config = ActionTokensConfig(rows="last")
    _, ids = choose_ids(config, tokenizer, 80)
    found = collisions.find(ids, tokenizer, used)
    line = collisions.report(config, found)
    assert line.startswith(f"warning: {len(found)} action tokens overwrite tokens that the data")
    assert "such as '" in line
    assert f"and {len(found) - 5} more" in line
    strict = ActionTokensConfig(rows="last", on_collision="error")
    with pytest.raises(UserError, match=r"overwrite tokens.*rows=least_used, or scheme=extend"):
        collisions.report(strict, found)


def test_what_to_do_about_fast_is_said_in_its_own_fields(tokenizer, used):
    config = ActionTokensConfig(scheme="fast", fast=FastConfig(rows="last"))
    _, ids = choose_ids(config, tokenizer, 80)
    line = collisions.report(config, collisions.find(ids, tokenizer, used))
    assert line.endswith("Set --config.action_tokens.fast.rows=least_used, or fast.rows=new")
    with pytest.raises(UserError, match=r"fast\.size: more tok.*at most \d+ .*fast\.rows=last"):
        choose_ids(config, tokenizer, tokenizer.size)


def test_places_and_integers_are_shared_on_purpose(tokenizer, used):
    config = ActionTokensConfig(on_collision="error")
    _, ids = choose_ids(config, tokenizer, 32)
    found = collisions.find(ids, tokenizer, used)
    assert {c.token for c in found} == {"<loc0003>", "<loc0012>"}
    assert collisions.report(config, found) == (
        "2 action tokens also stand for places in pictures in the data: one number line for both, "
        "as meant"
    )
    numbers = ActionTokensConfig(scheme="integers", on_collision="error")
    assert "stand for numbers" in collisions.report(numbers, found)


def test_new_rows_collide_with_nothing(tokenizer, used):
    config = ActionTokensConfig(scheme="extend", on_collision="error")
    longer, ids = choose_ids(config, tokenizer, 32)
    assert collisions.report(config, collisions.find(ids, longer, used)) is None
