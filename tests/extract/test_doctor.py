"""`doctor` on a good machine and on bad ones."""

import json
import os

import pytest
import torchvision
from safetensors.torch import save_file

from twofold.extract import doctor as module


@pytest.fixture
def doctor(cli, monkeypatch, tmp_path):
    """Run `doctor --json` with an empty weights folder and no network; returns the exit code and the checks by name."""
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "weights").mkdir()

    def run(*words: object) -> tuple[int, dict[str, dict]]:
        done = cli("doctor", "--json", *words, cwd=tmp_path)
        assert done.stdout, done.stderr
        return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    return run


def test_a_machine_without_weights_is_in_order_and_hears_where_to_get_them(doctor):
    code, checks = doctor()
    assert code == 0
    assert checks["torch"]["state"] == checks["locks"]["state"] == "ok" and len(checks["file system"]["text"]) > 8
    assert checks["posterv2"]["state"] == "absent" and "github.com" in checks["posterv2"]["remedy"]
    assert checks["huggingface.co"]["text"].startswith("HF_HUB_OFFLINE")


def test_a_weights_file_loads_strictly_or_is_a_fault(doctor, tmp_path):
    broken = tmp_path / "weights" / "resnet18_msceleb.pth"
    broken.write_bytes(b"not weights at all")
    code, checks = doctor()
    assert code == 1 and checks["resnet18"]["state"] == "broken" and broken.name in checks["resnet18"]["text"]
    broken.unlink()
    save_file(torchvision.models.resnet18().state_dict(), broken.with_suffix(".safetensors"))
    code, checks = doctor()
    assert code == 0 and checks["resnet18"]["state"] == "ok"
    assert "resnet18_msceleb.safetensors loads strictly, 512-d, sha256:" in checks["resnet18"]["text"]


def test_a_store_on_a_network_and_one_without_locks(doctor, tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    monkeypatch.setattr(module, "file_system", lambda folder: "nfs4")
    code, checks = doctor("--store", "store")
    assert code == 0 and checks["file system"]["text"] == "nfs4, shared over a network"
    assert "depends on the server" in checks["locks"]["text"]
    assert list((tmp_path / "store").iterdir()) == []
    monkeypatch.setattr(module, "TRY_LOCK", "pass")  # as where a lock excludes nobody
    code, checks = doctor("--store", "store")
    assert code == 1 and checks["locks"]["state"] == "broken" and "NFS 4" in checks["locks"]["remedy"]


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="the superuser may write anywhere")
def test_a_store_that_is_read_only_is_enough_to_read(doctor, tmp_path):
    (tmp_path / "store").mkdir(mode=0o500)
    code, checks = doctor("--store", "store")
    assert code == 0 and checks["writing"]["state"] == "absent"


def test_a_package_that_is_too_old_is_a_fault_with_its_install_line(doctor, tmp_path, monkeypatch):
    old = tmp_path / "site" / "timm-0.1.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    code, checks = doctor()
    assert code == 1 and checks["timm"]["state"] == "broken"
    assert "0.1 is older" in checks["timm"]["text"] and "pip install 'timm>=" in checks["timm"]["remedy"]


def test_an_unreachable_hub_is_said_to_be_so(doctor, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    code, checks = doctor()
    assert code == 0 and checks["127.0.0.1"]["text"].startswith("offline")


def test_bytes_and_hours_of_a_manifest(doctor, tmp_path):
    (tmp_path / "faces.csv").write_text("key\n" + "".join(f"{number}.jpg\n" for number in range(1000)))
    code, checks = doctor("--manifest", "faces.csv", "--backbones", "timm:test_vit")
    work = checks["timm:test_vit"]
    assert code == 0 and work["topic"] == "Work" and checks["disk"]["state"] == "ok"
    assert work["text"].startswith("1,000 samples") and "samples/s" in work["text"]
