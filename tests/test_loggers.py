"""Weights & Biases without key or network, TensorBoard, and what a run says of itself."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SMALL, epochs_of

from opkit.cli import main


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    """A user who never heard of Weights & Biases."""
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def train(*settings: str, **environment: str) -> subprocess.CompletedProcess:
    """In a process of its own: Weights & Biases starts a service and threads."""
    code = "import sys; from opkit.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", *SMALL, *settings]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=180)


def records(content: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format: blocks of 32 KiB, chunks with a header of CRC, length and kind. The first
    block begins with seven bytes of Weights & Biases' own."""
    position, record = 7, b""
    while position + 7 <= len(content):
        if (left := 2**15 - position % 2**15) < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or last part
            yield record
            record = b""


def history(run: Path) -> list[dict]:
    """The figures in the offline files of Weights & Biases."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for content in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.HasField("history"):
                items = record.history.item
                rows.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items})
    return rows


def test_without_a_key_wandb_keeps_its_files_in_the_run(no_key, small_data, tmp_path):
    run = tmp_path / "run"
    done = train("logger=wandb", f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert "wandb sync" in done.stderr and "Traceback" not in done.stderr
    rows = [row for row in history(run) if "val/rel_l2" in row]
    assert len(rows) == 2
    for ours, theirs in zip(epochs_of(run), rows, strict=True):
        assert theirs["val/rel_l2"] == pytest.approx(float(ours["val/rel_l2"]), rel=1e-5)
        assert theirs["train/grad_norm"] == pytest.approx(float(ours["train/grad_norm"]), rel=1e-5)
    sent = [row for row in history(run) if any(k.startswith("test/rel_l2@13") for k in row)]
    report = json.loads((run / "evaluation" / "report.json").read_text())
    assert sent[0]["test/rel_l2@13"] == pytest.approx(report["metrics"][0]["value"], rel=1e-6)
    identity = json.loads((run / "wandb.json").read_text())["id"]
    assert list(run.glob(f"wandb/offline-run-*-{identity}"))


@pytest.mark.slow
def test_a_server_that_cannot_be_reached_ends_nothing(no_key, small_data, tmp_path):
    """A key, and a port nobody listens to."""
    run = tmp_path / "run"
    done = train("logger=wandb", f"run_dir={run}", WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "wandb: no online run" in done.stderr and "wandb sync" in done.stderr and "0000000000" not in done.stderr
    assert [row for row in history(run) if "val/rel_l2" in row]
    identity = json.loads((run / "wandb.json").read_text())["id"]
    again = train("logger=wandb", f"run_dir={run}", "--resume")
    assert again.returncode == 0 and json.loads((run / "wandb.json").read_text())["id"] == identity


def test_tensorboard_holds_the_table_and_the_pictures(small_data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    done = train("logger=tensorboard", f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    found = [e.value for e in events.Scalars("val/rel_l2")]
    assert found == pytest.approx([float(r["val/rel_l2"]) for r in epochs_of(run)], rel=1e-5)
    assert "samples" in events.Tags()["images"]


def test_a_logger_that_fails_is_left_out(small_data, tmp_path, monkeypatch, capsys):
    from lightning.pytorch.loggers import TensorBoardLogger

    def broken(*_, **__):
        raise OSError("disk gone")

    run = tmp_path / "run"
    monkeypatch.setattr(TensorBoardLogger, "log_metrics", broken)
    assert main(["train", *SMALL, "logger=tensorboard", f"run_dir={run}"]) == 0
    assert capsys.readouterr().err.count("TensorBoardLogger failed and is left out from here on (disk gone)") == 1
    assert len(epochs_of(run)) == 2


def test_an_unknown_logger_is_refused(capsys):
    assert main(["train", *SMALL, "logger=mlflow"]) == 2
    assert "logger=mlflow" in capsys.readouterr().err


def test_a_run_says_what_made_it(small_run):
    [facts] = json.loads((small_run / "environment.json").read_text())["sessions"]
    assert facts["torch"].startswith("2.") and facts["threads"] >= 1
    assert (small_run.parent / "data" / "darcy" / facts["data"]).is_dir()
    assert facts["git"] is None or len(facts["git"]) == 40


def test_bands_of_the_validation_error_make_up_the_whole(small_run):
    """Squares sum to that of the whole error per sample; of means over samples, nearly, from below."""
    for row in epochs_of(small_run):
        parts = sum(float(row[f"val/{band}"]) ** 2 for band in ("low", "mid", "high")) ** 0.5
        assert 0.7 * float(row["val/rel_l2"]) < parts < 1.001 * float(row["val/rel_l2"])


def test_the_sweep_file_makes_commands_that_run(small_data, tmp_path, monkeypatch, capsys):
    """An agent of Weights & Biases is asked for nothing: its command is put together as it would."""
    import yaml

    sweep = yaml.safe_load((Path(__file__).parents[1] / "configs" / "sweep" / "fno-darcy.yaml").read_text())
    assert set(sweep) <= {"program", "method", "metric", "parameters", "command"} and sweep["method"] == "bayes"
    assert sweep["metric"]["name"] in epochs_of(small_data.parent / "run")[0]
    chosen = [f"{name}={p['values'][0] if 'values' in p else p['min']}" for name, p in sweep["parameters"].items()]
    words = sweep["command"]
    assert words[:3] == ["${env}", "python", "${program}"] and words[-1] == "${args_no_hyphens}"
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "xyz")
    assert main(["train", *words[3:-1], *chosen, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["run_dir"] == "runs/sweep-abc/xyz" and config["logger"] == "wandb"
    assert config["optim"]["lr"] == sweep["parameters"]["optim.lr"]["min"]
