"""`bench growth`: its stages on a small store, and what it makes of their costs; no test says how fast they are."""

from twofold.cache.bench.growth import bench_growth, verify_store
from twofold.cache.store import Store
from twofold.extract.bench.growth import assemble_store, draw_store, plan_store, recipes
from twofold.fuse.bench.growth import join_store, train_epoch


def test_the_stages_make_a_store_that_trains(tmp_path):
    store = Store(tmp_path / "store", new=True)
    draw_store(store.path, 1500)
    assert len(store.parts()) == 4 and not store.files()
    assert all(step(store.path) > 0 for step in (plan_store, assemble_store, verify_store, join_store, train_epoch))
    assert [store.find(recipe.backbone).rows for recipe in recipes()] == [1500, 1500] and not store.parts()


def test_each_stage_has_its_time_and_memory(tmp_path):
    bench = bench_growth((200, 400), draw=draw_store, steps={"plan": plan_store, "verify": verify_store},
                         folder=tmp_path)
    assert [(cost.stage, cost.faces) for cost in bench.costs] == [
        ("plan", 200), ("verify", 200), ("plan", 400), ("verify", 400)]
    assert all(cost.seconds > 0 and cost.megabytes >= 0 for cost in bench.costs)
    assert "2.0 x the faces" in bench.text() and bench.record()["sizes"] == [200, 400] and not list(tmp_path.iterdir())
