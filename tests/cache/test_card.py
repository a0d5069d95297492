"""The card of a store: read by the hub's own library, sent along, and never over somebody's page."""

import pytest

from twofold.cache.share.transfer import pull, push
from twofold.cache.store import Store


@pytest.fixture
def store(tmp_path, write) -> Store:
    folder = tmp_path / "faces"
    folder.mkdir()
    write(folder / "a.h5", rows=3, backbone="timm:a|b")
    (folder / "manifest.csv").write_text("key,split,compound\na,train,sadly_angry\nb,test,sadly_angry\nc,test,\n")
    return Store(folder)


def test_the_hubs_library_reads_it(store, cli):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    done = cli("cache", "card", store.path)
    assert done.returncode == 0 and "1 feature files of 3 samples" in done.stdout
    card = huggingface_hub.DatasetCard.load(store.path / "README.md")
    assert card.data.license == "other" and card.data.license_name
    assert huggingface_hub.DatasetCard(str(card)).data.to_dict() == card.data.to_dict()  # as it would write it itself
    assert card.data.pretty_name == "faces" and card.data.size_categories == ["n<1K"]
    assert "| timm:a\\|b * UNTRAINED | original | 3 |" in card.text
    assert "* compound: sadly_angry 2, (none) 1" in card.text and "* split: test 2, train 1" in card.text
    assert "basic:" not in card.text


def test_it_is_renewed_but_no_other_page_is(store, cli):
    for _ in range(2):
        assert cli("cache", "card", store.path).returncode == 0
    (store.path / "README.md").write_text("# My own page\n")
    done = cli("cache", "card", store.path, "--overwrite")
    assert done.returncode == 2 and "is not a card that Twofold wrote" in done.stderr
    assert (store.path / "README.md").read_text() == "# My own page\n"


def test_a_push_sends_it_and_leaves_a_page_of_somebody_else(store, tmp_path, cli):
    assert cli("cache", "card", store.path).returncode == 0
    push(store, str(tmp_path / "there"))
    assert (tmp_path / "there/README.md").read_text() == (store.path / "README.md").read_text()
    (tmp_path / "there/README.md").write_text("# Mine\n")
    push(store, str(tmp_path / "there"))
    assert (tmp_path / "there/README.md").read_text() == "# Mine\n"
    pull(str(tmp_path / "there"), Store(tmp_path / "back", new=True))
    assert (tmp_path / "back/a.h5").exists()


def test_foreign_text_stays_text(store, cli):
    labels = ["# heading", "![x](http://a.b/c.png)", "<b>bold</b>", "[go](http://a.b)", "long " * 40_000]
    store.manifest_path.write_text("key,compound\n" + "".join(f'{row},"{label}"\n' for row, label in enumerate(labels)))
    done = cli("cache", "card", store.path)
    page = (store.path / "README.md").read_text()
    assert done.returncode == 0 and len(page) < 5000, done.stderr
    assert not any(markup in page for markup in ("\n# heading", "[x]", "[go]", "\n<b>", "http://a"))
    store.manifest_path.write_bytes(b"key,compound\na,\xff\xfe\n")
    done = cli("cache", "card", store.path, "--overwrite")
    assert done.returncode == 2 and "manifest.csv" in done.stderr and len(done.stderr.splitlines()) == 1
