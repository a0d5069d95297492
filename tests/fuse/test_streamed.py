"""What exceeds the memory allowed is streamed from disk, and comes to the same."""

import csv


def test_streamed_features_give_the_predictions_of_those_in_memory(make_store, tmp_path, cli):
    store, predictions = make_store(), []
    for name, gigabytes in (("whole", "0"), ("streamed", "0.000001")):
        done = cli("fuse", store, "--out", tmp_path / name, "--epochs", "3", "--hidden", "16", "--seeds", "2",
                   "--device", "cpu", "--memory-gb", gigabytes)
        assert done.returncode == 0, done.stderr
        assert ("features streamed from disk" in done.stdout) == (name == "streamed")
        with (tmp_path / name / "predictions.csv").open() as file:
            predictions.append([row["prediction"] for row in csv.DictReader(file)])
    assert predictions[0] == predictions[1] and len(set(predictions[0])) > 1
