"""Problems by name: GSM8K from the hub or from local files, or generated ones, split into train, dev and test.

`load_problems` is what training, evaluation and `gsm8k data prepare` call. Every source gives the same three columns:
id, question, answer. Dev is carved from train by a hash of the question, so it is the same 527 of GSM8K's 7,473
everywhere, and train leaves them out. Test files are opened for split="test" only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from areal_gsm8k.data import generator
from areal_gsm8k.data.hub import HubError, hub_or_cache, is_hub_id

HUB_ID = "openai/gsm8k"
GENERATED = "generated"
DEFAULT_ROWS = {"train": 8000, "dev": 500, "test": 1000}  # of the generator, when `rows` is not given
ROLE_OF_STEM = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "eval": "dev", "test": "test"}
COLUMNS = ("question", "answer")
# The release of openai/grade-school-math: rows, sha256 of the JSONL file, beginning of the first question.
GSM8K = {
    "train": (7473, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465", "Natalia sold clips to 48"),
    "test": (1319, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14", "Janet\u2019s ducks lay 16"),
}


class DataError(ValueError):
    """Data that cannot be used; the message names the file and line, what was found and what to do."""


def load_problems(
    path: str | os.PathLike,
    split: str,
    rows: int | None = None,
    seed: int = 0,
):
    """A `datasets.Dataset` with the columns id, question and answer (a worked solution ending in "#### N").

    path: "openai/gsm8k" or another hub id; a folder with train/validation/test files (.jsonl or .parquet); one such
    file; or "generated", the only one that uses `seed`. split: "train", "dev" or "test". rows: the first of them only,
    or that many generated ones. A file named test... serves only split="test", one named validation... only "dev"; any
    other file serves "train" and "dev" through the hash, and, unless named train..., whole for "test". Raises
    DataError.
    """
    from datasets import Dataset

    if split not in GSM8K and split != "dev":
        raise DataError(f"split is {split!r}; it must be train, dev or test")
    if str(path) == GENERATED:
        wanted = DEFAULT_ROWS[split] if rows is None else rows
        try:
            found = generator.generate(split, wanted, seed)
        except ValueError as error:
            raise DataError(str(error)) from None
    else:
        found = read_split(path, split)
    if not found:
        raise DataError(f"{path}: no {split} rows. Give a larger file, or one of its own for this split")
    found = found if rows is None else found[:rows]
    return Dataset.from_dict({name: [row[name] for row in found] for name in ("id", *COLUMNS)})


def read_split(path: str | os.PathLike, split: str) -> list[dict]:
    """Rows of one split of a folder, file or hub data set; "all-train" is train and dev together, in file order."""
    files, name = _find_files(path)
    own_dev = bool(files["dev"])
    if split == "test":
        return _read(files["test"] or _missing(path, "test", files), name, "test")
    if split == "dev" and own_dev:
        return _read(files["dev"], name, "validation")
    train = _read(files["train"] or _missing(path, "train", files), name, "train")
    if split == "all-train":
        return sorted(train + _read(files["dev"], name, "validation"), key=lambda row: row["id"]) if own_dev else train
    if own_dev:
        return train
    return [row for row in train if in_dev(row["question"]) == (split == "dev")]


def in_dev(question: str) -> bool:
    """Whether a train question belongs to the dev split: one in fifteen, decided by its text alone."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % 15 == 0


