"""Run with the trainer's packages: the hints that a training sees, by the way of its folders and of its shards.

    python training_hints.py FOLDER

FOLDER has conditions.json, and for each name in it the pictures FOLDER/NAME/pictures and the hints FOLDER/NAME/hints.
Writes FOLDER/hints.safetensors, whose metadata have what a tuner's file says of each condition.
"""

from __future__ import annotations

import itertools
import json
import sys
import tarfile
from pathlib import Path

from safetensors.torch import save_file

sys.path[:0] = [".", "tests/training"]

import tiny_base  # noqa: E402

from scedit_core.fitting.tuner_file import condition_values  # noqa: E402
from training.bases.loading import load_base  # noqa: E402
from training.config_file import parse_config  # noqa: E402
from training.data.opening import open_data  # noqa: E402
from training.data.shard_reading import ShardRows, row_batches  # noqa: E402
from training.data.shard_set import _floats  # noqa: E402


def main(root: Path) -> None:
    tiny_base.write_tiny_base(root / "base")
    base = load_base(root / "base")
    hints, told = {}, {}
    for name, condition in json.loads((root / "conditions.json").read_text()).items():
        folder = root / name
        data = {"resolution": 128, "condition": condition, "captions": "none"}
        values = {"base": str(root / "base"), "tuner": {"kind": "csc"}, "output": str(folder / "out.safetensors")}
        values["loop"] = {"batch": 1}
        ready = {"folder": str(folder / "pictures"), "hints": str(folder / "hints")}
        config = parse_config(values | {"data": data | ready})
        told[name] = json.dumps(condition_values(config.data.condition))
        found = open_data(base, config)
        assert not found.problems, found.problems
        for example in found.examples:
            hints[f"{name}/{example.name}"] = found.batch_of([example]).hints[0]
        shard = folder / "shard.tar"
        with tarfile.open(shard, "w") as tar:
            for example in found.examples:
                told_name = folder / "name.txt"
                told_name.write_text(example.name)
                for path, ending in ((example.path, "png"), (example.hint.path, "hint.png"), (told_name, "txt")):
                    tar.add(path, f"{example.name}.{ending}")
        shards = values | {"data": data | {"shards": str(shard), "captions": "required"}}
        read = row_batches(ShardRows([str(shard)], parse_config(shards).data, 0, (0, 1), 1), 0)
        for batch in itertools.islice(read, len(found.examples)):
            assert not batch.problems, batch.problems
            hints[f"{name}/{batch.rows[0].caption}/shard"] = _floats(batch.rows[0].hint, False)
    save_file({key: hint.contiguous() for key, hint in hints.items()}, root / "hints.safetensors", told)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
