"""What is served: the promoted model, apart from what the recipe would make next."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from headwater import pipeline, promotion
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import MANIFEST, Artifact
from headwater.cluster.storage.store import Store
from tests.headwater.command import headwater
from tests.headwater.test_newest_model import finish, rank, recipe


class Made:
    """A store with a run's models: the first, and one more for each ranking that was added."""

    def __init__(self, store: str, folder: Path) -> None:
        self.recipe, self.screen = recipe(store, folder), io.StringIO()
        self.session = Session(Store(store), console=Console(file=self.screen, width=500))
        self.store = self.session.store
        self.hour = 0
        self.file = folder / "recipe.yaml"
        self.file.write_text(self.recipe.to_yaml())

    def run(self) -> dict[str, Artifact]:
        """The artifacts of another finished run, which had one ranking more."""
        self.hour += 1
        rank(self.session, f"answer {self.hour}")
        return finish(self.recipe, self.session, self.hour)

    def promote(self, model: Artifact, **more: object) -> promotion.Promotion:
        options: dict[str, object] = {"kind": "promote"} | more
        return promotion.promote(self.store, self.recipe.name, model, None, "write", **options)

    def served(self) -> Artifact:
        return pipeline.servable(self.recipe, self.session).model


@pytest.fixture(params=["disk", "s3"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    if request.param == "s3":
        request.getfixturevalue("s3_server")
        yield Made(f"s3://corpus/{tmp_path.name}", tmp_path)
    else:
        yield Made(str(tmp_path / "store"), tmp_path)


@pytest.fixture
def on_disk(tmp_path: Path) -> Made:
    return Made(str(tmp_path / "store"), tmp_path)


def test_the_promoted_model_is_served_although_a_newer_one_has_finished(made: Made) -> None:
    first = made.run()
    assert made.served() == first["rl"]
    assert "none was promoted for ranked" in made.screen.getvalue()
    made.promote(first["rl"], why="it is good")
    second = made.run()
    assert second["rl"] != first["rl"]
    made.screen.truncate(0)
    assert made.served() == first["rl"]
    said = made.screen.getvalue()
    assert f"promoted: rl/{first['rl'].key}, promotion 1 of 20" in said and "it is good" in said
    assert f"newer, and not promoted: rl/{second['rl'].key}" in said
    assert "promoted to answer with `write`, and `serve.answer` is quote" in said
    assert pipeline.servable(made.recipe, made.session).answer == "write"


def test_what_is_promoted_is_served_when_the_recipe_would_make_something_else(on_disk: Made) -> None:
    """As after an upgrade or a changed setting: the newest finished model would then be missing."""
    first = on_disk.run()
    on_disk.promote(first["sft"])
    changed = on_disk.recipe.model_copy(
        update={"pretrain": on_disk.recipe.pretrain.model_copy(update={"steps": 1})}
    )
    with pytest.raises(HeadwaterError, match="has not finished"):
        pipeline.newest_finished(changed, on_disk.session)
    assert pipeline.servable(changed, on_disk.session).model == first["sft"]


def test_a_roll_back_serves_the_model_before_and_keeps_every_record(made: Made) -> None:
    models = [made.run()["rl"] for _ in range(3)]
    for model in models:
        made.promote(model)
    before = [each.model_dump() for each in promotion.promotions(made.store, "ranked")]
    back = promotion.roll_back(made.store, "ranked", why="worse")
    assert (back.kind, back.restores, back.number) == ("rollback", 2, 4)
    assert made.served() == models[1]
    assert promotion.roll_back(made.store, "ranked").restores == 1  # and one further back
    assert made.served() == models[0]
    with pytest.raises(HeadwaterError, match="no earlier model"):
        promotion.roll_back(made.store, "ranked")
    assert promotion.roll_back(made.store, "ranked", to=3).model == f"rl/{models[2].key}"
    again = promotion.roll_back(made.store, "ranked", to=4)  # itself a roll-back, of the second
    assert (again.model, again.restores) == (f"rl/{models[1].key}", 2)
    assert [each.model_dump() for each in promotion.promotions(made.store, "ranked")][:3] == before


def test_a_promotion_names_what_the_model_was_made_from(on_disk: Made) -> None:
    run = on_disk.run()
    kept = on_disk.promote(run["rl"])
    used = {name: artifact.key for name, artifact in run.items() if name not in ("evaluate", "index")}
    assert kept.lineage == used
    assert kept.rankings["rankings"] == 1 and len(kept.rankings["rankings_sha256"]) == 64
    assert kept.by and kept.time


def test_of_promotions_at_the_same_time_none_overwrites_another(made: Made) -> None:
    model = made.run()["rl"]

    def attempt(number: int) -> str | None:
        try:
            return made.promote(model, why=f"{number}").why
        except HeadwaterError as error:
            assert "another process changes it" in str(error)
            return None

    with ThreadPoolExecutor(8) as pool:
        done = [why for why in pool.map(attempt, range(24)) if why is not None]
    kept = promotion.promotions(made.store, "ranked")
    assert sorted(each.why for each in kept) == sorted(done) and done
    assert [each.number for each in kept] == list(range(1, len(kept) + 1))


def test_a_model_that_was_compared_with_another_than_the_served_one_is_refused(on_disk: Made) -> None:
    first, second = on_disk.run()["rl"], on_disk.run()["rl"]
    on_disk.promote(first, after=0)
    with pytest.raises(HeadwaterError, match="which this model was not compared with"):
        on_disk.promote(second, after=0)
    assert on_disk.served() == first
    on_disk.promote(second, after=1)


def test_what_is_no_finished_model_is_not_promoted(on_disk: Made) -> None:
    run = on_disk.run()
    with pytest.raises(HeadwaterError, match="stage reward makes no language model"):
        on_disk.promote(run["reward"])
    with pytest.raises(HeadwaterError, match="not in the store, or not finished"):
        on_disk.promote(on_disk.store.artifact("rl", "0" * 16))
    assert not on_disk.store.folder(promotion.FOLDER).exists("ranked.json")


def test_a_promoted_model_that_was_deleted_is_named(on_disk: Made) -> None:
    run = on_disk.run()
    on_disk.promote(run["rl"])
    run["rl"].delete(MANIFEST)
    with pytest.raises(HeadwaterError, match=r"rl/[0-9a-f]{16} is not in the store.*roll back"):
        on_disk.served()


@pytest.mark.parametrize(("rule", "served"), [("first", [0, 0]), ("always", [0, 1]), ("never", [0, 1])])
def test_a_finished_run_promotes_as_the_recipe_says(on_disk: Made, rule: str, served: list[int]) -> None:
    """`never` leaves the newest finished model in its place."""
    on_disk.recipe = on_disk.recipe.model_copy(update={"promote": rule})
    runs = []
    for expected in served:
        runs.append(on_disk.run())
        tells_served = pipeline.promote_finished(on_disk.recipe, on_disk.session, runs[-1])
        assert on_disk.served() == runs[expected]["rl"]
        assert tells_served == (runs[-1] is runs[expected])
    count = {"first": 1, "always": 2, "never": 0}[rule]
    assert len(promotion.promotions(on_disk.store, "ranked")) == count
    again = pipeline.promote_finished(on_disk.recipe, on_disk.session, runs[-1])
    assert again == (rule != "first") and len(promotion.promotions(on_disk.store, "ranked")) == count


def test_commands_promote_list_and_roll_back(on_disk: Made) -> None:
    file, runs = on_disk.file, [on_disk.run(), on_disk.run()]
    code, said = headwater("promoted", file)
    assert code == 0 and "its newest finished model is served" in said
    first = f"rl/{runs[0]['rl'].key}"
    code, said = headwater("promote", file, "--model", first[:9], "--why", "the first")
    assert code == 0 and first in said
    code, said = headwater("promote", file)
    assert code == 0 and runs[1]["rl"].key in said
    code, said = headwater("rollback", file)
    assert code == 0 and first in said
    code, said = headwater("promoted", file, "--json")
    kept = json.loads(said)["promotions"]
    assert [each["model"] for each in kept] == [first, f"rl/{runs[1]['rl'].key}", first]
    assert kept[2]["restores"] == 1 and kept[0]["why"] == "the first"
    code, said = headwater("promoted", file)
    assert code == 0 and "rollback of 1" in said
    code, said = headwater("promote", file, "--model", "rl")
    assert code == 1 and "not of the form STAGE/KEY" in said


def test_a_service_on_kubernetes_gets_the_promoted_model(on_disk: Made) -> None:
    from headwater.commands.runs import k8s

    first = on_disk.run()
    on_disk.promote(first["rl"])
    on_disk.run()
    assert k8s._made(on_disk.recipe).model == first["rl"]


def test_a_file_that_is_no_record_of_promotions_is_named(on_disk: Made) -> None:
    on_disk.run()
    on_disk.store.folder(promotion.FOLDER).write_json("ranked.json", {"promotions": [{"number": 1}]})
    with pytest.raises(HeadwaterError, match=r"ranked\.json: this is no record of promotions"):
        on_disk.served()