def checksum(rows) -> str:
    """sha256 of the rows' questions and answers as GSM8K's JSONL writes them, so equal rows agree in any format."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update((json.dumps({column: row[column] for column in COLUMNS}) + "\n").encode())
    return digest.hexdigest()


def verify_gsm8k(rows: list[dict], split: str, source: str) -> bool:
    """True when the rows are exactly GSM8K's train or test split, False when they are other data.

    Raises DataError when they begin like GSM8K, or come from its hub id, but differ from the release.
    """
    count, sum_of_release, beginning = GSM8K[split]
    found = checksum(rows)
    if found == sum_of_release:
        return True
    if source != HUB_ID and not (rows and rows[0]["question"].startswith(beginning)):
        return False
    raise DataError(
        f"{source}: looks like GSM8K's {split} split but is not the release: {len(rows):,} rows (should be {count:,}), "
        f"sha256 {found[:12]}... (should be {sum_of_release[:12]}...). Download it again; a part of it can be used "
        "directly, without `data prepare`"
    )


def _find_files(path: str | os.PathLike) -> tuple[dict, str]:
    """Files of each role ("train", "dev", "test") and a short name for the source that row ids start with."""
    local = Path(path).expanduser()
    files: dict = {"train": [], "dev": [], "test": []}
    name = re.sub(r"[^\w.-]+", "-", local.resolve().name)
    if local.is_file():
        role = _role(local)
        if local.suffix not in (".jsonl", ".parquet"):
            raise DataError(f"{local}: only .jsonl and .parquet files can be read")
        files[role or "train"] = [local]
        if role is None:
            files["test"] = [local]
        return files, re.sub(r"[^\w.-]+", "-", local.stem if role is None else local.resolve().parent.name)
    if local.is_dir():
        for folder in (local, local / "main"):  # the hub's repository keeps GSM8K in main/
            for file in sorted([*folder.glob("*.jsonl"), *folder.glob("*.parquet")]):
                if re.fullmatch(r"[a-z]+(-\d+-of-\d+)?", file.stem) and _role(file):
                    files[_role(file)].append(file)
            if any(files.values()):
                break
        for role, found in files.items():
            if len({file.suffix for file in found}) > 1 or len({file.stem.split("-")[0] for file in found}) > 1:
                names = ", ".join(file.name for file in found)
                raise DataError(
                    f"{local}: several files hold {role} rows ({names}); keep one, or give one file by its path"
                )
        return files, name
    if is_hub_id(str(path)):
        splits = {"train": ["train"], "dev": [], "test": ["test"]}
        return {role: [(str(path), hub_split) for hub_split in found] for role, found in splits.items()}, name
    raise DataError(
        f"{path}: no such file or folder, and not a hub id either (those look like {HUB_ID}). "
        f"Give a folder, a .jsonl or .parquet file, {HUB_ID} or {GENERATED}"
    )


def _role(file: Path) -> str | None:
    return ROLE_OF_STEM.get(re.split(r"[-_.]", file.stem.lower())[0])


def _missing(path, role: str, files: dict):
    there = ", ".join(file.name for found in files.values() for file in found if isinstance(file, Path)) or "none"
    raise DataError(
        f"{path}: no {role} data there (usable files: {there}). It needs {role}.jsonl or {role}.parquet; "
        "a single file of another name can be given by its path"
    )


def _read(files: list, name: str, label: str) -> list[dict]:
    """Rows of the files in order, each checked; ids are kept where the rows carry them."""
    rows: list[dict] = []
    seen: set[str] = set()
    for file in files:
        if isinstance(file, tuple):
            numbered, where, unit = enumerate(_read_hub(*file)), f"{file[0]} ({file[1]})", "row"
        elif file.suffix == ".parquet":
            numbered, where, unit = enumerate(_read_parquet(file)), str(file), "row"
        else:
            numbered, where, unit = _read_jsonl(file), str(file), "line"
        before = len(rows)
        for number, row in numbered:
            for column in COLUMNS:
                if column not in row:
                    raise DataError(f"{where}, {unit} {number}: no {column!r}, only {sorted(row)}; rename the column")
                if not isinstance(row[column], str) or not row[column].strip():
                    raise DataError(f"{where}, {unit} {number}: {column!r} is {row[column]!r}; it must be text")
            key = str(row.get("id") or f"{name}-{label}-{len(rows):05d}")
            if key in seen:
                raise DataError(f"{where}, {unit} {number}: id {key!r} occurs twice; ids must be unique")
            seen.add(key)
            rows.append({"id": key, "question": row["question"], "answer": row["answer"]})
        if len(rows) == before:
            raise DataError(f"{where}: is empty; each {unit} must hold a question and an answer")
    return rows


def _read_jsonl(file: Path):
    """(line number from 1, object) of each line; blank lines are passed over."""
    with file.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise DataError(f"{file}, line {number}: not JSON ({error}); mend or delete this line") from None
            if not isinstance(row, dict):
                raise DataError(
                    f"{file}, line {number}: a {type(row).__name__}, not an object with question and answer"
                )
            yield number, row


def _read_parquet(file: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable parquet file ({error}); write or download it again") from None


def _read_hub(name: str, split: str):
    """The hub's data set, or its copy in the local cache when the hub does not answer."""
    import datasets

    missing, advice = f"{name}: no such file or folder here", f"give a local folder or file, or {GENERATED}"
    try:
        with hub_or_cache(name, "dataset") as answered:
            return datasets.load_dataset(name, "main" if name == HUB_ID else None, split=split)
    except HubError as error:
        raise DataError(f"{missing}, and {error}; {advice}") from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if answered else "the hub does not answer and there is no copy in the cache"
        raise DataError(f"{missing}, and {reason}; {advice}") from None
