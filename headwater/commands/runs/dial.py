"""`headwater dial`: the values derived from a recipe's depth, their rules, and the recipe's own values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from headwater.options import RecipeArgument, SetOption, console, open_recipe
from headwater.tables import show

if TYPE_CHECKING:
    from headwater.llm.model.shape import Shape
    from headwater.recipe import Recipe


def dial(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Compare the values derived from `depth` with the recipe's."""
    show(console, dial_table(open_recipe(recipe, set_)))


def dial_table(recipe: Recipe) -> Table:
    """One row per derived setting: the dial's value, the recipe's, and the rule."""
    from headwater.llm.model.dial import RULES, learning_parameters
    from headwater.llm.model.shape import ModelConfig, shape_of
    from headwater.recipe import derived_pretraining, pretraining

    planned = pretraining(recipe)
    derived, pretrain = derived_pretraining(recipe), planned.settings
    model = pretrain.model
    own, by_dial = (
        derived.shape,
        shape_of(ModelConfig(depth=model.depth, architecture=model.architecture), 64),
    )
    tokens = pretrain.sizes().before(pretrain.steps) * planned.row_length
    rows: list[tuple[str, str, str]] = [
        ("width", f"{by_dial.hidden_size:,}", f"{own.hidden_size:,}"),
        ("heads", heads(by_dial), heads(own)),
        ("feed-forward", f"{by_dial.intermediate_size:,}", f"{own.intermediate_size:,}"),
        ("attention", attention(by_dial), attention(own)),
        ("learning rate", f"{derived.learning_rate:g}", f"{pretrain.learning_rate:g}"),
        ("tokens", f"{derived.tokens:,}", f"{tokens:,}"),
        ("batch", f"{derived.batch:,} rows", f"{pretrain.batch:,} rows"),
        ("steps", f"{derived.steps:,}", f"{pretrain.steps:,}"),
    ]
    ratio = tokens / learning_parameters(own)
    table = Table(
        title=f"depth {model.depth}, {model.architecture}: {learning_parameters(own):,} trained parameters, "
        f"{ratio:,.1f} tokens per parameter",
        title_justify="left",
    )
    for column in ("pretraining setting", "dial", "this recipe", "rule of the dial"):
        table.add_column(column)
    for name, value, taken in rows:
        table.add_row(name, value, taken, RULES[name])
    return table


def heads(shape: Shape) -> str:
    return f"{shape.num_attention_heads} of {shape.head_dim} channels"


def attention(shape: Shape) -> str:
    """What the layers attend to."""
    sliding = sum(kind.startswith("sliding") for kind in shape.layer_types)
    if not sliding:
        return "all tokens"
    return f"{shape.sliding_window:,} tokens in {sliding} of {len(shape.layer_types)} layers"
