"""Recipes as a person writes them."""

import pytest

from graft.errors import GraftError
from graft.recipes import parse_recipe, settings_of
from graft.records import Recipe


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("mixup=0.2", "mixup", 0.2),
        ("clip_norm = 1", "clip_norm", 1),
        ("averaging=9e-1", "averaging", 0.9),
        ("batch_size=8", "batch_size", 8),
        ("augment=false", "augment", False),
        ("augment=auto", "augment", "auto"),
        ("patience=none", "patience", None),
        ("schedule=one_cycle", "schedule", "one_cycle"),
        ("class_weight=balanced", "class_weight", "balanced"),
        ("class_weight=[1, 2.5]", "class_weight", [1, 2.5]),
    ],
)
def test_a_setting_becomes_the_field(setting, name, value):
    assert getattr(parse_recipe([setting]), name) == value
    default = getattr(Recipe(), name)
    assert settings_of(parse_recipe([setting])) == ({} if value == default else {name: value})


def test_what_is_not_set_keeps_its_default_and_the_last_setting_holds():
    assert parse_recipe([]) == Recipe()
    assert parse_recipe(["mixup=1", "dropout=0.1", "mixup=0.3"]) == Recipe(mixup=0.3, dropout=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["mixup"], "setting 'mixup' has no '=', expected KEY=VALUE"),
        (["mixupp=1"], r"unknown key 'mixupp', expected one of batch_size, .*Did you mean 'mixup'\?"),
        (["mixup=much"], "setting 'mixup=much': expected a number"),
        (["mixup=true"], "setting 'mixup=true': expected a number"),
        (["batch_size=1.5"], "setting 'batch_size=1.5': expected a whole number"),
        (["augment=atuo"], r"expected true or false or auto\. Did you mean 'auto'\?"),
        (["schedule=cosin"], r"expected cosine or one_cycle or constant\. Did you mean 'cosine'\?"),
        (["clip_norm=x"], "expected a number or none"),
        (["class_weight=['a']"], "expected a word or numbers in brackets or none"),
        (["mixup=a", "cutmixx=1"], r"(?s)2 problems:.*mixup=a.*cutmixx"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(settings, message):
    with pytest.raises(GraftError, match=message):
        parse_recipe(settings)
