"""Emotions, compounds and official numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.data.labels import ADVERBS, BASIC, NOUNS, TAXONOMIES, basic_pair, builtin_taxonomy
from twofold.data.utils.errors import InputError


@pytest.mark.parametrize(("name", "number", "label"), [
    ("cexpr7", 0, "fearfully_surprised"), ("cexpr7", 6, "sadly_angry"), ("rafdb11", 1, "happily_surprised"),
    ("rafdb11", 9, "angrily_surprised"), ("rafce14", 8, "fearfully_disgusted"), ("rafce14", 13, "happily_sad"),
    ("basic7", 1, "surprise"), ("basic7", 7, "neutral"), ("basic8", 7, "contempt"), ("basic8", 0, "neutral")])
def test_official_numbers(name, number, label):
    classes = builtin_taxonomy(name)
    assert classes.label(number) == label
    assert classes.numbers[classes.index(label)] == number


@pytest.mark.parametrize("classes", TAXONOMIES, ids=lambda classes: classes.name)
def test_every_class_is_an_emotion_once(classes):
    assert len(set(classes.classes)) == len(classes.classes) == len(classes.numbers)
    for label in classes.classes:
        assert label in BASIC if classes.target == "basic" else set(basic_pair(label)) <= set(BASIC)


def test_sizes_are_in_the_names():
    assert {classes.name: len(classes.classes) for classes in TAXONOMIES} == {
        "cexpr7": 7, "rafdb11": 11, "rafce14": 14, "basic7": 7, "basic8": 8}


def test_errors_list_what_there_is():
    with pytest.raises(InputError, match="cexpr7, rafdb11, rafce14, basic7, basic8"):
        builtin_taxonomy("cexpr")
    with pytest.raises(InputError, match=r"happily_angry.* is not one of the classes of cexpr7: fearfully_surprised"):
        builtin_taxonomy("cexpr7").index("happily_angry")
    with pytest.raises(InputError, match=r"12 is not a class number of rafdb11 \(1 to 11\)"):
        builtin_taxonomy("rafdb11").label(12)


@given(st.sampled_from(sorted(ADVERBS)), st.sampled_from(sorted(NOUNS)))
def test_a_compound_is_two_different_emotions(adverb, noun):
    if ADVERBS[adverb] == NOUNS[noun]:
        with pytest.raises(InputError):
            basic_pair(f"{adverb}_{noun}")
    else:
        assert basic_pair(f"{adverb}_{noun}") == (ADVERBS[adverb], NOUNS[noun])


@pytest.mark.parametrize("text", ["happiness", "happily", "happy_surprised", "happily surprised", "", "_", "a_b_c"])
def test_what_is_no_compound(text):
    with pytest.raises(InputError, match="as happily_surprised"):
        basic_pair(text)
